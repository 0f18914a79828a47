// One pair, large, with everything that is known of it.
import { get } from "./api.js";
import { $, copy, count, h, notice, score, show } from "./dom.js";
import * as grid from "./grid.js";
import * as marks from "./marks.js";
import { on, state, weights } from "./state.js";
import { change, name, picture, tile, title, whole } from "./tile.js";

let shown = null; // the line that is shown
let asked = 0;
let back = null; // what had the focus before

export const pair = () => ($("detail").open ? shown : null);

export async function open(p, { note = false } = {}) {
  const mine = ++asked;
  const box = $("detail");
  if (!box.open) {
    back = document.activeElement;
    shown = p;
    show(box, h("p", { class: "loading quiet", id: "detail-caption" }, "Reading …"));
    box.showModal();
  }
  try {
    const told = await get(`/api/pairs/${name(p)}`, { w: weights() });
    if (mine !== asked || !box.open) return;
    shown = told.line ?? p;
    draw(told);
    (note ? $("note") : $("detail-close")).focus();
  } catch (error) {
    notice(error.message, true);
  }
}

export function close() {
  $("detail").close();
}

function draw(told) {
  const { line } = told;
  const box = $("detail");
  const top = box.querySelector(".facts")?.scrollTop ?? 0;
  show(box,
    h("div", { class: "stage-of" }, big(told), candidates(told)),
    h("div", { class: "facts", tabindex: "0", "aria-label": "What is known of this pair" },
      h("div", { class: "detail-tools" },
        h("button", { class: "button tiny", type: "button", "aria-label": "Pair before (left arrow)", onclick: () => step(-1) }, "‹"),
        h("button", { class: "button tiny", type: "button", "aria-label": "Next pair (right arrow)", onclick: () => step(1) }, "›"),
        h("span", { class: "grow" }),
        toggle("keep", "✓ Keep", line), toggle("drop", "✕ Drop", line),
        h("button", { class: "button tiny", type: "button", id: "detail-close", "aria-label": "Close (Escape)", onclick: close }, "✕")),
      h("p", { class: "caption", id: "detail-caption" }, told.caption ?? told.image_name ?? told.id),
      h("p", { class: "states" },
        line?.selected && h("span", { class: "badge selected" }, "selected"),
        line && change(line) && h("span", { class: `badge ${change(line)}` }, change(line)),
        line && h("span", { class: "badge" }, line.stage === "waiting" ? "to be made" : `came to ${line.stage}`),
        line?.reason && h("span", { class: "badge drop" }, line.reason)),
      told.image?.error ? h("p", { class: "error" }, told.image.error) : null,
      scores(told),
      captions(told),
      note(line),
      facts(told),
      told.command ? command("Make this image again", told.command) : null,
    ));
  box.querySelector(".facts").scrollTop = top;
}

function toggle(value, text, line) {
  return h("button", {
    class: `button tiny ${value}`, type: "button", id: `detail-${value}`, "aria-pressed": String(line?.mark === value),
    disabled: !line || line.stage === "waiting" || line.stage === "curation", onclick: () => marks.toggle(shown, value),
  }, text);
}

function big(told) {
  const { line } = told;
  if (!line || !told.image || (told.image.stored === false) || told.image.error) return h("div", { class: "big" }, h("div", { class: "frame-of" }, line ? picture(line) : h("span", { class: "missing" }, "not made")));
  const image = h("img", { src: whole(line), alt: title(line), class: "whole", width: told.image.width, height: told.image.height });
  image.addEventListener("error", () => image.replaceWith(h("span", { class: "missing" }, "The image cannot be read now.")));
  return h("div", { class: "big" }, image);
}

function candidates(told) {
  if (!told.others.length) return null;
  const all = [...told.others, told.line].filter(Boolean).sort((a, b) => a.candidate - b.candidate);
  return h("div", { class: "candidates" }, h("h3", { class: "quiet" }, "Candidates of this caption"),
    h("div", { class: "strip" }, all.map((p) => {
      const one = tile(p, { small: true, onclick: () => open(p) });
      if (p.candidate === told.candidate) one.setAttribute("aria-current", "true");
      return h("div", { class: "one" }, one, h("span", { class: "number small" }, p.total === null ? p.reason ?? "–" : score(p.total), p.selected ? h("span", { class: "dot", title: "selected" }) : null));
    })));
}

