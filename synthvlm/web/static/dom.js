// Elements from text, never from HTML: whatever a caption holds is shown as it is.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element: h("button", {class: "button", onclick: f, disabled: true, "aria-label": "…"}, "text", other, …). */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** The same of SVG. */
export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "selected") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(3).filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

/** The element with this id. */
export const $ = (id) => document.getElementById(id);

/** Put new children in the place of the old ones. */
export function show(element, ...children) {
  element.replaceChildren(...children.flat(3).filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

/** 1234567 → 1,234,567 */
export const count = (n) => (n === null || n === undefined ? "–" : n.toLocaleString("en-US"));

/** A score: three decimals, or as many as a large number needs. */
export function score(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return value;
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return value === 0 || Math.abs(value) >= 10 ? String(value) : value.toFixed(Math.min(digits, 1));
  return Math.abs(value) >= 100 ? value.toFixed(1) : value.toFixed(digits);
}

/** 1 pair, 2 pairs */
export const several = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** Seconds as people say them. */
export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${Math.round(seconds / 86400)} days`;
}

/** Call f only when no other call comes for some milliseconds. */
export function settled(f, milliseconds) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => f(...values), milliseconds);
  };
}

let corner;

/** Say something in a corner, to screen readers too; what went wrong stays until it is clicked, or ten seconds. */
export function notice(text, bad = false) {
  corner ??= document.body.appendChild(h("div", { class: "notices", role: "status", "aria-live": "polite" }));
  // A modal dialog lies above everything else, so what is said goes into it.
  (document.querySelector("dialog[open]") ?? document.body).append(corner);
  const line = h("div", { class: bad ? "notice bad" : "notice" }, text);
  line.addEventListener("click", () => line.remove());
  corner.append(line);
  while (corner.children.length > 3) corner.firstChild.remove();
  setTimeout(() => line.remove(), bad ? 10000 : 2200);
  return line;
}

/** Say whether keys now go into a field. */
export function typing(target) {
  return target.isContentEditable || target.tagName === "TEXTAREA" || target.tagName === "SELECT" || (target.tagName === "INPUT" && target.type !== "checkbox");
}

/** Copy text; older ways where the clipboard is not at hand. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    notice("Copied");
  } catch {
    notice("The browser does not let pages copy here: select the text and copy it", true);
  }
}
