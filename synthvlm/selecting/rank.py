"""Rank pairs: Total, the best candidate of each caption, quotas. SQL over the table ``gathered``, in memory or spilt by DuckDB."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from synthvlm.errors import OptionError, RunError
from synthvlm.run import RunDirectory, fetch
from synthvlm.sql import identifier, quote

NORMALISE = ("none", "rank")
ALL = "all"


@dataclass(frozen=True)
class Ranking:
    """How pairs are ranked and how many are kept."""

    weights: Mapping[str, float]
    top: str | float | int = ALL
    threshold: float | None = None
    """Least Total."""
    group_by: str | None = None
    """``source`` (the file that a caption was read from), ``meta.FIELD`` or FIELD: ``top`` is then each group's."""
    normalise: str = "none"
    """``rank``: a score counts by its percent rank among all candidates, 0 to 1."""
    limits: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    """Score → the least and the most that it may be for a pair to be chosen."""

    @property
    def allows(self) -> str:
        """Return SQL that says whether a pair is within the limits; a score that is missing or no number is not."""
        sides = [f"isfinite({identifier(c)})" for c in self.limits]
        sides += [f"{identifier(c)} >= {number(least)}" for c, (least, _) in self.limits.items() if least is not None]
        sides += [f"{identifier(c)} <= {number(most)}" for c, (_, most) in self.limits.items() if most is not None]
        return " AND ".join(sides) or "true"

    @property
    def reaches(self) -> str:
        """Return SQL that says whether a pair reaches the threshold."""
        return "true" if self.threshold is None else f"total >= {number(self.threshold)}"

    def check(self, columns: Sequence[str]) -> None:
        """Raise OptionError or RunError for what cannot be."""
        unfit = [c for c, w in self.weights.items() if not math.isfinite(w)]
        if unfit:
            raise OptionError(f"the weight of {unfit[0]!r} is {self.weights[unfit[0]]}", "give a number")
        unknown = [c for c in self.weights if c not in columns]
        if unknown:
            raise RunError(
                f"no score stage has the column {unknown[0]!r}",
                f"there are: {', '.join(columns) or 'none'}; weigh them with --weight NAME=VALUE",
            )
        unknown = [c for c in self.limits if c not in columns]
        if unknown:
            raise RunError(
                f"--within {unknown[0]}: the score stages have no such column",
                f"there are: {', '.join(columns) or 'none'}; name the stage that has it with --scores",
            )
        if self.normalise not in NORMALISE:
            raise OptionError(f"scores cannot be normalised by {self.normalise!r}", f"there are: {', '.join(NORMALISE)}")
        share_or_count(self.top)
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise OptionError(f"--threshold {self.threshold} is not a number", "give the least total, such as 0.75")


def parse_top(top: str | float | int, captions: int) -> int:
    """Return how many of ``captions`` to keep: ``"10%"`` and ``0.1`` are shares, ``100`` and ``"100"`` counts, ``"all"`` is all."""
    share, count = share_or_count(top)
    return min(captions, count if share is None else max(1, int(share * captions + 0.5)))


def share_or_count(top: str | float | int) -> tuple[float | None, int]:
    """Return what ``top`` means: a share and 0, or None and a count. Raises OptionError if it means nothing."""
    text = str(top).strip()
    try:
        if text == ALL:
            return 1.0, 0
        if text.endswith("%"):
            share = float(text[:-1]) / 100
        elif "." in text or "e" in text.lower():
            share = float(text)
        else:
            count = int(text)
            if count < 1:
                raise ValueError
            return None, count
        if not 0 < share <= 1:
            raise ValueError
    except ValueError:
        raise OptionError(f"--top {top} is not a share or a count", "write 10%, 0.1, 1000 or all") from None
    return share, 0


def number(value: float) -> str:
    """Return SQL for exactly this double; a bare literal would be a DECIMAL, and rounded on its way."""
    return f"'{float(value)!r}'::DOUBLE"


def normalised(db: Any, weights: Mapping[str, float], normalise: str) -> str:
    """Return the table to rank: ``gathered``, or with ``rank`` one that has a percent rank beside each weighted score."""
    if normalise == "none":
        return "gathered"
    ranks = "".join(f", percent_rank() OVER (ORDER BY {identifier(c)}) AS {identifier(_term(c, normalise))}" for c in weights)
    finite = " AND ".join(f"isfinite({identifier(c)})" for c in weights)
    db.execute(f"CREATE OR REPLACE TABLE ranked AS SELECT *{ranks} FROM gathered WHERE {finite}")
    return "ranked"


def _term(column: str, normalise: str) -> str:
    return column if normalise == "none" else f"{column} {normalise}"


def term_sql(column: str, weight: float, normalise: str) -> str:
    """Return SQL for one term of Total."""
    return f"{number(weight)} * {identifier(_term(column, normalise))}"


def total_sql(weights: Mapping[str, float], normalise: str = "none") -> str:
    """Return SQL for Total = Σ weight · score."""
    return " + ".join(term_sql(c, w, normalise) for c, w in weights.items())


def best_sql(score: str, source: str) -> str:
    """Return SQL for the best candidate of each caption, ties to the smaller number."""
    return f"SELECT * FROM {source} QUALIFY row_number() OVER (PARTITION BY row ORDER BY {score} DESC, candidate) = 1"