function scores(told) {
  if (!told.scores.length) return null;
  const weighed = state.trial.weights;
  return h("section", {}, h("h3", {}, "Scores"), h("dl", { class: "scores" },
    told.line && told.line.total !== null ? h("div", { class: "score total-score" }, h("dt", {}, "total"), h("dd", { class: "number" }, score(told.line.total, 4))) : null,
    told.scores.map((s) => h("div", { class: "score" },
      h("dt", {}, s.card.length ? h("details", {}, h("summary", {}, s.name, s.name in weighed ? h("span", { class: "quiet" }, ` × ${weighed[s.name]}`) : null), lines([["stage", s.stage], ...s.card])) : s.name),
      h("dd", { class: "number" }, s.error ? h("span", { class: "error" }, s.error) : score(s.value, 4))))));
}

const lines = (pairs) => h("dl", { class: "lines small" }, pairs.filter(([, v]) => v !== null && v !== undefined && v !== "").map(([k, v]) => h("div", {}, h("dt", {}, k.replaceAll("_", " ")), h("dd", {}, String(v)))));

function captions(told) {
  if (!told.captions.length) return null;
  return h("section", {}, h("h3", {}, "Captions"), told.captions.map((c) => h("article", { class: "said" },
    h("p", { class: "who small quiet" }, h("b", {}, c.perspective), ` · ${c.stage}`, c.tokens ? ` · ${count(c.tokens)} tokens` : "", c.finish_reason === "length" ? " · cut off" : "", c.flags ? ` · ${c.flags}` : ""),
    c.error ? h("p", { class: "error" }, c.error) : h("p", { class: "text" }, c.text),
    h("details", { class: "small" }, h("summary", {}, "How it was made"), lines([["model", c.model], ["prompt", c.prompt], ["answer as it came", c.raw]]), command("Command", c.command)))));
}

function note(line) {
  if (!line) return null;
  const box = h("textarea", { id: "note", rows: 2, maxlength: 2000, placeholder: "Why keep it, why drop it, what is odd …", value: line.note ?? "" });
  const save = () => { if ((line.note ?? "") !== box.value.trim()) { line.note = box.value.trim() || null; marks.mark(line, { note: line.note }); notice("Note written"); } };
  box.addEventListener("change", save);
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { save(); $("detail-close").focus(); }
    if (event.key === "Escape") { event.preventDefault(); event.stopPropagation(); save(); $("detail-close").focus(); }
  });
  return h("section", {}, h("h3", {}, h("label", { for: "note" }, "Note")), box);
}

function facts(told) {
  const { image, model } = told;
  const size = image?.width ? `${count(image.width)} × ${count(image.height)}` : null;
  return h("section", {}, h("h3", {}, "What it is"), lines([
    ["id", told.id], ["candidate", state.facts.makes_images ? told.candidate : null], ["image", told.image_name], ["model", model && `${model.name}${model.origin ? ` (${model.origin})` : ""}`],
    ["seed", image?.seed], ["size", size], ["bytes", image?.bytes ? count(image.bytes) : null], ["sha256", image?.sha256], ["tokens cut", image?.cut_tokens || null],
    ["remark", image?.note], ["batch size", image?.batch_size], ["tries", image?.tries > 1 ? image.tries : null], ["where it lies", image?.uri],
    ...Object.entries(told.meta).map(([k, v]) => [k, typeof v === "object" ? JSON.stringify(v) : v]),
  ]), model ? h("details", { class: "small" }, h("summary", {}, "Settings of the model"), lines(model.settings)) : null);
}

function command(heading, text) {
  return h("section", { class: "command" }, h("h3", {}, heading), h("code", {}, text), h("button", { class: "button tiny copy", type: "button", onclick: () => copy(text) }, "Copy"));
}

async function step(by) {
  const next = await grid.step(by);
  if (next) await open(next);
  else notice(by > 0 ? "That was the last pair" : "That was the first pair");
}

/** A key while the pair is shown; true if it was one. */
export function key(event) {
  if (event.key === "ArrowRight") step(1);
  else if (event.key === "ArrowLeft") step(-1);
  else if (event.key === "c") document.querySelector("#detail .command code") && copy([...document.querySelectorAll("#detail section.command code")].pop().textContent);
  else return false;
  return true;
}

export function start() {
  on("open", (p) => open(p));
  on("marks", (pairs) => {
    const mine = shown && pairs.find((p) => name(p) === name(shown));
    if (!mine) return;
    Object.assign(shown, { mark: mine.mark, note: mine.note });
    for (const value of ["keep", "drop"]) $(`detail-${value}`)?.setAttribute("aria-pressed", String(shown.mark === value));
  });
  $("detail").addEventListener("close", () => {
    asked += 1;
    const tile = document.querySelector(`#grid .tile[data-pair="${shown ? name(shown) : ""}"]`);
    (tile ?? back)?.focus();
    show($("detail"));
  });
  $("detail").addEventListener("click", (event) => event.target === $("detail") && close());
}
