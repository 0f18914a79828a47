"""``synthvlm plan``: everything that can be checked before spending."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

import click

from synthvlm.cli import checks, common

_BYTES_PER_PIXEL = {"jpeg": 0.4, "png": 1.6, "webp": 1.1}
"""Of photographs, roughly: JPEG 95 at 4:4:4, PNG, lossless WebP."""


@click.command("plan")
@click.argument("captions", metavar="CAPTIONS | IMAGES", required=False)
@click.option("--recipe", "recipe_path", help="A recipe to check instead of the flags.")
@click.option("--out", metavar="RUN", help="The run's folder.")
@click.option("--seed", type=click.IntRange(0))
@click.option("--fetch", is_flag=True, help="Download what is missing now.")
@click.option(
    "--calibrate",
    type=click.IntRange(1),
    is_flag=False,
    flag_value=16,
    metavar="[N]",
    help="Take N samples (16) through the line, in a temporary folder, and tell hours, disk and yield of all.",
)
@click.option("--price", type=click.FloatRange(0), help="With --calibrate: of a GPU, by the hour.")
@common.input_options
@common.image_input_options
@common.either_options
@common.made_images_options
@common.score_options
@common.select_options
@common.execution_options
def command(
    captions: str | None, recipe_path: str | None, out: str | None, fetch: bool, calibrate: int | None, price: float | None, **flags: Any
) -> None:
    """Check recipe, input, plugins, checkpoints and disk. Nothing runs (but for --calibrate) and no run is made."""
    from synthvlm import recipe
    from synthvlm.cli import line, overlay, recaption

    base = recipe.load(recipe_path) if recipe_path else None
    kind = common.one_line(flags, ("recaption" if base.reads_images else "synth") if base else None)
    if base is None and kind == "recaption":
        whole = recaption.whole_line([captions] if captions else [], None, out, flags)
    else:
        whole = line.with_defaults(overlay.overlay(base or recipe.builtin("synth"), captions, out, flags), flags["model"])
    click.echo("Recipe:\n" + "".join(f"  {x}\n" for x in whole.to_yaml().splitlines()))
    problems = _check(whole, flags, fetch, calibrate, price)
    for p in problems:
        click.secho(f"  problem: {p}", fg="red")
    if problems:
        raise SystemExit(2)
    click.echo("Everything that can be checked beforehand is in order.")


def _check(whole: Any, flags: dict[str, Any], fetch: bool, calibrate: int | None, price: float | None) -> list[str]:
    """Print what is found; return the problems."""
    from synthvlm.cli import estimate
    from synthvlm.errors import SynthVLMError
    from synthvlm.pipeline import Run

    problems: list[str] = []
    execution = common.execution(flags, quiet=True)
    with tempfile.TemporaryDirectory(prefix="synthvlm-plan-") as scratch:
        run = Run.create(os.path.join(scratch, "run"), seed=whole.seed)
        run.execution = execution
        try:
            if whole.reads_images:
                _images(run, whole)
            else:
                run.add(whole.input.path, **whole.reader)
                r = run.results["add"]
                click.echo(f"Input: {r.added:,} captions in {whole.input.path}, {r.rejected:,} unusable, {r.duplicates:,} double ids")
                if said := checks.lengths(run):
                    click.echo(said)
        except SynthVLMError as error:
            problems.append(str(error))
        devices = execution.resolved_devices()
        click.echo(f"Workers: {len(devices)} ({', '.join(devices)}), {execution.threads_each()} threads each")
        problems += _folder(whole)
        try:
            _curate(run, whole, execution, fetch)
            problems += _generate(run, whole, execution, fetch)
            _caption(run, whole, execution, fetch)
            if calibrate and not problems:
                estimate.tell(whole, calibrate, run.sample_count(), _kept(run, whole), common.execution(flags), price)
        except SynthVLMError as error:
            problems.append(str(error))
    return problems


def _kept(run: Any, whole: Any) -> float | None:
    """Return the share of the captions that curation keeps, where finding out is cheap."""
    from synthvlm.plugins import discover
    from synthvlm.preparing import wants_device

    step = whole.first("curate")
    if step is None or any(wants_device(discover(), s) for s in (step.scorers or {"text": {}})):
        return None
    click.echo("Curating all captions, to know how many are left …", err=True)
    curated = run.curate(**step.settings()).results["curate"]
    return curated["kept"] / max(1, curated["captions"])


def _images(run: Any, whole: Any) -> None:
    """Look for the images, without reading them."""
    from synthvlm.pipeline import Run

    if whole.input.path is None:
        Run.open(whole.out)
        click.echo(f"Input: the images of {whole.out}")
        return
    run.add_images(whole.input.path, look_only=True, **whole.reader)
    r = run.results["add"]
    click.echo(f"Input: {r.added:,} images in {whole.input.path}, {r.rejected:,} missing or unreadable, {r.duplicates:,} double ids")


def _generate(run: Any, whole: Any, execution: Any, fetch: bool) -> list[str]:
    """Settle the generate and score steps; return what the disk lacks."""
    from synthvlm.pipeline import Run
    from synthvlm.preparing import prepare_generate, prepare_score

    g, s = whole.first("generate"), whole.first("score")
    if g is None:
        return []
    settings = {"preset": g.preset, "repeat": g.repeat, "image_format": g.image_format, "quality": g.quality, "name": g.name}
    made = prepare_generate(run, g.model, options=g.options, execution=execution, fetch=fetch, **settings)
    _tell(made, execution)
    problems = _disk(whole.out, made.stage, run.sample_count(), g)
    if _is_run(whole.out):
        prepare_generate(Run.open(whole.out), g.model, options=g.options, execution=execution, fetch=fetch, dry=True, **settings)
    if s is not None:
        _tell(prepare_score(run, made.stage.name, s.scorers, name=s.name, execution=execution, fetch=fetch), execution)
    return problems


def _curate(run: Any, whole: Any, execution: Any, fetch: bool) -> None:
    """Settle what the curate steps measure."""
    from synthvlm.preparing import prepare_measure

    for step in whole.all("curate"):
        for name, options in (step.with_blocklists() or {"text": {}}).items():
            _tell(prepare_measure(run, name, options, execution=execution, fetch=fetch), execution)


def _caption(run: Any, whole: Any, execution: Any, fetch: bool) -> None:
    """Settle the caption steps, in the run that is there as well."""
    from synthvlm.pipeline import Run
    from synthvlm.preparing import prepare_caption

    there = Run.open(whole.out) if _is_run(whole.out) else None
    subject = run if whole.input.path is not None or there is None else there
    captions, each = 0, 0
    for step in whole.all("caption"):
        settings = step.model_dump(include={"preset", "max_new_tokens", "name", "selection"})
        for one in (subject, there) if there is not subject else (subject,):
            if one is None:
                continue
            source = step.images or ("samples" if one is run and whole.reads_images else one._images_to_caption())
            found = prepare_caption(
                one,
                step.model,
                step.perspectives,
                options=step.options,
                images=source,
                execution=execution,
                fetch=fetch,
                dry=one is there,
                **settings,
            )
            if one is subject:
                _tell(found, execution)
                captions, each = captions + one.tally(found.stage)["wanted"], each + len(found.stage.perspectives)
    if captions:
        click.echo(f"Captions: {captions:,} ({each} per image)")


def _is_run(out: str | None) -> bool:
    return bool(out) and os.path.exists(os.path.join(str(out), "run.json"))


def _folder(whole: Any) -> list[str]:
    """Say why the run's folder will not do, if so."""
    from synthvlm.errors import SynthVLMError
    from synthvlm.run import RunDirectory

    if not whole.out or not os.path.exists(whole.out) or (os.path.isdir(whole.out) and not os.listdir(whole.out)):
        return []
    try:
        if _is_run(whole.out):
            RunDirectory.create(whole.out, seed=whole.seed)  # it is there: only its seed is compared
            return []
    except SynthVLMError as error:
        return [str(error)]
    return [f"{whole.out} is not empty and holds no run\n  choose a new folder with --out"]


