"""``synthvlm select``: scores → the kept pairs."""

from __future__ import annotations

import json
from typing import Any

import click

from synthvlm.cli import common


@click.command("select")
@common.run_argument
@common.select_options
@click.option("--scores", multiple=True, metavar="STAGE", help="Which score stages; repeatable. [all of the run's]")
@click.option("--as", "name", default="default", show_default=True, help="Name of the selection.")
@click.option("--ignore-marks", is_flag=True, help="Select as if nobody had marked pairs (synthvlm view).")
@click.option("--sweep", metavar="weight.SCORE=FROM:TO:STEP", help="Only show how the selected set changes with a weight.")
@click.option("--json", "as_json", is_flag=True, help="Print everything that is known of the selection, or of the sweep, as JSON.")
def command(run_dir: str, scores: tuple[str, ...], name: str, ignore_marks: bool, sweep: str | None, as_json: bool, **flags: Any) -> None:
    """Choose the pairs to keep: the best candidate of each caption, then the top share or number of captions by total.

    No image is read: score once, select as often as you like, under several names (--as).
    """
    from synthvlm.cli import telling
    from synthvlm.errors import OptionError
    from synthvlm.pipeline import Run

    run = Run.open(run_dir)
    settings = common.selection(flags)
    if sweep:
        diverse = [f for f in ("max_similarity", "clusters") if f in settings]
        if diverse:
            raise OptionError(
                f"a sweep compares rankings, without --{diverse[0].replace('_', '-')}", "leave it out, or select without --sweep"
            )
        told = run.sweep(sweep, scores=scores, **settings)
        show = telling.tell_sweep
    else:
        told = run.select(scores=scores, name=name, ignore_marks=ignore_marks, **settings).results["select"]
        show = telling.tell_selection
    if as_json:
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        show(told)
