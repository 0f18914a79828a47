"""Where a stage ran, with what and how fast: from what its workers noted beside the parts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

from synthvlm import parts
from synthvlm.run import RunDirectory, Stage

_LEAST_SECONDS = 10.0
"""Under this, seconds between commits say nothing about throughput."""


def where(run: RunDirectory, stage: Stage, rows: int) -> dict[str, Any]:
    """Return devices, versions and, where enough was measured, rows a second of one worker, of all and by kind of device.

    ``rows``: how many of the stage count. By device those that were made there count, whatever became of them.
    """
    devices: dict[str, dict[str, Any]] = {}
    versions: dict[str, set[str]] = {}
    for part in parts.list_parts(run.store, stage.name):
        for info, made in _leaves(run, part):
            on = devices.setdefault(str(info.get("device", "?")), {"rows": 0.0, "seconds": 0.0})
            on["rows"] += made
            on["seconds"] += float(info.get("seconds") or 0)
            for name, version in (info.get("versions") or {}).items():
                versions.setdefault(name, set()).add(version)
    seconds = sum(d["seconds"] for d in devices.values())
    return {
        "devices": sorted(devices),
        "versions": {n: sorted(v) for n, v in sorted(versions.items())},
        "seconds": round(seconds, 1),
        "rows_per_second": rate(rows, seconds),
        "by_device": [
            {"device": name, "rows": round(d["rows"]), "seconds": round(d["seconds"], 1), "rows_per_second": rate(d["rows"], d["seconds"])}
            for name, d in sorted(devices.items())
        ],
    }


def rate(rows: float, seconds: float) -> float | None:
    """Return rows a second, or None where too little was measured."""
    return rows / seconds if seconds >= _LEAST_SECONDS else None


def _leaves(run: RunDirectory, part: parts.Part) -> Iterator[tuple[dict[str, Any], float]]:
    """Yield what was noted beside each part that a part is made of, and its rows.

    Parts that were merged before rows were noted get them by their share of the time.
    """
    with run.store.fs.open(run.store.path(part.path), "rb") as f:
        rows = pq.read_metadata(f).num_rows
    info = parts.part_info(run.store, part)
    leaves = info.get("merged", [info])
    seconds = sum(float(leaf.get("seconds") or 0) for leaf in leaves)
    for leaf in leaves:
        share = float(leaf.get("seconds") or 0) / seconds if seconds else 1 / len(leaves)
        yield leaf, leaf.get("rows", rows * share)


def without_folders(checkpoint: Any) -> str:
    """Return a hub name as it is, and of a local directory its name only."""
    return os.path.basename(str(checkpoint).rstrip("/")) if os.path.isabs(str(checkpoint)) else str(checkpoint)
