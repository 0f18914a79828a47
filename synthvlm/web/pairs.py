"""A page of the catalogue's lines: filtered, sorted, by its place in the order.

The first pages come from a top-N over the table. For a place further down the whole order is made once, as an array of line numbers, and
kept: after that every page, the last one too, costs a slice and the look-up of its lines.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from synthvlm.errors import OptionError
from synthvlm.run import fetch, quote
from synthvlm.selecting.rank import number, total_sql
from synthvlm.sql import identifier
from synthvlm.web.catalogue import Catalogue
from synthvlm.web.trial import Trial

NEAR = 2000
"""Places from the top for which no whole order is made."""
ORDERS = 3
"""Whole orders that are kept."""
MOST = 200
"""Lines of a page."""
_CANDIDATES = 1 << 12
SETS = {
    "selected": "{} IN (SELECT row, candidate FROM trial.base)",
    "rest": "{} NOT IN (SELECT row, candidate FROM trial.base)",
    "enter": "{0} IN (SELECT row, candidate FROM trial.chosen) AND {0} NOT IN (SELECT row, candidate FROM trial.base)",
    "leave": "{0} IN (SELECT row, candidate FROM trial.base) AND {0} NOT IN (SELECT row, candidate FROM trial.chosen)",
    "stay": "{0} IN (SELECT row, candidate FROM trial.base) AND {0} IN (SELECT row, candidate FROM trial.chosen)",
}
MARKED = {
    "any": "{} IN (SELECT row, candidate FROM trial.marked)",
    "keep": "{} IN (SELECT row, candidate FROM trial.marked WHERE mark = 'keep')",
    "drop": "{} IN (SELECT row, candidate FROM trial.marked WHERE mark = 'drop')",
    "note": "{} IN (SELECT row, candidate FROM trial.marked WHERE note IS NOT NULL)",
    "none": "{} NOT IN (SELECT row, candidate FROM trial.marked WHERE mark IS NOT NULL)",
}
PAIR = "(row, candidate)"


@dataclass(frozen=True)
class Wish:
    """What to list and how: everything comes from the page and is checked here."""

    sort: str = "row"
    """``row`` (the input's order), ``newest``, ``total`` or a score."""
    down: bool = False
    text: str = ""
    stage: str = ""
    reason: str = ""
    mark: str = ""
    within: str = ""
    """A set of the trial: ``selected``, ``enter`` …"""
    ranges: tuple[tuple[str, float | None, float | None], ...] = ()
    """(score, least, most)."""
    weights: tuple[tuple[str, float], ...] = field(default=())
    """Of the total, if that is asked for."""


class Pairs:
    """Pages of one catalogue; one at a time, under the trial's lock."""

    def __init__(self, catalogue: Catalogue, trial: Trial) -> None:
        self._catalogue, self._trial = catalogue, trial
        self._db = catalogue.cursor()
        self._orders: OrderedDict[Any, np.ndarray] = OrderedDict()
        self._matches: tuple[Any, str] = (None, "")

    def page(self, wish: Wish, offset: int, limit: int) -> dict[str, Any]:
        """Return ``total`` and the lines from place ``offset`` on. Raises OptionError for a wish that cannot be."""
        limit = min(limit, MOST)
        with self._trial.lock:
            key = (wish, self._catalogue.version, self._trial.version)
            if key not in self._orders and offset + limit <= NEAR:
                where, order = self._where(wish), self._order(wish)
                total = self._db.execute(f"SELECT count(*) FROM pairs WHERE {where}").fetchall()[0][0]
                found = f"SELECT row, candidate FROM pairs WHERE {where} ORDER BY {order} LIMIT {limit} OFFSET {offset}"
                places = self._db.execute(found).fetchall()
            else:
                whole = self._whole(key, wish)
                total = len(whole)
                places = [(int(n) // _CANDIDATES, int(n) % _CANDIDATES) for n in whole[offset : offset + limit]]
            return {"total": total, "offset": offset, "pairs": self.lines(places, wish.weights)}

    def lines(self, places: Sequence[tuple[int, int]], weights: Sequence[tuple[str, float]] = ()) -> list[dict[str, Any]]:
        """Return the lines of (row, candidate), in this order."""
        if not places:
            return []
        with self._trial.lock:
            shape = self._catalogue.shape
            values = "".join(f", p.{identifier(c)}" for c in shape.numbers)
            named = ", ".join(f"({n}, {r}, {c})" for n, (r, c) in enumerate(places))
            rows = ", ".join(str(r) for r in sorted({r for r, _ in places}))
            found = fetch(
                self._db,
                f"""SELECT p.row, p.candidate, s.id, s.caption, s.image, p.stage, p.reason, p.stored, p.width, p.height, p.tar, p."offset", p.made_at,
                m.mark, m.note, (p.row, p.candidate) IN (SELECT row, candidate FROM trial.base) AS selected,
                (p.row, p.candidate) IN (SELECT row, candidate FROM trial.chosen) AS chosen{values}
                FROM (SELECT * FROM pairs WHERE row IN ({rows})) p JOIN (VALUES {named}) v(n, row, candidate) ON v.row = p.row AND v.candidate = p.candidate
                JOIN (SELECT * FROM samples WHERE row IN ({rows})) s ON s.row = p.row
                LEFT JOIN trial.marked m ON m.row = p.row AND m.candidate = p.candidate ORDER BY v.n""",
            )
        return [_line(r, shape.numbers, weights) for r in found]

    def _whole(self, key: Any, wish: Wish) -> np.ndarray:
        """Return the whole order: line numbers, row · 4096 + candidate."""
        if key not in self._orders:
            sql = f"SELECT row * {_CANDIDATES} + candidate AS n FROM pairs WHERE {self._where(wish)} ORDER BY {self._order(wish)}"
            self._orders[key] = np.asarray(self._db.execute(sql).fetchnumpy()["n"], np.int64)
            while len(self._orders) > ORDERS:
                self._orders.popitem(last=False)
        self._orders.move_to_end(key)
        return self._orders[key]

    def _order(self, wish: Wish) -> str:
        way = "DESC" if wish.down else "ASC"
        ties = "row, candidate"
        if wish.sort == "row":
            return f"row {way}, candidate"
        if wish.sort == "newest":
            return f"made_at {way} NULLS LAST, row {way}, candidate {way}"
        if wish.sort == "total":
            if not wish.weights:
                raise OptionError("there is no total without weights", "sort by a score")
            self._known([c for c, _ in wish.weights])
            return f"({total_sql(dict(wish.weights))}) {way} NULLS LAST, {ties}"
        self._known([wish.sort])
        return f"{identifier(wish.sort)} {way} NULLS LAST, {ties}"

    def _where(self, wish: Wish) -> str:
        found = ["true"]
        if wish.text:
            found.append(f"row IN (SELECT row FROM {self._found(wish.text)})")
        if wish.stage:
            found.append(f"stage = {quote(wish.stage)}")
        if wish.reason:
            found.append(f"reason = {quote(wish.reason)}")
        for choices, value, what in ((MARKED, wish.mark, "mark"), (SETS, wish.within, "set")):
            if value and value not in choices:
                raise OptionError(f"there is no {what} {value!r}", f"there are: {', '.join(choices)}")
            if value:
                found.append(choices[value].format(PAIR))
        self._known([c for c, _, _ in wish.ranges])
        for column, least, most in wish.ranges:
            found += [f"{identifier(column)} {sign} {number(v)}" for sign, v in ((">=", least), ("<=", most)) if v is not None]
        return " AND ".join(found)

    def _known(self, columns: Sequence[str]) -> None:
        unknown = [c for c in columns if c not in self._catalogue.shape.numbers]
        if unknown:
            raise OptionError(f"there is no score {unknown[0]!r}", f"there are: {', '.join(self._catalogue.shape.numbers) or 'none'}")

    def _found(self, text: str) -> str:
        """Return the table of the samples whose id, caption or image name, or whose captions that were made, hold ``text``."""
        key = (text, self._catalogue.version)
        if self._matches[0] != key:
            needle = f"lower({quote(text)})"
            sql = f"""SELECT row FROM samples WHERE id = {quote(text)} OR contains(lower(caption), {needle}) OR contains(lower(image), {needle})"""
            for stage in self._catalogue.shape.captions:
                said = self._catalogue.run.parts_sql(stage, columns="row, text")
                if said:
                    sql += f" UNION SELECT row FROM {said} WHERE contains(lower(text), {needle})"
            self._db.execute(f"CREATE OR REPLACE TEMP TABLE matches AS {sql}")
            self._matches = (key, "matches")
        return self._matches[1]


def _line(r: Mapping[str, Any], columns: Sequence[str], weights: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """Return a line as the page has it."""
    scores = {c: r[c] for c in columns}
    terms = [(w, scores.get(c)) for c, w in weights]
    known = [w * value for w, value in terms if value is not None]
    total = sum(known) if known and len(known) == len(terms) else None
    # Changes when the pixels do, so that a browser may keep a picture for good.
    version = f"{r['tar'] or ''}-{r['offset'] or 0}".rsplit("/", 1)[-1]
    names = (
        "row",
        "candidate",
        "id",
        "caption",
        "image",
        "stage",
        "reason",
        "stored",
        "width",
        "height",
        "mark",
        "note",
        "selected",
        "chosen",
    )
    return {n: r[n] for n in names} | {"scores": scores, "total": total, "version": version, "made_at": r["made_at"]}
