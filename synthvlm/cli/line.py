"""The whole line on the command line: flags over a recipe, then its steps one after another, and what they came to."""

from __future__ import annotations

import os
from typing import Any

import click

from synthvlm.cli import common
from synthvlm.errors import OptionError

GROUPS_SHOWN = 30
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
            settings |= common.given(weights=common.weights(flags.get("weights", ())), **{f: flags.get(f) for f in common.SELECTION})
        elif verb == "export":
            settings |= common.given(formats=list(flags.get("export_formats") or ()) or None)
    _with_safety(data["steps"])
    return parse(data, "the command line")


def _with_safety(steps: list[dict[str, Any]]) -> None:
    """Have images looked at by the safety model that the machine's owner names, before they are exported; its limit then keeps some out."""
    model = os.environ.get(SAFETY)
    at = next((n for n, s in enumerate(steps) if "export" in s), None)
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


def with_defaults(recipe: Any, named: Any) -> Any:
    """See to it that there are captions (or images) and a model; the miniature ones serve only what ships with it, or when named."""
    from synthvlm.plugins import discover
    from synthvlm.resources import example_captions

    verb, kind = ("caption", "captioner") if recipe.reads_images else ("generate", "generator")
    step = recipe.first(verb)
    named = named or (step is not None and "model" in step.model_fields_set)
    what, mini = {"generate": ("captions", "mini"), "caption": ("images", "mini-captioner")}[verb]
    if recipe.input.path is None and verb == "generate":
        recipe.input.path = example_captions()
        recipe.out = recipe.out or "runs/demo"
        click.echo(f"No captions given: taking the examples that ship with SynthVLM ({recipe.input.path}).", err=True)
        if not named:
            click.echo(
                "No model given: taking the miniature one (mini), which knows a small world of shapes. For real images: --model sdxl",
                err=True,
            )
    elif not named:
        of = "image model" if verb == "generate" else "captioner"
        raise OptionError(
            f"which {of}? your own {what} need --model",
            f"there are: {', '.join(discover().names(kind))} ({mini} knows only its miniature world)",
        )
    return recipe


def go(recipe: Any, flags: dict[str, Any]) -> Any:
    """Do a recipe's steps, telling what each came to; return the run."""
    from synthvlm.pipeline import Run, captioners, follow

    if not recipe.out:
        raise OptionError("where to? a run needs a folder", "give --out RUN")
    captioners(recipe)  # a misspelt name should not wait for a million images to be read
    run = Run.create(recipe.out, seed=recipe.seed)
    run.execution = common.execution(flags)
    click.echo(f"Run: {run.root}", err=True)
    read_input(run, recipe)
    run.store.put("recipe.yaml", _from_anywhere(recipe).to_yaml().encode())
    follow(recipe, run, tell_step)
    return run


def read_input(run: Any, recipe: Any) -> None:
    """Read a recipe's captions or images, if it names any, into the run."""
    if recipe.input.path is not None:
        (run.add_images if recipe.reads_images else run.add)(recipe.input.path, **recipe.reader)
        tell_input(run)


def _from_anywhere(recipe: Any) -> Any:
    """Return the recipe with whole paths, so that the run's own copy resumes it from any folder."""
    whole = recipe.model_copy(deep=True)
    for owner, field in ((whole.input, "path"), (whole.input, "image_root"), (whole, "out")):
        path = getattr(owner, field)
        if path and "://" not in path:
            setattr(owner, field, os.path.abspath(path))
    for step in whole.all("caption"):
        step.perspectives = [os.path.abspath(p) if os.path.exists(p) and os.sep in p else p for p in step.perspectives]
    return whole


def tell_input(run: Any) -> None:
    """Say what reading the captions or images came to."""
    r = run.results["add"]
    what = "Images" if r.images else "Captions"
    if r.unchanged:
        click.echo(f"{what}: {run.sample_count():,} in the run; {r.path} has not changed", err=True)
    else:
        more = "".join(
            f", {n:,} {how}"
            for n, how in (
                (r.edited, "changed" if r.images else "edited"),
                (r.duplicates, "double ids"),
                (r.rejected, "set aside as missing or unreadable" if r.images else "set aside as unusable"),
            )
            if n
        )
        click.echo(f"{what}: {r.read:,} read from {r.path}, {r.added:,} new{more}; {run.sample_count():,} in the run", err=True)
        if r.rejected:
            click.echo(f"  those, with line and reason: {run.root}/logs/rejected-*.jsonl", err=True)


