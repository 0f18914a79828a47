"""``synthvlm caption``: images → captions."""

from __future__ import annotations

from typing import Any

import click

from synthvlm.cli import common


@click.command("caption")
@common.run_argument
@click.option("--input", "images", help="Images to read into the run first; a new run needs them, or images that it made.")
@common.input_options
@common.image_input_options
@common.caption_options
@common.made_images_options
@common.execution_options
def command(run_dir: str, images: str | None, **flags: Any) -> None:
    """Make the captions that RUN still lacks, of its images or of those that it made."""
    from synthvlm import recipe
    from synthvlm.cli import line, overlay, telling
    from synthvlm.errors import OptionError
    from synthvlm.following import follow
    from synthvlm.pipeline import Run
    from synthvlm.plugins import discover

    unread = [f for f in common.INPUT if flags.get(f)]
    if unread and not images:
        name = unread[0].replace("input_", "").replace("_", "-")
        raise OptionError(f"--{name} is about reading images, and there are none to read", "give them with --input")
    if not flags["models"]:
        raise OptionError("which captioner? give --model", f"there are: {', '.join(discover().names('captioner'))}")
    whole = overlay.overlay(recipe.parse({"steps": [{"caption": {}}]}, "the command line"), images, run_dir, flags)
    run = Run.create(run_dir) if images else Run.open(run_dir)
    run.execution = common.execution(flags)
    line.read_input(run, whole)
    follow(whole, run, telling.tell_step)
