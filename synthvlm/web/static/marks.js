// Marks: set at once on the page, written by the server; while another process holds the run they wait and are sent again.
import { post } from "./api.js";
import { notice, several } from "./dom.js";
import { tell } from "./state.js";

const waiting = [];
let sending = false;
let told = null;

/** Set a mark ("keep", "drop" or null) or a note of a pair. */
export function mark(pair, values) {
  waiting.push({ pairs: [{ row: pair.row, candidate: pair.candidate }], ...values });
  tell("marks", [{ ...pair, ...values }]);
  send();
}

/** Set a mark, or take it away if the pair has it. */
export function toggle(pair, value) {
  if (!pair) return;
  const now = pair.mark === value ? null : value;
  mark(pair, { mark: now });
  notice(now ? `Marked ${now}` : "Mark taken away");
}

async function send() {
  if (sending) return;
  sending = true;
  while (waiting.length) {
    try {
      const { pairs } = await post("/api/marks", waiting[0]);
      waiting.shift();
      if (!waiting.length) tell("marks", pairs);
      told = null;
    } catch (error) {
      if (error.status === 423 || error.status === undefined) {
        told ??= notice(`${several(waiting.length, "mark")} not written yet: ${error.message}. Trying again …`, true);
        await new Promise((resolve) => setTimeout(resolve, 2500));
      } else {
        waiting.shift();
        notice(`Not marked: ${error.message}`, true);
        tell("unmarked");
      }
    }
  }
  sending = false;
  tell("written");
}

window.addEventListener("beforeunload", (event) => {
  if (waiting.length) event.preventDefault();
});
