"""``synthvlm export``: the kept pairs, or images with all their captions → a data set."""

from __future__ import annotations

from typing import Any

import click

from synthvlm.cli import common
from synthvlm.errors import OptionError
from synthvlm.exporting.formats import FORMATS


@click.command("export")
@common.run_argument
@click.option(
    "--format", "formats", multiple=True, type=click.Choice(list(FORMATS)), default=("llava",), show_default=True, help="Repeatable."
)
@click.option("--selection", metavar="NAME", help="Which selection of pairs. [default]")
@click.option("--captions", is_flag=True, help="Images with all their captions, instead of selected pairs. [where there is no selection]")
@click.option("--stage", "stages", multiple=True, metavar="NAME", help="With --captions: a caption stage; repeatable. [all of the run's]")
@click.option("--no-original", is_flag=True, help="With --captions: leave out the input's own.")
@click.option("--out", help="Folder of the data set, or a URL such as s3://bucket/folder. [RUN/exports/FORMAT]")
@click.option(
    "--instructions", default="llava", show_default=True, metavar="NAME|FILE", help="Wordings of human turns, for llava and llamafactory."
)
@click.option(
    "--within",
    "limits",
    multiple=True,
    metavar="SCORE=MIN..MAX|off",
    help="Keep images out by a score (nsfw=..0.3); a safety scorer brings its own limit.",
)
@click.option("--shard", type=click.IntRange(1), default=1000, show_default=True, help="Images in a shard, of webdataset and parquet.")
@click.option(
    "--license",
    "licence",
    metavar="ID",
    help="Licence of the data set, for its card: cc-by-4.0 …; see huggingface.co/docs/hub/repositories-licenses.",
)
@click.option("--title", help="Title of its card.")
@click.option("--push", metavar="hf://USER/NAME", help="Send it to a data set repository on the Hugging Face Hub.")
@click.option(
    "--dry-run/--no-dry-run", "dry", default=True, show_default=True, help="With --push: only say what would be sent, or send it."
)
@click.option("--private", is_flag=True, help="With --push: a repository that is made is private.")
def command(run_dir: str, formats: tuple[str, ...], push: str | None, dry: bool, private: bool, **flags: Any) -> None:
    """Write the chosen pairs, or images with all their captions, as a data set with a card; image bytes are copied as they are."""
    from synthvlm.exporting.push import repository_of
    from synthvlm.pipeline import Run

    if push:
        repository_of(push)
        if len(formats) > 1:
            raise OptionError("one format goes into one repository", "push each with a command of its own")
    if flags["stages"]:
        flags["captions"] = True
    settings = {
        "selection": flags["selection"],
        "captions": list(flags["stages"]) or flags["captions"] or None,
        "keep_original": not flags["no_original"],
        "limits": common.key_values(flags["limits"], "--within"),
        **{k: flags[k] for k in ("out", "instructions", "shard", "licence", "title")},
    }
    run = Run.open(run_dir)
    for kind in formats:
        run.export(kind, **settings)
        done = run.results["export"][kind]
        tell(kind, done)
        if push:
            _push(done["out"], kind, push, dry, private)


def tell(kind: str, done: dict[str, Any]) -> None:
    """Say what an export came to."""
    captions = f" with {done['captions']:,} captions" if "captions" in done else ""
    click.echo(f"Data set ({kind}): {done['images']:,} images{captions} in {done['out']}")
    for column, n in done["limited"].items():
        if n:
            click.echo(f"  {n:,} more were kept out by the limit on {column}", err=True)
    if done["own_card"]:
        click.echo("  README.md there is your own, and was left as it is", err=True)


def _push(out: str, kind: str, target: str, dry: bool, private: bool) -> None:
    from synthvlm.exporting.push import push

    sent = push(out, kind, target, dry=dry, private=private)
    size = f"{sent['files']:,} files, {sent['bytes'] / 1e6:,.1f} MB"
    if sent["many_files"]:
        click.echo("  the Hub advises against so many files: --format webdataset or parquet has fewer", err=True)
    if dry:
        lacking = "" if sent["token"] else "; there is no token yet: hf auth login"
        click.echo(f"Would send {size} to the data set {sent['repository']}{lacking}. --no-dry-run sends it.")
    else:
        click.echo(f"Sent {size}: {sent['url']}")
