// The sliders: another weight, another share, and at once which pairs would enter and leave the selection.
import { get } from "./api.js";
import { $, copy, count, h, notice, score, settled, several, show } from "./dom.js";
import { differs, on, parameters, remember, state, tell, want } from "./state.js";
import { tile } from "./tile.js";

const SHOWN = 12;
const LEAST_SHARE = 0.1; // per cent
let asked = null;

export function start() {
  const { trial } = state.facts;
  if (!trial) return;
  $("trial-section").hidden = false;
  if (!state.trial.moved) Object.assign(state.trial, { weights: { ...trial.weights }, top: trial.top });
  draw();
  on("live", () => state.trial.told === null && state.live.read === state.live.to_read && compare());
  on("written", compare);
  if (state.trial.moved) compare();
}

function draw() {
  const { trial } = state.facts;
  const others = trial.columns.filter((c) => !(c in state.trial.weights));
  show($("trial"),
    h("p", { class: "quiet small" }, trial.selection ? `Compared with the selection “${trial.selection}”.` : "Compared with what would be selected by default."),
    trial.asked.max_similarity || trial.asked.clusters ? h("p", { class: "note-line small" }, "That selection also looked at likeness; the sliders rank without.") : null,
    Object.entries(state.trial.weights).map(([name, value]) => weight(name, value)),
    others.length ? h("select", { "aria-label": "Weigh another score", onchange: (e) => { state.trial.weights[e.target.value] = 0.5; draw(); moved(); $(`weight-${e.target.value}`)?.focus(); } },
      h("option", { value: "" }, "Weigh another score …"), others.map((c) => h("option", { value: c }, c))) : null,
    top(),
    h("div", { id: "told", class: "told", role: "status", "aria-live": "polite" }),
    h("button", { class: "button tiny plain", id: "reset", type: "button", onclick: reset, hidden: !state.trial.moved }, "Back to where it was"),
  );
  told();
}

function weight(name, value) {
  const most = Math.max(2, Math.ceil(Math.abs(value) * 2));
  const out = h("output", { id: `weight-of-${name}`, for: `weight-${name}` }, value.toFixed(2));
  const slider = h("input", {
    type: "range", id: `weight-${name}`, class: "weight", min: value < 0 ? -most : 0, max: most, step: 0.01, value,
    oninput: () => { state.trial.weights[name] = Number(slider.value); out.textContent = Number(slider.value).toFixed(2); moved(); },
  });
  return h("div", { class: "slider" }, h("label", { for: `weight-${name}` }, "Weight of ", h("b", {}, name)), out, slider);
}

const share = (per) => `${per >= 10 ? Math.round(per) : Number(per.toPrecision(2))}%`;

function top() {
  const captions = () => state.trial.told?.captions || 1;
  const percent = (text) => (text === "all" ? 100 : text.endsWith("%") ? Number.parseFloat(text) : text.includes(".") ? 100 * Number(text) : (100 * Number(text)) / captions());
  const place = (text) => Math.min(1000, Math.max(0, (1000 * Math.log10(Math.max(LEAST_SHARE, percent(text) || 10) / LEAST_SHARE)) / 3));
  const box = h("input", {
    type: "text", id: "top", autocomplete: "off", "aria-label": "Share or number of captions that is kept", value: state.trial.top,
    onchange: () => {
      const text = box.value.trim();
      const right = text === "all" || (Number.parseFloat(text) > 0 && /^\d+(\.\d+)?%?$/.test(text));
      box.setAttribute("aria-invalid", String(!right));
      if (!right) return notice("Write 10%, 0.1, 1000 or all", true);
      state.trial.top = text;
      slider.value = place(text);
      moved();
    },
  });
  const slider = h("input", {
    type: "range", id: "top-slider", min: 0, max: 1000, step: 1, value: place(state.trial.top), "aria-label": "Share of captions that is kept", "aria-valuetext": state.trial.top,
    oninput: () => {
      state.trial.top = share(LEAST_SHARE * 10 ** ((3 * slider.value) / 1000));
      box.value = state.trial.top;
      slider.setAttribute("aria-valuetext", state.trial.top);
      moved();
    },
  });
  return h("div", { class: "slider" }, h("label", { for: "top" }, "Keep the ", h("b", {}, "top")), box, slider);
}

