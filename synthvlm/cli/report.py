"""``synthvlm report``: the page on a run, or on several side by side, its figures as JSON and as a table."""

from __future__ import annotations

import json
from typing import Any

import click


@click.command("report")
@click.argument("run_dirs", metavar="RUN…", nargs=-1, required=True)
@click.option("--selection", default="default", show_default=True, help="Which selection.")
@click.option(
    "--compare",
    multiple=True,
    metavar="RUN|FILE",
    help="Put the scores of another run, or of a file of image-caption pairs that carries scores, into the table; repeatable.",
)
@click.option("--images", metavar="STAGE", help="Of a run without a selection: which image stage, if it has several.")
@click.option("--out", metavar="DIR|FILE.html", help="Where the page goes. [RUN/report/report.html of the first run]")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON instead of the table.")
def command(run_dirs: tuple[str, ...], as_json: bool, **settings: Any) -> None:
    """Write a page on RUN, or on several side by side: scores before and after selection, distributions, yield, time, pictures, captions.

    The page opens offline; beside it lie its figures as JSON. The table of sets is printed too.
    """
    from synthvlm.cli.sets import tell
    from synthvlm.report import write
    from synthvlm.run import RunDirectory

    page, figures = write([RunDirectory.open(r) for r in run_dirs], **settings)
    if as_json:
        click.echo(json.dumps(figures, indent=2, ensure_ascii=False))
    else:
        tell(figures)
    click.echo(f"Report: {page}", err=as_json)
