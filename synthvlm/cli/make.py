"""``synthvlm make``: what ``generate.sh`` does; the model's kind decides the line."""

from __future__ import annotations

import itertools

import click

from synthvlm.cli import common


@click.command("make", context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> None:
    """Take captions to images or images to captions, as the model's kind decides.

    With a generator (--model sdxl) this is `synthvlm synth`, with captioners (--model internvl2) `synthvlm recaption`; all
    other arguments are theirs. With neither model nor input, both lines are shown on the examples that ship.
    """
    from synthvlm.cli import recaption, synth

    models = [value for flag, value in itertools.pairwise(arguments) if flag == "--model"]
    models += [a.removeprefix("--model=") for a in arguments if a.startswith("--model=")]
    if not models and set(arguments) & {"-h", "--help"}:
        context = click.get_current_context()
        click.echo(context.get_help() + "\n\nTheir arguments: synthvlm synth --help, synthvlm recaption --help")
        return
    if models and common.direction(models) == "recaption":
        recaption.command.main(list(arguments), "synthvlm recaption", standalone_mode=False)
        return
    context = synth.command.make_context("synthvlm synth", list(arguments))
    if models or context.params["captions"] or context.params["input_path"]:
        with context:
            synth.command.invoke(context)
        return
    with context:
        synth.whole_line("demo", **context.params)
