"""The tables that a report counts: ``made`` (images), ``scored`` and ``best`` (pairs), slim and made a range of samples at a time.

A million samples with several candidates stay within the memory that the connection may hold, and spill to the disk beyond it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from synthvlm.reporting.subjects import Subject
from synthvlm.run import SAMPLES_PER_FILE, RunDirectory, Stage, fetch, steadily
from synthvlm.selecting.gather import CANDIDATES, gather, key_sql
from synthvlm.selecting.rank import best_sql, normalised, total_sql
from synthvlm.sql import identifier


def make_images(subject: Subject) -> None:
    """Make ``made``: row, candidate, tokens cut, note, stored, error, and a hash of the bytes, of every image that is wanted and present."""
    run, db, stage = subject.run, subject.db, subject.images
    assert stage is not None
    db.execute(
        """CREATE TABLE made (row BIGINT, candidate INTEGER, cut_tokens INTEGER, note VARCHAR, stored BOOLEAN, error VARCHAR,
            error_class VARCHAR, bytes_hash UBIGINT)"""
    )
    for rows in ranges(run, stage.repeat):
        table = run.table_sql(stage, rows)
        read = f"SELECT row, candidate, cut_tokens, note, stored, error, error_class, hash(sha256) FROM {table}"
        steadily(lambda read=read: db.execute(f"INSERT INTO made {read}"))


def make_pairs(subject: Subject) -> None:
    """Make ``scored`` (row, candidate, stored, every score, ``total``, ``selected``) and ``best``, the best candidate of each caption.

    ``total`` is NULL where a term of it is no number.
    """
    run, db = subject.run, subject.db
    if subject.images is None:
        _gather_samples(subject)
    else:
        gather(run, db, subject.scores)
    source = normalised(db, subject.weights, subject.normalise)
    ranks = f"EXCLUDE ({', '.join(identifier(f'{c} rank') for c in subject.weights)})" if source == "ranked" else ""
    db.execute(f"CREATE TABLE chosen AS {_chosen_sql(subject)}")
    total = total_sql(subject.weights, subject.normalise)
    db.execute(f"""CREATE TABLE scored AS SELECT g.* {ranks}, CASE WHEN isfinite({total}) THEN {total} END AS total,
        c.row IS NOT NULL AS selected FROM {source} g LEFT JOIN chosen c USING (row, candidate)""")
    db.execute("DROP TABLE gathered; DROP TABLE IF EXISTS ranked; DROP TABLE chosen")
    db.execute(f"CREATE TABLE best AS {best_sql('total', '(SELECT * FROM scored WHERE total IS NOT NULL)')}")


def _chosen_sql(subject: Subject) -> str:
    """Return SQL for the selected pairs (row, candidate) whose caption is still the one that they were selected with."""
    if subject.selection is None or subject.images is None:
        return "SELECT 0::BIGINT AS row, 0::INTEGER AS candidate WHERE false"
    chosen = subject.run.read_sql([f"selections/{subject.selection['name']}.parquet"])
    return f"""SELECT p.row, p.candidate FROM {chosen} p JOIN {subject.run.samples_sql()} s ON s.row = p.row
        WHERE p.key = {key_sql(subject.images, "s.id, s.caption, p.candidate")}"""


def _gather_samples(subject: Subject) -> None:
    """Make ``gathered`` of the scores of pairs that were read in."""
    run, db = subject.run, subject.db
    columns = [identifier(c) for c in subject.all_columns]
    db.execute(f"CREATE TABLE gathered (row BIGINT, candidate INTEGER, stored BOOLEAN{''.join(f', {c} DOUBLE' for c in columns)})")
    for rows in ranges(run, 1):
        tables = [f"(SELECT * FROM {run.table_sql(s, rows)} WHERE error IS NULL) t{n}" for n, s in enumerate(subject.scores)]
        joined = tables[0] + "".join(f" JOIN {t} USING (row)" for t in tables[1:])
        steadily(lambda joined=joined: db.execute(f"INSERT INTO gathered SELECT row, 0, true, {', '.join(columns)} FROM {joined}"))


def ranges(run: RunDirectory, per_sample: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of samples with about a million rows each, ``per_sample`` of a sample."""
    step = max(1, CANDIDATES // max(1, per_sample) // SAMPLES_PER_FILE) * SAMPLES_PER_FILE
    return ((at, at + step) for at in range(0, run.sample_count(), step))


def tally(subject: Subject, stage: Stage) -> dict[str, Any]:
    """Return how many rows of a stage are wanted, made and failed, and the failures by reason with an example each."""
    run, db = subject.run, subject.db
    if stage is subject.images:
        wanted = db.execute(f"SELECT count(*) FROM {run.wanted_sql(stage)}").fetchall()[0][0]
        reasons = fetch(
            db, "SELECT error_class AS class, count(*) AS rows, min(error) AS example, error IS NULL AS good FROM made GROUP BY 1, 4"
        )
    else:
        wanted, reasons = _count_scores(subject, stage)
    good = sum(r["rows"] for r in reasons if r["good"])
    bad = sorted((r for r in reasons if not r["good"]), key=lambda r: (-r["rows"], str(r["class"])))
    failures = [{k: r[k] for k in ("class", "rows", "example")} for r in bad]
    return {"wanted": wanted, "made": good, "failed": sum(r["rows"] for r in failures), "failures": failures}


def _count_scores(subject: Subject, stage: Stage) -> tuple[int, list[dict[str, Any]]]:
    """Return how many scores a stage wants, and its rows by reason. Where none has failed, the pairs need not be counted again."""
    run, db = subject.run, subject.db
    if subject.images is None:
        wanted = db.execute(f"SELECT count(*) FROM {run.wanted_sql(stage)}").fetchall()[0][0]
    else:
        at_hand = "count(*) FILTER (error IS NULL)" if not stage.reads_text else "count(DISTINCT row)"
        wanted = db.execute(f"SELECT {at_hand} FROM made").fetchall()[0][0]
    present = run.parts_sql(stage, columns="error")
    none_failed = present is None or not db.execute(f"SELECT count(error) FROM {present}").fetchall()[0][0]
    if none_failed and len(subject.scores) == 1:
        scored = db.execute("SELECT count(*) FROM scored").fetchall()[0][0]
        return wanted, [{"class": None, "rows": scored, "example": None, "good": True}]
    found: dict[tuple[Any, bool], dict[str, Any]] = {}
    for rows in ranges(run, subject.images.repeat if subject.images else 1):
        by_reason = f"""SELECT error_class AS class, count(*) AS rows, min(error) AS example, error IS NULL AS good
            FROM {run.table_sql(stage, rows)} GROUP BY 1, 4"""
        for r in steadily(lambda sql=by_reason: fetch(db, sql)):
            so_far = found.setdefault((r["class"], r["good"]), r | {"rows": 0})
            so_far["rows"] += r["rows"]
            so_far["example"] = min(filter(None, (so_far["example"], r["example"])), default=None)
    return wanted, list(found.values())
