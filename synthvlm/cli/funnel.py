"""What curation came to, told: the funnel, reason by reason, and how to change it. A table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import Any

import click

_WIDTH = 100


def tell(summary: dict[str, Any], examples: int = 0, dry: bool = False) -> None:
    """Say how many captions are kept and why the others are not, with up to so many examples of each reason."""
    dropped = summary["captions"] - summary["kept"]
    would = "would keep" if dry else "keeps"
    click.echo(f"Curation ({summary['name']}): {would} {summary['kept']:,} of {summary['captions']:,} captions", err=not dry)
    for stage, count in summary["not_measured"].items():
        click.echo(f"  {count:,} have no value of {stage}, which then drops none of them", err=not dry)
    if judge := summary.get("judge"):
        said = f"{judge['unparsable']:,} answers were no verdict, {judge['disagree']:,} captions had verdicts that differ"
        click.echo(f"  judge: {judge['asked']:,} captions asked about; {said}", err=not dry)
    if not dropped:
        return
    held = [f for f in summary["funnel"] if f["dropped"] or f["holds_of"]]
    if dry and sys.stdout.isatty():
        _table(held)
    else:
        for f in held:
            also = f", and {f['holds_of'] - f['dropped']:,} that go for another reason" if f["holds_of"] > f["dropped"] else ""
            limit = f" ({f['limit']})" if f["limit"] else ""
            click.echo(f"  {f['dropped']:,} by {f['reason']}{limit}{also}", err=not dry)
            for e in f["examples"][:examples]:
                kept = f"  ~ {_short(e['kept'])}" if "kept" in e else ""
                click.echo(f"      {e['id']}: {_short(e['caption'])}{kept}", err=not dry)
    first = held[0]["reason"]
    rule = "--duplicates off" if "duplicate" in first else f"--rule {first}=off"
    click.echo(
        f"  to change that: {rule} leaves one out, --no-curate (synth) all; --rule COLUMN=MIN..MAX sets a limit; see docs/curation.md",
        err=not dry,
    )


def _table(funnel: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_edge=False, pad_edge=False)
    for heading, right in (
        ("Reason", False),
        ("Limit", False),
        ("Drops", True),
        ("Holds of", True),
        ("Left", True),
        ("For example", False),
    ):
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for f in funnel:
        shown = "\n".join(escape(_short(e["caption"])) for e in f["examples"])
        table.add_row(f["reason"], f["limit"], *(f"{f[k]:,}" for k in ("dropped", "holds_of", "left")), shown)
    Console().print(table)


def _short(text: str) -> str:
    """Return a caption on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"