def tell_step(moment: str, verb: str, run: Any) -> None:
    """Say what a step came to."""
    if moment == "begin":
        return
    result = run.results[verb]
    if verb == "curate":
        from synthvlm.cli.funnel import tell

        tell(result)
    elif verb in ("generate", "score", "caption"):
        tell_tally(verb, result)
    elif verb == "select":
        tell_selection(result)
    elif verb == "export":
        for kind, done in result.items():
            click.echo(f"Data set ({kind}): {done['out']}", err=True)
    elif verb == "merge":
        lines, most = result["lines"], len(result["positions"])
        click.echo(f"Merged: {lines:,} line{'s' * (lines != 1)} of up to {most} caption{'s' * (most != 1)} in {result['out']}", err=True)
        for note in result["notes"]:
            click.echo(f"  {note}", err=True)
    else:
        click.echo(f"Report: {result}", err=True)


def tell_tally(verb: str, result: dict[str, Any]) -> None:
    """Say how many rows a stage has, and why some failed."""
    what = {"generate": "Images", "score": "Scores", "caption": "Captions"}[verb]
    failed = "".join(f"\n  {f['rows']:,} failed with {f['class']}: {f['example']}" for f in result["failures"])
    missing = result["wanted"] - result["made"] - result["failed"]
    lacking = f", {missing:,} not made" if missing else ""
    retry = "\n  --retry-failed tries them again" if failed else ""
    click.echo(f"{what} ({result['stage']}): {result['made']:,} of {result['wanted']:,}{lacking}{failed}{retry}", err=True)


def tell_selection(summary: dict[str, Any]) -> None:
    """Print the paper's table for the run: before, best of each caption, selected."""
    columns = [c for c in summary["weights"] if summary["weights"][c]]
    sets = [(name, f"{m['samples']:,}", *(_mean(m[c]) for c in [*columns, "total"])) for name, m in summary["sets"].items()]
    _table("Set", ["Samples", *columns, "total"], sets)
    if "groups" in summary:
        groups = [(str(g["group"]), f"{g['captions']:,}", f"{g['selected']:,}", _mean(g["total"])) for g in summary["groups"]]
        _table(summary["asked"]["group_by"], ["captions", "selected", "total"], groups[:GROUPS_SHOWN])
        if len(groups) > GROUPS_SHOWN:
            click.echo(f"and {len(groups) - GROUPS_SHOWN:,} more, in the selection's .json")
    terms = "; ".join(
        f"{c} {t['share']:.0%} of the ranking (alone it would choose {t['alone_overlap']:.0%} of these)"
        for c, t in summary["terms"].items()
    )
    click.echo(f"Selected {summary['selected']:,} of {summary['captions']:,} captions (top {summary['top']}). {terms}")
    if alike := summary.get("diversity"):
        clusters = f"; {alike['clusters']:,} clusters took turns" if "clusters" in alike else ""
        click.echo(f"  {alike['near_duplicates']:,} of {alike['looked_at']:,} images left out as nearly those of better pairs{clusters}")
    if summary["winners_not_stored"]:
        click.echo(
            f"  {summary['winners_not_stored']:,} winners' pixels were not kept; the best stored candidate, or the next caption, was taken.\n"
            "  To have them made again first: synthvlm regenerate RUN --top N",
            err=True,
        )


def tell_prune(told: dict[str, Any], dry: bool = False) -> None:
    """Say what pruning came to."""
    more = f", and {told['kept_for_selections']:,} that selections have" if told["kept_for_selections"] else ""
    verb = "would drop" if dry else "dropped"
    click.echo(
        f"Pixels ({told['stage']}): kept the best image of {told['kept']:,} captions{more}; {verb} {told['dropped']:,} ({told['bytes'] / 1e6:,.1f} MB)",
        err=True,
    )


def tell_regenerated(told: dict[str, Any]) -> None:
    """Say what making images again came to."""
    there = f"; {told['there']:,} were there" if told["there"] else ""
    click.echo(
        f"Images ({told['stage']}): {told['made']:,} of {told['asked']:,} made again, each with the bytes on record{there}", err=True
    )


def tell_sweep(swept: dict[str, Any]) -> None:
    """Print how the selected set changes with a weight."""
    columns = list(dict.fromkeys([*swept["weights"], swept["sweep"].removeprefix("weight.")]))
    rows = []
    for v in swept["values"]:
        changed = "" if v["changed"] is None else f"{v['changed']:,}"
        rows.append(
            (
                f"{v['value']:g}",
                f"{v['selected']:,}",
                f"{v['overlap']:.1%}",
                changed,
                *(_mean(v[c]) for c in columns),
                _mean(v["threshold"]),
            )
        )
    _table(swept["sweep"], ["selected", "overlap", "changed", *columns, "least total"], rows)
    terms = " + ".join(f"{w:g} {c}" for c, w in swept["weights"].items())
    click.echo(
        f"overlap: with the {swept['base_selected']:,} pairs that {terms} selects (top {swept['top']}); changed: since the line above."
    )


def _mean(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _table(first: str, headings: list[str], rows: list[tuple[str, ...]]) -> None:
    """Print a table of figures."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=None, show_edge=False, pad_edge=False)
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