def _tell(prepared: Any, execution: Any) -> None:
    stage = prepared.stage
    for plugin in stage.plugins:
        found = "; ".join(f"{n}: {c['asked']} at {c['revision'][:24]}" for n, c in plugin["checkpoints"].items())
        click.echo(f"{stage.kind} by {plugin['name']} ({plugin['distribution']} {plugin['version']}) {found}")
        if bound := checks.licences(plugin):
            click.echo(f"  {bound}")
    for line in checks.memory(prepared, execution.resolved_devices()[0]):
        click.echo(f"  {line}")


def _disk(out: str | None, stage: Any, samples: int, step: Any) -> list[str]:
    """Compare the pixels to come with the free space."""
    options = stage.plugins[0]["options"]
    width, height = options.get("width"), options.get("height")
    if not (width and height):
        return []
    kept = samples * (stage.repeat if step.store == "all" else 1)
    need = kept * int(width) * int(height) * _BYTES_PER_PIXEL[step.image_format]
    where = out or os.getcwd()
    while not os.path.exists(where):
        where = os.path.dirname(os.path.abspath(where))
    free = shutil.disk_usage(where).free
    click.echo(
        f"Images: {samples * stage.repeat:,} ({stage.repeat} per caption, {width}×{height}), about {need / 1e9:.1f} GB kept; {free / 1e9:.0f} GB free"
    )
    return (
        [
            f"the images may need {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free\n  --store best keeps one per caption, --store top as many as are selected"
        ]
        if need > free
        else []
    )
