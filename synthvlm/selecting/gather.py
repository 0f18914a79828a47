"""Gather the scores of a run into one slim table, some ten thousand captions at a time, so that millions of candidates fit.

The table ``gathered`` holds row, candidate, stored, and a column per score, of every image that is wanted and present and has them
all: what joining :meth:`synthvlm.run.RunDirectory.table_sql` of the stages gives. Keys are checked where they stand instead of being
made for everything that is wanted and then looked for; and a window over millions of rows, to take one of several with one key, is
spared where no key stands twice.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from synthvlm.errors import RunError
from synthvlm.run import SAMPLES_PER_FILE, RunDirectory, Stage, quote, steadily
from synthvlm.sql import identifier, nothing

if TYPE_CHECKING:
    import duckdb

CANDIDATES = 1_000_000
"""Candidates at a time."""
MEMORY = "1GB"
"""What DuckDB may hold before it spills to the disk."""


@contextmanager
def opened(run: RunDirectory) -> Iterator[tuple[Any, str]]:
    """Open a connection of bounded memory, and a folder for what does not fit."""
    with tempfile.TemporaryDirectory(prefix="synthvlm-") as scratch, run.connect() as db:
        db.execute(f"SET temp_directory = {quote(scratch)}")
        db.execute(f"SET memory_limit = '{MEMORY}'")
        db.execute("SET preserve_insertion_order = false")
        yield db, scratch


def gather(run: RunDirectory, db: duckdb.DuckDBPyConnection, scores: Sequence[Stage]) -> None:
    """Make ``gathered``. Raises RunError if the stages' columns cannot stand side by side."""
    images = image_stage(run, scores)
    columns = [identifier(c) for c in numbers(scores)]
    db.execute(f"CREATE TABLE gathered (row BIGINT, candidate INTEGER, stored BOOLEAN{''.join(f', {c} DOUBLE' for c in columns)})")
    for rows in _ranges(run, images):
        steadily(lambda rows=rows: _read(run, db, images, scores, rows))
        db.execute("INSERT INTO gathered SELECT * FROM chunk")
    db.execute("DROP TABLE IF EXISTS chunk; DROP TABLE IF EXISTS chunk_images")


def image_stage(run: RunDirectory, scores: Sequence[Stage]) -> Stage:
    """Return the image stage that score stages read. Raises RunError if there are several, or none, or two have one column."""
    images = {s.reads["image"] for s in scores if not s.reads_text}
    if len(images) != 1 or images == {"samples"}:
        raise RunError(
            f"the score stages read different images: {', '.join(sorted(images))}"
            if len(images) > 1
            else "no score stage reads images that the run made",
            "name stages of one image stage with --scores",
        )
    seen: dict[str, str] = {}
    for s in scores:
        for c in s.columns:
            if c in seen:
                raise RunError(f"column {c!r} is in two score stages, {seen[c]} and {s.name}", "name one of them with --scores")
            seen[c] = s.name
    return run.stage(images.pop())


def numbers(scores: Sequence[Stage]) -> list[str]:
    """Return the columns of score stages that hold numbers."""
    return [c for s in scores for c in s.columns if s.cards.get(c, {}).get("type") != "string"]


def key_sql(stage: Stage, values: str) -> str:
    """Return SQL for the key of a row of ``stage`` that consumed ``values`` (SQL, comma-separated), as ``wanted_sql`` has it."""
    return f"md5(concat_ws(chr(31), {quote(stage.digest)}, {values}))"


def images_sql(run: RunDirectory, stage: Stage, rows: tuple[int, int] | None, columns: Sequence[str]) -> str | None:
    """Return SQL for the good images of ``stage`` that are wanted now: ``columns`` of their rows (as ``p``) or samples (as ``s``).

    A key may stand several times. None if there is no part.
    """
    present = run.parts_sql(stage, rows)
    if present is None:
        return None
    within = "" if rows is None else f" AND p.row >= {rows[0]} AND p.row < {rows[1]}"
    return f"""SELECT {", ".join(columns)} FROM {present} p JOIN {run.curated_sql(stage, rows)} s ON s.row = p.row
        WHERE p.error IS NULL AND p.candidate < {stage.repeat} AND s.caption IS NOT NULL{within}
        AND p.key = {key_sql(stage, "s.id, s.caption, p.candidate")}"""


