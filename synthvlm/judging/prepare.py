"""Settle a judge's stage before anything runs: a model's, or a person's."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any

from synthvlm.errors import OptionError, RunMismatch
from synthvlm.execution import Execution
from synthvlm.judging import verdicts
from synthvlm.perspectives import Perspective
from synthvlm.plugins import Registry, discover
from synthvlm.preparing import Prepared, check_name, resolve_plugin, settle, shard_samples
from synthvlm.run import RunDirectory, Stage

HUMAN = "human"
"""The judge that is people: ``--judge human``."""
_LONGEST = 63


def prepare_judge(
    run: RunDirectory,
    comparison: Mapping[str, Any],
    model: str,
    *,
    judge: str | None = None,
    prompt: str | os.PathLike[str] | None = None,
    max_new_tokens: int | None = None,
    options: Mapping[str, Any] | None = None,
    preset: str | None = None,
    execution: Execution,
    registry: Registry | None = None,
) -> Prepared:
    """Settle the stage of a model that judges the pairs of ``comparison`` (its record); ``judge`` is its name, by default the model's.

    Raises PluginError, OptionError, InputError, CheckpointError or RunMismatch before anything runs; a captioner that takes fewer
    pictures than it would have to see is refused before its checkpoint is looked for.
    """
    registry = registry or discover()
    kind = comparison["kind"]
    if judge == HUMAN:
        raise OptionError("the judge 'human' is people", "leave out --model, or name the judge otherwise")
    asked = registry.create("captioner", model, options or {}, preset)
    most, needed = getattr(asked, "max_images", None), 1 if kind == "captions" else 2
    if most is not None and most < needed:
        raise OptionError(
            f"{model} takes one image at a time, and a judge of images has to see two",
            "choose one that takes several, such as qwen2-vl, internvl2, transformers or openai; "
            f"or --model captioner-agreement -o model={model}, which has it describe each",
        )
    words = _words(asked, prompt, kind)
    _, record, identity, load = resolve_plugin(registry, "captioner", model, options or {}, preset, True, execution.python is None)
    stage = Stage(
        name=check_name(stage_name(comparison["name"], judge or model)),
        kind="judge",
        plugins=[record],
        identity={
            model: identity,
            "asked": {"kind": kind, "prompt": words.prompt, "max_new_tokens": max_new_tokens or words.max_new_tokens},
        },
        reads={"pairs": comparison["name"]},
        shard_size=shard_samples("judge", comparison["counts"]["pairs"], len(execution.resolved_devices()), 1, 1),
        runtime={"judge": judge or model, "prompt": words.name},
    )
    try:
        return Prepared(settle(run, stage, execution), [load])
    except RunMismatch as error:
        raise RunMismatch(error.message, "keep both: --judge NAME makes another judge; or --overwrite replaces this one") from error


def _words(asked: Any, prompt: str | os.PathLike[str] | None, kind: str) -> Perspective:
    """Return what is asked: of a captioner that has its own form of question, that."""
    own = getattr(asked, "judge_prompt", None)
    if own is None:
        return verdicts.load_prompt(prompt or verdicts.DEFAULT[kind], kind)
    if prompt is not None:
        raise OptionError("this judge cannot be asked in other words", "leave out --prompt")
    question = Perspective("own", own)
    verdicts.check_fields("the judge's own prompt", set(question.fields), kind)
    return question


def prepare_person(run: RunDirectory, comparison: Mapping[str, Any], annotator: str) -> Stage:
    """Settle the stage of a person's votes. Raises OptionError for a name that is none."""
    name = annotator.strip()
    if not name or len(name) > 64 or not name.isprintable():
        raise OptionError(f"{annotator!r} is no name for a person", "letters of any script, up to 64")
    pairs = comparison["counts"]["pairs"]
    stage = Stage(
        name=check_name(stage_name(comparison["name"], f"{HUMAN}-{_slug(name)}")),
        kind="judge",
        plugins=[{"name": HUMAN}],
        identity={HUMAN: {"annotator": name, "kind": comparison["kind"]}},
        reads={"pairs": comparison["name"]},
        shard_size=max(1, pairs),  # all in one: votes come one by one
        runtime={"judge": name},
    )
    with run.store.lock(f"settling {stage.name}", wait=600):
        return run.ensure_stage(stage)


def stages(run: RunDirectory, comparison: str) -> list[Stage]:
    """Return the stages of a comparison's judges, models first."""
    found = [s for s in map(run.stage, run.stage_names()) if s.kind == "judge" and s.reads["pairs"] == comparison]
    return sorted(found, key=lambda s: (HUMAN in s.identity, s.name))


def stage_name(comparison: str, judge: str) -> str:
    """Return the name of a judge's stage: ``<comparison>.<judge>``, cut to what a folder's name may have."""
    name = f"{comparison}.{re.sub(r'[^A-Za-z0-9_-]+', '-', judge)}"
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 7]}-{_digest(name)}"


def _slug(name: str) -> str:
    """Return a person's name as a folder's name may have it; two people's differ."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")
    return plain if plain == name else f"{plain or 'x'}-{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
