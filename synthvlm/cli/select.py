"""``synthvlm select``: scores → the kept pairs."""

from __future__ import annotations

from typing import Any

import click

from synthvlm.cli import common


@click.command("select")
@common.run_argument
@common.select_options
@click.option("--scores", multiple=True, metavar="STAGE", help="Which score stages; repeatable. [all of the run's]")
@click.option("--as", "name", default="default", show_default=True, help="Name of the selection.")
def command(run_dir: str, scores: tuple[str, ...], name: str, **flags: Any) -> None:
    """Choose the pairs to keep: the best candidate of each caption, then the top share or number of captions by total."""
    from synthvlm.cli import line
    from synthvlm.pipeline import Run
    from synthvlm.select import TOP

    run = Run.open(run_dir)
    run.select(top=flags["top"] or TOP, weights=common.weights(flags["weights"]), scores=scores, name=name)
    line.tell_selection(run.results["select"])