function moved() {
  state.trial.moved = true;
  $("reset").hidden = false;
  soon();
}

const soon = settled(() => { remember(); compare(); }, 60);

function reset() {
  const { trial } = state.facts;
  Object.assign(state.trial, { weights: { ...trial.weights }, top: trial.top, moved: false });
  if (["enter", "leave", "stay"].includes(state.wish.within)) want({ within: "" });
  draw();
  remember();
  compare();
}

/** Ask what changes, then for the pairs that do. */
async function compare() {
  if (!state.facts.trial) return;
  asked?.abort();
  asked = new AbortController();
  const { signal } = asked;
  try {
    const w = Object.entries(state.trial.weights).map(([name, value]) => `${name}:${value}`);
    if (!w.length) return;
    $("told")?.setAttribute("aria-busy", "true");
    state.trial.told = await get("/api/trial", { w, top: state.trial.top, threshold: state.facts.trial.asked.threshold }, signal);
    told();
    const sets = ["enter", "leave"].filter((s) => state.trial.told[s]);
    const found = await Promise.all(sets.map((within) => get("/api/pairs", { ...parameters({ within, sort: "total", down: true, q: "", stage: "", reason: "", mark: "", ranges: [] }), limit: SHOWN }, signal)));
    bands(sets, found);
    tell("trial");
  } catch (error) {
    if (error.name !== "AbortError") notice(error.message, true);
  }
}

function told() {
  const t = state.trial.told;
  if (!t || !$("told")) return;
  $("told").setAttribute("aria-busy", "false");
  const rows = Object.keys(state.trial.weights).filter((c) => t.before?.[c] !== undefined && t.before[c] !== null).concat("total");
  const change = (c) => (t.after[c] ?? 0) - (t.before[c] ?? 0);
  const sign = (x) => (Math.abs(x) < 0.0005 ? "same" : `${x > 0 ? "+" : "−"}${score(Math.abs(x))}`);
  show($("told"),
    h("p", {}, h("b", {}, several(t.selected, "pair")), ` of ${several(t.captions ?? 0, "caption")}`, t.threshold === null || t.threshold === undefined ? "" : `, total at least ${score(t.threshold)}`),
    differs() ? h("p", { class: "moves" }, h("span", { class: "badge enters" }, `${count(t.enter)} enter`), " ", h("span", { class: "badge leaves" }, `${count(t.leave)} leave`)) : null,
    t.after ? h("table", { class: "means" }, h("caption", { class: "unseen" }, "Means of what is selected"),
      h("thead", {}, h("tr", {}, ["Mean", "Now", "Then", "Change"].map((x, n) => h("th", { scope: "col", class: n ? "number" : null }, x)))),
      h("tbody", {}, rows.map((c) => h("tr", {}, h("th", { scope: "row" }, c), [score(t.before[c]), score(t.after[c]), sign(change(c))].map((x) => h("td", { class: "number" }, x)))))) : null,
    differs() && t.command ? h("div", { class: "command" }, h("code", {}, t.command), h("button", { class: "button tiny", type: "button", onclick: () => copy(t.command) }, "Copy")) : null,
  );
}

function bands(sets, found) {
  const old = document.querySelectorAll(".band.of-trial");
  const fresh = sets.map((within, n) => {
    const total = found[n].total;
    const heading = within === "enter" ? `${several(total, "pair")} ${total === 1 ? "enters" : "enter"}` : `${several(total, "pair")} ${total === 1 ? "leaves" : "leave"}`;
    return h("section", { class: `band of-trial ${within}`, "aria-label": heading },
      h("div", { class: "head" }, h("h2", {}, heading), h("button", { class: "button tiny plain", type: "button", onclick: () => want({ within, sort: "total", down: true }) }, "Show all")),
      h("div", { class: "strip" }, found[n].pairs.map((p) => tile(p, { small: true, onclick: () => tell("open", p) }))));
  });
  old.forEach((o) => o.remove());
  $("bands").append(...fresh);
}
