// Search, order and filters.
import { get } from "./api.js";
import { $, count, h, notice, score, settled, show, svg } from "./dom.js";
import { filters, on, plain, state, want } from "./state.js";

const MARKS = [["", "any"], ["keep", "keep"], ["drop", "drop"], ["note", "with a note"], ["any", "marked or noted"], ["none", "not marked"]];
const SETS = [["", "all"], ["selected", "selected"], ["rest", "not selected"], ["enter", "what enters"], ["leave", "what leaves"], ["stay", "what stays"]];

let shape = null;
let drawn = 0;

const field = (id, label, control) => h("div", { class: "field" }, h("label", { for: id }, label), Object.assign(control, { id }));
const options = (pairs, now) => pairs.map(([value, text]) => h("option", { value, selected: value === now }, text));

function choice(id, label, pairs, now, name) {
  return field(id, label, h("select", { onchange: (e) => want({ [name]: e.target.value }) }, options(pairs, now)));
}

export function start() {
  const facts = state.facts;
  const search = h("input", {
    type: "search", id: "search", placeholder: facts.makes_images && !facts.captions.length ? "Words of the caption, or an id" : "Words of a caption, a name, an id",
    "aria-label": "Search", value: state.wish.q, maxlength: 200, autocomplete: "off", spellcheck: "false",
    oninput: settled(() => want({ q: search.value.trim() }), 250),
  });
  const sorts = [["row", "as in the input"], ["newest", "newest"], ...(facts.trial ? [["total", "total"]] : []), ...facts.columns.map((c) => [c.name, c.name])];
  const way = h("button", { class: "button way", id: "way", type: "button", onclick: () => want({ down: !state.wish.down }) });
  const sort = h("select", {
    id: "sort", onchange: (e) => want({ sort: e.target.value, down: e.target.value !== "row" }),
  }, options(sorts, state.wish.sort));
  show($("find"),
    search,
    h("div", { class: "field" }, h("label", { for: "sort" }, "Order"), h("div", { class: "pair" }, sort, way)),
    h("div", { class: "two" }, h("div", { class: "field", id: "stage-field" }), h("div", { class: "field", id: "reason-field" })),
    h("div", { class: "two" }, choice("mark", "Marks", MARKS, state.wish.mark, "mark"), facts.trial ? choice("within", "Selection", SETS, state.wish.within, "within") : null),
    facts.columns.length ? ranges() : null,
    h("button", { class: "button tiny plain", id: "clear", type: "button", onclick: clear }, "Clear all filters"),
  );
  on("wish", follow);
  on("live", lists);
  follow();
}

function clear() {
  $("search").value = "";
  plain();
}

/** Show what is wanted where it was not set by these controls themselves. */
function follow() {
  const { wish } = state;
  $("way").textContent = wish.down ? "↓" : "↑";
  $("way").setAttribute("aria-label", wish.down ? "Largest first; turn round" : "Smallest first; turn round");
  if (document.activeElement !== $("search")) $("search").value = wish.q;
  for (const id of ["sort", "stage", "reason", "mark", "within"]) if ($(id)) $(id).value = wish[id];
  $("clear").hidden = filters() === 0;
  $("open-side").textContent = filters() ? `Filters (${filters()})` : "Filters";
  chips();
}

/** The stages and reasons that there are now, with how many pairs each. */
function lists() {
  const { reached, reasons } = state.live;
  const now = JSON.stringify([reached, reasons]);
  if (now === shape || ["stage", "reason"].includes(document.activeElement?.id)) return;
  shape = now;
  const stages = [["", "any"], ...state.facts.stages.filter((s) => reached[s] || s === state.wish.stage).map((s) => [s, `${s} (${count(reached[s] ?? 0)})`])];
  const all = Object.entries(reasons).sort((a, b) => b[1] - a[1]);
  if (state.wish.reason && !(state.wish.reason in reasons)) all.push([state.wish.reason, 0]);
  const why = [["", all.length ? "any" : "none failed"], ...all.map(([r, n]) => [r, `${r} (${count(n)})`])];
  show($("stage-field"), ...choice("stage", "Stage reached", stages, state.wish.stage, "stage").childNodes);
  show($("reason-field"), ...choice("reason", "Reason", why, state.wish.reason, "reason").childNodes);
  $("reason").disabled = !all.length;
}

// -- a range of a score --------------------------------------------------------------------------------------------------

function ranges() {
  const column = h("select", { id: "range-column", onchange: histogram }, options(state.facts.columns.map((c) => [c.name, c.name]), ""));
  const number = (id, label) => h("input", { type: "text", inputmode: "decimal", id, placeholder: label, "aria-label": label, autocomplete: "off", onkeydown: (e) => e.key === "Enter" && add() });
  return h("details", { class: "ranges", id: "ranges", ontoggle: (e) => e.target.open && histogram() },
    h("summary", {}, "Limits of a score"),
    field("range-column", "Score", column),
    h("div", { id: "histogram", class: "histogram" }),
    h("div", { class: "pair" }, number("range-least", "at least"), number("range-most", "at most"), h("button", { class: "button", type: "button", id: "range-add", onclick: add }, "Add")),
    h("ul", { class: "chips", id: "chips", "aria-label": "Limits that are set" }),
  );
}

function parsed(id) {
  const text = $(id).value.trim().replace(",", ".");
  const value = text === "" ? null : Number(text);
  const bad = value !== null && !Number.isFinite(value);
  $(id).setAttribute("aria-invalid", String(bad));
  return bad ? undefined : value;
}

function add() {
  const [least, most] = [parsed("range-least"), parsed("range-most")];
  if (least === undefined || most === undefined) {
    notice("A limit is a number, such as 0.3", true);
    return;
  }
  if (least === null && most === null) return;
  const column = $("range-column").value;
  want({ ranges: [...state.wish.ranges.filter((r) => r.column !== column), { column, least, most }] });
  $("range-least").value = $("range-most").value = "";
}

function chips() {
  if (!$("chips")) return;
  const says = ({ column, least, most }) => `${least === null ? "" : `${least} ≤ `}${column}${most === null ? "" : ` ≤ ${most}`}`;
  show($("chips"), state.wish.ranges.map((r) => h("li", {}, h("button", {
    class: "chip", type: "button", "aria-label": `Take away the limit ${says(r)}`,
    onclick: () => want({ ranges: state.wish.ranges.filter((o) => o !== r) }),
  }, says(r), h("span", { "aria-hidden": "true" }, " ×")))));
  if (state.wish.ranges.length) $("ranges").open = true;
}

async function histogram() {
  const mine = ++drawn;
  const column = $("range-column").value;
  try {
    const { least, most, counts } = await get("/api/histogram", { column });
    if (mine !== drawn) return;
    const high = Math.max(1, ...counts);
    const bars = counts.map((n, i) => svg("rect", { x: i * 5, y: 44 - (n ? Math.max(1, (n / high) * 44) : 0), width: 4, height: n ? Math.max(1, (n / high) * 44) : 0 }));
    show($("histogram"), least === null ? h("p", { class: "quiet small" }, "no value yet") : [
      svg("svg", { viewBox: `0 0 ${counts.length * 5} 44`, preserveAspectRatio: "none", role: "img", "aria-label": `Distribution of ${column}, from ${score(least)} to ${score(most)}` }, bars),
      h("div", { class: "ends quiet number" }, h("span", {}, score(least)), h("span", {}, score(most))),
    ]);
  } catch (error) {
    notice(error.message, true);
  }
}
