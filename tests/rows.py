"""What must be equal between two runs, however they came about."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from synthvlm.run import RunDirectory, fetch

_PLACE = {"tar", "offset", "tries"}
"""Where a row's pixels lie, and how often it was tried, are not part of the promise."""


def table(run: RunDirectory, stage: str) -> list[dict[str, Any]]:
    """Return a stage's rows, in order, without what may differ."""
    with run.connect() as db:
        rows = fetch(db, f"SELECT * FROM {run.table_sql(run.stage(stage))} ORDER BY {run.stage(stage).order}")
    return [{k: v for k, v in r.items() if k not in _PLACE} for r in rows]


def pixels(run: RunDirectory, stage: str) -> dict[tuple[str, int], str]:
    """Return the digest of every stored image's bytes, read from where its row says."""
    with run.connect() as db:
        rows = fetch(db, f"SELECT * FROM {run.table_sql(run.stage(stage))} WHERE stored ORDER BY row, candidate")
    found = {(r["id"], r["candidate"]): hashlib.sha256(run.store.read(r["tar"], r["offset"], r["bytes"])).hexdigest() for r in rows}
    assert found == {(r["id"], r["candidate"]): r["sha256"] for r in rows}
    return found


def files(folder: Path) -> dict[str, str]:
    """Return the digest of every file under a folder."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def litter(folder: Path) -> list[str]:
    """Return unfinished files."""
    return [str(p) for p in folder.rglob("*.tmp")]
