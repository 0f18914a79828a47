"""Counts in bins, made by DuckDB from the table ``scored``."""

from __future__ import annotations

import math
from typing import Any

import duckdb

_FEWEST, _MOST = 12, 40
"""About how many bins, for few and for many pairs; their width is a round number."""


def histogram(db: duckdb.DuckDBPyConnection, column: str) -> dict[str, Any]:
    """Return counts in bins of a round width, of all pairs and of the selected ones; or the one value that all have."""
    low, high, found, missing = _range(db, column)
    if low is None or high is None or _equal(low, high):
        return {"value": low, "missing": missing}
    step, first, count = _grid(low, high, found)
    bins = db.execute(
        f"""SELECT floor("{column}" / {step!r})::BIGINT - {first} AS bin, count(*), count(*) FILTER (selected) FROM scored
            WHERE isfinite("{column}") GROUP BY bin"""
    ).fetchall()
    everything, selected = [0] * count, [0] * count
    for n, of_all, of_selected in bins:
        everything[n], selected[n] = of_all, of_selected
    return {"start": first * step, "step": step, "all": everything, "selected": selected, "missing": missing}


def density(db: duckdb.DuckDBPyConnection, columns: list[str]) -> dict[str, Any] | None:
    """Return counts over a grid of two columns, or None if one of them has one value only."""
    grids = []
    for c in columns:
        low, high, found, _ = _range(db, c)
        if low is None or high is None or _equal(low, high):
            return None
        grids.append(_grid(low, high, found))
    (xs, x0, nx), (ys, y0, ny) = grids
    x, y = columns
    cells = db.execute(
        f"""SELECT floor("{x}" / {xs!r})::BIGINT - {x0} AS i, floor("{y}" / {ys!r})::BIGINT - {y0} AS j, count(*) FROM scored
            WHERE isfinite("{x}") AND isfinite("{y}") GROUP BY i, j"""
    ).fetchall()
    counts = [[0] * nx for _ in range(ny)]
    for i, j, n in cells:
        counts[j][i] = n
    return {"columns": columns, "x": {"start": x0 * xs, "step": xs}, "y": {"start": y0 * ys, "step": ys}, "counts": counts}


def _range(db: duckdb.DuckDBPyConnection, column: str) -> tuple[float | None, float | None, int, int]:
    """Return the least and the greatest finite value, and how many rows have one and have none."""
    finite = f'isfinite("{column}")'
    values = f'min("{column}") FILTER ({finite}), max("{column}") FILTER ({finite}), count(*) FILTER ({finite}), count(*)'
    low, high, n, total = db.execute(f"SELECT {values} FROM scored").fetchall()[0]
    return low, high, n, total - n


def _equal(low: float, high: float) -> bool:
    """Say whether a range is too narrow to be more than rounding."""
    return high - low <= 1e-9 * max(1.0, abs(low), abs(high))


def _grid(low: float, high: float, values: int) -> tuple[float, int, int]:
    """Return a round width (1, 2 or 5 times a power of ten), the number of the first bin, and how many there are."""
    rough = (high - low) / min(_MOST, max(_FEWEST, math.isqrt(values)))
    power = 10.0 ** math.floor(math.log10(rough))
    step = float(f"{next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.6):.6g}")
    first, last = math.floor(low / step), math.floor(high / step)
    return step, first, last - first + 1
