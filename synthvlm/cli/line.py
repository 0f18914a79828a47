"""The whole line on the command line: a recipe made whole, then its steps one after another."""

from __future__ import annotations

import os
from typing import Any

import click

from synthvlm.cli import common, telling
from synthvlm.errors import OptionError


def with_defaults(recipe: Any, named: Any) -> Any:
    """See to it that there are captions (or images) and a model; the miniature ones serve only what ships with it, or when named."""
    from synthvlm.plugins import discover
    from synthvlm.resources import example_captions

    verb, kind = ("caption", "captioner") if recipe.reads_images else ("generate", "generator")
    step = recipe.first(verb)
    named = named or (step is not None and "model" in step.model_fields_set)
    what, mini = {"generate": ("captions", "mini"), "caption": ("images", "mini-captioner")}[verb]
    if recipe.input.path is None and verb == "generate":
        recipe.input.path = example_captions()
        recipe.out = recipe.out or "runs/demo"
        click.echo(f"No captions given: taking the examples that ship with SynthVLM ({recipe.input.path}).", err=True)
        if not named:
            click.echo(
                "No model given: taking the miniature one (mini), which knows a small world of shapes. For real images: --model sdxl",
                err=True,
            )
    elif not named:
        of = "image model" if verb == "generate" else "captioner"
        raise OptionError(
            f"which {of}? your own {what} need --model",
            f"there are: {', '.join(discover().names(kind))} ({mini} knows only its miniature world)",
        )
    return recipe


def go(recipe: Any, flags: dict[str, Any]) -> Any:
    """Do a recipe's steps, telling what each came to; return the run."""
    from synthvlm.following import captioners, follow
    from synthvlm.pipeline import Run

    if not recipe.out:
        raise OptionError("where to? a run needs a folder", "give --out RUN")
    captioners(recipe)  # a misspelt name should not wait for a million images to be read
    run = Run.create(recipe.out, seed=recipe.seed)
    run.execution = common.execution(flags)
    click.echo(f"Run: {run.root}", err=True)
    read_input(run, recipe)
    run.store.put("recipe.yaml", _from_anywhere(recipe).to_yaml().encode())
    follow(recipe, run, telling.tell_step)
    return run


def read_input(run: Any, recipe: Any) -> None:
    """Read a recipe's captions or images, if it names any, into the run."""
    if recipe.input.path is not None:
        (run.add_images if recipe.reads_images else run.add)(recipe.input.path, **recipe.reader)
        telling.tell_input(run)


def _from_anywhere(recipe: Any) -> Any:
    """Return the recipe with whole paths, so that the run's own copy resumes it from any folder."""
    whole = recipe.model_copy(deep=True)
    for owner, field in ((whole.input, "path"), (whole.input, "image_root"), (whole, "out")):
        path = getattr(owner, field)
        if path and "://" not in path:
            setattr(owner, field, os.path.abspath(path))
    for step in whole.all("caption"):
        step.perspectives = [os.path.abspath(p) if os.path.exists(p) and os.sep in p else p for p in step.perspectives]
    return whole
