"""Stored images and captions in, named numbers out: one decode, every scorer of the stage."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from synthvlm import images, parts
from synthvlm.errors import SynthVLMError
from synthvlm.run import Stage
from synthvlm.sample import Failed, ScoreRequest
from synthvlm.stages.batching import run_batches
from synthvlm.stages.pixels import image_bytes

if TYPE_CHECKING:
    from synthvlm.worker import Context

log = logging.getLogger(__name__)
Row = dict[str, Any]
_EXPECTED = 512
"""Rows whose captions a scorer is told of at a time."""


class Scorers:
    """Several scorers as one. Each sees batches of its own constant size, padded by repeating the last request."""

    def __init__(self, scorers: Sequence[Any]) -> None:
        self.scorers = list(scorers)
        self.columns = [c for s in self.scorers for c in s.columns]
        twice = {c for c in self.columns if self.columns.count(c) > 1}
        if twice:
            raise SynthVLMError(
                f"two scorers of one stage make the column {sorted(twice)[0]!r}", "score with one of them in a stage of its own: --as NAME"
            )
        self.cards = {name: dict(card) for s in self.scorers for name, card in s.cards.items()}
        self._vectors = [parts.embeddings(s.cards) for s in self.scorers]
        self._prepare = [getattr(s, "prepare", None) for s in self.scorers]

    @property
    def batch_size(self) -> int:
        """Return how many rows to hand over at a time."""
        return max(s.batch_size for s in self.scorers)

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        for s in self.scorers:
            s.batch_size = min(s.batch_size, size)

    def close(self) -> None:
        """Have each scorer that holds something give it back."""
        for scorer in self.scorers:
            if close := getattr(scorer, "close", None):
                close()

    def prepare(self, request: ScoreRequest) -> ScoreRequest:
        """Return the request with what each scorer makes of it ahead."""
        return dataclasses.replace(request, prepared=[prepare(request) if prepare else None for prepare in self._prepare])

    def expect(self, captions: Sequence[str]) -> None:
        """Tell the scorers that care of the captions that come next."""
        for scorer in self.scorers:
            if expect := getattr(scorer, "expect", None):
                try:
                    expect(captions)
                except Exception:  # whatever is wrong, `score` meets it again, and there it is one batch's failure
                    log.warning("captions could not be encoded ahead", exc_info=True)

    def score(self, batch: Sequence[ScoreRequest]) -> list[dict[str, Any] | Failed]:
        """Return, per request, every column and vector, or the first failure."""
        merged: list[dict[str, Any] | Failed] = [{} for _ in batch]
        for place, (scorer, vectors) in enumerate(zip(self.scorers, self._vectors, strict=True)):
            own = [r if r.prepared is None else dataclasses.replace(r, prepared=r.prepared[place]) for r in batch]
            for n, result in enumerate(self._padded(scorer, own)):
                have = merged[n]
                if isinstance(have, Failed):
                    continue
                if isinstance(result, Failed):
                    merged[n] = result
                else:
                    have |= {c: v if v is None or isinstance(v, str) else float(v) for c, v in ((c, result[c]) for c in scorer.columns)}
                    have |= {c: result[c] for c in vectors if c in result}
        return merged

    @staticmethod
    def _padded(scorer: Any, batch: Sequence[ScoreRequest]) -> Iterator[Any]:
        for at in range(0, len(batch), scorer.batch_size):
            some = list(batch[at : at + scorer.batch_size])
            results = list(scorer.score(some + some[-1:] * (scorer.batch_size - len(some))))
            if len(results) < len(some):
                raise SynthVLMError(f"{type(scorer).__name__} returned {len(results)} results for {scorer.batch_size} requests")
            yield from results[: len(some)]


def score_row(row: Row, result: Any) -> Row:
    """Return the finished row of a score table."""
    done: Row = {k: row[k] for k in ("key", "row", "id", "candidate", "sha256")} | {"tries": row.get("tries", 0) + 1}
    if isinstance(result, Failed):
        return done | {"error": result.error, "error_class": result.error_class}
    return done | result


class OncePerCaption:
    """Leaves a caption's vectors on the first of its rows only: its candidates share them."""

    def __init__(self, scorers: Scorers) -> None:
        self._columns = parts.embeddings(scorers.cards, "caption")
        self._seen: set[str] = set()

    def __call__(self, rows: list[Row]) -> list[Row]:
        """Return the finished rows, in order, without the vectors that an earlier row has."""
        if self._columns:
            for row in rows:
                if row["id"] in self._seen:
                    for c in self._columns:
                        row.pop(c, None)
                elif not row.get("error"):
                    self._seen.add(row["id"])
        return rows


