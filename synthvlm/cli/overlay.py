"""Flags laid over a recipe."""

from __future__ import annotations

import os
from typing import Any

from synthvlm.cli import common
from synthvlm.errors import OptionError

SAFETY = "SYNTHVLM_NSFW_CHECKPOINT"
"""Environment variable that names the image-safety model at hand: with it, ``synth`` uses the scorer ``nsfw`` unasked."""


def overlay(recipe: Any, captions: str | None, out: str | None, flags: dict[str, Any]) -> Any:
    """Return the recipe with the flags laid over it (flags win)."""
    from synthvlm.recipe import parse

    data = recipe.model_dump(exclude_unset=True)
    reader = {to: flags[given] for given, to in common.INPUT.items() if flags.get(given) is not None}
    data["input"] = data.get("input", {}) | reader | ({"path": captions} if captions else {})
    if out:
        data["out"] = out
    if flags.get("seed") is not None:
        data["seed"] = flags["seed"]
    if recipe.reads_images:
        data["steps"] = _captioning(data["steps"], flags)
        return parse(data, "the command line")
    model_options, scorer_options = common.split_options(flags)
    if flags.get("no_curate"):
        data["steps"] = [s for s in data["steps"] if "curate" not in s]
    for step in data["steps"]:
        (verb,) = step
        settings = step[verb]
        if verb == "curate":
            asked = curate_flags(flags)
            settings |= asked | ({"limits": settings.get("limits", {}) | asked["limits"]} if "limits" in asked else {})
        elif verb == "generate":
            fields = ("model", "preset", "repeat", "image_format", "quality", "store", "keep_top", "curation", "name")
            settings |= common.given(**{f: flags.get(f) for f in fields})
            if flags.get("no_curate"):
                settings["curation"] = "off"
            if model_options:
                settings["options"] = settings.get("options", {}) | model_options
        elif verb == "score":
            merge_scorers(settings, flags, scorer_options, data)
        elif verb == "select":
            asked = common.selection(flags)
            settings |= asked | ({"limits": settings.get("limits", {}) | asked["limits"]} if "limits" in asked else {})
        elif verb == "export":
            settings |= common.given(formats=list(flags.get("export_formats") or ()) or None)
    _with_safety(data["steps"])
    return parse(data, "the command line")


def _with_safety(steps: list[dict[str, Any]]) -> None:
    """Have images looked at by the safety model that the machine's owner names, before any is chosen; its limit then keeps some out."""
    model = os.environ.get(SAFETY)
    at = next((n for n, s in enumerate(steps) if "select" in s or "export" in s), None)
    asked = any("nsfw" in (s.get("score", {}).get("scorers") or {}) for s in steps)
    if model and at is not None and not asked and any("generate" in s for s in steps):
        steps.insert(at, {"score": {"scorers": {"nsfw": {"checkpoint": model}}, "name": "nsfw"}})


def curate_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a curate step that the flags give."""
    return common.given(
        limits=common.rules(flags.get("rules", ())),
        languages=[x.strip() for x in (flags.get("languages") or "").split(",") if x.strip()] or None,
        duplicates=flags.get("duplicates"),
    )


def _captioning(steps: list[dict[str, Any]], flags: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the steps of a line that captions, with the flags laid over its caption steps; models that are named take their place."""
    models = tuple(flags.get("models") or ()) or ((flags["model"],) if flags.get("model") else ())
    options, of_models = common.split_options(flags)
    at = next(n for n, s in enumerate(steps) if "caption" in s)
    said = [s["caption"] or {} for s in steps if "caption" in s]
    if models:
        shared = {k: v for k, v in said[0].items() if k not in ("options", "preset", "name")}
        said = [next((s for s in said if s.get("model") == m), shared | {"model": m}) for m in models]
    if flags.get("name") and len(said) > 1:
        raise OptionError("--as names one stage, and there are several models", "leave it out: each stage has its model's name")
    known = [s.get("model", "mini-captioner") for s in said]
    for name in of_models:
        if name not in known:
            raise OptionError(f"-o {name}.…: there is no model {name!r} here", f"there are: {', '.join(known)}")
    fields = {f: flags.get(f) for f in ("preset", "max_new_tokens", "name", "images", "selection")} | {
        "perspectives": list(flags.get("perspectives") or ()) or None
    }
    given = common.given(**fields)
    for model, settings in zip(known, said, strict=True):
        settings |= given
        if own := settings.get("options", {}) | options | of_models.get(model, {}):
            settings["options"] = own
    rest = [s for s in steps if "caption" not in s]
    return [*rest[:at], *({"caption": s} for s in said), *rest[at:]]


def merge_scorers(settings: dict[str, Any], flags: dict[str, Any], options: dict[str, dict[str, Any]], data: dict[str, Any]) -> None:
    """Lay --scorer and -o SCORER.KEY=VALUE over the scorers of a recipe, or over those that the model recommends."""
    named = flags.get("scorers") or ()
    if not named and not options:
        return
    base: dict[str, Any] = dict(settings.get("scorers") or {})
    if not base:
        from synthvlm.plugins import discover
        from synthvlm.preparing import recommended_scorers

        model = next((s["generate"].get("model", "mini") for s in data["steps"] if "generate" in s), "")
        base = {k: dict(v) for k, v in recommended_scorers(discover(), model).items()}
    if named:
        base = {n: base.get(n, {}) for n in named}
    for scorer, values in options.items():
        if scorer not in base:
            raise OptionError(
                f"-o {scorer}.…: this run has no scorer {scorer!r}", f"it has: {', '.join(base)}; add one with --scorer {scorer}"
            )
        base[scorer] = base[scorer] | values
    settings["scorers"] = base
