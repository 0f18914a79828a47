"""``synthvlm prune``: let go of the pixels that can no longer be selected."""

from __future__ import annotations

from typing import Any

import click

from synthvlm.cli import common


@click.command("prune")
@common.run_argument
@click.option("--keep-top", required=True, help="Share (10%) or number of captions whose best image stays.")
@common.weight_option
@click.option("--scores", multiple=True, metavar="STAGE", help="Which score stages; repeatable. [all of the run's]")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def command(run_dir: str, keep_top: str, scores: tuple[str, ...], dry_run: bool, **flags: Any) -> None:
    """Drop the pixels of RUN that are neither among the top by total nor in any of its selections. Rows and scores stay.

    Safe to stop or kill at any moment. Refused while a stage has still to read the images. `synthvlm regenerate` makes dropped ones again.
    """
    from synthvlm.cli import telling
    from synthvlm.pipeline import Run

    run = Run.open(run_dir)
    run.prune(keep_top, weights=common.weights(flags["weights"]), scores=scores, dry=dry_run)
    telling.tell_prune(run.results["prune"], dry_run)
