"""Bring a stage up to date: resolve its plugins, settle its identity, and have an executor do what is pending."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import duckdb

from synthvlm import checkpoints, parts
from synthvlm.compact import compact
from synthvlm.errors import CheckpointError, OptionError, PluginError, SynthVLMError, WorkerError
from synthvlm.executors.local import LocalExecutor, gpus
from synthvlm.executors.schedule import Job
from synthvlm.options import as_dict, describe
from synthvlm.plugins import Registry, discover
from synthvlm.run import RunDirectory, Stage

_ROWS_AHEAD = 8
"""Shards per worker that even a small run is cut into, so that devices end together."""
_SHARD_SAMPLES = {"generate": (8, 64), "score": (256, 1024)}
"""Samples per shard at least, since a run may grow later, and when it is large: some minutes of work each."""
_DISTRIBUTIONS = {"PIL": "pillow", "open_clip": "open-clip-torch"}
DEFAULT_SCORERS: Mapping[str, dict[str, Any]] = {"clip": {}, "ssim": {}}


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
    threads: int | None = None
    python: str | None = None
    retry_failed: bool = False
    max_failures: float = 0.5
    commit_seconds: float = 60.0
    overwrite: bool = False
    listener: Listener | None = None

    def resolved_devices(self) -> list[str]:
        """Return one device per worker, as CUDA_VISIBLE_DEVICES wants it. Raises OptionError for a GPU that is not there."""
        found = gpus()
        if self.devices is None:
            return found or ["cpu"]
        missing = [d for d in self.devices if d != "cpu" and int(d) >= len(found)]
        if missing:
            there = f"there are {len(found)}, numbered from 0" if found else "none can be seen (nvidia-smi, CUDA_VISIBLE_DEVICES)"
            raise OptionError(f"there is no GPU {missing[0]} here", there)
        return [d if d == "cpu" else found[int(d)] for d in self.devices]

    def threads_each(self) -> int:
        """Return CPU threads per worker: the machine's, divided."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // len(self.resolved_devices()))


@dataclass
class Prepared:
    """A stage whose plugins are resolved: what its workers load."""

    stage: Stage
    plugins: list[dict[str, Any]] = field(default_factory=list)


