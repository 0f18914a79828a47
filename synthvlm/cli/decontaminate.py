"""``synthvlm decontaminate``: what of a run stands in benchmark files."""

from __future__ import annotations

from typing import Any

import click

from synthvlm.cli import common
from synthvlm.errors import OptionError


@click.command("decontaminate")
@common.run_argument
@click.option(
    "--against", required=True, metavar="FILE|DIR", help="Benchmark files: texts (JSON, JSONL, CSV, TSV, Parquet, text), images, or both."
)
@click.option("--images", metavar="STAGE", help="Compare the images of this stage too; samples: the raw ones. [the run's only image stage]")
@click.option("--distance", type=click.IntRange(0, 64), help="Bits of 64 up to which two images are the same one. [8]")
@click.option("--as", "name", default="default", show_default=True, help="Name of the result.")
@common.execution_options
def command(run_dir: str, against: str, images: str | None, distance: int | None, name: str, **flags: Any) -> None:
    """Find captions and images of RUN that stand in a benchmark, such as MMBench's or POPE's files.

    A caption is found if 8 of its words in a row stand there, an image if its perceptual hash is near one of the benchmark's, mirrored ones
    included. What is found is listed; to leave out the captions, curate with the same --against.
    """
    from synthvlm.curating.decontamination import decontaminate
    from synthvlm.pipeline import Run

    run = Run.open(run_dir)
    run.execution = common.execution(flags)
    made = [s.name for s in run._stages("generate")]
    if images and images != "samples" and images not in made:
        raise OptionError(f"{run.root} has no image stage {images!r}", f"it has: {', '.join(made) or 'none'}; raw images are samples")
    result = decontaminate(run, against, images=images or (made[0] if len(made) == 1 else None), distance=distance, name=name)
    for what, count in result["compared"].items():
        click.echo(f"{result['hits'][what]:,} of {count:,} {what}s stand in {result['against']}")
    for e in result["examples"]:
        which = e["id"] if e["candidate"] is None else f"{e['id']}, candidate {e['candidate']}"
        click.echo(f"  {e['what']} {which} ({e['value']:g}): {' '.join((e['caption'] or '').split())[:100]}")
    if result["hits"].get("caption"):
        click.echo(f"to leave the captions out: synthvlm curate {run.root} --against {against}", err=True)
    if result["hits"].get("image"):
        click.echo(f"synthvlm select {run.root} and exports leave these images out; --within phash_distance=off takes them", err=True)
    click.echo(f"All of them: {run.root}/decontamination/{name}.parquet", err=True)
