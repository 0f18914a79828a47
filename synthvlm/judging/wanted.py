"""Which verdicts a judge's stage wants, as SQL: every pair in both orders of a model, every pair once of a person."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from synthvlm.sql import quote

if TYPE_CHECKING:
    from synthvlm.run import RunDirectory, Stage


def wanted_sql(run: RunDirectory, stage: Stage, rows: tuple[int, int] | None = None) -> str:
    """Return SQL for the verdicts that ``stage`` wants; ``flipped``: B is shown first. A verdict consumes pictures by hash and texts."""
    within = "" if rows is None else f" WHERE row >= {rows[0]} AND row < {rows[1]}"
    drawn = f"comparisons/{stage.reads['pairs']}.parquet"
    pairs = f"(SELECT * FROM {run.read_sql([drawn])}{within})"
    values = (
        f"{quote(stage.digest)}, id, coalesce(caption, ''), a_sha256, coalesce(b_sha256, ''), coalesce(a_text, ''), coalesce(b_text, '')"
    )
    if annotator(stage) is not None:
        flipped, orders = flipped_sql(stage), ""
        key = f"md5(concat_ws(chr(31), {values}))"  # the order is the page's, and no part of the question
    else:
        flipped, orders = "o.flipped", ", (VALUES (false), (true)) o(flipped)"
        key = f"md5(concat_ws(chr(31), {values}, o.flipped))"
    return f"(SELECT {key} AS key, p.*, 0::INTEGER AS candidate, {flipped} AS flipped FROM {pairs} p{orders})"


def annotator(stage: Stage) -> str | None:
    """Return the person whose votes the stage holds, or None if it is a model's."""
    return stage.identity.get("human", {}).get("annotator")


def flipped_sql(stage: Stage) -> str:
    """Return SQL that says in which order a person sees a pair: by a hash of person and id."""
    salt = hashlib.sha256(f"order {annotator(stage)}".encode()).hexdigest()[:16]
    return f"(md5(concat_ws(chr(31), {quote(salt)}, id)) >= '8')"
