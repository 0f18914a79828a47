"""Counts in bins, made by DuckDB from a table: ``scored``, if nothing else is said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import duckdb

_FEWEST, _MOST = 12, 40
"""About how many bins, for few and for many pairs; their width is a round number."""


def histogram(db: duckdb.DuckDBPyConnection, column: str, table: str = "scored", whole: bool = False) -> dict[str, Any]:
    """Return counts in bins of a round width, of all rows and of the ``selected`` ones; or the one value that all have.

    ``whole``: the values are whole numbers, and no bin is narrower than one.
    """
    low, high, found, missing = _range(db, column, table)
    if low is None or high is None or _equal(low, high):
        return {"value": low, "missing": missing}
    step, first, count = _grid(low, high, found, 1.0 if whole else 0.0)
    bins = db.execute(
        f"""SELECT floor("{column}" / {step!r})::BIGINT - {first} AS bin, count(*), count(*) FILTER (selected) FROM {table}
            WHERE isfinite("{column}") GROUP BY bin"""
    ).fetchall()
    everything, selected = [0] * count, [0] * count
    for n, of_all, of_selected in bins:
        everything[n], selected[n] = of_all, of_selected
    return {"start": first * step, "step": step, "all": everything, "selected": selected, "missing": missing}


def histograms_by(db: duckdb.DuckDBPyConnection, column: str, table: str, by: Sequence[str]) -> dict[str, Any] | None:
    """Return counts in bins of whole numbers for each group, over one grid; None if there is no value, or all have the same.

    The last bin takes what is above the 99.5th percentile, so that a few long ones do not squeeze the others.
    """
    low, high, found, _ = _range(db, column, table)
    if low is None or high is None or _equal(low, high):
        return None
    most = db.execute(f'SELECT quantile_disc("{column}", 0.995) FROM {table} WHERE isfinite("{column}")').fetchall()[0][0]
    step, first, count = _grid(low, max(most, low + 1), found, 1.0)
    groups: dict[tuple[Any, ...], list[int]] = {}
    names = ", ".join(by)
    for *group, n, rows in db.execute(
        f"""SELECT {names}, least(floor("{column}" / {step!r})::BIGINT - {first}, {count - 1}) AS bin, count(*) FROM {table}
            WHERE isfinite("{column}") GROUP BY {names}, bin ORDER BY {names}"""
    ).fetchall():
        groups.setdefault(tuple(group), [0] * count)[n] = rows
    return {
        "start": first * step,
        "step": step,
        "clipped": high >= (first + count) * step,
        "groups": [dict(zip(by, group, strict=True)) | {"counts": counts} for group, counts in groups.items()],
    }


def density(db: duckdb.DuckDBPyConnection, columns: list[str]) -> dict[str, Any] | None:
    """Return counts over a grid of two columns, or None if one of them has one value only."""
    grids = []
    for c in columns:
        low, high, found, _ = _range(db, c, "scored")
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


def _range(db: duckdb.DuckDBPyConnection, column: str, table: str) -> tuple[float | None, float | None, int, int]:
    """Return the least and the greatest finite value, and how many rows have one and have none."""
    finite = f'isfinite("{column}")'
    values = f'min("{column}") FILTER ({finite}), max("{column}") FILTER ({finite}), count(*) FILTER ({finite}), count(*)'
    low, high, n, total = db.execute(f"SELECT {values} FROM {table}").fetchall()[0]
    return low, high, n, total - n


def _equal(low: float, high: float) -> bool:
    """Say whether a range is too narrow to be more than rounding."""
    return high - low <= 1e-9 * max(1.0, abs(low), abs(high))


def _grid(low: float, high: float, values: int, least: float = 0.0) -> tuple[float, int, int]:
    """Return a round width (1, 2 or 5 times a power of ten, ``least`` at least), the number of the first bin, and how many there are."""
    rough = max(least, (high - low) / min(_MOST, max(_FEWEST, math.isqrt(values))))
    power = 10.0 ** math.floor(math.log10(rough))
    step = float(f"{next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.6):.6g}")
    first, last = math.floor(low / step), math.floor(high / step)
    return step, first, last - first + 1
