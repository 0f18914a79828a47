"""``synthvlm judge``: pairs of two sets → which is better, by models and people."""

from __future__ import annotations

import json
from typing import Any

import click

from synthvlm.cli import common
from synthvlm.errors import OptionError


@click.command("judge")
@click.argument("sets", metavar="RUN|RUN.SELECTION|IMAGES", nargs=-1, required=True)
@click.option("--a", "what_a", metavar="WHAT", help="Which images or captions of the first run; see docs/judging.md.")
@click.option("--b", "what_b", metavar="WHAT", help="Which of the second run, or of the same.")
@click.option("--judge", metavar="NAME|human", help="human: a page to vote on. Else a name for this judge. [the model's]")
@common.judge_options
@click.option("--as", "name", help="Name of the comparison.")
@click.option("--out", metavar="RUN", help="The run that keeps the results. [the first of the sets that is a run]")
@click.option("--limit", type=click.IntRange(1), help="Pairs, drawn by the seed. [1000]")
@click.option("--seed", type=click.IntRange(0), help="Of the drawing. [the run's]")
@click.option("--join", type=click.Choice(["id", "caption"]), help="What the two sets have in common. [id]")
@click.option("--truth", metavar="FIELD", help="Field of the input that says which is better (a, b, tie), where that is known.")
@common.weight_option
@click.option("--image-column", help="Of images that are in no run: field that holds the path.")
@click.option("--caption-column", help="Of the same: field that holds the caption.")
@click.option("--id-column", help="Of the same: field that holds the caption's id.")
@click.option("--image-root", metavar="DIR", help="Of the same: where relative paths start from.")
@click.option("--annotator", metavar="NAME", help="Of --judge human: whose votes; else the page asks.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of --judge human: 0 is any free one.", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@common.execution_options
def command(sets: tuple[str, ...], name: str | None, as_json: bool, **flags: Any) -> None:
    """Ask of pairs of images which is better aligned with the caption, or of two captions which tells the image better.

    Each pair is asked in both orders; an answer that flips is a tie. Without a judge, the results so far are shown.
    """
    from synthvlm.judging.prepare import HUMAN
    from synthvlm.judging.summary import summaries, summarise

    if flags["judge"] != HUMAN and flags["judge"] and not flags["model"]:
        raise OptionError(f"which model is the judge {flags['judge']!r}? give --model", "or --judge human")
    run, comparison = _drawn(sets, name, flags)
    if comparison is None:
        found = summaries(run)
        if not found:
            raise OptionError(f"nothing is judged in {run.root} yet", "say what to compare with --a and --b, and who judges with --model")
    elif flags["judge"] == HUMAN:
        return _page(run, comparison, flags)
    else:
        if flags["model"]:
            _ask(run, comparison, flags)
        found = [summarise(run, comparison["name"])]
    if as_json:
        click.echo(json.dumps(found if comparison is None else found[0], indent=2, ensure_ascii=False))
        return None
    for summary in found:
        tell(summary)
    return None


def _drawn(sets: tuple[str, ...], name: str | None, flags: dict[str, Any]) -> tuple[Any, dict[str, Any] | None]:
    """Return the run that keeps the results, and the comparison, drawn; None if only results are asked for."""
    from synthvlm.judging import pairs, sides
    from synthvlm.pipeline import Run

    if len(sets) > 2:
        raise OptionError(f"{len(sets)} sets are given", "one run, or two sets")
    reader = common.given(**{k: flags[k] for k in ("image_column", "caption_column", "id_column", "image_root")})
    found = [sides.find(text, reader) for text in sets]
    home = flags["out"] or next((side.source for side in found if side.is_run), None)
    if home is None:
        raise OptionError("where to? neither set is a run", "give --out RUN")
    run = Run.create(home) if flags["out"] else Run.open(home)
    run.execution = common.execution(flags, quiet=flags["model"] is None)
    settings = common.given(limit=flags["limit"], seed=flags["seed"], overwrite=flags["overwrite"] or None)
    if len(found) == 1 and not (flags["what_a"] or flags["what_b"]):
        there = [name] if name else pairs.names(run)
        if not name and flags["model"] is None and flags["judge"] is None:
            return run, None
        have = pairs.record(run, there[0]) if len(there) == 1 else None
        if have is None:
            raise OptionError("what is to be compared?", _ways(run, there))
        a, b = (sides.recorded(run, have[side]) for side in "ab")
        settings |= {k: have[k] for k in ("join", "truth", "weights")}
        return run, pairs.draw(run, a, b, name=have["name"], **settings)
    first, second = found * 2 if len(found) == 1 else found
    a, b = _what(first, flags["what_a"], "--a"), _what(second, flags["what_b"], "--b")
    settings |= common.given(join=flags["join"], truth=flags["truth"], weights=common.weights(flags["weights"]))
    return run, pairs.draw(run, a, b, name=name, **settings)


def _what(side: Any, what: str | None, flag: str) -> Any:
    """Return the side with what the user said of it."""
    import dataclasses

    if what is None:
        return side
    if not side.is_run:
        raise OptionError(f"{flag} {what}: {side.source} is no run", f"leave {flag} out: all its images are taken")
    return dataclasses.replace(side, what=what)


def _ways(run: Any, there: list[str]) -> str:
    several = f"name one with --as: {', '.join(there)}; or " if len(there) > 1 else ""
    return f"{several}say it with --a and --b: two image stages, best and worst, a selection and samples …; or give two sets"


def _ask(run: Any, comparison: dict[str, Any], flags: dict[str, Any]) -> None:
    """Have the model judge."""
    from synthvlm.cli import telling

    options, others = common.split_options(flags)
    if others:
        raise OptionError(f"-o {next(iter(others))}.…: there is one judge at a time", "write -o KEY=VALUE")
    settings = {k: flags[k] for k in ("judge", "prompt", "max_new_tokens", "preset")}
    run.judge_with(comparison, flags["model"], options, **settings)
    telling.tell_tally("judge", run.results["judge"])


def _page(run: Any, comparison: dict[str, Any], flags: dict[str, Any]) -> None:
    """Serve the page on which people vote."""
    if flags["model"]:
        raise OptionError("people judge without a model", "leave out --model, or --judge human")
    common.need_web()
    from synthvlm.web.judging import serve_votes

    def tell(link: str) -> None:
        click.echo(f"Vote at: {link}\nEvery vote is kept at once. Ctrl-C ends it; the same command goes on.")

    serve_votes(run, comparison, flags["annotator"], flags["port"], tell)


def tell(summary: dict[str, Any]) -> None:
    """Print a comparison's figures."""
    from synthvlm.cli import telling

    counts, labels = summary["counts"], summary["labels"]
    click.echo(f"{summary['name']}: A is {labels['a']}, B is {labels['b']}; {summary['pairs']:,} pairs of {counts['usable']:,}")
    for key, what in (
        ("other_caption", "left out, since the sets have different captions for one id"),
        ("no_caption", "left out without a caption"),
    ):
        if counts.get(key):
            click.echo(f"  {counts[key]:,} {what}")
    rows = []
    for j in summary["judges"]:
        about = ", ".join(f"{j[k]:,} {k}" for k in ("unparsable", "failed", "skipped", "repaired") if j.get(k))
        rows.append(
            (
                j["judge"],
                *(f"{j[k]:,}" for k in ("judged", "wins", "ties", "losses")),
                _share(j["win_rate"]),
                "" if j["p"] is None else f"{j['p']:.2g}",
                _share(j.get("flip_rate"), interval=False),
                _share(j.get("first"), interval=False),
                _share(j["accuracy"]),
                about,
            )
        )
    headings = ["pairs", "A", "tie", "B", "A's win rate", "p", "flips", "first", "right", ""]
    if not any(j["accuracy"] for j in summary["judges"]):
        headings.remove("right")
        rows = [row[:9] + row[10:] for row in rows]
    telling.table("Judge", headings, rows)
    for pair in summary["agreement"]:
        value = (
            "undefined: both say one thing" if pair["value"] is None else f"{pair['value']:.2f} ({pair['low']:.2f} to {pair['high']:.2f})"
        )
        click.echo(f"{' and '.join(pair['judges'])}: the same verdict on {pair['same']:.0%} of {pair['n']:,} pairs, κ {value}")


def _share(found: dict[str, Any] | None, interval: bool = True) -> str:
    if found is None:
        return ""
    return f"{found['value']:.1%}" + (f" ({found['low']:.1%} to {found['high']:.1%})" if interval else "")
