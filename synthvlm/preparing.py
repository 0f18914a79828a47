"""Settle a stage before anything runs: resolve its plugins and checkpoints, and record what it is. Mistakes end here."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from synthvlm import caption_rows, checkpoints, parts, perspectives
from synthvlm.cards import refuse
from synthvlm.errors import CheckpointError, OptionError, PluginError, RunError, WorkerError
from synthvlm.options import as_dict, describe, digest
from synthvlm.plugins import Registration, Registry, discover
from synthvlm.run import RunDirectory, Stage
from synthvlm.selecting.rank import parse_top

if TYPE_CHECKING:
    from synthvlm.execution import Execution

_ROWS_AHEAD = 8
"""Shards per worker that even a small run is cut into, so that devices end together."""
_SHARD_SAMPLES = {"generate": (8, 64), "score": (256, 1024), "caption": (32, 512), "judge": (32, 512), "measure": (1024, 20_000)}
"""Samples per shard at least, since a run may grow later, and when it is large: some minutes of work each."""
_ENGINES: Mapping[str, tuple[tuple[str, ...], str | None]] = {"vllm": (("vllm",), "vllm"), "openai": (("openai",), None)}
"""Engines of captioners that need other packages than the plugin says: modules, and the extra that brings them."""
_OWN_FOLDERS = ("samples", "curation", "decontamination", "selections", "comparisons", "logs", "report", "exports", "damaged")
DEFAULT_SCORERS: Mapping[str, dict[str, Any]] = {"clip": {}, "ssim": {}}


@dataclass
class Prepared:
    """A stage whose plugins are resolved: what its workers load."""

    stage: Stage
    plugins: list[dict[str, Any]] = field(default_factory=list)


def resolve_plugin(
    registry: Registry, kind: str, name: str, options: Mapping[str, Any], preset: str | None, fetch: bool, local: bool
) -> tuple[Any, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return (options, record, identity, what a worker loads) of one plugin."""
    registration = registry.get(kind, name)
    asked = registry.create(kind, name, options, preset)
    if local:
        _check_installed(registration, asked)
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


def _check_installed(registration: Registration, asked: Any) -> None:
    """Raise WorkerError for what ``asked`` needs and is not installed."""
    modules, extra = _ENGINES.get(getattr(asked, "engine", ""), ((), None))
    missing = [m for m in modules if importlib.util.find_spec(m) is None] if modules else registration.missing
    extra = extra if modules else getattr(registration.cls, "extra", None)
    if missing:
        raise WorkerError(
            f"{registration.name} needs {', '.join(missing)}, which is not installed", f"pip install 'synthvlm[{extra}]'" if extra else None
        )


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
    keep_top: str | float | int | None = None,
    curation: str | None = None,
    name: str | None = None,
    execution: Execution,
    fetch: bool = True,
    registry: Registry | None = None,
    dry: bool = False,
) -> Prepared:
    """Settle a generate stage, over all captions or those that ``curation`` keeps.

    Raises PluginError, OptionError, CheckpointError or RunMismatch before anything runs. ``dry`` checks, and leaves the run as it is.
    """
    registry = registry or discover()
    asked, record, identity, load = resolve_plugin(registry, "generator", model, options or {}, preset, fetch, execution.python is None)
    for column, weight in (keep_best_by or {}).items():
        if not math.isfinite(weight):
            raise OptionError(f"the weight of {column!r} is {weight}", "give a number")
    repeat = repeat or int(getattr(asked, "recommended", {}).get("repeat", 1))
    runtime: dict[str, Any] = {"store": "all"} if keep_best_by is None else {"store": "best", "keep_best_by": dict(keep_best_by)}
    if keep_top is not None:
        parse_top(keep_top, 1)
        runtime |= {"store": "top", "keep_top": str(keep_top)}
    runtime |= {"curation": curation} if curation else {}
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
    return Prepared(settle(run, stage, execution, dry), [load])


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
        resolved[scorer] = resolve_plugin(registry, "scorer", scorer, *split_preset(options), fetch, execution.python is None)
    stage = Stage(
        name=check_name(name or score_name(run, images, list(scorers))),
        kind="score",
        plugins=[r[1] for r in resolved.values()],
        identity={s: r[2] for s, r in resolved.items()},
        reads={"image": images, "caption": "samples"},
        shard_size=shard_samples("score", run.sample_count(), len(execution.resolved_devices()), made.repeat, 1),
    )
    return Prepared(settle(run, stage, execution), [r[3] for r in resolved.values()])


def prepare_measure(
    run: RunDirectory,
    scorer: str,
    options: Mapping[str, Any] | None = None,
    *,
    curation: str | None = None,
    name: str | None = None,
    execution: Execution,
    fetch: bool = True,
    registry: Registry | None = None,
) -> Prepared:
    """Settle a score stage over the samples: a text scorer over captions, any other over captions and the raw images beside them.

    With ``curation``, of the captions that it keeps. A scorer with options of its own makes a stage of its own, so that curations with
    different ones do not meet. Raises PluginError, OptionError, CheckpointError or RunMismatch.
    """
    registry = registry or discover()
    text = reads_text(registry, scorer)
    plain = scorer if text else f"raw.{scorer}"
    _, record, identity, load = resolve_plugin(registry, "scorer", scorer, *split_preset(options or {}), fetch, execution.python is None)
    stage = Stage(
        name=check_name(name or (f"{plain}-{digest(dict(options))[:6]}" if options else plain)),
        kind="score",
        plugins=[record],
        identity={scorer: identity},
        reads={"caption": "samples"} if text else {"image": "samples", "caption": "samples"},
        shard_size=shard_samples("measure" if text else "score", run.sample_count(), len(execution.resolved_devices()), 1, 1),
        runtime={"curation": curation} if curation else {},
    )
    return Prepared(settle(run, stage, execution), [load])


