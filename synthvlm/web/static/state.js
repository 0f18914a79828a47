// What the page shows now, who wants to hear of changes, and its place in the address, so that a reload comes back to it.

export const PAGE = 60;
const PLAIN = { sort: "row", down: false, q: "", stage: "", reason: "", mark: "", within: "", ranges: [] };

export const state = {
  facts: null,
  live: null,
  wish: { ...PLAIN },
  page: 0,
  total: 0,
  pairs: [],
  /** Where the sliders stand, and what the server says of it. */
  trial: { weights: {}, top: "", moved: false, told: null },
};

const hearers = new Map();

/** Hear of an event: "wish", "page", "trial", "marks", "live", "pairs". */
export function on(event, hear) {
  hearers.set(event, [...(hearers.get(event) ?? []), hear]);
}

export function tell(event, detail) {
  for (const hear of hearers.get(event) ?? []) hear(detail);
}

/** Change what is listed; it begins at its first page again. */
export function want(changes) {
  Object.assign(state.wish, changes);
  state.page = 0;
  remember();
  tell("wish");
}

export function plain() {
  want({ ...PLAIN, sort: state.wish.sort, down: state.wish.down });
}

/** Whether the sliders, or marks since, would change the selection. */
export const differs = () => state.trial.moved || Boolean(state.trial.told?.enter || state.trial.told?.leave);

/** How many filters are set. */
export function filters() {
  const { q, stage, reason, mark, within, ranges } = state.wish;
  return [q, stage, reason, mark, within].filter(Boolean).length + ranges.length;
}

/** The weights as the server reads them. */
export const weights = () => Object.entries(state.trial.weights).map(([name, value]) => `${name}:${value}`);

/** The listing's parameters, for its page or for another set of pairs. */
export function parameters(changes = {}) {
  const { ranges, ...wish } = { ...state.wish, ...changes };
  const trial = differs() || ["enter", "leave", "stay"].includes(wish.within) ? { top: state.trial.top, threshold: state.facts.trial?.asked.threshold } : {};
  return { ...wish, ...trial, r: ranges.map((r) => `${r.column}:${r.least ?? ""}:${r.most ?? ""}`), w: weights() };
}

/** Write what is shown into the address. */
export function remember() {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(state.wish)) {
    if (name === "ranges") for (const r of value) query.append("r", `${r.column}:${r.least ?? ""}:${r.most ?? ""}`);
    else if (value && value !== PLAIN[name]) query.set(name, value === true ? "1" : value);
  }
  if (state.page) query.set("page", state.page + 1);
  if (state.trial.moved) {
    for (const w of weights()) query.append("w", w);
    query.set("top", state.trial.top);
  }
  history.replaceState(null, "", query.size ? `#${query}` : location.pathname);
}

/** Take up what the address says. */
export function recall() {
  const query = new URLSearchParams(location.hash.slice(1));
  const number = (text) => (text === "" || !Number.isFinite(Number(text)) ? null : Number(text));
  for (const name of ["sort", "q", "stage", "reason", "mark", "within"]) if (query.get(name)) state.wish[name] = query.get(name);
  state.wish.down = query.has("down");
  state.wish.ranges = query.getAll("r").map((text) => {
    const parts = text.split(":");
    return { most: number(parts.pop()), least: number(parts.pop()), column: parts.join(":") };
  });
  state.page = Math.max(0, (Number.parseInt(query.get("page"), 10) || 1) - 1);
  if (query.has("top")) {
    state.trial.top = query.get("top");
    state.trial.weights = Object.fromEntries(query.getAll("w").map((text) => [text.slice(0, text.lastIndexOf(":")), Number(text.slice(text.lastIndexOf(":") + 1)) || 0]));
    state.trial.moved = true;
  }
}
