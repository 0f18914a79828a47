"""Bring a prepared stage up to date: have an executor do what is pending, and see to what goes wrong on the way."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import duckdb

from synthvlm import parts, pruning
from synthvlm.compact import AsItGoes, compact
from synthvlm.errors import OptionError, SynthVLMError, TooManyFailures
from synthvlm.executors.local import LocalExecutor, gpus
from synthvlm.executors.schedule import Job
from synthvlm.preparing import Prepared, note_columns
from synthvlm.run import RunDirectory, Stage

_CAPTIONS_PER_WORKER = 20_000
"""Fewer are measured in less time than another worker takes to start."""
_DISTRIBUTIONS = {"PIL": "pillow", "open_clip": "open-clip-torch"}


class Listener(Protocol):
    """What hears of progress."""

    def start(self, stage: str, rows: int, devices: list[str]) -> None:
        """Begin a stage with ``rows`` to make."""
        ...

    def event(self, kind: str, facts: dict[str, Any]) -> None:
        """Something happened in a worker."""
        ...

    def finish(self) -> None:
        """End the stage, well or not."""
        ...


@dataclass
class Execution:
    """Where and how shards run: nothing here changes what is made."""

    devices: list[str] | None = None
    """GPUs by their number among the visible ones, or ``cpu`` once per worker; None: every GPU, or one CPU worker."""
    gpus_per_worker: int = 1
    """GPUs that each worker gets (a captioner spreads its model over them)."""
    threads: int | None = None
    python: str | None = None
    retry_failed: bool = False
    max_failures: float = 0.5
    commit_seconds: float = 60.0
    overwrite: bool = False
    listener: Listener | None = None

    def resolved_devices(self) -> list[str]:
        """Return one device per worker, or several as ``0,1``, as CUDA_VISIBLE_DEVICES wants it. Raises OptionError for a GPU that is not there."""
        found = gpus()
        if self.devices is None:
            chosen = found or ["cpu"]
        else:
            missing = [d for d in self.devices if d != "cpu" and int(d) >= len(found)]
            if missing:
                there = f"there are {len(found)}, numbered from 0" if found else "none can be seen (nvidia-smi, CUDA_VISIBLE_DEVICES)"
                raise OptionError(f"there is no GPU {missing[0]} here", there)
            chosen = [d if d == "cpu" else found[int(d)] for d in self.devices]
        each = self.gpus_per_worker
        if each == 1 or chosen[0] == "cpu":
            return chosen
        if len(chosen) % each:
            raise OptionError(
                f"{len(chosen)} GPUs cannot be shared out by {each}", "choose with --gpus as many as --gpus-per-worker divides"
            )
        return [",".join(chosen[at : at + each]) for at in range(0, len(chosen), each)]

    def on_cpus(self, captions: int) -> Execution:
        """Return the same for work that needs no device: a CPU worker a core, or fewer where that many captions do not keep them busy."""
        asked = len(self.devices) if self.devices and self.devices[0] == "cpu" else len(os.sched_getaffinity(0))
        return replace(self, devices=["cpu"] * max(1, min(asked, captions // _CAPTIONS_PER_WORKER)), gpus_per_worker=1, threads=1)

    def threads_each(self) -> int:
        """Return CPU threads per worker: the machine's, divided."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // len(self.resolved_devices()))


def execute(run: RunDirectory, prepared: list[Prepared], execution: Execution) -> dict[str, Any]:
    """Do what is pending of a stage, or of an image stage together with its score stage (``--store best`` and ``top``).

    Returns the tally of the first stage and how many parts were found damaged on the way.
    """
    first = prepared[0].stage
    damaged = 0

    def hear(kind: str, facts: dict[str, Any]) -> None:
        nonlocal damaged
        if kind == "ready":
            note_columns(run, prepared, facts)
            for line in facts.get("warnings", ()):
                _tell(execution, "warning", {"text": line})
        damaged += kind == "damaged"
        if kind == "committed":
            beside.look()
        _tell(execution, kind, facts)

    beside: pruning.AsItGoes | AsItGoes = AsItGoes(run, [p.stage for p in prepared])
    if first.runtime.get("store") == "top":
        beside = pruning.AsItGoes(run, first, prepared[1].stage, lambda text: _tell(execution, "warning", {"text": text}))
    for line in _check_pixels(run, first):
        _tell(execution, "damaged", {"part": line})
    pending = _pending_shards(run, first, execution)
    worked = bool(pending)
    if worked and execution.python is None:
        for line in _other_versions(run, first):
            _tell(execution, "warning", {"text": line})
    try:
        while pending:
            _work(run, prepared, execution, pending, hear)
            before, pending = pending, [] if execution.retry_failed else _pending_shards(run, first, execution)
            if sum(n for _, n in pending) >= sum(n for _, n in before):
                break  # what is left cannot be made now: its source turned out damaged
    finally:
        beside.stop()
    beside.finish()
    if worked:
        for p in prepared:
            try:
                compact(run, p.stage)
            except (SynthVLMError, OSError) as error:  # the work is done and safe; merging it can wait
                _tell(execution, "not_compacted", {"stage": p.stage.name, "reason": str(error).splitlines()[0]})
    return run.tally(first) | {"damaged_parts": damaged}