def score_shard(context: Context, stage: Stage, scorers: Scorers, shard: int, suspects: frozenset[str]) -> None:
    """Score what is pending of a shard. The next images are read and decoded while these are scored."""
    writer = context.writer(stage)
    once = OncePerCaption(scorers)

    def finish(batch: list[tuple[Row, Any, int]]) -> None:
        done = once([score_row(row, result) for row, result, _ in batch])
        writer.add(shard, done)
        context.progress(stage.name, done)
        if writer.due:
            writer.flush()

    rows = context.pending(stage, shard)
    with ThreadPoolExecutor(context.threads, thread_name_prefix="decode") as pool:
        for window in _ahead(pool, context, scorers, rows):
            if context.stopping():
                break
            bad = [(row, result, 1) for row, result in window if isinstance(result, Failed)]
            if bad:
                context.later(finish, bad)
            decoded = {row["key"]: result for row, result in window if isinstance(result, ScoreRequest)}
            good = [row for row, _ in window if row["key"] in decoded]
            for batch in run_batches(good, lambda r, d=decoded: d[r["key"]], scorers.score, scorers, context, None, suspects, pad=False):
                context.later(finish, batch)
    context.later(writer.flush)


def _ahead(pool: ThreadPoolExecutor, context: Context, scorers: Scorers, rows: Sequence[Row]) -> Iterator[list[tuple[Row, Any]]]:
    """Yield windows of a batch of (row, request, Failed or None), decoding and preparing one window ahead."""
    size = scorers.batch_size
    waiting: list[list[Any]] = []
    for at in range(0, len(rows), size):
        waiting.append([(row, pool.submit(_load, context, scorers, row)) for row in rows[at : at + size]])
        if at // _EXPECTED != (at - size) // _EXPECTED:
            scorers.expect(list(dict.fromkeys(r["caption"] for r in rows[at : at + _EXPECTED + size] if r["caption"])))
        if len(waiting) > 1:
            yield [(row, f.result()) for row, f in waiting.pop(0)]
    for window in waiting:
        yield [(row, f.result()) for row, f in window]


def _load(context: Context, scorers: Scorers, row: Row) -> ScoreRequest | Failed | None:
    """Read, decode and prepare one image; None if its part turned out damaged (its rows will be made again). A text scorer gets none."""
    if row["sha256"] is None:
        return ScoreRequest(row["id"], row["candidate"], row["caption"], None)
    data = image_bytes(context, row)
    if data is None or isinstance(data, Failed):
        return data
    request = decode(row, data)
    if isinstance(request, Failed):
        return request
    try:
        return scorers.prepare(request)
    except Exception as error:
        log.exception("a pair could not be prepared")
        return Failed(str(error).strip().partition("\n")[0][:500] or type(error).__name__, type(error).__name__)


def decode(row: Row, data: bytes) -> ScoreRequest | Failed:
    """Return the request for a pair, from the bytes as they are stored."""
    try:
        image = images.decode(data)
    except Exception as error:
        return Failed(str(error), type(error).__name__)
    return ScoreRequest(row["id"], row["candidate"], row["caption"], image)
