"""Make images again whose pixels were not kept, each with the batch size that its row records; commit those whose bytes are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from synthvlm.run import Stage, fetch, steadily
from synthvlm.stages.batching import run_batches
from synthvlm.stages.generate import encode, request

if TYPE_CHECKING:
    from synthvlm.worker import Context

Row = dict[str, Any]
DIFFERENT = "Different"
"""The class of an image that came out with other bytes."""


def remake_shard(context: Context, stage: Stage, generator: Any, shard: int, suspects: frozenset[str]) -> None:
    """Make what is asked for of a shard. The image depends on its own request, the batch size and the machine, not on its neighbours."""
    seed, kind = context.run.seed, stage.identity["image"]
    writer = context.writer(stage)

    def finish(batch: list[tuple[Row, Any, int]]) -> None:
        kept, pixels, told = [], {}, []
        for row, result, size in batch:
            done, data = encode(row, result, size, seed, kind["format"], kind["quality"])
            if data is None:
                told.append(done)
            elif done["sha256"] != row["sha256"]:
                told.append(done | {"error": "its bytes are not those that were selected", "error_class": DIFFERENT})
            else:
                kept.append(done | {"tries": row["tries"], "cut_tokens": row["cut_tokens"], "note": row["note"]})
                pixels[row["key"]] = data
        if kept:
            writer.add(shard, kept, pixels)
        context.progress(stage.name, [*kept, *told])
        if writer.due:
            writer.flush()

    rows = [r for r in _rows(context, stage, shard) if r["key"] not in context.skip]
    bucket = getattr(generator, "bucket", None)
    for size in sorted({r["batch_size"] for r in rows}, reverse=True):
        generator.batch_size = size
        alike = [r for r in rows if r["batch_size"] == size]
        for batch in run_batches(alike, lambda r: request(seed, r), generator.generate, generator, context, bucket, suspects):
            context.later(finish, batch)
    context.later(writer.flush)


def _rows(context: Context, stage: Stage, shard: int) -> list[Row]:
    """Return the rows of a shard that are asked for and still without pixels."""
    columns = "key, row, id, candidate, caption, sha256, batch_size, tries, cut_tokens, note"

    def read() -> list[Row]:
        table = context.run.table_sql(stage, stage.rows(shard))
        return fetch(context.connection, f"SELECT {columns} FROM {table} WHERE error IS NULL AND NOT stored ORDER BY {stage.order}")

    return [r for r in steadily(read) if r["key"] in context.remake]
