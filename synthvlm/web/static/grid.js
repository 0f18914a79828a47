// The grid: a page of pairs, moved through by arrow keys (one tile is in the tab order at a time).
import { get } from "./api.js";
import { $, count, notice, several, show } from "./dom.js";
import { PAGE, filters, on, parameters, remember, state, tell } from "./state.js";
import { name, tile } from "./tile.js";

let asked = null;
let current = 0;

const tiles = () => [...$("grid").querySelectorAll(".tile")];
export const pages = () => Math.max(1, Math.ceil(state.total / PAGE));

/** The pair that has the focus, or had it last. */
export const focused = () => state.pairs[current] ?? null;

/** Ask for the page that is wanted and show it; focus: a place in it to put the focus on. */
export async function load(focus = null) {
  asked?.abort();
  asked = new AbortController();
  const { signal } = asked;
  try {
    const found = await get("/api/pairs", { ...parameters(), offset: state.page * PAGE, limit: PAGE }, signal);
    state.total = found.total;
    if (state.page >= pages() && state.page > 0) {
      state.page = pages() - 1;
      await load(focus);
      return;
    }
    take(found.pairs, focus);
  } catch (error) {
    if (error.name !== "AbortError") notice(error.message, true);
  }
}

function take(pairs, focus) {
  const held = $("grid").contains(document.activeElement);
  const before = state.pairs[current] && name(state.pairs[current]);
  state.pairs = pairs;
  const same = pairs.findIndex((p) => name(p) === before);
  current = focus !== null ? Math.min(focus < 0 ? pairs.length + focus : focus, pairs.length - 1) : Math.max(0, same);
  draw();
  if (focus !== null || held) place(current);
  $("changed").hidden = true;
  tell("pairs");
}

export function draw() {
  show($("grid"), state.pairs.map((p, n) => {
    const item = document.createElement("li");
    const button = tile(p, { onclick: () => open(n) });
    button.tabIndex = n === current ? 0 : -1;
    button.addEventListener("focus", () => { current = n; settle(); });
    item.append(button);
    return item;
  }));
  if (!state.pairs.length) {
    const empty = document.createElement("li");
    empty.className = "empty";
    empty.textContent = filters() ? "Nothing fits these filters." : "There is nothing here yet.";
    $("grid").append(empty);
  }
  const first = state.page * PAGE + 1;
  const unit = state.facts.makes_images ? "pair" : "image";
  $("total").textContent = state.total ? `${count(first)}–${count(first + state.pairs.length - 1)} of ${several(state.total, unit)}` : `No ${unit}s`;
  $("page").value = String(state.page + 1);
  $("page-of").textContent = `of ${count(pages())}`;
  for (const id of ["page-first", "page-back"]) $(id).disabled = state.page === 0;
  for (const id of ["page-last", "page-next"]) $(id).disabled = state.page >= pages() - 1;
}

function settle() {
  tiles().forEach((t, n) => { t.tabIndex = n === current ? 0 : -1; });
}

/** Put the focus on a tile. */
export function place(n) {
  const all = tiles();
  if (!all.length) return;
  current = Math.max(0, Math.min(n, all.length - 1));
  settle();
  all[current].focus({ preventScroll: false });
}

/** Take over what has changed of one pair, such as its mark. */
export function patch(pairs) {
  const by = new Map(pairs.map((p) => [name(p), p]));
  const held = $("grid").contains(document.activeElement);
  state.pairs = state.pairs.map((p) => (by.has(name(p)) ? { ...p, mark: by.get(name(p)).mark, note: by.get(name(p)).note } : p));
  draw();
  if (held) place(current);
}

export function open(n) {
  current = n;
  tell("open", state.pairs[n]);
}

/** Go to another page; focus as in load. */
export async function turn(page, focus = null) {
  const to = Math.max(0, Math.min(page, pages() - 1));
  if (to === state.page && focus === null) return;
  state.page = to;
  remember();
  await load(focus);
  if (focus === null) window.scrollTo({ top: 0 });
}

/** The pair before (-1) or after (1) the current one, from the next page if need be; null at the ends. */
export async function step(by) {
  if (current + by < 0) {
    if (state.page === 0) return null;
    await turn(state.page - 1, -1);
  } else if (current + by >= state.pairs.length) {
    if (state.page >= pages() - 1) return null;
    await turn(state.page + 1, 0);
  } else {
    current += by;
    settle();
  }
  return focused();
}

/** How many tiles stand side by side. */
function across() {
  const all = tiles();
  const top = all[0]?.offsetTop;
  const n = all.findIndex((t) => t.offsetTop !== top);
  return n < 1 ? Math.max(1, all.length) : n;
}

/** A key in the grid; true if it was one. */
export function key(event) {
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across(), ArrowDown: across() }[event.key];
  if (by) {
    const to = current + by;
    if (to < 0) turn(state.page - 1, -1);
    else if (to >= state.pairs.length && current === state.pairs.length - 1) turn(state.page + 1, 0);
    else place(to);
    return true;
  }
  if (event.key === "Home") place(0);
  else if (event.key === "End") place(state.pairs.length - 1);
  else return false;
  return true;
}

export function start() {
  $("page-first").addEventListener("click", () => turn(0));
  $("page-back").addEventListener("click", () => turn(state.page - 1));
  $("page-next").addEventListener("click", () => turn(state.page + 1));
  $("page-last").addEventListener("click", () => turn(pages() - 1));
  $("page").addEventListener("change", () => {
    const wanted = Number.parseInt($("page").value.replace(/\D/g, ""), 10);
    if (wanted) turn(wanted - 1);
    else $("page").value = String(state.page + 1);
  });
  $("changed").addEventListener("click", () => load());
  on("wish", () => load());
}
