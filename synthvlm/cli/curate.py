"""``synthvlm curate``: captions → the ones to keep."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import click

from synthvlm.cli import common
from synthvlm.errors import OptionError

FULL = ("text", "language", "ngrams")
"""What is measured if nothing is said: rules and small bundled models, and no checkpoint to fetch."""


@click.command("curate")
@click.argument("source", metavar="RUN|CAPTIONS")
@click.option("--out", metavar="RUN", help="The run's folder, where captions are given.")
@click.option("--seed", type=click.IntRange(0), help="Seed of a new run. [0]")
@click.option("--dry-run", is_flag=True, help="Show what each rule would drop, with examples; decide nothing.")
@click.option("--plain", is_flag=True, help="Only the rules that need no model (as synth has it).")
@click.option(
    "--scorer",
    "scorers",
    multiple=True,
    metavar="NAME",
    help="What to measure, beside the plain rules; repeatable: language, ngrams, perplexity (GPT-2), judge, clip …  [language, ngrams]",
)
@click.option("-o", "--option", "options", multiple=True, metavar="SCORER.KEY=VALUE", help="A scorer's option; repeatable.")
@common.curate_options
@click.option("--similarity", type=click.FloatRange(0, 1, min_open=True), help="From which captions are near-duplicates. [0.8]")
@click.option(
    "--blocklist", "blocklists", multiple=True, metavar="FILE", help="Words and phrases that no caption may have, one a line; repeatable."
)
@click.option("--against", metavar="FILE|DIR", help="Drop captions that share 8 words in a row with these benchmark files.")
@click.option(
    "--pairs", metavar="SHARE", help="Where captions have raw images: keep this share of the pairs, by CLIPScore. The paper's: 40%."
)
@click.option("--as", "name", default="default", show_default=True, help="Name of the curation.")
@common.input_options
@common.image_input_options
@common.execution_options
def command(source: str, out: str | None, seed: int | None, dry_run: bool, name: str, **flags: Any) -> None:
    """Choose the captions of a run, or of a file, that are worth an image.

    Nothing is deleted: RUN/curation holds every caption with its reasons, and image models take what is kept. Run it again
    with other limits as often as you like; only captions that are new or edited are measured again.
    """
    from synthvlm.cli.funnel import tell
    from synthvlm.pipeline import Run

    settings = step(flags | {"name": name})
    with tempfile.TemporaryDirectory(prefix="synthvlm-") as scratch:
        if os.path.exists(f"{source}/run.json"):
            run = Run.open(source)
        elif out or dry_run:
            run = Run.create(out or f"{scratch}/run", seed=seed)
        else:
            raise OptionError("where to? captions need a run's folder", "give --out RUN, or --dry-run to only look")
        run.execution = common.execution(flags, quiet=dry_run)
        if not os.path.exists(f"{source}/run.json"):
            from synthvlm.cli import telling

            reader = {to: flags[given] for given, to in common.INPUT.items() if flags.get(given) is not None}
            # Pairs are measured by their pictures, so they are read for them.
            (run.add_images if _of_pairs(settings) else run.add)(source, **reader)
            telling.tell_input(run)
        run.curate(**settings.settings(), dry=dry_run)
        tell(run.results["curate"], examples=3, dry=dry_run)
        if not dry_run:
            click.echo(f"Every caption with its reasons: {run.root}/curation/{name}.parquet", err=True)


def step(flags: dict[str, Any]) -> Any:
    """Return the curate step that the flags ask for."""
    from synthvlm import recipe
    from synthvlm.cli import overlay

    model, options = common.split_options(flags)
    if model:
        raise OptionError(f"-o {next(iter(model))}=…: which scorer's?", "write -o SCORER.KEY=VALUE")
    named = ("text",) if flags["plain"] else tuple(dict.fromkeys(("text", *(flags["scorers"] or FULL))))
    if flags["against"]:
        named = tuple(dict.fromkeys((*named, "overlap")))
        options["overlap"] = options.get("overlap", {}) | {"against": flags["against"]}
    if flags["pairs"] is not None and not any(n.startswith("clip") for n in named):
        named = (*named, "clip")
    unknown = [s for s in options if s not in named]
    if unknown:
        raise OptionError(f"-o {unknown[0]}.…: {unknown[0]!r} is not asked for", f"add it with --scorer {unknown[0]}")
    settings = overlay.curate_flags(flags) | common.given(**{k: flags[k] for k in ("similarity", "pairs", "name")})
    settings |= {"scorers": {n: options.get(n, {}) for n in named}, "blocklists": list(flags["blocklists"])}
    return recipe.parse({"steps": [{"curate": settings}]}, "the command line").steps[0].settings


def _of_pairs(settings: Any) -> bool:
    from synthvlm.plugins import discover
    from synthvlm.preparing import reads_text

    registry = discover()
    return not all(reads_text(registry, s) for s in settings.scorers)
