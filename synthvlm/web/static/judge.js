// The page on which people judge: a pair at a time, by keyboard or mouse. Which set is which is known to the server alone.
import { get, post } from "./api.js";
import { $, count, h, notice, show, typing } from "./dom.js";

const KEPT = "synthvlm-judge-name";
const KEYS = { a: "left", arrowleft: "left", b: "right", arrowright: "right", t: "tie", s: "skip" };
const NAMES = { left: "left, A", right: "right, B", tie: "a tie", skip: "skipped" };

// Pictures may be kept by the browser, but not beyond this page: pairs may be drawn anew.
const PAGE = crypto.randomUUID();
const state = { person: "", kind: "images", pairs: 0, votes: {}, at: 0, since: 0, busy: false };

const address = (row) => `/api/judge/pairs/${row}`;
const source = (row, place) => `${address(row)}/${place}.png?${new URLSearchParams({ person: state.person, page: PAGE })}`;
const places = () => (state.kind === "captions" ? ["only"] : ["left", "right"]);

function take(told) {
  state.pairs = told.pairs;
  state.votes = told.votes;
  const done = Object.keys(told.votes).length;
  $("progress").max = Math.max(1, told.pairs);
  $("progress").value = done;
  $("done").textContent = `${count(done)} of ${count(told.pairs)}`;
  return told.next;
}

/** Show pair number row, or the end where there is none. */
async function go(row) {
  if (row === null || row >= state.pairs) return finish();
  const told = await get(address(row), { person: state.person });
  state.at = row;
  $("question").textContent = state.kind === "captions" ? "Which caption describes the image better?" : "Which image is better aligned with the caption?";
  $("caption").textContent = told.caption ?? "";
  const only = state.kind === "captions" ? [picture(row, "only", "The image")] : [];
  show($("only"), only);
  $("only").hidden = !only.length;
  const choices = ["left", "right"].map((place, n) => choice(row, place, "AB"[n], told.texts?.[n]));
  show($("pair"), choices);
  show($("choices"), button("tie", "Tie", "T"), button("skip", "Skip", "S"), back());
  $("end").hidden = true;
  $("ballot").hidden = false;
  mark();
  $("question").focus();
  $("said").textContent = `Pair ${row + 1} of ${state.pairs}${state.votes[row] ? `, your vote was ${NAMES[state.votes[row]]}` : ""}`;
  await Promise.all([...document.querySelectorAll(".picture")].map((image) => image.decode().catch(() => {})));
  state.since = performance.now();
  ahead(row + 1);
}

function picture(row, place, alt) {
  const image = h("img", { class: "picture", src: source(row, place), alt, draggable: "false" });
  image.addEventListener("error", () => notice("A picture of this pair cannot be read: skip it", true));
  return image;
}

function choice(row, place, letter, text) {
  const inside = text === undefined ? picture(row, place, `Image ${letter}`) : h("span", { class: "told" }, text);
  return h("button", { class: "choice", type: "button", "data-choice": place, "aria-pressed": "false", onclick: () => vote(place) }, inside, h("span", {}, h("kbd", {}, letter), ` ${place}`));
}

function button(name, text, key) {
  return h("button", { class: "button", type: "button", "data-choice": name, "aria-pressed": "false", onclick: () => vote(name) }, text, " ", h("kbd", {}, key));
}

function back() {
  return h("button", { class: "button plain", type: "button", disabled: state.at === 0, onclick: () => step(-1) }, "Back ", h("kbd", {}, "U"));
}

function mark() {
  for (const element of document.querySelectorAll("[data-choice]")) element.setAttribute("aria-pressed", String(state.votes[state.at] === element.dataset.choice));
}

/** Have the next pair's pictures at hand. */
function ahead(row) {
  if (row < state.pairs) for (const place of places()) new Image().src = source(row, place);
}

/** Do one thing at a time: a key that is held down must not vote on pairs that were not seen. */
async function alone(work) {
  if (state.busy) return;
  state.busy = true;
  $("ballot").setAttribute("aria-busy", "true");
  try {
    await work();
  } catch (error) {
    notice(error.message, true);
  } finally {
    state.busy = false;
    $("ballot").setAttribute("aria-busy", "false");
  }
}

const vote = (name) => alone(async () => {
  if ($("ballot").hidden) return;
  const again = state.at in state.votes;
  const seconds = Math.round((performance.now() - state.since) / 100) / 10;
  const next = take(await post("/api/judge/votes", { annotator: state.person, pair: state.at, choice: name, seconds }));
  mark();
  // After a change of mind on from there, else to what is still to be judged.
  await go(again && state.at + 1 < state.pairs && (state.at + 1) in state.votes ? state.at + 1 : next);
});

const step = (by) => alone(async () => {
  const row = $("ballot").hidden ? state.pairs - 1 : state.at + by;
  if (row >= 0 && row < state.pairs && (by < 0 || state.at in state.votes)) await go(row);
});

function finish() {
  $("ballot").hidden = true;
  const skipped = Object.values(state.votes).filter((v) => v === "skip").length;
  $("end-facts").textContent = `${count(Object.keys(state.votes).length)} pairs are judged${skipped ? `, ${count(skipped)} of them skipped` : ""}. Every vote is kept; you may close this page.`;
  $("end").hidden = false;
  $("end-title").focus();
}

const begin = (person) => alone(async () => {
  const told = await get("/api/judge/votes", { person });
  state.person = person;
  try {
    localStorage.setItem(KEPT, person);
  } catch {
    // private windows keep nothing
  }
  const next = take(told);
  $("name-form").hidden = true;
  $("person").textContent = person;
  for (const id of ["person", "progress", "done"]) $(id).hidden = false;
  await go(next);
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || typing(event.target) || !state.person) return;
  const key = event.key.toLowerCase();
  if (key in KEYS) vote(KEYS[key]);
  else if (key === "u" || key === "backspace") step(-1);
  else if (key === "n") step(1);
  else return;
  event.preventDefault();
});

$("name-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("name").value.trim();
  if (name) begin(name);
});
$("end-back").addEventListener("click", () => step(-1));

try {
  const told = await get("/api/judge");
  state.kind = told.kind;
  if (told.annotator) {
    await begin(told.annotator);
  } else {
    $("name-form").hidden = false;
    try {
      $("name").value = localStorage.getItem(KEPT) ?? "";
    } catch {
      // as above
    }
    $("name").focus();
  }
} catch (error) {
  notice(error.message, true);
}
