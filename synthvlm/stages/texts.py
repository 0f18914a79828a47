"""Captions in, columns out: text scorers that measure thousands of captions at a time. Nothing goes through Python row by row."""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions at import, where a type checker does not see them.
from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from synthvlm.errors import SynthVLMError
from synthvlm.run import Stage
from synthvlm.stages.score import Scorers

if TYPE_CHECKING:
    import pyarrow as pa

    from synthvlm.worker import Context

log = logging.getLogger(__name__)
CAPTIONS = 8192
"""Captions at a time: enough that the cost of a call is nothing, few enough that a stop is heard."""


def by_columns(scorers: Scorers) -> bool:
    """Say whether every scorer measures whole columns."""
    return all(hasattr(s, "measure") for s in scorers.scorers)


def measure_shard(context: Context, stage: Stage, scorers: Scorers, shard: int, suspects: frozenset[str]) -> None:
    """Measure what is pending of a shard. A suspect is measured alone, after the others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    writer = context.writer(stage)
    pending = context.pending_table(stage, shard)
    if context.skip:
        pending = pending.filter(pc.invert(pc.is_in(pending["key"], pa.array(sorted(context.skip)))))
    alone = pc.is_in(pending["key"], pa.array(sorted(suspects), pa.string()))
    calm = pending.filter(pc.invert(alone))
    batches = [calm.slice(at, CAPTIONS) for at in range(0, calm.num_rows, CAPTIONS)]
    batches += [one for one in (pending.filter(alone).slice(n, 1) for n in range(len(suspects))) if one.num_rows]
    for batch in batches:
        if context.stopping():
            break
        context.begin(batch["key"].to_pylist())
        finished = _finished(stage, scorers, batch)
        writer.add_table(shard, finished)
        failed = finished.filter(pc.is_valid(finished["error"])).select(["id", "error", "error_class"]).to_pylist()
        context.measured(stage.name, finished.num_rows - len(failed))
        if failed:
            context.progress(stage.name, failed)
        if writer.due:
            writer.flush()
    writer.flush()


def _finished(stage: Stage, scorers: Scorers, batch: pa.Table) -> pa.Table:
    """Return the finished rows of a batch; where the scorers fail on it, each caption is tried by itself."""
    import pyarrow as pa

    captions: list[str] = batch["caption"].to_pylist()
    try:
        return _table(stage, batch, _columns(scorers, captions))
    except Exception as error:
        if batch.num_rows == 1:
            log.exception("a caption cannot be measured")
            text = str(error).strip().splitlines()
            return _table(stage, batch, {"error": [text[0][:500] if text else type(error).__name__], "error_class": [type(error).__name__]})
    return pa.concat_tables([_finished(stage, scorers, batch.slice(n, 1)) for n in range(batch.num_rows)])


def _columns(scorers: Scorers, captions: Sequence[str]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for scorer in scorers.scorers:
        columns |= scorer.measure(captions)
    short = [name for name in scorers.columns if name not in columns or len(columns[name]) != len(captions)]
    if short:
        raise SynthVLMError(f"the column {short[0]!r} does not have a value for each of {len(captions)} captions")
    return columns


def _table(stage: Stage, batch: pa.Table, columns: dict[str, Any]) -> pa.Table:
    """Return rows in the stage's schema: the batch's own, ``columns``, and nothing in the others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ours = {name: batch[name] for name in ("key", "row", "id", "candidate", "sha256")}
    ours["tries"] = pc.add(batch["tries"].cast(pa.int32()), pa.scalar(1, pa.int32()))
    values = [ours.get(f.name, columns.get(f.name)) for f in stage.schema]
    arrays: list[Any] = []
    for field, value in zip(stage.schema, values, strict=True):
        if value is None:
            arrays.append(pa.nulls(batch.num_rows, field.type))
        else:
            arrays.append(value.cast(field.type) if isinstance(value, (pa.Array, pa.ChunkedArray)) else pa.array(value, field.type))
    return pa.Table.from_arrays(arrays, schema=stage.schema)
