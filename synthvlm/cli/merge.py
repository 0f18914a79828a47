"""``synthvlm merge``: all captions of an image in one line."""

from __future__ import annotations

import os
from typing import Any

import click

from synthvlm.errors import InputError, OptionError


@click.command("merge")
@click.argument("inputs", nargs=-1, required=True, metavar="RUN | ORIGINAL SOURCE...")
@click.option("--out", metavar="FILE", help="The merged file. [RUN/merged.jsonl]")
@click.option("--stage", "stages", multiple=True, metavar="STAGE", help="RUN: only these caption stages; repeatable. [all]")
@click.option("--order", multiple=True, metavar="NAME", help="Which captions come first (original, a source, a stage); repeatable.")
@click.option(
    "--missing",
    type=click.Choice(["skip", "drop", "empty"]),
    default="skip",
    show_default=True,
    help="Where an image lacks a caption: a shorter list, no line, or an empty text in its place.",
)
@click.option("--drop-original", is_flag=True, help="Leave the original's own captions out.")
@click.option("--dedupe", is_flag=True, help="Drop captions that equal an earlier one of the line.")
@click.option("--separate", is_flag=True, help="SOURCE: take files that differ in a number at the end for sources of their own.")
@click.option(
    "--composed", metavar="DIR", help="SOURCE: also write composed.jsonl and composed_index.json of each; without --out, only these."
)
@click.option("--no-provenance", is_flag=True, help="Do not write FILE.provenance.json, which says what each position is.")
def command(inputs: tuple[str, ...], out: str | None, stages: tuple[str, ...], composed: str | None, separate: bool, **flags: Any) -> None:
    r"""Write one line for each image, with all its captions: {"image": …, "caption": [c1, …, cM]}.

    \b
    synthvlm merge RUN                                             all captions that a run has made
    synthvlm merge ORIGINAL.jsonl SOURCE... --out merged.jsonl     files: the original's captions, then each source's
    synthvlm merge PART... --composed DIR                          the parts of a source put together, without an original

    ORIGINAL gives the images and their order. A SOURCE is a JSON array of {"image", "caption"}, an index {image: caption} or JSON
    Lines, known by its content; one that was cut off gives its complete records. Files that differ only in a number at the end
    (x_0.json, x_1.json …) are parts of one source. NAME=FILE names a source; several files, or a pattern in quotation marks, may
    share a name.
    """
    settings = {
        "order": flags["order"],
        "missing": flags["missing"],
        "keep_original": not flags["drop_original"],
        "dedupe": flags["dedupe"],
    }
    if len(inputs) == 1 and os.path.isdir(inputs[0]):
        if composed or separate:
            raise OptionError("--composed and --separate are for files, not for a run", "leave them out")
        from synthvlm.merge import merge_run
        from synthvlm.run import RunDirectory

        tell(merge_run(RunDirectory.open(inputs[0]), stages or None, out, provenance=not flags["no_provenance"], **settings))
        return
    if stages:
        raise OptionError("--stage is for a run", "name the run: synthvlm merge RUN --stage STAGE")
    from synthvlm.merge import compose, merge_files

    if composed and not out:
        tell(compose(inputs, composed, group=not separate))
        return
    if len(inputs) == 1:
        raise InputError(f"nothing to merge {inputs[0]} with", "name the sources after it: synthvlm merge ORIGINAL SOURCE... --out FILE")
    if not out:
        raise OptionError("--out is missing", "name the file to write: --out merged.jsonl")
    provenance = not flags["no_provenance"]
    tell(merge_files(inputs[0], inputs[1:], out, group=not separate, provenance=provenance, composed=composed, **settings))


def tell(done: dict[str, Any]) -> None:
    """Say what a merge came to: what is to be told of the files first."""
    for note in done["notes"]:
        click.echo(f"Note: {note}", err=True)
    for one in done.get("composed", ()):
        click.echo(f"Composed: {one['folder']}/composed.jsonl and composed_index.json, {one['images']:,} images")
    if "lines" in done:
        dropped = f" ({done['dropped']:,} without a line)" if done["dropped"] else ""
        click.echo(f"Merged: {done['out']}, {done['lines']:,} lines of {done['images']:,} images{dropped}")
        for position in done["positions"]:
            lacking = f" ({position['lacking']:,} images lack it)" if position["lacking"] else ""
            click.echo(f"  {position['position']}  {position['source']}{lacking}")
