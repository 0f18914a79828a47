"""Images in, captions out, each answer cleaned and screened.

The work is one stream over all shards at hand, so that the model does not run dry at a shard's end. A captioner with a batch
size gets whole batches of one bucket, which may hold rows of two shards; one without gets the stream itself and takes from it
what keeps it busy. An answer that is worth a second try goes back into the stream once, with other limits.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from synthvlm.perspectives import RETRY_PENALTY
from synthvlm.run import Stage
from synthvlm.sample import Caption, CaptionRequest, Failed
from synthvlm.screening import CLASSES, judge
from synthvlm.stages.batching import DeviceLost, device_lost, run_batches
from synthvlm.stages.requests import MOST_PIXELS, Item, Requests

if TYPE_CHECKING:
    from synthvlm.worker import Commands, Context

log = logging.getLogger(__name__)
Row = dict[str, Any]
_HAND_OVER = 0.5
"""Seconds between handing a stream's finished rows to the writer."""


class Captioning:
    """Makes what is pending of one shard after another."""

    requests: type[Requests] = Requests
    keeps: tuple[str, ...] = ("key", "row", "id", "candidate", "perspective", "sha256")
    """What a finished row takes over."""

    def __init__(self, context: Context, stage: Stage, captioner: Any) -> None:
        self._context, self._stage, self._captioner = context, stage, captioner
        self._writer = context.writer(stage)
        self._requests = self.requests(context, stage, captioner, self._cannot)
        self._left: dict[int, int] = {}
        """Shard → rows of it that are not finished."""
        self._at_work = -1
        """The shard of the first row in flight."""
        self._finished: list[tuple[int, Row]] = []
        self._handed_over = time.monotonic()

    def run(self, commands: Commands) -> None:
        """Do the shards that ``commands`` tell of, until they end or the worker is to stop."""
        self._commands = commands
        requests = self._requests
        try:
            while (command := commands.wait()) is not None and not self.stopping():
                self._take(*command)
                while (requests.waiting or requests.alone) and not self.stopping():
                    if not requests.waiting:
                        self._one_by_one()
                    elif self._captioner.batch_size:
                        self._in_batches()
                    else:
                        self._in_a_stream()
                self._hand_over()
        finally:
            requests.close()

    def _take(self, shard: int, suspects: frozenset[str]) -> None:
        """Take a shard's rows into the stream."""
        self._left[shard] = self._requests.take(self._commands, shard, suspects)

    # -- asking ------------------------------------------------------------------------------------------------------------

    def _next(self) -> Item | None:
        return None if self.stopping() else self._requests.next(self._take)

    def _in_batches(self) -> None:
        """Fill a batch per bucket and run each as it is full; the rest when nothing more is at hand."""
        queues: dict[Hashable, list[Item]] = {}
        while (item := self._next()) is not None:
            queue = queues.setdefault(item.bucket, [])
            queue.append(item)
            if len(queue) >= self._captioner.batch_size:
                self._batch(queues.pop(item.bucket))
            while self._requests.held.pixels > MOST_PIXELS and queues:
                self._batch(queues.pop(max(queues, key=lambda b: len(queues[b]))))
        while queues and not self.stopping():
            self._batch(queues.pop(next(iter(queues))))

    def _batch(self, items: Sequence[Item]) -> None:
        """Have the captioner do a batch of one bucket, whatever happens to it."""
        self._at_work = items[0].shard
        by_key = {item.row["key"]: item for item in items}
        rows = [item.row for item in items]
        for done in run_batches(rows, lambda r: by_key[r["key"]].request, self._captioner.caption, self._captioner, self):
            for row, result, size in done:
                self._answered(by_key[row["key"]], result, size)
        self._hand_over()

    def _in_a_stream(self) -> None:
        """Give the captioner the requests one after another, as it asks for them, and take its answers as they come."""
        asked: deque[Item] = deque()
        announced: set[str] = set()

        def stream() -> Iterator[CaptionRequest]:
            while not asked or self._requests.held.pixels <= MOST_PIXELS:
                item = self._next()
                if item is None:
                    return
                asked.append(item)
                if item.row["key"] not in announced:
                    announced.clear()
                    announced.update([i.row["key"] for i in asked], self._requests.coming())
                    self._at_work = asked[0].shard
                    self.begin([i.row["key"] for i in asked])
                yield item.request

        try:
            for result in self._captioner.caption(stream()):
                if not asked:
                    raise ValueError("the captioner returned more results than it was given requests")
                self._answered(asked.popleft(), result, None)
                if time.monotonic() - self._handed_over > _HAND_OVER:
                    self._hand_over()
                if self.stopping():
                    return
            if asked and not self.stopping():
                raise ValueError(f"the captioner left {len(asked)} requests without a result")
        except Exception as error:
            if device_lost(error):
                raise DeviceLost(str(error)) from error
            log.exception("the stream broke off with %d requests in it; trying them one by one", len(asked))
            for item in asked:
                self._requests.held.add(item, -1)
                self._requests.alone.append((item.shard, item.row))

    def _one_by_one(self) -> None:
        """Do the rows that may have killed a worker, or broke a stream, each alone: nothing else is decoded or asked meanwhile."""
        alone = self._requests.alone
        while alone and not self.stopping():
            shard, row = alone.pop(0)
            self._context.begin([row["key"]], shard)
            item = self._requests.alone_next(shard, row)
            while item is not None:
                self._batch([item])
                item = self._next() if self._requests.waiting else None  # its second try

    def begin(self, keys: Sequence[str]) -> None:
        """Tell the parent what is in flight: these rows, and those whose images are being decoded."""
        self._context.begin([*keys, *self._requests.coming()], self._at_work)

    def stopping(self) -> bool:
        """Say whether to stop after this batch."""
        return self._context.stopping()

    # -- answers -----------------------------------------------------------------------------------------------------------

    def _answered(self, item: Item, result: Any, size: int | None) -> None:
        """Make the answer's row, or ask once more."""
        self._requests.held.add(item, -1)
        if isinstance(result, Failed):
            self._finish(item.shard, self._failed_row(item.row, result, size))
        else:
            self._read(item, result if isinstance(result, Caption) else Caption(str(result)), size)

    def _read(self, item: Item, caption: Caption, size: int | None) -> None:
        """Clean and screen what was said."""
        row, request = item.row, item.request
        rules = self._requests.perspectives[row["perspective"]].rules
        verdict = judge(caption.text, caption.finish_reason, request.prompt, rules, last=item.again)
        if verdict.retry:
            self._requests.again(item, _second(request, verdict.problem == "cut"))
            return
        done = self._row(row, size) | {
            "finish_reason": caption.finish_reason,
            "tokens": caption.tokens,
            "prompt_tokens": caption.prompt_tokens,
            "flags": ",".join([*verdict.flags, *(["retried"] if item.again else [])]) or None,
        }
        if verdict.problem:
            done |= {"raw": caption.text, "error": verdict.reason, "error_class": CLASSES[verdict.problem]}
        else:
            done |= {"text": verdict.text, "raw": None if caption.text == verdict.text else caption.text}
        self._finish(item.shard, done)

    def _cannot(self, shard: int, row: Row, why: Failed | None) -> None:
        """Finish a row that cannot be asked for; without a reason (its image is to be made anew) nothing can be said of it now."""
        if why is None:
            self._left[shard] -= 1
        else:
            self._finish(shard, self._failed_row(row, why, None))

    def _row(self, row: Row, size: int | None) -> Row:
        """Return what every finished row has."""
        return {k: row[k] for k in self.keeps} | {"tries": row["tries"] + 1, "batch_size": size}

    def _failed_row(self, row: Row, failed: Failed, size: int | None) -> Row:
        return self._row(row, size) | {"error": failed.error, "error_class": failed.error_class}

    def _finish(self, shard: int, done: Row) -> None:
        self._finished.append((shard, done))
        self._left[shard] -= 1

    def _hand_over(self) -> None:
        """Give finished rows to the writer, and word of finished shards to the parent, beside the model's work."""
        rows, self._finished = self._finished, []
        self._handed_over = time.monotonic()
        ended = [shard for shard, left in self._left.items() if left == 0]
        for shard in ended:
            del self._left[shard]
        if rows or ended:
            self._context.later(self._write, rows, ended)

    def _write(self, rows: list[tuple[int, Row]], ended: list[int]) -> None:
        for shard, group in groupby(sorted(rows, key=lambda r: r[0]), lambda r: r[0]):
            self._writer.add(shard, [row for _, row in group])
        self._context.progress(self._stage.name, [row for _, row in rows])
        if ended or self._writer.due:
            self._writer.flush()
        for shard in ended:
            self._context.done(shard)


def _second(request: CaptionRequest, cut: bool) -> CaptionRequest:
    """Return the request for the second try: with a higher limit for an answer that was cut, else a penalty on repetition."""
    if cut:
        return replace(request, max_new_tokens=2 * request.max_new_tokens)
    return replace(request, repetition_penalty=max(RETRY_PENALTY, request.repetition_penalty + RETRY_PENALTY - 1))
