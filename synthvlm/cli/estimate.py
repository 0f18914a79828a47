"""``synthvlm plan --calibrate``: hours, GPU-hours, disk and yield, from a few samples that really went through the line."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import click


def tell(whole: Any, samples: int, total: int, kept: float | None, execution: Any, price: float | None) -> None:
    """Take ``samples`` through the recipe and print what ``total`` would take; ``kept``: share that curation keeps, if it is known."""
    from synthvlm import estimating
    from synthvlm.cli import telling

    click.echo(f"Calibrating with {min(samples, total)} samples on one worker; checkpoints that are missing are fetched first …", err=True)
    with tempfile.TemporaryDirectory(prefix="synthvlm-calibrate-") as scratch:
        found = estimating.calibrate(whole, os.path.join(scratch, "run"), samples, execution)
    kept = found.kept if kept is None else kept
    rows = {t.stage: estimating.rows_of(found, t, total, kept) for t in found.timings}
    click.echo(f"Calibrated with {found.samples:,} samples in {_span(found.seconds / 3600)}:")
    telling.table(
        "stage",
        ["rows", "load", "rows/s", "failed"],
        [
            (
                t.stage,
                f"{rows[t.stage]:,.0f}",
                _span(t.load / 3600),
                f"{1 / t.seconds:,.2f}" if t.seconds else "",
                f"{t.failed} of {t.rows}",
            )
            for t in found.timings
        ],
    )
    device = execution.resolved_devices()[0]
    each = 1 if device == "cpu" else len(device.split(","))
    unit = "CPU workers like this one" if device == "cpu" else "GPUs"
    cost = [] if price is None else ["cost"]
    lines = []
    for workers, hours in estimating.hours(found, total, kept).items():
        paid = hours * workers * each
        lines.append((f"{workers * each}", _span(hours), f"{paid:,.1f}", *([] if price is None else [f"{paid * price:,.0f}"])))
    telling.table(unit, ["time", "hours × " + ("workers" if device == "cpu" else "GPUs"), *cost], lines)
    if whole.first("generate") is not None:
        _pixels(whole, found, total, kept)


def _pixels(whole: Any, found: Any, total: int, kept: float) -> None:
    """Print how many images come out, how many are kept, and what they weigh."""
    from synthvlm.select import TOP, parse_top

    making, choosing = whole.first("generate"), whole.first("select")
    captions = round(total * kept)
    made = next((t for t in found.timings if t.kind == "generate"), None)
    good = 1 - made.failed / made.rows if made and made.rows else 1.0
    top = choosing.top if choosing is not None and choosing.top is not None else TOP
    # A caption is lost only if all of its candidates fail.
    selected = parse_top(top, round(captions * (1 - (1 - good) ** found.repeat))) if choosing is not None and captions else captions
    stored = {"all": captions * found.repeat, "best": captions, "top": 2 * selected}[making.store] * good
    reaching = "" if choosing is None or choosing.threshold is None else ", if they reach the threshold"
    click.echo(
        f"Yield: {total:,} captions, {captions:,} after curation, {captions * found.repeat * good:,.0f} images, {selected:,} selected{reaching}"
    )
    most = "at the peak" if making.store == "top" else "kept"
    click.echo(f"Disk: {stored * found.image_bytes / 1e9:,.1f} GB of pixels {most} ({found.image_bytes / 1e6:.2f} MB an image)")


def _span(hours: float) -> str:
    """Return a time as people say it."""
    for unit, size in (("days", 24), ("h", 1), ("min", 1 / 60)):
        if hours >= 2 * size or (unit == "min" and hours >= size):
            return f"{hours / size:,.1f} {unit}"
    return f"{hours * 3600:.0f} s"
