"""``synthvlm preview``: a few captions through the line, and a page of pictures."""

from __future__ import annotations

import tempfile
from typing import Any

import click

from synthvlm.cli import common


@click.command("preview")
@click.argument("captions", metavar="CAPTIONS | IMAGES", required=False)
@click.option("--out", metavar="RUN", help="Keep the preview in this folder. [a temporary one]")
@click.option("--seed", type=click.IntRange(0), help="Seed. [0]")
@common.input_options
@common.image_input_options
@common.either_options
@common.score_options
@common.select_options
@common.execution_options
def command(captions: str | None, out: str | None, **flags: Any) -> None:
    """Take the first captions or images (8, or --limit) through the line with the same settings, to look before spending."""
    from synthvlm import recipe
    from synthvlm.cli import line, overlay, recaption
    from synthvlm.errors import OptionError

    flags["limit"] = flags["limit"] or 8
    where = out or tempfile.mkdtemp(prefix="synthvlm-preview-")
    if common.one_line(flags) == "recaption":
        whole = recaption.whole_line([captions] if captions else [], None, where if captions else None, flags)
        if whole.input.path is None:
            raise OptionError("a preview needs images of its own", "give a list, a folder or a pattern")
    else:
        flags["top"] = flags["top"] or "50%"
        whole = overlay.overlay(recipe.builtin("synth"), captions, where, flags)
        steps = [s for s in whole.steps if s.verb != "export"]
        whole = line.with_defaults(whole.model_copy(update={"steps": steps}), flags["model"])
    run = line.go(whole, flags)
    click.echo(f"Look at: {run.results['report']}")
