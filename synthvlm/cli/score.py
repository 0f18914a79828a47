"""``synthvlm score``: images and captions → named numbers."""

from __future__ import annotations

from typing import Any

import click

from synthvlm.cli import common


@click.command("score")
@common.run_argument
@common.score_options
@click.option("-o", "--option", "options", multiple=True, metavar="SCORER.KEY=VALUE", help="A scorer's option; repeatable.")
@click.option("--images", metavar="STAGE", help="Which image stage, if the run has several.")
@click.option("--as", "name", help="Name of the score stage, to keep several side by side.")
@common.execution_options
def command(run_dir: str, images: str | None, name: str | None, **flags: Any) -> None:
    """Score the images that RUN still lacks scores of."""
    from synthvlm.cli import overlay, telling
    from synthvlm.pipeline import Run

    run = Run.open(run_dir)
    run.execution = common.execution(flags)
    settings: dict[str, Any] = {}
    model, scorer_options = common.split_options(flags)
    if model:
        from synthvlm.errors import OptionError

        raise OptionError(f"-o {next(iter(model))}=…: which scorer's?", "write -o SCORER.KEY=VALUE")
    source = images or run.image_stage()
    overlay.merge_scorers(settings, flags, scorer_options, {"steps": [{"generate": {"model": run.stage(source).plugins[0]["name"]}}]})
    run.score(settings.get("scorers"), images=source, name=name)
    telling.tell_tally("score", run.results["score"])