def reads_text(registry: Registry, scorer: str) -> bool:
    """Say whether a scorer reads captions alone. Raises PluginError if there is none of that name."""
    return getattr(registry.get("scorer", scorer).cls, "reads", "pair") == "text"


def wants_device(registry: Registry, scorer: str) -> bool:
    """Say whether a scorer runs where models run, and not on any CPU."""
    return not reads_text(registry, scorer) or getattr(registry.get("scorer", scorer).cls, "wants_device", False)


def prepare_caption(
    run: RunDirectory,
    model: str,
    asked_for: Sequence[str | os.PathLike[str]] = perspectives.DEFAULT,
    *,
    options: Mapping[str, Any] | None = None,
    preset: str | None = None,
    images: str = "samples",
    selection: str | None = None,
    max_new_tokens: int | None = None,
    name: str | None = None,
    execution: Execution,
    fetch: bool = True,
    registry: Registry | None = None,
    dry: bool = False,
) -> Prepared:
    """Settle a caption stage over the run's own images, or over those of stage ``images`` (or of a selection of them).

    ``asked_for``: perspectives by name, file or folder. ``preset`` is one of the perspectives' or of the model. Raises PluginError,
    OptionError, InputError, CheckpointError, RunError or RunMismatch before anything runs; ``dry`` leaves the run as it is.
    """
    registry = registry or discover()
    of_model, of_perspectives = presets(registry, model, preset)
    local = execution.python is None
    asked, record, identity, load = resolve_plugin(registry, "captioner", model, options or {}, of_model, fetch, local)
    family = getattr(asked, "family", "") or model
    resolved = perspectives.resolve(asked_for, family, of_perspectives, max_new_tokens)
    if images != "samples" and run.stage(images).kind != "generate":
        raise RunError(f"stage {images!r} of {run.root} makes no images", "name an image stage with --images")
    repeat = 1 if images == "samples" else run.stage(images).repeat
    stage = Stage(
        name=check_name(name or model),
        kind="caption",
        plugins=[record],
        identity={model: identity},
        reads={"image": images},
        shard_size=shard_samples("caption", run.sample_count(), len(execution.resolved_devices()), repeat, 1),
        perspectives={n: p.record() for n, p in resolved.items()},
        runtime={"selection": selection},
    )
    lacking = caption_rows.fields_missing(run, stage)
    if lacking:
        name, fields = next(iter(lacking.items()))
        raise OptionError(
            f"the perspective {name!r} quotes {', '.join(fields)}, which no image of the run has",
            "a prompt may quote caption, id, image and the other fields of the input; in words of its own: {% if caption is defined %}",
        )
    return Prepared(settle(run, stage, execution, dry), [load])


def presets(registry: Registry, model: str, preset: str | None) -> tuple[str | None, str | None]:
    """Return of which a preset is: (the captioner's, the perspectives'); its own wins."""
    own = preset in getattr(registry.get("captioner", model).cls, "presets", {})
    return (preset, None) if own or preset not in perspectives.PRESETS else (None, preset)


def fetch_all(registry: Registry, models: Sequence[tuple[str, str, Mapping[str, Any], str | None]], execution: Execution) -> None:
    """See to it that every (kind, name, options, preset) of a line can be had, before anything is spent on its first step.

    Raises what the step itself would raise, PluginError, OptionError, CheckpointError or WorkerError, only earlier.
    """
    for kind, name, options, preset in models:
        resolve_plugin(registry, kind, name, options, preset, True, execution.python is None)


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
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]{0,63}", name) or name in _OWN_FOLDERS:
        raise OptionError(
            f"{name!r} cannot be a stage's name",
            "letters, digits, '.', '_' and '-', beginning with a letter, and none of the run's own folders",
        )
    return name


def settle(run: RunDirectory, stage: Stage, execution: Execution, dry: bool = False) -> Stage:
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
                note_columns(run, [Prepared(stage)], {"columns": {stage.name: leaf["columns"]}, "cards": {stage.name: leaf["cards"]}})
                return


def note_columns(run: RunDirectory, prepared: list[Prepared], facts: dict[str, Any]) -> None:
    """Write what a loaded scorer says of its columns into its stage."""
    for p in prepared:
        if p.stage.name in facts["columns"]:
            refuse(f"stage {p.stage.name!r} of {run.root}", p.stage.cards, facts["cards"][p.stage.name])
            p.stage.columns, p.stage.cards = facts["columns"][p.stage.name], facts["cards"][p.stage.name]
            with run.store.lock(f"settling {p.stage.name}", wait=600):
                now = run.stage(p.stage.name)
                if now.digest == p.stage.digest and (now.columns, now.cards) != (p.stage.columns, p.stage.cards):
                    now.columns, now.cards = p.stage.columns, p.stage.cards
                    run.store.put_json(f"{now.name}/stage.json", asdict(now))
