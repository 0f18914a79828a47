"""Measure captions with one scorer: by workers, or right here where a worker would take longer to start than to work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from synthvlm.execution import execute
from synthvlm.plugins import Registry, discover
from synthvlm.preparing import Prepared, note_columns, prepare_measure, wants_device
from synthvlm.run import Stage
from synthvlm.stages.score import Scorers
from synthvlm.stages.texts import by_columns, measure_shard
from synthvlm.worker import Context, versions_in_use

if TYPE_CHECKING:
    from synthvlm.execution import Execution
    from synthvlm.pipeline import Run

FEW = 4096
"""Captions that are measured in this process."""


def measure(run: Run, scorer: str, options: Mapping[str, Any], curation: str | None = None, registry: Registry | None = None) -> Stage:
    """Have a scorer measure what it has not measured yet (of what ``curation`` keeps); return its stage."""
    registry = registry or discover()
    costly = wants_device(registry, scorer)
    execution = run.execution if costly else run.execution.on_cpus(run.sample_count())
    prepared = prepare_measure(run, scorer, options, curation=curation, execution=execution, registry=registry)
    pending = run.pending_shards(prepared.stage, execution.retry_failed)
    few = sum(n for _, n in pending) <= FEW and not costly and execution.python is None
    if not (few and _here(run, prepared, execution, [shard for shard, _ in pending], registry)):
        execute(run, [prepared], execution)
    return run.stage(prepared.stage.name)


def _here(run: Run, prepared: Prepared, execution: Execution, shards: list[int], registry: Registry) -> bool:
    """Measure in this process, as a worker would; False if a scorer of the stage does not measure by columns."""
    if not shards:
        return True
    stage = prepared.stage
    loaded = Scorers([registry.create("scorer", p["name"], p["options"]).load(["cpu"]) for p in prepared.plugins])
    if not by_columns(loaded):
        return False
    note_columns(run, [prepared], {"columns": {stage.name: list(loaded.columns)}, "cards": {stage.name: loaded.cards}})
    job = {"run": run.root, "devices": ["cpu"], "threads": 1, "retry_failed": execution.retry_failed}
    context = Context(job, lambda *_, **__: None)
    context.versions = versions_in_use()
    try:
        for shard in shards:
            measure_shard(context, stage, loaded, shard, frozenset())
    finally:
        context.close()
    return True