def make_groups(run: RunDirectory, db: Any, group_by: str | None) -> None:
    """Make the table ``captions``: row, id and group of every sample. Raises OptionError if no sample has that field."""
    samples = run.samples_sql()
    if group_by is None:
        db.execute(f"CREATE TABLE captions AS SELECT row, id, NULL::VARCHAR AS grp FROM {samples}")
        return
    field = group_by.removeprefix("meta.")
    if group_by == "source":
        names = {n: str(s["path"]) for n, s in enumerate(run.record["sources"])}
        known = "".join(f" WHEN {n} THEN {quote(path.rstrip('/').rsplit('/', 1)[-1])}" for n, path in names.items())
        group = f"CASE source{known} ELSE source::VARCHAR END" if known else "source::VARCHAR"
    elif group_by in ("id", "caption", "image"):
        group = identifier(group_by)
    else:
        pointer = "/" + field.replace("~", "~0").replace("/", "~1")
        group = f"json_extract_string(meta, {quote(pointer)})"
    db.execute(f"CREATE TABLE captions AS SELECT row, id, {group} AS grp FROM {samples}")
    if not db.execute("SELECT count(grp) FROM captions").fetchall()[0][0]:
        sample = f"(SELECT meta FROM {samples} WHERE meta IS NOT NULL LIMIT 1000)"
        fields = [r["k"] for r in fetch(db, f"SELECT DISTINCT unnest(json_keys(meta)) AS k FROM {sample} ORDER BY k")]
        there = ["source", *("meta.source" if f == "source" else f for f in fields)]
        raise OptionError(f"no caption has the field {group_by!r} to group by", f"there are: {', '.join(there)}")


def make_quotas(db: Any, top: str | float | int, table: str) -> None:
    """Make ``quotas``: of each group, how many captions have a scored pair in ``table``, and how many to keep."""
    share, count = share_or_count(top)
    keep = f"{count}" if share is None else f"greatest(1, floor({number(share)} * n + 0.5))"
    counted = f"SELECT grp, count(*) AS n FROM (SELECT DISTINCT row FROM {table}) JOIN captions USING (row) GROUP BY grp"
    db.execute(f"CREATE OR REPLACE TABLE quotas AS SELECT grp, n AS captions, least(n, {keep})::BIGINT AS keep FROM ({counted})")


def take_sql(db: Any, source: str, score: str = "total", turns: str | None = None, quotas: str = "quotas") -> str:
    """Return SQL for each group's quota (a table that is made like ``quotas``) of the pairs in ``source``, ties to the smaller id, then
    the smaller candidate.

    ``turns``: a column; its values take turns, each with its best pair that is left, instead of the best going first.
    """
    order = f"{score} DESC, id, candidate"
    pairs = f"SELECT p.*, c.id, c.grp FROM {source} p JOIN captions c USING (row)"
    if turns:
        pairs = f"SELECT *, row_number() OVER (PARTITION BY grp, {turns} ORDER BY {order}) AS turn FROM ({pairs})"
        order = f"turn, {order}"
    groups = db.execute(f"SELECT count(*), any_value(keep) FROM {quotas}").fetchall()[0]
    if groups[0] == 1:  # a top-K in one pass, where a window would sort everything
        return f"{pairs} ORDER BY {order} LIMIT {groups[1]}"
    return f"""SELECT p.* FROM (SELECT *, row_number() OVER (PARTITION BY grp ORDER BY {order}) AS place FROM ({pairs})) p
        JOIN {quotas} q ON q.grp IS NOT DISTINCT FROM p.grp WHERE place <= keep"""


def settle(run: RunDirectory, db: Any, ranking: Ranking, source: str | None = None) -> None:
    """Make ``captions`` (ids and groups), ``quotas``, and the rankings of ``gathered``.

    ``scored``: every pair with its ``total``; ``best``: the best candidate of each caption within the limits; ``standing``: the best
    one whose pixels are stored, and reaches the threshold. Quotas count all captions that have a scored pair.
    """
    make_groups(run, db, ranking.group_by)
    rank(db, ranking, source)
    make_quotas(db, ranking.top, "scored" if ranking.limits else "best")


def rank(db: Any, ranking: Ranking, source: str | None = None) -> None:
    """Make ``scored``, ``best`` and ``standing`` of ``source`` (see :func:`normalised`, which makes it if it is not given)."""
    source = source or normalised(db, ranking.weights, ranking.normalise)
    # A score that is no number would be the largest of all in SQL: it must not win.
    total = total_sql(ranking.weights, ranking.normalise)
    db.execute(f"CREATE OR REPLACE VIEW scored AS SELECT * FROM (SELECT *, {total} AS total FROM {source}) WHERE isfinite(total)")
    db.execute(f"CREATE OR REPLACE TABLE best AS {best_sql('total', f'(SELECT * FROM scored WHERE {ranking.allows})')}")
    stored = db.execute("SELECT bool_and(stored) FROM scored").fetchall()[0][0]
    source = "best" if stored in (True, None) else f"({best_sql('total', f'(SELECT * FROM scored WHERE stored AND {ranking.allows})')})"
    db.execute(f"CREATE OR REPLACE TABLE standing AS SELECT * FROM {source} WHERE {ranking.reaches}")