def _ranges(run: RunDirectory, images: Stage) -> Iterator[tuple[int, int]]:
    step = max(1, CANDIDATES // images.repeat // SAMPLES_PER_FILE) * SAMPLES_PER_FILE
    return ((at, at + step) for at in range(0, run.sample_count(), step))


def _read(run: RunDirectory, db: duckdb.DuckDBPyConnection, images: Stage, scores: Sequence[Stage], rows: tuple[int, int]) -> None:
    """Make ``chunk``, the rows of ``gathered`` of a range of samples."""
    columns = ("p.row", "p.candidate", "p.sha256", "p.stored", "p.tries", "s.id", "s.caption")
    found = images_sql(run, images, rows, columns)
    if found is None:
        found = f"SELECT * FROM (SELECT *, '' AS caption FROM ({nothing((f.name, str(f.type)) for f in images.schema)})) WHERE false"
        found = f"SELECT row, candidate, sha256, stored, tries, id, caption FROM ({found})"
    db.execute(f"CREATE OR REPLACE TEMP TABLE chunk_images AS {found}")
    if _twice(db, "chunk_images", images.repeat):
        best = "QUALIFY row_number() OVER (PARTITION BY row, candidate ORDER BY stored DESC, tries DESC) = 1"
        db.execute(f"CREATE OR REPLACE TEMP TABLE chunk_images AS SELECT * FROM chunk_images {best}")
    db.execute(_join(run, scores, rows, once=False))
    if _twice(db, "chunk", images.repeat):
        db.execute(_join(run, scores, rows, once=True))


def _twice(db: duckdb.DuckDBPyConnection, table: str, repeat: int) -> bool:
    return bool(db.execute(f"SELECT count(*) > count(DISTINCT row * {repeat} + candidate) FROM {table}").fetchall()[0][0])


def _join(run: RunDirectory, scores: Sequence[Stage], rows: tuple[int, int], once: bool) -> str:
    """Return SQL that joins the images with their scores; ``once``: of several rows with one key only the latest try counts."""
    named = [f"t{n}.{identifier(c)}" for n, s in enumerate(scores) for c in numbers([s])]
    sql = f"CREATE OR REPLACE TEMP TABLE chunk AS SELECT {', '.join(['i.row', 'i.candidate', 'i.stored', *named])} FROM chunk_images i"
    latest = "QUALIFY row_number() OVER (PARTITION BY key ORDER BY tries DESC) = 1" if once else ""
    for n, s in enumerate(scores):
        sql += f" JOIN (SELECT * FROM {_good_rows(run, s, rows)} {latest}) t{n} ON t{n}.row = i.row AND "
        if s.reads_text:
            sql += f"t{n}.key = {key_sql(s, 'i.id, i.caption')}"
        else:
            sql += f"t{n}.candidate = i.candidate AND t{n}.key = {key_sql(s, 'i.id, i.caption, i.sha256, i.candidate')}"
    return sql


def _good_rows(run: RunDirectory, stage: Stage, rows: tuple[int, int]) -> str:
    """Return SQL for a score stage's rows that have not failed, stale ones included."""
    columns = ["key", "row", "candidate", "tries", *numbers([stage])]
    # By name, beside no row at all: parts that were written before the columns were known (a failure at first) have none of them.
    sql = nothing((f.name, str(f.type)) for f in stage.schema if f.name in columns)
    if (present := run.parts_sql(stage, rows)) is not None:
        sql += f" UNION ALL BY NAME SELECT * FROM {present} WHERE error IS NULL AND row >= {rows[0]} AND row < {rows[1]}"
    return f"(SELECT {', '.join(map(identifier, columns))} FROM ({sql}))"