def remake(run: RunDirectory, prepared: Prepared, rows: Sequence[Mapping[str, Any]], execution: Execution) -> list[dict[str, str]]:
    """Make the images of ``rows`` (key, row) of a stage again; return those that failed (id, class, error)."""
    stage = prepared.stage
    shards = Counter(r["row"] // stage.shard_size for r in rows)
    failures: list[dict[str, str]] = []

    def hear(kind: str, facts: dict[str, Any]) -> None:
        if kind == "rows":
            failures.extend(facts["failed"])
        _tell(execution, kind, facts)

    if execution.python is None:
        for line in _other_versions(run, stage):
            _tell(execution, "warning", {"text": line})
    with contextlib.suppress(TooManyFailures):  # the caller says which, and why
        _work(run, [prepared], execution, sorted(shards.items()), hear, [r["key"] for r in rows])
    return failures


def _work(
    run: RunDirectory,
    prepared: list[Prepared],
    execution: Execution,
    pending: list[tuple[int, int]],
    hear: Callable[[str, dict[str, Any]], None],
    again: Sequence[str] = (),
) -> None:
    """Have the executor do the pending shards."""
    first = prepared[0].stage
    devices = execution.resolved_devices()
    job = Job(
        run=run.root,
        stages=[asdict(p.stage) for p in prepared],
        plugins={p.stage.name: p.plugins for p in prepared},
        devices=devices,
        threads=first.runtime["threads"],
        python=execution.python,
        retry_failed=execution.retry_failed,
        max_failures=execution.max_failures,
        commit_seconds=execution.commit_seconds,
        remake=list(again),
    )
    logs = os.path.join(run.store.root, "logs") if run.store.is_local else os.path.join(os.getcwd(), "synthvlm-logs")
    if execution.listener:
        execution.listener.start(first.name, sum(n for _, n in pending), devices)
        if first.kind == "caption":
            _tell(execution, "images", {"images": run.pending_images(first, execution.retry_failed)})
    try:
        LocalExecutor(
            job, logs, hear, lambda shard, key, reason: _set_row_aside(run, first, shard, key, reason, execution.retry_failed)
        ).run([s for s, _ in pending])
    finally:
        if execution.listener:
            execution.listener.finish()


def _pending_shards(run: RunDirectory, stage: Stage, execution: Execution) -> list[tuple[int, int]]:
    """Return what is to do; a part that cannot be read is set aside first, so that its rows are made again."""
    try:
        return run.pending_shards(stage, execution.retry_failed)
    except duckdb.Error:
        lines = run.repair()
        if not lines:
            raise
        for line in lines:
            _tell(execution, "damaged", {"part": line})
        return run.pending_shards(stage, execution.retry_failed)


def _other_versions(run: RunDirectory, stage: Stage) -> list[str]:
    """Return a line for each library whose version differs from the one that the stage's last part was made with."""
    found = parts.list_parts(run.store, stage.name)[-1:]
    try:
        info = parts.part_info(run.store, found[0]) if found else {}
    except (OSError, ValueError):
        return []
    before: dict[str, str] = (info.get("merged") or [info])[-1].get("versions", {})
    lines = []
    for module, version in before.items():
        try:
            now = importlib.metadata.version(_DISTRIBUTIONS.get(module, module))
        except importlib.metadata.PackageNotFoundError:
            continue
        build = "+" in now  # torch says its build (2.9.0+cu130), which its package's metadata may leave out
        if now != (version if build else version.partition("+")[0]):
            lines.append(
                f"{stage.name} was begun with {module} {version}, and this is {now}: new rows may differ from old ones in their last bits"
            )
    return lines


def _check_pixels(run: RunDirectory, stage: Stage) -> list[str]:
    """Set aside parts whose tar is missing or cut short; sizes only, which costs one look at each file."""
    if stage.kind != "generate" or not run.store.is_local:
        return []
    try:
        sql = run.parts_sql(stage, columns='tar, max("offset" + bytes) AS reach')
        if sql is None:
            return []
        with run.connect() as db:
            reaches = db.execute(f"SELECT * FROM {sql.removesuffix(')')} WHERE tar IS NOT NULL GROUP BY tar)").fetchall()
    except duckdb.Error:
        return run.repair()
    if all((run.store.size(tar) or 0) >= reach for tar, reach in reaches):
        return []
    return [f"{p.path} ({problem})" for p, problem in parts.repair(run.store, stage.name)]


def _set_row_aside(run: RunDirectory, stage: Stage, shard: int, key: str, reason: str, retry_failed: bool) -> None:
    """Record a row that kills its workers as failed, so that the rest can go on."""
    with run.connect(1) as db:
        for row in run.pending_rows(db, stage, shard, retry_failed):
            if row["key"] == key:
                kept = {
                    f.name: row[f.name]
                    for f in stage.schema
                    if f.name in ("key", "row", "id", "candidate", "sha256", "perspective", "flipped") and f.name in row
                }
                failed = kept | {"error": reason, "error_class": "WorkerDied", "tries": row["tries"] + 1}
                parts.commit(run.store, stage.name, shard, stage.schema, [failed])


def _tell(execution: Execution, kind: str, facts: dict[str, Any]) -> None:
    if execution.listener:
        execution.listener.event(kind, facts)
