"""``synthvlm generate``: captions → images."""

from __future__ import annotations

from typing import Any

import click

from synthvlm.cli import common


@click.command("generate")
@common.run_argument
@click.option("--input", "captions", help="Captions to read into the run first; a new run needs them.")
@click.option("--seed", type=click.IntRange(0), help="Seed of a new run. [0]")
@click.option(
    "--curation", metavar="NAME|off", help="Take what this curation keeps; off: every caption. [the run's default one, if it has one]"
)
@common.input_options
@common.model_options
@common.score_options
@common.weight_option
@click.option("--keep-top", help="With --store top: share or number of captions whose best image stays. [10%]")
@common.execution_options
def command(run_dir: str, captions: str | None, seed: int | None, **flags: Any) -> None:
    """Make the images that RUN still lacks."""
    from synthvlm import recipe
    from synthvlm.cli import overlay, telling
    from synthvlm.errors import OptionError

    unread = [f"--{f.replace('_', '-')}" for f in ("input_format", "caption_column", "id_column", "on_duplicate", "limit") if flags[f]]
    if unread and not captions:
        raise OptionError(
            f"{unread[0].replace('input-', '')} is about reading captions, and there are none to read", "give them with --input"
        )
    if flags["keep_top"] and flags["store"] != "top":
        raise OptionError("--keep-top is of use only with --store top", "later: synthvlm prune RUN --keep-top N")
    if flags["store"] not in ("best", "top") and (flags["scorers"] or flags["weights"]):
        raise OptionError(
            "--scorer and --weight are of use here only with --store best or top", "score afterwards with: synthvlm score RUN"
        )
    steps = {"generate": {}, "score": {}, "select": {}}
    whole = overlay.overlay(
        recipe.parse({"steps": [{k: v} for k, v in steps.items()]}, "the command line"), captions, run_dir, flags | {"seed": seed}
    )
    if flags["model"] is None:
        from synthvlm.plugins import discover

        raise OptionError("which image model? give --model", f"there are: {', '.join(discover().names('generator'))}")
    from synthvlm.following import follow
    from synthvlm.pipeline import Run

    run = Run.create(run_dir, seed=whole.seed) if captions else _open(run_dir)
    run.execution = common.execution(flags)
    if captions:
        run.add(captions, **whole.input.model_dump(exclude={"path"}, exclude_none=True))
        telling.tell_input(run)
    # Scorers and weights are in the recipe for what `--store best` needs of them; only the first step is done here.
    follow(whole, run, telling.tell_step, only="generate")


def _open(run_dir: str) -> Any:
    from synthvlm.pipeline import Run

    return Run.open(run_dir)