def _plugin(
    registry: Registry, kind: str, name: str, options: Mapping[str, Any], preset: str | None, fetch: bool, local: bool
) -> tuple[Any, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return (options, record, identity, what a worker loads) of one plugin."""
    registration = registry.get(kind, name)
    asked = registry.create(kind, name, options, preset)
    if local and registration.missing:
        extra = getattr(registration.cls, "extra", None)
        raise WorkerError(
            f"{name} needs {', '.join(registration.missing)}, which is not installed", f"pip install 'synthvlm[{extra}]'" if extra else None
        )
    try:
        resolved, found = checkpoints.resolve(asked, fetch)
    except CheckpointError as error:
        if kind != "scorer":
            raise
        way_on = (error.hint or "").replace("-o checkpoint=", f"-o {name}.checkpoint=")
        raise CheckpointError(
            f"{name}: {error.message}", f"{way_on}; or choose scorers that need none of it, such as --scorer ssim"
        ) from error
    roles = {info.name: info.role for info in describe(type(asked))}
    identity = (
        as_dict(asked, ["identity"]) | {n: None for n, r in roles.items() if r == "checkpoint"} | {n: r.revision for n, r in found.items()}
    )
    identity["output_revision"] = getattr(asked, "output_revision", 1)
    record = {
        "name": name,
        "distribution": registration.distribution,
        "version": registration.version,
        "options": as_dict(asked),
        "checkpoints": {n: {"asked": r.asked, "revision": r.revision} for n, r in found.items()},
    }
    return asked, record, identity, {"name": name, "options": as_dict(resolved)}


def shard_samples(kind: str, samples: int, workers: int, repeat: int, batch_size: int) -> int:
    """Return the samples per shard: small enough that devices end together, and whole batches."""
    least, most = _SHARD_SAMPLES[kind]
    size = min(most, max(least, math.ceil(samples / (_ROWS_AHEAD * workers))))
    step = batch_size // math.gcd(batch_size, repeat)
    return math.ceil(size / step) * step


def prepare_generate(
    run: RunDirectory,
    model: str,
    *,
    options: Mapping[str, Any] | None = None,
    preset: str | None = None,
    repeat: int | None = None,
    image_format: str = "jpeg",
    quality: int = 95,
    keep_best_by: Mapping[str, float] | None = None,
    name: str | None = None,
    execution: Execution,
    fetch: bool = True,
    registry: Registry | None = None,
    dry: bool = False,
) -> Prepared:
    """Settle a generate stage. Raises PluginError, OptionError, CheckpointError or RunMismatch before anything runs.

    ``dry`` checks, and leaves the run as it is.
    """
    registry = registry or discover()
    asked, record, identity, load = _plugin(registry, "generator", model, options or {}, preset, fetch, execution.python is None)
    for column, weight in (keep_best_by or {}).items():
        if not math.isfinite(weight):
            raise OptionError(f"the weight of {column!r} is {weight}", "give a number")
    repeat = repeat or int(getattr(asked, "recommended", {}).get("repeat", 1))
    runtime: dict[str, Any] = {"store": "all"} if keep_best_by is None else {"store": "best", "keep_best_by": dict(keep_best_by)}
    image = {"format": image_format, "quality": quality if image_format == "jpeg" else None}
    workers = len(execution.resolved_devices())
    stage = Stage(
        name=check_name(name or model),
        kind="generate",
        plugins=[record],
        identity={model: identity, "image": image},
        reads={"caption": "samples"},
        shard_size=shard_samples("generate", run.sample_count(), workers, repeat, int(getattr(asked, "batch_size", 1) or 1)),
        repeat=repeat,
        runtime=runtime,
    )
    return Prepared(_settle(run, stage, execution, dry), [load])


def prepare_score(
    run: RunDirectory,
    images: str,
    scorers: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    name: str | None = None,
    execution: Execution,
    fetch: bool = True,
    registry: Registry | None = None,
) -> Prepared:
    """Settle a score stage over the images of stage ``images``."""
    registry = registry or discover()
    made = run.stage(images)
    scorers = scorers or recommended_scorers(registry, made.plugins[0]["name"])
    resolved = {}
    for scorer, options in scorers.items():
        resolved[scorer] = _plugin(registry, "scorer", scorer, *split_preset(options), fetch, execution.python is None)
    stage = Stage(
        name=check_name(name or score_name(run, images, list(scorers))),
        kind="score",
        plugins=[r[1] for r in resolved.values()],
        identity={s: r[2] for s, r in resolved.items()},
        reads={"image": images, "caption": "samples"},
        shard_size=shard_samples("score", run.sample_count(), len(execution.resolved_devices()), made.repeat, 1),
    )
    return Prepared(_settle(run, stage, execution), [r[3] for r in resolved.values()])


def fetch_all(registry: Registry, models: Sequence[tuple[str, str, Mapping[str, Any], str | None]], execution: Execution) -> None:
    """See to it that every (kind, name, options, preset) of a line can be had, before anything is spent on its first step.

    Raises what the step itself would raise, PluginError, OptionError, CheckpointError or WorkerError, only earlier.
    """
    for kind, name, options, preset in models:
        _plugin(registry, kind, name, options, preset, True, execution.python is None)


def recommended_scorers(registry: Registry, model: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the scorers that an image model recommends (a miniature model knows its own CLIP), else the method's."""
    try:
        cls = registry.get("generator", model).cls
    except PluginError:  # the model's plugin is not installed here; its images are
        return DEFAULT_SCORERS
    return getattr(cls, "recommended", {}).get("scorers") or DEFAULT_SCORERS


def split_preset(options: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Return a scorer's options and its preset, which stands among them."""
    own = dict(options)
    preset = own.pop("preset", None)
    return own, preset


def score_name(run: RunDirectory, images: str, scorers: list[str]) -> str:
    """Return a score stage's default name: ``clip-ssim``, or ``<images>.clip-ssim`` where another image stage has that one."""
    plain = "-".join(scorers)
    record = run.store.read_json(f"{plain}/stage.json")
    return plain if record is None or record["reads"].get("image") == images else f"{images}.{plain}"


def check_name(name: str) -> str:
    """Return a stage's name, which is a folder of the run; raises OptionError if it cannot be one."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]{0,63}", name) or name in ("samples", "selections", "logs", "report", "exports", "damaged"):
        raise OptionError(
            f"{name!r} cannot be a stage's name",
            "letters, digits, '.', '_' and '-', beginning with a letter, and none of the run's own folders",
        )
    return name


def _settle(run: RunDirectory, stage: Stage, execution: Execution, dry: bool = False) -> Stage:
    """Record the stage. Its thread count stays the one it began with: results on the CPU depend on it in the last bit."""
    with contextlib.nullcontext() if dry else run.store.lock(f"settling {stage.name}", wait=600):
        record = run.store.read_json(f"{stage.name}/stage.json") or {"runtime": {}}
        stage.runtime["threads"] = execution.threads or record["runtime"].get("threads") or execution.threads_each()
        settled = run.ensure_stage(stage, execution.overwrite, dry)
    if settled.kind == "score" and not settled.columns:
        _recall_columns(run, settled)
    return settled


def _recall_columns(run: RunDirectory, stage: Stage) -> None:
    """Take a score stage's columns and cards from its parts, where stage.json has lost them (``--overwrite`` and back, a kill)."""
    for part in parts.list_parts(run.store, stage.name):
        info = parts.part_info(run.store, part)
        for leaf in info.get("merged", [info]):
            if leaf.get("stage") == stage.digest and leaf.get("columns"):
                _note_columns(run, [Prepared(stage)], {"columns": {stage.name: leaf["columns"]}, "cards": {stage.name: leaf["cards"]}})
                return


def execute(run: RunDirectory, prepared: list[Prepared], execution: Execution) -> dict[str, Any]:
    """Do what is pending of a stage, or of an image stage together with its score stage (``--store best``).

    Returns the tally of the first stage and how many parts were found damaged on the way.
    """
    first = prepared[0].stage
    damaged = 0

    def hear(kind: str, facts: dict[str, Any]) -> None:
        nonlocal damaged
        if kind == "ready":
            _note_columns(run, prepared, facts)
        damaged += kind == "damaged"
        _tell(execution, kind, facts)

    for line in _check_pixels(run, first):
        _tell(execution, "damaged", {"part": line})
    pending = _pending_shards(run, first, execution)
    worked = bool(pending)
    if worked and execution.python is None:
        for line in _other_versions(run, first):
            _tell(execution, "warning", {"text": line})
    while pending:
        _work(run, prepared, execution, pending, hear)
        before, pending = pending, [] if execution.retry_failed else _pending_shards(run, first, execution)
        if sum(n for _, n in pending) >= sum(n for _, n in before):
            break  # what is left cannot be made now: its source turned out damaged
    if worked:
        for p in prepared:
            try:
                compact(run, p.stage)
            except (SynthVLMError, OSError) as error:  # the work is done and safe; merging it can wait
                _tell(execution, "not_compacted", {"stage": p.stage.name, "reason": str(error).splitlines()[0]})
    return run.tally(first) | {"damaged_parts": damaged}


def _work(
    run: RunDirectory,
    prepared: list[Prepared],
    execution: Execution,
    pending: list[tuple[int, int]],
    hear: Callable[[str, dict[str, Any]], None],
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
    )
    logs = os.path.join(run.store.root, "logs") if run.store.is_local else os.path.join(os.getcwd(), "synthvlm-logs")
    if execution.listener:
        execution.listener.start(first.name, sum(n for _, n in pending), devices)
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
        if now != version:
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


def _note_columns(run: RunDirectory, prepared: list[Prepared], facts: dict[str, Any]) -> None:
    """Write what a loaded scorer says of its columns into its stage."""
    for p in prepared:
        if p.stage.name in facts["columns"]:
            p.stage.columns, p.stage.cards = facts["columns"][p.stage.name], facts["cards"][p.stage.name]
            with run.store.lock(f"settling {p.stage.name}", wait=600):
                now = run.stage(p.stage.name)
                if now.digest == p.stage.digest and (now.columns, now.cards) != (p.stage.columns, p.stage.cards):
                    now.columns, now.cards = p.stage.columns, p.stage.cards
                    run.store.put_json(f"{now.name}/stage.json", asdict(now))


def _set_row_aside(run: RunDirectory, stage: Stage, shard: int, key: str, reason: str, retry_failed: bool) -> None:
    """Record a row that kills its workers as failed, so that the rest can go on."""
    with run.connect(1) as db:
        for row in run.pending_rows(db, stage, shard, retry_failed):
            if row["key"] == key:
                kept = {
                    f.name: row[f.name] for f in stage.schema if f.name in ("key", "row", "id", "candidate", "sha256") and f.name in row
                }
                failed = kept | {"error": reason, "error_class": "WorkerDied", "tries": row["tries"] + 1}
                parts.commit(run.store, stage.name, shard, stage.schema, [failed])


def _tell(execution: Execution, kind: str, facts: dict[str, Any]) -> None:
    if execution.listener:
        execution.listener.event(kind, facts)
