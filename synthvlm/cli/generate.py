"""``synthvlm generate``: captions → images."""

from __future__ import annotations

from typing import Any

import click

from synthvlm.cli import common


@click.command("generate")
@common.run_argument
@click.option("--input", "captions", help="Captions to read into the run first; a new run needs them.")
@click.option("--seed", type=click.IntRange(0), help="Seed of a new run. [0]")
@common.input_options
@common.model_options
@common.score_options
@common.select_options
@common.execution_options
def command(run_dir: str, captions: str | None, seed: int | None, **flags: Any) -> None:
    """Make the images that RUN still lacks."""
    from synthvlm import recipe
    from synthvlm.cli import line

    steps = {"generate": {}, "score": {}, "select": {}}
    whole = line.overlay(recipe.parse({"steps": [{k: v} for k, v in steps.items()]}, "the command line"), captions, run_dir, flags | {"seed": seed})
    if flags["model"] is None:
        from synthvlm.errors import OptionError
        from synthvlm.plugins import discover

        raise OptionError("which image model? give --model", f"there are: {', '.join(discover().names('generator'))}")
    from synthvlm.pipeline import Run, follow

    run = Run.create(run_dir, seed=whole.seed) if captions else _open(run_dir)
    run.execution = common.execution(flags)
    if captions:
        run.add(captions, **whole.input.model_dump(exclude={"path"}, exclude_none=True))
        line.tell_input(run)
    # Score and select are in the recipe for what `--store best` needs of them; only the first step is done here.
    only = whole.model_copy(update={"steps": whole.steps[:1]}) if whole.first("generate").store == "all" else whole.model_copy(update={"steps": whole.steps[:2]})
    follow(only, run, line.tell_step)


def _open(run_dir: str) -> Any:
    from synthvlm.pipeline import Run

    return Run.open(run_dir)
