// The page of `synthvlm view`: puts its parts together, and says what the keys do.
import { get } from "./api.js";
import { $, h, notice, show, typing } from "./dom.js";
import * as detail from "./detail.js";
import * as find from "./find.js";
import * as grid from "./grid.js";
import * as live from "./live.js";
import * as marks from "./marks.js";
import { differs, on, recall, state } from "./state.js";
import * as trial from "./trial.js";

const KEYS = [
  ["In the grid", [
    ["← → ↑ ↓", "move from pair to pair, over the page's edge too"], ["Home End", "first and last pair of the page"], ["PgUp PgDn", "page before, next page"],
    ["Enter", "open the pair"], ["G", "go to a page by its number"],
  ]],
  ["A pair, in the grid or open", [["K", "keep: always selected"], ["D", "drop: never selected"], ["N", "write a note"], ["U", "take the mark away"]]],
  ["An open pair", [["← →", "pair before, next pair"], ["C", "copy the command that makes it again"], ["Esc", "close"]]],
  ["Anywhere", [["/", "search"], ["F", "filters"], ["W", "weights and top"], ["T", "back to the pairs"], ["?", "this list"]]],
];

function help() {
  const split = (keys) => keys.split(" ").map((k) => h("kbd", {}, k));
  show($("help"),
    h("div", { class: "help-head" }, h("h2", { id: "help-title" }, "Keys"), h("button", { class: "button tiny", type: "button", "aria-label": "Close", onclick: () => $("help").close() }, "✕")),
    h("div", { class: "help-columns" }, KEYS.map(([heading, keys]) => h("section", {}, h("h3", {}, heading), h("dl", {}, keys.map(([key, says]) => h("div", {}, h("dt", {}, split(key)), h("dd", {}, says)))))),
      h("section", {}, h("h3", {}, "Marks"), h("p", { class: "small quiet" }, "They stand in the run's marks.parquet; the next synthvlm select honours them (--ignore-marks leaves them out)."))));
  $("help").showModal();
}

function side(open) {
  document.body.classList.toggle("with-side", open);
  $("open-side").setAttribute("aria-expanded", String(open));
}

const pair = () => detail.pair() ?? grid.focused();

const ANYWHERE = {
  "/": () => { side(true); $("search").focus(); $("search").select(); },
  f: () => { side(true); $("stage")?.focus(); },
  w: () => { side(true); document.querySelector(".weight")?.focus(); },
  t: () => grid.place(0),
  g: () => { $("page").focus(); $("page").select(); },
  PageDown: () => grid.turn(grid.pages() - 1 > state.page ? state.page + 1 : state.page, 0),
  PageUp: () => grid.turn(state.page - 1, 0),
};
const ON_PAIR = {
  k: () => marks.toggle(pair(), "keep"),
  d: () => marks.toggle(pair(), "drop"),
  u: () => pair()?.mark && marks.toggle(pair(), pair().mark),
  n: () => pair() && detail.open(pair(), { note: true }),
};

function key(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  const inDetail = $("detail").open;
  if ($("help").open) return;
  if (typing(event.target)) {
    if (event.key === "Escape" && !inDetail) { event.target.blur(); grid.place(state.pairs.indexOf(grid.focused())); }
    else if (event.key === "Enter" && event.target.id === "search") grid.place(0);
    return;
  }
  const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const does = ON_PAIR[name] ?? (inDetail ? null : ANYWHERE[name]);
  if (name === "?") help();
  else if (does) does();
  else if (inDetail ? detail.key(event) : $("grid").contains(event.target) && grid.key(event)) { /* done */ }
  else return;
  event.preventDefault();
}

async function start() {
  try {
    state.facts = await get("/api/run");
  } catch (error) {
    $("total").textContent = error.message;
    return;
  }
  $("run-name").textContent = state.facts.name;
  document.title = `${state.facts.name} – SynthVLM`;
  recall();
  find.start();
  trial.start();
  detail.start();
  grid.start();
  on("marks", grid.patch);
  on("unmarked", () => grid.load());
  on("trial", () => (differs() || state.wish.within || state.wish.sort === "total") && grid.load());
  $("open-help").addEventListener("click", help);
  $("open-side").addEventListener("click", () => side(!document.body.classList.contains("with-side")));
  $("help").addEventListener("click", (event) => event.target === $("help") && $("help").close());
  document.addEventListener("keydown", key);
  window.addEventListener("hashchange", () => location.reload()); // an address that was edited, or gone back to
  await live.start();
  if (!document.activeElement || document.activeElement === document.body) grid.place(0);
  document.body.dataset.ready = "1";
}

start().catch((error) => notice(String(error), true));
