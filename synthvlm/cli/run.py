"""``synthvlm run``: the steps of a recipe."""

from __future__ import annotations

from typing import Any

import click

from synthvlm.cli import common


@click.command("run")
@click.argument("recipe_path", metavar="RECIPE.yaml")
@click.option("--out", metavar="RUN", help="The run's folder, instead of the recipe's.")
@click.option("--input", "captions", help="The captions, instead of the recipe's.")
@click.option("--seed", type=click.IntRange(0), help="Seed of the run, instead of the recipe's.")
@common.model_options
@common.score_options
@common.select_options
@common.execution_options
def command(recipe_path: str, captions: str | None, out: str | None, **flags: Any) -> None:
    """Do the steps of a recipe; flags win over what it says."""
    from synthvlm import recipe
    from synthvlm.cli import line, overlay

    line.go(overlay.overlay(recipe.load(recipe_path), captions, out, flags), flags)
