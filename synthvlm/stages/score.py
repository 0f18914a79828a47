"""Stored images and captions in, named numbers out: one decode, every scorer of the stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from synthvlm import images
from synthvlm.errors import SynthVLMError
from synthvlm.run import Stage
from synthvlm.sample import Failed, ScoreRequest
from synthvlm.stages.batching import run_batches
from synthvlm.stages.pixels import stored_bytes

if TYPE_CHECKING:
    from synthvlm.worker import Context

Row = dict[str, Any]


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

    @property
    def batch_size(self) -> int:
        """Return how many rows to hand over at a time."""
        return max(s.batch_size for s in self.scorers)

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        for s in self.scorers:
            s.batch_size = min(s.batch_size, size)

    def score(self, batch: Sequence[ScoreRequest]) -> list[dict[str, float] | Failed]:
        """Return, per request, every column, or the first failure."""
        merged: list[dict[str, float] | Failed] = [{} for _ in batch]
        for scorer in self.scorers:
            for n, result in enumerate(self._padded(scorer, batch)):
                have = merged[n]
                if isinstance(have, Failed):
                    continue
                if isinstance(result, Failed):
                    merged[n] = result
                else:
                    have |= {c: float(result[c]) for c in scorer.columns}
        return merged

    @staticmethod
    def _padded(scorer: Any, batch: Sequence[ScoreRequest]) -> Iterator[Any]:
        for at in range(0, len(batch), scorer.batch_size):
            some = list(batch[at : at + scorer.batch_size])
            results = list(scorer.score(some + some[-1:] * (scorer.batch_size - len(some))))
            if len(results) < len(some):
                raise SynthVLMError(f"{type(scorer).__name__} returned {len(results)} results for {scorer.batch_size} requests")
            yield from results[: len(some)]


def score_row(row: Row, result: Any, columns: Sequence[str]) -> Row:
    """Return the finished row of a score table."""
    done: Row = {k: row[k] for k in ("key", "row", "id", "candidate", "sha256")} | {"tries": row.get("tries", 0) + 1}
    if isinstance(result, Failed):
        return done | {"error": result.error, "error_class": result.error_class}
    return done | {c: result[c] for c in columns}


def score_shard(context: Context, stage: Stage, scorers: Scorers, shard: int, suspects: frozenset[str]) -> None:
    """Score what is pending of a shard. The next images are read and decoded while these are scored."""
    writer = context.writer(stage)

    def finish(batch: list[tuple[Row, Any, int]]) -> None:
        done = [score_row(row, result, stage.columns) for row, result, _ in batch]
        writer.add(shard, done)
        context.progress(stage.name, done)
        if writer.due:
            writer.flush()

    rows = context.pending(stage, shard)
    with ThreadPoolExecutor(context.threads, thread_name_prefix="decode") as pool:
        for window in _ahead(pool, context, rows, scorers.batch_size):
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


def _ahead(pool: ThreadPoolExecutor, context: Context, rows: Sequence[Row], size: int) -> Iterator[list[tuple[Row, Any]]]:
    """Yield windows of ``size`` (row, request, Failed or None), decoding one window ahead."""
    windows: Iterable[Sequence[Row]] = [rows[at : at + size] for at in range(0, len(rows), size)]
    waiting: list[list[Any]] = []
    for window in windows:
        waiting.append([(row, pool.submit(_load, context, row)) for row in window])
        if len(waiting) > 1:
            yield [(row, f.result()) for row, f in waiting.pop(0)]
    for window in waiting:
        yield [(row, f.result()) for row, f in window]


def _load(context: Context, row: Row) -> ScoreRequest | Failed | None:
    """Read and decode one stored image; None if its part turned out damaged (its rows will be made again)."""
    data = stored_bytes(context, row)
    return data if data is None or isinstance(data, Failed) else decode(row, data)


def decode(row: Row, data: bytes) -> ScoreRequest | Failed:
    """Return the request for a pair, from the bytes as they are stored."""
    try:
        image = images.decode(data)
    except Exception as error:
        return Failed(str(error), type(error).__name__)
    return ScoreRequest(row["id"], row["candidate"], row["caption"], image)
