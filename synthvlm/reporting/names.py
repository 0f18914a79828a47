"""What reports and data cards call things."""

from __future__ import annotations

from collections.abc import Mapping

LABELS = {"clip": "CLIPScore", "ssim": "SSIMScore", "total": "Total"}
_REMARKS = ("_cut", "_small")
"""Endings of columns that say something about another column's value, and are no score."""


def label(column: str) -> str:
    """Return what the page calls a column."""
    return LABELS.get(column, column)


def is_remark(column: str, columns: list[str]) -> bool:
    """Say whether ``column`` is a remark on another one, such as ``clip_cut`` on ``clip``, or on ``clip_mean`` and ``clip_min``."""
    stems = [column.removesuffix(ending) for ending in _REMARKS if column.endswith(ending)]
    return any(other == stem or (other != column and other.startswith(f"{stem}_")) for stem in stems for other in columns)


def formula(weights: Mapping[str, float], normalise: str = "none") -> str:
    """Write Total as people do: ``CLIPScore + 0.5 · SSIMScore``; of ranks, ``rank of CLIPScore + …``."""
    of = "rank of " if normalise == "rank" else ""
    terms = [f"{'−' if w < 0 else '+'} {'' if abs(w) == 1 else f'{abs(w):g} · '}{of}{label(c)}" for c, w in weights.items()]
    return " ".join(terms).removeprefix("+ ")
