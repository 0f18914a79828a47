"""Means of sets of pairs, with 95% confidence intervals.

A caption's candidates are alike, so captions, not pairs, are what was drawn: the standard error is that of a ratio of sums over captions
(clustered by caption; with one pair each it is s/√n), and Student's t takes the number of captions into account.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import duckdb

from synthvlm.run import fetch
from synthvlm.select import DIGITS
from synthvlm.sql import identifier

CONFIDENCE = 0.95


def measure(db: duckdb.DuckDBPyConnection, table: str, columns: Sequence[str]) -> dict[str, Any]:
    """Return samples, captions, and of each column mean, standard deviation and the ends of the interval of its finite values.

    ``table``: a name, or SQL in brackets, with ``row`` (the caption) and the columns. The ends are None where fewer than two captions
    have a value.
    """
    named = [(n, identifier(c), f"isfinite({identifier(c)})") for n, c in enumerate(columns)]
    plain = ", ".join(
        f"count(*) FILTER ({f}) AS n{n}, avg({c}) FILTER ({f}) AS m{n}, stddev_samp({c}) FILTER ({f}) AS s{n}" for n, c, f in named
    )
    facts = fetch(db, f"SELECT count(*) AS samples, count(DISTINCT row) AS captions{', ' * bool(plain)}{plain} FROM {table}")[0]
    found: dict[str, Any] = {"samples": facts["samples"], "captions": facts["captions"]}
    if not columns:
        return found
    sums = ", ".join(f"sum({c}) FILTER ({f}) AS t{n}, count(*) FILTER ({f}) AS k{n}" for n, c, f in named)
    spreads = ", ".join(
        f"sum((t{n} - {_number(facts[f'm{n}'])} * k{n}) ** 2) FILTER (k{n} > 0) AS q{n}, count(*) FILTER (k{n} > 0) AS g{n}"
        for n, _, _ in named
    )
    spread = fetch(db, f"SELECT {spreads} FROM (SELECT row, {sums} FROM {table} GROUP BY row)")[0]
    for n, column in enumerate(columns):
        mean, captions = facts[f"m{n}"], spread[f"g{n}"]
        half = None
        if captions > 1:
            half = quantile(captions - 1) * math.sqrt(spread[f"q{n}"] * captions / (captions - 1)) / facts[f"n{n}"]
        found[column] = _rounded(mean, facts[f"s{n}"], half)
    return found


def _rounded(mean: float | None, sd: float | None, half: float | None) -> dict[str, float | None]:
    """Return the figures of a column, rounded where the order of summation, which threads decide, would show."""
    low, high = (None, None) if mean is None or half is None else (mean - half, mean + half)
    values = {"mean": mean, "sd": sd, "low": low, "high": high}
    return {k: None if v is None else round(v, DIGITS) for k, v in values.items()}


def _number(value: float | None) -> str:
    return "0" if value is None else f"'{value!r}'::DOUBLE"


def quantile(freedom: int) -> float:
    """Return how many standard errors the interval reaches to each side, by Student's t with ``freedom`` degrees of it.

    Abramowitz and Stegun 26.7.5, to the fourth term: within 0.2% from three degrees on; below, the closed forms.
    """
    p = (1 + CONFIDENCE) / 2
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    x = NormalDist().inv_cdf(p)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + sum(t / freedom ** (n + 1) for n, t in enumerate(terms))
