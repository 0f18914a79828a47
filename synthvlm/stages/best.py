"""``--store best`` and ``top``: make, score, and keep or drop inside one shard, so that losers never reach the disk.

Scores are committed before the images that they belong to: whatever dies in between, no image without pixels lacks its score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from synthvlm import pruning
from synthvlm.errors import RunError
from synthvlm.run import Stage, fetch, row_key, steadily
from synthvlm.sample import Failed
from synthvlm.select import default_weights
from synthvlm.stages.batching import run_batches
from synthvlm.stages.generate import encode, request
from synthvlm.stages.score import OncePerCaption, Scorers, decode, score_row

if TYPE_CHECKING:
    from synthvlm.worker import Context

Row = dict[str, Any]


def best_shard(
    context: Context, stage: Stage, generator: Any, scoring: Stage, scorers: Scorers, shard: int, suspects: frozenset[str]
) -> None:
    """Make and score what is pending of a shard, and keep the pixels of the best candidate of each caption."""
    seed, kind = context.run.seed, stage.identity["image"]
    weights = dict(stage.runtime["keep_best_by"] or default_weights(scoring.columns))
    unknown = [c for c in weights if c not in scoring.columns]
    if unknown:
        raise RunError(
            f"the best candidate is to be kept by {unknown[0]!r}, which no scorer makes",
            f"there are: {', '.join(scoring.columns)}; weigh them with --weight NAME=VALUE",
        )
    image_writer, score_writer = context.writer(stage), context.writer(scoring)
    rows = context.pending(stage, shard)
    missing: dict[str, int] = {}
    for row in rows:
        missing[row["id"]] = missing.get(row["id"], 0) + 1
    standing = _best_so_far(context, stage, scoring, shard, weights)
    floor = pruning.floor(context.run, stage, weights)
    made: dict[str, list[tuple[Row, tuple[str, bytes] | None]]] = {}

    def finish(batch: list[tuple[Row, Any, int]]) -> None:
        for row, result, size in batch:
            made.setdefault(row["id"], []).append(encode(row, result, size, seed, kind["format"], kind["quality"]))
        whole = [i for i in made if len(made[i]) == missing[i]]
        captions = {row["id"]: row["caption"] for row, _, _ in batch}
        for sample in whole:
            candidates = made.pop(sample)
            scored = _score(scorers, scoring, candidates, captions[sample])
            done = _keep_best(candidates, scored, weights, standing.get(sample), floor)
            with context.commit_lock:  # an image without pixels must never be committed without its score
                if scored:
                    score_writer.add(scored[0]["row"] // scoring.shard_size, scored)
                image_writer.add(shard, [r for r, _ in done], {r["key"]: p for r, p in done if p})
            context.progress(stage.name, [r for r, _ in done])
            context.progress(scoring.name, [r for r in scored if r.get("error")])
        if image_writer.due:
            context.flush()

    bucket = getattr(generator, "bucket", None)
    for batch in run_batches(rows, lambda r: request(seed, r), generator.generate, generator, context, bucket, suspects):
        # Scorers share the device with the generator, so they take their turn in this thread.
        context.wait()
        finish(batch)
    context.later(context.flush)


def _score(scorers: Scorers, scoring: Stage, candidates: list[tuple[Row, tuple[str, bytes] | None]], caption: str) -> list[Row]:
    """Score the candidates that were made from the bytes that would be stored: equal to scoring them afterwards."""
    wanted, requests = [], []
    for row, pixels in candidates:
        if pixels is None:
            continue
        scored = {k: row[k] for k in ("row", "id", "candidate", "sha256")} | {"caption": caption}
        scored["key"] = row_key(scoring.digest, row["id"], caption, row["sha256"], row["candidate"])
        wanted.append(scored)
        requests.append(decode(scored, pixels[1]))
    decoded = {w["key"]: q for w, q in zip(wanted, requests, strict=True)}
    results = {k: q for k, q in decoded.items() if isinstance(q, Failed)}
    good = [w for w in wanted if w["key"] not in results]
    for batch in run_batches(good, lambda w: decoded[w["key"]], scorers.score, scorers, _Silent(), pad=False):
        results |= {w["key"]: result for w, result, _ in batch}
    return OncePerCaption(scorers)([score_row(w, results[w["key"]]) for w in wanted])


class _Silent:
    """Scoring here is part of making: what is in flight is the images."""

    def begin(self, keys: Sequence[str]) -> None:
        """Say nothing."""

    def stopping(self) -> bool:
        """Go on: a caption is finished whole."""
        return False


def _keep_best(
    candidates: list[tuple[Row, tuple[str, bytes] | None]],
    scored: list[Row],
    weights: dict[str, float],
    standing: float | None,
    floor: float | None,
) -> list[tuple[Row, tuple[str, bytes] | None]]:
    """Mark the losers as not stored and drop their pixels. A candidate that could not be scored keeps its pixels."""
    totals = {r["candidate"]: t for r in scored if not r.get("error") and math.isfinite(t := total(r, weights))}
    best = min(totals, key=lambda c: (-totals[c], c), default=None)
    if best is not None and standing is not None and totals[best] <= standing:
        best = None  # an earlier candidate, whose pixels stand, is as good
    if best is not None and floor is not None and totals[best] < floor:
        best = None  # as many better ones as are wanted stand already
    kept = []
    for row, pixels in candidates:
        loses = row["candidate"] in totals and row["candidate"] != best
        kept.append((row | {"stored": False}, None) if loses else (row, pixels))
    return kept


def total(row: Row, weights: dict[str, float]) -> float:
    """Return the weighted sum of a row's scores (the paper, section 3.2)."""
    return sum(weight * row[column] for column, weight in weights.items())


def _best_so_far(context: Context, stage: Stage, scoring: Stage, shard: int, weights: dict[str, float]) -> dict[str, float]:
    """Return the best total among a shard's stored candidates of earlier runs (``--repeat`` grew), by sample id."""
    rows = (shard * stage.shard_size, (shard + 1) * stage.shard_size)
    if context.run.parts_sql(scoring, rows) is None:
        return {}
    score = " + ".join(f"""'{float(w)!r}'::DOUBLE * s."{c}\"""" for c, w in weights.items())

    def read() -> list[Row]:
        table = f"""SELECT s.id, max({score}) AS total FROM {context.run.table_sql(scoring, rows)} s
            JOIN {context.run.table_sql(stage, rows)} g USING (id, candidate) WHERE g.stored AND s.error IS NULL GROUP BY s.id"""
        return fetch(context.connection, table)

    return {r["id"]: r["total"] for r in steadily(read)}
