"""Sweep a weight: how the selected set changes with it. Scores are gathered once; no image is read, no selection written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from synthvlm import cards
from synthvlm.errors import OptionError, RunError
from synthvlm.run import RunDirectory, Stage, fetch
from synthvlm.selecting.gather import gather, numbers, opened
from synthvlm.selecting.rank import Ranking, normalised, rank, settle, take_sql
from synthvlm.sql import identifier

MOST = 1000
"""Values of one sweep."""


def parse_sweep(text: str) -> tuple[str, list[float]]:
    """Return the score and the weights that ``weight.SCORE=FROM:TO:STEP`` names, both ends included. Raises OptionError."""
    way_on = "write for example --sweep weight.ssim=0:1:0.1"
    field, found, numbers = text.partition("=")
    kind, dot, column = field.partition(".")
    if not (found and dot and column) or kind != "weight":
        raise OptionError(f"--sweep {text!r} is not weight.SCORE=FROM:TO:STEP", way_on)
    try:
        start, stop, step = (float(x) for x in numbers.split(":"))
    except ValueError:
        raise OptionError(f"--sweep {text!r}: {numbers!r} is not FROM:TO:STEP", way_on) from None
    if not all(map(math.isfinite, (start, stop, step))) or step <= 0 or stop < start:
        raise OptionError(f"--sweep {text!r} has no values", way_on)
    count = math.floor((stop - start) / step + 1e-9) + 1
    if count > MOST:
        raise OptionError(f"--sweep {text!r} has {count:,} values", f"at most {MOST}: give a larger STEP")
    return column, [round(start + n * step, 12) for n in range(count)]


def sweep(run: RunDirectory, scores: Sequence[Stage], ranking: Ranking, text: str) -> dict[str, Any]:
    """Return what is selected at each weight that ``text`` names, the other settings being those of ``ranking``.

    For each: ``threshold`` (least Total), means of the scores, ``overlap`` (share of the pairs that ``ranking`` itself selects which are
    selected here too) and ``changed`` (pairs that the value before did not select).
    """
    column, values = parse_sweep(text)
    columns = numbers(scores)
    cards.check(run, scores)
    replace(ranking, weights={**ranking.weights, column: 0.0}).check(columns)
    with opened(run) as (db, _):
        gather(run, db, scores)
        source = normalised(db, {**ranking.weights, column: 0.0}, ranking.normalise)
        settle(run, db, ranking, source)
        if not db.execute("SELECT count(*) FROM standing").fetchall()[0][0]:
            raise RunError(f"{run.root} has nothing to select from", "run: synthvlm score RUN; or set a lower --threshold")
        db.execute(f"CREATE TABLE base AS SELECT row, candidate FROM ({take_sql(db, 'standing')})")
        base = db.execute("SELECT count(*) FROM base").fetchall()[0][0]
        named = ", ".join(f"round(avg({identifier(c)}), 12) AS {identifier(c)}" for c in columns)
        found = []
        for value in values:
            rank(db, replace(ranking, weights={**ranking.weights, column: value}), source)
            db.execute(f"CREATE OR REPLACE TABLE selected AS SELECT * FROM ({take_sql(db, 'standing')})")
            (told,) = fetch(db, f"SELECT count(*) AS selected, min(total) AS threshold, {named} FROM selected")
            told |= fetch(db, "SELECT count(*) AS same FROM selected JOIN base USING (row, candidate)")[0]
            told["changed"] = None
            if found:
                told |= fetch(db, "SELECT count(*) AS changed FROM selected ANTI JOIN before USING (row, candidate)")[0]
            found.append({"value": value, **told, "overlap": told.pop("same") / base})
            db.execute("CREATE OR REPLACE TABLE before AS SELECT row, candidate FROM selected")
    return {
        "sweep": f"weight.{column}",
        "weights": dict(ranking.weights),
        "top": str(ranking.top),
        "base_selected": base,
        "values": found,
    }
