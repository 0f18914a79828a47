"""``synthvlm report``: the run's page."""

from __future__ import annotations

import click

from synthvlm.cli import common


@click.command("report")
@common.run_argument
@click.option("--selection", default="default", show_default=True, help="Which selection.")
def command(run_dir: str, selection: str) -> None:
    """Write the run's page: scores before and after selection, histograms, pictures."""
    from synthvlm.pipeline import Run

    run = Run.open(run_dir)
    run.report(selection=selection)
    click.echo(f"Report: {run.results['report']}")
