// A pair as it stands in the grid and in the bands.
import { count, h, score } from "./dom.js";
import { differs, state } from "./state.js";

export const name = (p) => `${p.row}/${p.candidate}`;
export const thumb = (p) => `/thumbs/${name(p)}?v=${encodeURIComponent(p.version)}`;
export const whole = (p) => `/images/${name(p)}?v=${encodeURIComponent(p.version)}`;

/** What to call a pair: its caption, or the name of its image. */
export const title = (p) => p.caption ?? p.image ?? p.id;

/** "enters" or "leaves", if the selection would change. */
export function change(p) {
  if (!differs() || p.selected === p.chosen) return null;
  return p.chosen ? "enters" : "leaves";
}

/** In words, for who does not see the picture. */
export function words(p) {
  return [
    title(p),
    p.total === null || p.total === undefined ? null : `total ${score(p.total)}`,
    p.reason ? `failed: ${p.reason}` : null,
    p.stage === "waiting" ? "not made yet" : null,
    p.selected ? "selected" : null,
    change(p),
    p.mark ? `marked ${p.mark}` : null,
    p.note ? `note: ${p.note}` : null,
  ].filter(Boolean).join(", ");
}

/** The picture, or why there is none. */
export function picture(p) {
  if (p.stored && p.stage !== "waiting" && !(p.reason && p.width === null && state.facts.makes_images)) {
    const image = h("img", { src: thumb(p), alt: "", loading: "lazy", decoding: "async" });
    image.addEventListener("error", () => image.replaceWith(h("span", { class: "missing" }, "not readable")));
    return image;
  }
  if (p.stored && !state.facts.makes_images) return h("img", { src: thumb(p), alt: "", loading: "lazy", decoding: "async" });
  return h("span", { class: "missing" }, p.reason ?? (p.stage === "waiting" ? "to be made" : "pixels not kept"));
}

export function tile(p, { small = false, onclick } = {}) {
  const marks = [
    p.mark === "keep" && h("span", { class: "badge keep" }, "✓ keep"),
    p.mark === "drop" && h("span", { class: "badge drop" }, "✕ drop"),
    p.note && h("span", { class: "badge note" }, "note"),
    change(p) === "enters" && h("span", { class: "badge enters" }, "enters"),
    change(p) === "leaves" && h("span", { class: "badge leaves" }, "leaves"),
  ];
  const parts = [h("span", { class: "frame-of" }, picture(p), h("span", { class: "badges" }, marks))];
  if (!small) {
    parts.push(h("span", { class: "says" }, title(p)));
    parts.push(h("span", { class: "numbers" }, p.selected ? h("span", { class: "dot", title: "selected" }) : null, numbers(p)));
  }
  const classes = ["tile", small && "small", p.mark && `is-${p.mark}`, p.reason && "failed"].filter(Boolean).join(" ");
  return h("button", { class: classes, type: "button", "aria-label": words(p), title: small ? title(p) : null, "data-pair": name(p), onclick }, parts);
}

/** The numbers under a picture: the total and its terms, or of captioned images how many captions. */
function numbers(p) {
  const weighed = Object.keys(state.trial.weights).filter((c) => state.trial.weights[c] && c in p.scores);
  const sorted = state.wish.sort in p.scores && !weighed.includes(state.wish.sort) ? [state.wish.sort] : [];
  const parts = weighed.length && p.total !== null ? [h("b", {}, score(p.total))] : [];
  for (const c of [...weighed, ...sorted].slice(0, 3)) parts.push(h("span", {}, `${c} ${score(p.scores[c])}`));
  if (!weighed.length && p.scores.captions !== undefined && state.wish.sort !== "captions") parts.push(h("span", {}, `${count(p.scores.captions)} captions`));
  return parts;
}
