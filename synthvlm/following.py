"""Recipes: their steps done in order on a run, after a look at everything that they name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synthvlm.errors import OptionError, RunError
from synthvlm.perspectives import resolve
from synthvlm.pipeline import Run
from synthvlm.plugins import discover
from synthvlm.preparing import fetch_all, presets, recommended_scorers, split_preset
from synthvlm.recipe import CaptionStep, GenerateStep, Recipe, ScoreStep, SelectStep


def follow(recipe: Recipe, run: Run, on_step: Any = None, only: str | None = None) -> Run:
    """Do a recipe's steps in order. Images that turn out damaged while they are scored or captioned are made again.

    ``only``: one verb's steps; the others still tell what it needs of them (what ``store: best`` scores by).
    """
    _check_first(recipe, run, only)
    scoring: ScoreStep = recipe.first("score") or ScoreStep.model_validate({})
    selection = recipe.first("select")
    for step in recipe.steps:
        if only and step.verb != only:
            continue
        if on_step:
            on_step("begin", step.verb, run)
        s = step.settings
        if step.verb == "curate":
            run.curate(**s.settings())
            _refuse_none(run.results["curate"])
        elif step.verb == "generate":
            _generate(run, s, scoring, selection)
        elif step.verb in ("score", "caption"):
            work = _score if step.verb == "score" else _caption
            work(run, s)
            made: GenerateStep | None = recipe.first("generate")
            if run.results[step.verb]["damaged_parts"] and made is not None:
                _generate(run, made, scoring, selection)
                work(run, s)
        elif step.verb == "select":
            run.select(**s.model_dump())
        elif step.verb == "export":
            for kind in s.formats:
                run.export(kind, **s.model_dump(exclude={"formats"}))
        elif step.verb == "merge":
            run.merge(**s.model_dump())
        else:
            run.report(selection=s.selection, compare=s.compare)
        if on_step:
            on_step("end", step.verb, run)
    return run


def _refuse_none(curation: Mapping[str, Any]) -> None:
    """Stop a line that has no caption left, and say why."""
    if not curation["kept"]:
        why = ", ".join(f"{f['dropped']:,} by {f['reason']} ({f['limit']})" for f in curation["funnel"] if f["dropped"])
        raise RunError(
            f"curation keeps none of the {curation['captions']:,} captions: {why}",
            "--no-curate takes them as they are; --rule COLUMN=off leaves a rule out; synthvlm curate CAPTIONS --dry-run shows examples",
        )


def _check_first(recipe: Recipe, run: Run, only: str | None) -> None:
    """Fail before spending: a line whose scorer cannot be fetched must not begin with a day of images."""
    registry = discover()
    models: list[tuple[str, str, Mapping[str, Any], str | None]] = []
    making: GenerateStep | None = recipe.first("generate")
    scoring: ScoreStep | None = recipe.first("score")
    if making is not None:
        models.append(("generator", making.model, making.options, making.preset))
    if scoring is not None and (only != "generate" or (making is not None and making.store != "all")):
        source = making.model if making else run.stage(scoring.images or run.image_stage()).plugins[0]["name"]
        for name, options in (scoring.scorers or recommended_scorers(registry, source)).items():
            models.append(("scorer", name, *split_preset(options)))
    for curate in [] if only else recipe.all("curate"):
        named = [*(curate.scorers or {"text": {}}).items(), *([("language", {})] if curate.languages else [])]
        models += [("scorer", name, *split_preset(options)) for name, options in named]
    if only != "generate":
        models += captioners(recipe)
    fetch_all(registry, models, run.execution)


def captioners(recipe: Recipe) -> list[tuple[str, str, Mapping[str, Any], str | None]]:
    """Return (kind, name, options, preset) of the captioners, as far as a look at what is named tells: nothing is read or fetched.

    Raises PluginError, OptionError or InputError for a captioner, an option or a perspective that is none.
    """
    registry, found = discover(), []
    for step in recipe.all("caption"):
        of_model, of_perspectives = presets(registry, step.model, step.preset)
        registry.create("captioner", step.model, step.options, of_model)
        resolve(step.perspectives, preset=of_perspectives)
        found.append(("captioner", step.model, step.options, of_model))
    return found


def _score(run: Run, s: ScoreStep) -> None:
    run.score(s.scorers, images=s.images, name=s.name)


def _caption(run: Run, s: CaptionStep) -> None:
    settings = s.model_dump(include={"preset", "images", "selection", "max_new_tokens", "name"})
    run.caption_with(s.model, s.options, s.perspectives, **settings)


def _generate(run: Run, s: GenerateStep, scoring: ScoreStep, selection: SelectStep | None) -> None:
    weights = selection.weights if selection else None
    settings = s.model_dump(include={"repeat", "preset", "name", "image_format", "quality", "curation"})
    settings["keep_top"] = _keep_top(s, selection)
    run.generate_with(s.model, s.options, s.store, scoring.scorers, weights, scoring.name, **settings)


def _keep_top(s: GenerateStep, selection: SelectStep | None) -> str | float | int | None:
    """Return how many captions keep their pixels with ``store: top``: as many as are selected, if nothing else is said.

    Raises OptionError if the selection may want pixels that are then gone.
    """
    if s.store != "top":
        return None
    if selection is None:
        return s.keep_top
    other = [f for f in ("group_by", "max_similarity", "clusters") if getattr(selection, f) is not None]
    other += ["limits"] if selection.limits else []
    other += ["normalise"] if selection.normalise != "none" else []
    if other:
        raise OptionError(f"store: top keeps the top by total, and {other[0]} may select others", "use store: best")
    top = selection.top if selection.top is not None or selection.threshold is None else "all"
    return s.keep_top if s.keep_top is not None else top
