"""``synthvlm regenerate``: images again whose pixels were not kept."""

from __future__ import annotations

from typing import Any

import click

from synthvlm.cli import common


@click.command("regenerate")
@click.argument("source", metavar="RUN|RECIPE_EXPORT")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--candidate", type=click.IntRange(0), help="Only this candidate of each id. [all that are not stored]")
@click.option("--top", help="Those that a selection of this share or number of captions would take.")
@common.weight_option
@click.option("--selection", metavar="NAME", help="Those of a selection.")
@click.option("--images", metavar="STAGE", help="Which image stage, if the run has several.")
@click.option("--out", metavar="RUN", help="Of a recipe export: the run to make.")
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="Where a checkpoint now lies: checkpoint=DIR.")
@common.execution_options
def command(source: str, ids: tuple[str, ...], candidate: int | None, out: str | None, **flags: Any) -> None:
    """Make images again from caption, seed, model and recorded batch size: bit for bit on the same hardware, or not at all.

    Of a run: images that prune or --store best dropped, by the ids of their captions, --top or --selection. Of a recipe export: all of it.
    """
    from synthvlm.cli import telling
    from synthvlm.errors import OptionError
    from synthvlm.pipeline import Run

    options, others = common.split_options(flags)
    if others:
        raise OptionError(f"-o {next(iter(others))}.…: there is only the image model here", "write -o KEY=VALUE")
    wanted = [name for name, given in (("ID", ids), ("--top", flags["top"]), ("--selection", flags["selection"])) if given]
    if out:
        if wanted:
            raise OptionError(f"of a recipe export all images are made, and {wanted[0]} names some", "leave it out")
        told = Run.from_recipe(source, out, execution=common.execution(flags), **options).results["regenerate"]
    else:
        run = Run.open(source)
        if len(wanted) != 1:
            raise OptionError("which images?", "give ids of captions, --top N or --selection NAME; of a recipe export: --out RUN")
        run.execution = common.execution(flags)
        choice = {"ids": ids, "candidate": candidate, "top": flags["top"], "selection": flags["selection"], "images": flags["images"]}
        told = run.regenerate(**choice, weights=common.weights(flags["weights"]), **options).results["regenerate"]
    telling.tell_regenerated(told)
