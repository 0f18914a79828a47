"""What each step came to, said on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

GROUPS_SHOWN = 30


def tell_input(run: Any) -> None:
    """Say what reading the captions or images came to."""
    r = run.results["add"]
    what = "Images" if r.images else "Captions"
    if r.unchanged:
        click.echo(f"{what}: {run.sample_count():,} in the run; {r.path} has not changed", err=True)
    else:
        more = "".join(
            f", {n:,} {how}"
            for n, how in (
                (r.edited, "changed" if r.images else "edited"),
                (r.duplicates, "double ids"),
                (r.rejected, "set aside as missing or unreadable" if r.images else "set aside as unusable"),
            )
            if n
        )
        click.echo(f"{what}: {r.read:,} read from {r.path}, {r.added:,} new{more}; {run.sample_count():,} in the run", err=True)
        if r.rejected:
            click.echo(f"  those, with line and reason: {run.root}/logs/rejected-*.jsonl", err=True)


def tell_step(moment: str, verb: str, run: Any) -> None:
    """Say what a step came to."""
    if moment == "begin":
        return
    result = run.results[verb]
    if verb == "curate":
        from synthvlm.cli.funnel import tell

        tell(result)
    elif verb in ("generate", "score", "caption"):
        tell_tally(verb, result)
    elif verb == "select":
        tell_selection(result)
    elif verb == "export":
        for kind, done in result.items():
            click.echo(f"Data set ({kind}): {done['out']}", err=True)
    elif verb == "merge":
        lines, most = result["lines"], len(result["positions"])
        click.echo(f"Merged: {lines:,} line{'s' * (lines != 1)} of up to {most} caption{'s' * (most != 1)} in {result['out']}", err=True)
        for note in result["notes"]:
            click.echo(f"  {note}", err=True)
    else:
        click.echo(f"Report: {result}", err=True)


def tell_tally(verb: str, result: dict[str, Any]) -> None:
    """Say how many rows a stage has, and why some failed."""
    what = {"generate": "Images", "score": "Scores", "caption": "Captions", "judge": "Verdicts"}[verb]
    failed = "".join(f"\n  {f['rows']:,} failed with {f['class']}: {f['example']}" for f in result["failures"])
    missing = result["wanted"] - result["made"] - result["failed"]
    lacking = f", {missing:,} not made" if missing else ""
    retry = "\n  --retry-failed tries them again" if failed else ""
    click.echo(f"{what} ({result['stage']}): {result['made']:,} of {result['wanted']:,}{lacking}{failed}{retry}", err=True)


def tell_selection(summary: dict[str, Any]) -> None:
    """Print the paper's table for the run: before, best of each caption, selected."""
    from synthvlm.curating.rules import words

    columns = [c for c in summary["weights"] if summary["weights"][c]]
    sets = [(name, f"{m['samples']:,}", *(_mean(m[c]) for c in [*columns, "total"])) for name, m in summary["sets"].items()]
    table("Set", ["Samples", *columns, "total"], sets)
    if "groups" in summary:
        groups = [(str(g["group"]), f"{g['captions']:,}", f"{g['selected']:,}", _mean(g["total"])) for g in summary["groups"]]
        table(summary["asked"]["group_by"], ["captions", "selected", "total"], groups[:GROUPS_SHOWN])
        if len(groups) > GROUPS_SHOWN:
            click.echo(f"and {len(groups) - GROUPS_SHOWN:,} more, in the selection's .json")
    terms = "; ".join(
        f"{c} {t['share']:.0%} of the ranking (alone it would choose {t['alone_overlap']:.0%} of these)"
        for c, t in summary["terms"].items()
    )
    click.echo(f"Selected {summary['selected']:,} of {summary['captions']:,} captions (top {summary['top']}). {terms}")
    if summary.get("outside_limits"):
        held = ", ".join(f"{c} {words(*limit)}" for c, limit in summary["asked"]["limits"].items())
        click.echo(f"  {summary['outside_limits']:,} of {summary['pairs']:,} pairs could not be chosen: only those with {held} can")
    if alike := summary.get("diversity"):
        clusters = f"; {alike['clusters']:,} clusters took turns" if "clusters" in alike else ""
        click.echo(f"  {alike['near_duplicates']:,} of {alike['looked_at']:,} images left out as nearly those of better pairs{clusters}")
    if marked := summary.get("marks"):
        click.echo(f"  {_marks(marked)}")
    if summary["winners_not_stored"]:
        click.echo(
            f"  {summary['winners_not_stored']:,} winners' pixels were not kept; the best stored candidate, or the next caption, was taken.\n"
            "  To have them made again first: synthvlm regenerate RUN --top N",
            err=True,
        )


def _marks(marked: dict[str, int]) -> str:
    if "ignored" in marked:
        return f"{marked['ignored']:,} marks were ignored"
    why = {
        "of_other_images": "are of images that the run no longer has",
        "without_score_or_pixels": "are of images without score or pixels, or outside of a limit",
    }
    others = "".join(f"; {marked[k]:,} {text}" for k, text in why.items() if marked.get(k))
    return f"marks: {marked['keep']:,} pairs in by a mark, {marked['drop']:,} out{others}"


def tell_prune(told: dict[str, Any], dry: bool = False) -> None:
    """Say what pruning came to."""
    more = f", and {told['kept_for_selections']:,} that selections have" if told["kept_for_selections"] else ""
    verb = "would drop" if dry else "dropped"
    click.echo(
        f"Pixels ({told['stage']}): kept the best image of {told['kept']:,} captions{more}; {verb} {told['dropped']:,} ({told['bytes'] / 1e6:,.1f} MB)",
        err=True,
    )


def tell_regenerated(told: dict[str, Any]) -> None:
    """Say what making images again came to."""
    there = f"; {told['there']:,} were there" if told["there"] else ""
    click.echo(
        f"Images ({told['stage']}): {told['made']:,} of {told['asked']:,} made again, each with the bytes on record{there}", err=True
    )


def tell_sweep(swept: dict[str, Any]) -> None:
    """Print how the selected set changes with a weight."""
    columns = list(dict.fromkeys([*swept["weights"], swept["sweep"].removeprefix("weight.")]))
    rows = []
    for v in swept["values"]:
        changed = "" if v["changed"] is None else f"{v['changed']:,}"
        rows.append(
            (
                f"{v['value']:g}",
                f"{v['selected']:,}",
                f"{v['overlap']:.1%}",
                changed,
                *(_mean(v[c]) for c in columns),
                _mean(v["threshold"]),
            )
        )
    table(swept["sweep"], ["selected", "overlap", "changed", *columns, "least total"], rows)
    terms = " + ".join(f"{w:g} {c}" for c, w in swept["weights"].items())
    click.echo(
        f"overlap: with the {swept['base_selected']:,} pairs that {terms} selects (top {swept['top']}); changed: since the line above."
    )


def _mean(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def table(first: str, headings: list[str], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table of figures."""
    from rich.console import Console
    from rich.table import Table

    made = Table(title=None, show_edge=False, pad_edge=False)
    made.add_column(first)
    for heading in headings:
        made.add_column(heading, justify="right")
    for row in rows:
        made.add_row(*row)
    Console().print(made)
