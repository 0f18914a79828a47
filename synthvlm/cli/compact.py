"""``synthvlm compact``: small parts → large ones."""

from __future__ import annotations

import click

from synthvlm.cli import common


@click.command("compact")
@common.run_argument
@click.option(
    "--drop-stale", is_flag=True, help="Leave out rows that the run no longer wants, such as images of a caption that was edited since."
)
def command(run_dir: str, drop_stale: bool) -> None:
    """Merge small files of RUN into large ones. Safe at any time; done by itself at the end of a stage."""
    from synthvlm.compact import compact
    from synthvlm.pipeline import Run

    run = Run.open(run_dir)
    for name in run.stage_names():
        before, after = compact(run, run.stage(name), drop_stale)
        click.echo(f"{name}: {before:,} parts → {after:,}")
