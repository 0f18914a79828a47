"""``synthvlm recaption``: the whole line from images to captions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from synthvlm.cli import common

DEMO = "runs/demo"


@click.command("recaption")
@click.argument("sources", metavar="IMAGES", nargs=-1)
@click.option("--input", "input_path", metavar="IMAGES", help="The same as IMAGES.")
@click.option("--out", metavar="RUN", help="The run's folder; running again resumes it. [runs/NAME-MODEL]")
@common.input_options
@common.image_input_options
@common.caption_options
@common.made_images_options
@common.execution_options
def command(sources: tuple[str, ...], input_path: str | None, out: str | None, **flags: Any) -> None:
    """Images in; captions from several perspectives, by one model or several, one line per image out.

    IMAGES is a list ([{"image": path}, …], JSONL, CSV, Parquet, a path a line), a folder, a pattern ('photos/**/*.jpg'),
    WebDataset tars ('shards/{000..127}.tar'), or a run whose images are to be captioned. Run the same command again after
    any stop: it goes on where it was.
    """
    from synthvlm.cli import line

    line.go(whole_line(sources, input_path, out, flags), flags)


def whole_line(images: Sequence[str], input_path: str | None, out: str | None, flags: dict[str, Any]) -> Any:
    """Return the recipe that the flags ask for."""
    from synthvlm import recipe
    from synthvlm.cli import line, overlay
    from synthvlm.errors import OptionError

    inputs: list[str] = list(dict.fromkeys([*images, *([input_path] if input_path else [])]))
    if len(inputs) > 1:
        raise OptionError(
            f"{'two' if len(inputs) == 2 else f'{len(inputs):,}'} inputs: {inputs[0]} and {inputs[1]}{' …' if len(inputs) > 2 else ''}",
            "a pattern is one if it stands in quotation marks: 'photos/**/*.jpg'; add another input later by the same command with the same --out",
        )
    source, named = inputs[0] if inputs else None, bool(flags["models"])
    if source is None:
        if not os.path.exists(f"{out or DEMO}/run.json"):
            raise OptionError(
                "which images?", "give a list, a folder, a pattern or a run; `bash generate.sh` makes some, and captions them"
            )
        source, named = out or DEMO, True
    if os.path.exists(f"{source}/run.json"):
        if out and os.path.abspath(out) != os.path.abspath(source):
            raise OptionError(f"{source} is a run: captions of its images become part of it", "leave out --out")
        source, out = None, source
    if source is None and not flags.get("selection") and os.path.exists(f"{out or DEMO}/selections/default.json"):
        click.echo(f"Taking all images of {out or DEMO}; --selection default takes only the chosen ones.", err=True)
    whole = line.with_defaults(overlay.overlay(recipe.builtin("recaption"), source, out, flags), named)
    if source is not None:
        name = Path(source.rstrip("/")).stem.translate(str.maketrans("*?[]{}", "------")).strip("-.") or "images"
        whole.out = whole.out or f"runs/{name}-{flags['name'] or whole.first('caption').model}"
    return whole
