"""``synthvlm synth``: the whole line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from synthvlm.cli import common
from synthvlm.exporting.formats import FORMATS


@click.command("synth")
@click.argument("captions", required=False)
@click.option("--input", "input_path", metavar="CAPTIONS", help="The same as CAPTIONS.")
@click.option("--out", metavar="RUN", help="The run's folder; running again resumes it. [runs/NAME-MODEL]")
@click.option("--seed", type=click.IntRange(0), help="Seed of the run. [0]")
@common.input_options
@click.option("--no-curate", is_flag=True, help="Take every caption as it is.")
@common.curate_options
@common.model_options
@common.score_options
@common.select_options
@click.option(
    "--export",
    "export_formats",
    multiple=True,
    type=click.Choice(list(FORMATS)),
    help="Format of the data set; repeatable. [llava]",
)
@common.execution_options
def command(captions: str | None, input_path: str | None, out: str | None, **flags: Any) -> None:
    """Captions in, the best image-caption pairs out.

    Leaves out captions that are no captions (advertisements, addresses, file names, double ones …), generates candidates, scores each pair by CLIP + 0.5 SSIM, keeps the best, exports them and writes a report. Run the
    same command again after any stop: it goes on where it was.
    """
    whole_line("synth", captions, input_path, out, **flags)


def whole_line(recipe_name: str, captions: str | None, input_path: str | None, out: str | None, **flags: Any) -> None:
    """Do the line that ships as ``recipe_name`` with the flags laid over it."""
    from synthvlm import recipe
    from synthvlm.cli import line, overlay
    from synthvlm.errors import OptionError

    if captions and input_path and captions != input_path:
        raise OptionError(
            f"two inputs: {captions} and {input_path}", "one run reads one; add another later with: synthvlm generate RUN --input FILE"
        )
    whole = line.with_defaults(overlay.overlay(recipe.builtin(recipe_name), captions or input_path, out, flags), flags["model"])
    whole.out = whole.out or f"runs/{Path(whole.input.path).stem}-{flags['name'] or whole.first('generate').model}"
    line.go(whole, flags)
