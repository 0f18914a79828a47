"""A report's figures, printed: the table of sets, where the cards of its columns differ, yield and time of each stage."""

from __future__ import annotations

from typing import Any

import click

from synthvlm.cli.telling import table

Figures = dict[str, Any]


def tell(figures: Figures) -> None:
    """Print the report's tables, each only if there is something in it."""
    sets = figures["table"]
    if sets["rows"]:
        several = len({r["of"] for r in sets["rows"]}) > 1
        headings = [f"{c['label']} ({c['mark']})" if c["mark"] else c["label"] for c in sets["columns"]]
        rows = [(f"{r['of']}: {r['set']}" if several else r["set"], f"{r['samples']:,}", *map(_mean, r["scores"])) for r in sets["rows"]]
        table("Set", ["Samples", *headings], rows)
        click.echo("Mean ± half of the 95% confidence interval.")
        for note in sets["notes"]:
            click.echo(f"  {note}")
    for run in figures["runs"]:
        _tell_stages(run, named=len(figures["runs"]) > 1)
        for s in run.get("captions", {}).get("stages", []):
            rows = [_perspective(s, p) for p in s["perspectives"]]
            table(f"Captions of {s['name']}", ["made", "failed", "cut off", "words, mean", "right"], rows)


def _tell_stages(run: Figures, named: bool) -> None:
    rows = []
    for s in [*run.get("stages", []), *run.get("captions", {}).get("stages", [])]:
        share = f"{s['made'] / s['wanted']:.1%}" if s["wanted"] else "–"
        for n, d in enumerate(s["by_device"] or [{"device": "–", "seconds": 0.0, "rows_per_second": None}]):
            counts = (f"{s['wanted']:,}", f"{s['made']:,}", f"{s['failed']:,}", share) if n == 0 else ("", "", "", "")
            rate = f"{d['rows_per_second']:.3g}" if d["rows_per_second"] else "–"
            rows.append((s["name"] if n == 0 else "", *counts, d["device"], f"{d['seconds']:,.1f}", rate))
    headings = ["wanted", "made", "failed", "yield", "device", "worker time, s", "rows/s"]
    table(f"Stage of {run['run']}" if named else "Stage", headings, rows)
    for s in run.get("stages", []):
        for f in s["failures"]:
            click.echo(f"  {s['name']}: {f['rows']:,} × {f['class']}: {f['example']}")


def _mean(score: Figures | None) -> str:
    if score is None or score["mean"] is None:
        return "–"
    half = "" if score["low"] is None else f" ± {(score['high'] - score['low']) / 2:.3f}"
    return f"{score['mean']:.3f}{half}"


def _perspective(stage: Figures, p: Figures) -> tuple[str, ...]:
    right = f"{p['right']:,} of {p['judged']:,}" if p["judged"] else "–"
    words = "–" if p["words"] is None else f"{p['words']:.1f}"
    return p["name"], f"{p['made']:,}", f"{p['failed']:,}", f"{p['cut']:,}", words, right
