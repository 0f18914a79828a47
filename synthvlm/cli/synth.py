"""``synthvlm synth``: the whole line."""

from __future__ import annotations

from typing import Any

import click

from synthvlm.cli import common


@click.command("synth")
@click.argument("captions", required=False)
@click.option("--out", required=True, metavar="RUN", help="The run's folder. Running again resumes it.")
@click.option("--seed", type=click.IntRange(0), help="Seed of the run. [0]")
@common.input_options
@common.model_options
@common.score_options
@common.select_options
@click.option("--export", "export_formats", multiple=True, type=click.Choice(["llava", "jsonl", "imagefolder"]), help="Format of the data set; repeatable. [llava]")
@common.execution_options
def command(captions: str | None, out: str, **flags: Any) -> None:
    """Captions in, the best image-caption pairs out.

    Generates candidates, scores each pair by CLIP + 0.5 SSIM, keeps the best, exports them and writes a report. Run the
    same command again after any stop: it goes on where it was.
    """
    from synthvlm import recipe
    from synthvlm.cli import line

    line.go(line.with_defaults(line.overlay(recipe.builtin("synth"), captions, out, flags), captions, flags["model"]), flags)
