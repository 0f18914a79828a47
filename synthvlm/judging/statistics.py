"""Figures of preference: win rate, flips, position bias, agreement. Counts in, numbers out, with NumPy.

Resampling pairs with replacement is drawing their counts from a multinomial distribution, so a bootstrap of any number of pairs is one
call; 95% intervals are percentiles of 10,000 resamples, seeded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
VERDICTS = ("a", "tie", "b")
"""The order of codes 0, 1, 2; -1 is none."""
Counts = Sequence[int]


def codes(verdicts: Sequence[str | None]) -> np.ndarray:
    """Return the code of each verdict (int8), -1 for whatever is none."""
    known = {v: n for n, v in enumerate(VERDICTS)}
    return np.array([known.get(v or "", -1) for v in verdicts], np.int8)


def both_orders(plain: np.ndarray, flipped: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (the verdict on each pair, whether it flipped) of answers in both orders: a pair whose answers differ is a tie.

    A pair with one answer only has no verdict.
    """
    whole = (plain >= 0) & (flipped >= 0)
    flips = whole & (plain != flipped)
    return np.where(flips, 1, np.where(whole, plain, -1)).astype(np.int8), flips


def counts(verdicts: np.ndarray) -> list[int]:
    """Return how many pairs A won, were ties, and B won."""
    return np.bincount(verdicts[verdicts >= 0], minlength=3).tolist()


def bootstrap(found: Counts, figure: Callable[[np.ndarray], np.ndarray], seed: int = 0) -> tuple[float, float] | None:
    """Return the interval of ``figure`` (resampled counts, (n, cells) → (n,)); None where there is nothing to resample.

    Resamples of which the figure is undefined (NaN) are left out.
    """
    total = int(np.sum(found))
    if not total:
        return None
    drawn = np.random.default_rng(seed).multinomial(total, np.asarray(found, float) / total, RESAMPLES)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = figure(drawn.astype(float))
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.percentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def share(found: Counts, weights: Sequence[float], seed: int = 0) -> dict[str, Any] | None:
    """Return the weighted share of counts with its interval; None of nothing."""
    total = sum(found)
    if not total:
        return None
    w = np.asarray(weights)
    interval = bootstrap(found, lambda drawn: drawn @ w / total, seed)
    assert interval is not None
    return {"value": float(np.dot(found, w) / total), "low": interval[0], "high": interval[1], "n": total}


def win_rate(found: Counts, seed: int = 0) -> dict[str, Any] | None:
    """Return the share of pairs that A wins, ties counting half: 0.5 is no preference."""
    return share(found, (1.0, 0.5, 0.0), seed)


def sign_test(wins: int, losses: int) -> float | None:
    """Return the two-sided p of so uneven a split of decided pairs if both sets were as good (exact binomial test); None of nothing."""
    n = wins + losses
    if not n:
        return None
    fewer = min(wins, losses)
    logs = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(fewer + 1)]
    most = max(logs)
    return min(1.0, 2 * math.exp(most) * math.fsum(math.exp(x - most) for x in logs))


def kappa(one: np.ndarray, other: np.ndarray, seed: int = 0) -> dict[str, Any] | None:
    """Return Cohen's κ of two judges' verdicts on the pairs that both judged, with interval; None if there is none.

    ``value`` is None where it is undefined: both always say the same one thing.
    """
    both = (one >= 0) & (other >= 0)
    table = np.bincount(3 * one[both].astype(int) + other[both].astype(int), minlength=9)
    if not table.sum():
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(_kappa(table[None].astype(float))[0])
    same = int(table[[0, 4, 8]].sum())
    found: dict[str, Any] = {"n": int(table.sum()), "same": same / int(table.sum()), "value": value if math.isfinite(value) else None}
    interval = bootstrap(table.tolist(), _kappa, seed) if found["value"] is not None else None
    return found | {"low": interval[0] if interval else None, "high": interval[1] if interval else None}


def _kappa(tables: np.ndarray) -> np.ndarray:
    """Return κ = (po - pe) / (1 - pe) of each 3×3 table (n, 9); NaN where pe is 1. Cohen (1960)."""
    p = tables.reshape(-1, 3, 3)
    p = p / p.sum((1, 2), keepdims=True)
    observed = np.trace(p, axis1=1, axis2=2)
    expected = (p.sum(1) * p.sum(2)).sum(1)
    return np.where(expected > 1 - 1e-12, np.nan, (observed - expected) / (1 - expected))
