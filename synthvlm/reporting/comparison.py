"""The paper's table: sets of pairs, their scores with intervals, and the card of each column.

Figures with different cards never stand in one column: a measure that two sets took in different ways has a column for each way, and
the table says in what they differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synthvlm.cards import PRECISION
from synthvlm.reporting.names import label
from synthvlm.run import differences


@dataclass(frozen=True)
class PairSet:
    """A set of pairs: what it is of (a run, a file), its name there, and its figures as :func:`synthvlm.reporting.sets.measure` has them."""

    of: str
    name: str
    figures: Mapping[str, Any]
    cards: Mapping[str, Mapping[str, Any]]
    """By column; a column without one, or with an empty one, was measured nobody knows how."""
    columns: Sequence[str]


def table(sets: Sequence[PairSet], notes: Sequence[str] = ()) -> dict[str, Any]:
    """Return ``columns`` (name, label, mark, card, which sets it is of), ``rows`` and ``notes`` of the table."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for s in sets:
        for c in s.columns:
            card = dict(s.cards.get(c) or {})
            column = found.setdefault((c, identity(card) if card else f"unknown to {s.of}"), {"name": c, "card": card or None, "of": []})
            if s.of not in column["of"]:
                column["of"].append(s.of)
    order = list(dict.fromkeys(c for s in sets for c in s.columns if c != "total"))
    columns = sorted(found.items(), key=lambda item: (item[0][0] == "total", order.index(item[0][0]) if item[0][0] != "total" else 0))
    several = {name for (name, _), _ in columns if sum(name == other for (other, _), _ in columns) > 1}
    marks = dict.fromkeys(several, 0)
    for (name, _), column in columns:
        marks[name] = marks.get(name, 0) + 1
        column |= {"mark": chr(96 + marks[name]) if name in several else "", "label": label(name)}
        if name == "total":
            column["label"] = "Weighted score (Total)"
    rows = []
    for s in sets:
        keys = {c: (c, identity(dict(s.cards[c])) if s.cards.get(c) else f"unknown to {s.of}") for c in s.columns}
        values = [dict(s.figures[name]) if keys.get(name) == (name, key) else None for (name, key), _ in columns]
        rows.append({"of": s.of, "set": s.name, "samples": s.figures["samples"], "captions": s.figures.get("captions"), "scores": values})
    return {"columns": [c for _, c in columns], "rows": rows, "notes": [*notes, *_warnings([c for _, c in columns])]}


def identity(card: Mapping[str, Any]) -> str:
    """Return what tells cards apart; what they say of precision does not."""
    return json.dumps(_without_precision(card), sort_keys=True, default=str)


def _without_precision(card: Any) -> Any:
    return {k: _without_precision(v) for k, v in card.items() if k not in PRECISION} if isinstance(card, Mapping) else card


def _warnings(columns: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say of each measure that has several columns in what their cards differ, and whose measures are not known."""
    said = []
    apart: set[str] = set()
    unknown: dict[str, list[str]] = {}
    for name in dict.fromkeys(c["name"] for c in columns):
        ways = [c for c in columns if c["name"] == name]
        for c in ways:
            if c["card"] is None:
                unknown.setdefault(c["of"][0], []).append(_marked(c))
        known = [c for c in ways if c["card"] is not None]
        for other in known[1:]:
            found = list(differences(*json.loads(json.dumps([_without_precision(c["card"]) for c in (known[0], other)], default=str))))
            if name == "total" and {field.split(".")[0] for field, *_ in found} <= apart:
                continue  # it differs in terms of which this is said already
            apart.add(name)
            field, one, two = found[0]
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            said.append(
                f"{_marked(known[0])} and {_marked(other)} are not comparable: their cards differ in {field}, {_short(one)} and {_short(two)}{more}"
            )
    for of, names in unknown.items():
        said.append(f"{of} carries no score cards; how it measured is not known, and its figures stand apart: {', '.join(names)}")
    return said


def _marked(column: Mapping[str, Any]) -> str:
    return f"{column['label']} ({column['mark']})" if column["mark"] else column["label"]


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
