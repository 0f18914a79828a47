// How far the run is; while it goes on, its newest images. Asked for every two seconds while the page is in view.
import { get } from "./api.js";
import { $, count, duration, h, notice, show } from "./dom.js";
import * as grid from "./grid.js";
import { parameters, state, tell } from "./state.js";
import { name, tile } from "./tile.js";

const EVERY = 2000;
const NEWEST = 16;
let seen = null; // the version that the grid shows
let strip = "";
let lost = false;

export async function ask() {
  try {
    const before = state.live;
    state.live = await get("/api/live");
    if (lost) notice("The server answers again");
    lost = false;
    progress();
    if (before === null || before.version !== state.live.version) await changed(before);
    tell("live");
  } catch (error) {
    if (!lost) notice(error.status ? error.message : "The server does not answer: was it stopped?", true);
    lost = true;
  }
}

/** The run has gone on: show it at once where nobody is disturbed, else say so. */
async function changed(before) {
  const reading = state.live.read < state.live.to_read || (before && before.read < before.to_read);
  const facts = await get("/api/run");
  if (JSON.stringify([facts.columns, facts.stages, Boolean(facts.trial)]) !== JSON.stringify([state.facts.columns, state.facts.stages, Boolean(state.facts.trial)])) {
    location.reload(); // a stage has come: other columns, other filters
    return;
  }
  const following = state.page === 0 && state.wish.sort === "newest" && state.wish.down;
  if (seen === null || reading || following || !state.pairs.length) {
    seen = state.live.version;
    await grid.load();
  } else if (seen !== state.live.version) {
    $("changed").hidden = false;
  }
  await newest();
}

async function newest() {
  const old = document.querySelector(".band.newest");
  if (!state.live.active || !state.facts.makes_images) {
    old?.remove();
    strip = "";
    return;
  }
  const plain = { sort: "newest", down: true, q: "", stage: "", reason: "", mark: "", within: "", ranges: [] };
  const { pairs } = await get("/api/pairs", { ...parameters(plain), limit: NEWEST, top: null });
  const made = pairs.filter((p) => p.stored);
  const now = made.map(name).join();
  if (now === strip) return;
  strip = now;
  const band = h("section", { class: "band newest", "aria-label": "Newest images" },
    h("div", { class: "head" }, h("h2", {}, h("span", { class: "pulse", "aria-hidden": "true" }), "Newest")),
    h("div", { class: "strip" }, made.map((p) => tile(p, { small: true, onclick: () => tell("open", p) }))));
  if (old) old.replaceWith(band);
  else $("bands").prepend(band);
}

function progress() {
  const { live } = state;
  const reading = live.read < live.to_read;
  const items = live.stages.map((s) => {
    const done = s.made + s.failed;
    const share = s.wanted ? done / s.wanted : 1;
    const left = live.active && s.rate && s.wanted > done ? ` · ${s.rate >= 1 ? s.rate.toFixed(1) : s.rate.toPrecision(2)}/s · ${duration((s.wanted - done) / s.rate)} left` : "";
    const says = `${count(s.made)}${s.made < s.wanted ? ` of ${count(s.wanted)}` : ""}${s.failed ? `, ${count(s.failed)} failed` : ""}${left}`;
    return h("li", {}, h("span", { class: "stage-name" }, s.name), h("span", { class: "quiet number" }, says),
      h("progress", { max: 1, value: share, "aria-label": `${s.name}: ${says}` }));
  });
  if (reading) items.push(h("li", {}, h("span", { class: "stage-name" }, "reading the run"), h("progress", { max: live.to_read, value: live.read, "aria-label": "Reading the run" })));
  show($("progress"), items);
  const going = live.trouble ? `cannot be read now: ${live.trouble}` : live.active ? "going on" : null;
  $("run-facts").textContent = [state.facts.source === "samples" ? "images of the input" : state.facts.source, going].filter(Boolean).join(" · ");
  $("run-facts").title = [state.facts.root, live.log ? `${live.log.name}: ${live.log.line}` : null].filter(Boolean).join("\n");
}

export async function start() {
  await ask();
  const round = async () => {
    if (!document.hidden) await ask();
    setTimeout(round, state.live && state.live.read < state.live.to_read ? EVERY / 3 : EVERY);
  };
  setTimeout(round, EVERY / 3);
  $("changed").addEventListener("click", () => { seen = state.live.version; });
}

