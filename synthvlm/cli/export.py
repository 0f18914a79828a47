"""``synthvlm export``: the kept pairs → a data set."""

from __future__ import annotations

import click

from synthvlm.cli import common


@click.command("export")
@common.run_argument
@click.option(
    "--format", "formats", multiple=True, type=click.Choice(["llava", "jsonl", "imagefolder"]), default=("llava",), show_default=True
)
@click.option("--selection", default="default", show_default=True, help="Which selection.")
@click.option("--out", help="Folder of the data set. [RUN/exports/FORMAT]")
def command(run_dir: str, formats: tuple[str, ...], selection: str, out: str | None) -> None:
    """Write the chosen pairs as a data set; image bytes are copied as they are."""
    from synthvlm.pipeline import Run

    run = Run.open(run_dir)
    for kind in formats:
        run.export(kind, selection=selection, out=out)
        done = run.results["export"][kind]
        click.echo(f"Data set ({kind}): {done['out']}")
