"""Join tables of captions to the table of images and write a line for each image: DuckDB does it, in bounded memory.

The table ``images`` has a row for each line, in order. Each table of captions is brought into that order, a row for a row; then
all are read side by side and their texts, which are JSON already, put together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO, Any

import duckdb

_BATCH = 2048
_AHEAD = 4
"""Batches that wait to be written."""


@dataclass
class Column:
    """One position of the lists: where its texts lie, and what is told of it."""

    source: str
    table: str
    caption: str = "caption_0"
    about: dict[str, Any] = field(default_factory=dict)
    """What the provenance says of it."""
    lacking: int = 0
    """Images that have no caption here."""

    @property
    def sql(self) -> str:
        """Return the column, as SQL has it."""
        return f"{self.table}.{self.caption}"


def first_of_each(db: duckdb.DuckDBPyConnection, table: str) -> int:
    """Keep the first row of each image in ``table``; return how many others there were."""
    total, different = one(db, f"SELECT count(*), count(DISTINCT image) FROM {table}")
    if different < total:
        db.execute(f"""CREATE OR REPLACE TABLE {table} AS SELECT t.* FROM {table} t
            SEMI JOIN (SELECT min(rowid) AS first FROM {table} GROUP BY image) f ON t.rowid = f.first ORDER BY t.rowid""")
    return total - different


def align(db: duckdb.DuckDBPyConnection, table: str, captions: Sequence[str], on: str = "image") -> dict[str, int]:
    """Make ``table`` (``row``, ``caption_0``) in the order of ``images`` from ``captions``: SQL with the columns ``on`` and ``caption_0``.

    It has a row for each of ``images``, without a caption where there is none; of several captions of one image it has the first.
    Returns how many ``records`` there were, and of them how many are ``used``, how many were another of their image
    (``duplicates``), and how many are of images that ``images`` lacks (``unknown``). DuckDB must be running with one thread.
    """
    # Numbered on the way: that counts them, those of unknown images too, and says which was first. One thread keeps rows in order.
    db.execute(f"CREATE OR REPLACE SEQUENCE {table}_records")
    number = f"nextval('{table}_records')"
    numbered = " UNION ALL ".join(f"SELECT {on}, caption_0, {n << 40} + {number} AS n FROM ({c})" for n, c in enumerate(captions))
    db.execute(f"CREATE TABLE {table} AS SELECT i.rowid AS row, t.caption_0, t.n FROM images i LEFT JOIN ({numbered}) t USING ({on})")
    (lines,) = one(db, "SELECT count(*) FROM images")
    rows, known, in_order = one(db, f"SELECT count(*), count(n), coalesce(bool_and(row = rowid), true) FROM {table}")
    (records,) = one(db, f"SELECT coalesce(last_value, 0) FROM duckdb_sequences() WHERE sequence_name = '{table}_records'")
    used = known
    if rows > lines:
        db.execute(f"""CREATE OR REPLACE TABLE {table} AS SELECT row, arg_min(caption_0, n) AS caption_0, min(n) AS n
            FROM {table} GROUP BY row ORDER BY row""")
        (used,) = one(db, f"SELECT count(n) FROM {table}")
    elif not in_order:  # the join did not fit into memory
        db.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT row, caption_0, n FROM {table} ORDER BY row")
    return {"records": records, "used": used, "duplicates": known - used, "unknown": records - known}


def lines_sql(columns: Sequence[Column], missing: str, dedupe: bool, positions: bool, images: str = "images") -> str:
    """Return SQL for the lines, in order: ``line``, and with ``positions`` the numbers of the columns that its captions come from.

    ``images`` is the table that has the images. ``missing`` and ``dedupe`` are those of :func:`synthvlm.merge.merge_files`.
    """
    kept: list[str] = []
    for n, column in enumerate(columns):
        before = ", ".join(c.sql for c in columns[:n])
        kept.append(f"CASE WHEN {column.sql} IN ({before}) THEN NULL ELSE {column.sql} END" if dedupe and before else column.sql)
    numbers = ", ".join(f"CASE WHEN {text} IS NOT NULL THEN '{n}' END" for n, text in enumerate(kept))
    numbers = f", '[' || concat_ws(', ', {numbers}) || ']' || chr(10) AS positions" if positions else ""
    if missing == "empty":
        kept = [f"coalesce({text}, '\"\"')" for text in kept]
    tables = list(dict.fromkeys(c.table for c in columns if c.table != images))
    # Each table was brought into order; should one not be, no caption may ever get to another image.
    in_order = " AND ".join(f"{t}.row = {images}.rowid" for t in tables) or "true"
    line = f"'{{\"image\": ' || {images}.image || ', \"caption\": [' || concat_ws(', ', {', '.join(kept)}) || ']}}' || chr(10)"
    sources = [[c.sql for c in columns if c.source == name] for name in dict.fromkeys(c.source for c in columns)]
    there = (" AND " if missing == "drop" else " OR ").join(f"({' OR '.join(f'{c} IS NOT NULL' for c in s)})" for s in sources)
    where = "" if missing == "empty" else f" WHERE {there}"
    return f"""SELECT CASE WHEN {in_order} THEN {line} ELSE error('rows out of order') END AS line{numbers}
        FROM {images} {" ".join(f"POSITIONAL JOIN {t}" for t in tables)}{where}"""


def write(db: duckdb.DuckDBPyConnection, sql: str, files: Sequence[IO[bytes]]) -> int:
    """Write the texts that ``sql`` selects, its first column to the first file and so on; return the number of rows.

    Raises duckdb.Error.
    """
    count = 0
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1, "merge-write") as writer:  # while DuckDB goes on
        for batch in _batches(db, sql):
            count += batch.num_rows
            waiting.append(writer.submit(_write, batch, files))
            if len(waiting) > _AHEAD:
                waiting.popleft().result()
        for last in waiting:
            last.result()
    return count


def _batches(db: duckdb.DuckDBPyConnection, sql: str) -> Iterator[Any]:
    batches = db.sql(sql).to_arrow_reader(_BATCH)
    while True:
        try:
            batch = next(batches, None)
        except OSError as error:  # as which a reader of Arrow raises DuckDB's
            raise duckdb.IOException(str(error)) from error
        if batch is None:
            return
        yield batch


def _write(batch: Any, files: Sequence[IO[bytes]]) -> None:
    """Write the columns of an Arrow batch (large_string) as they lie in memory: one text after another."""
    for file, texts in zip(files, batch.columns, strict=True):
        _, offsets, data = texts.buffers()
        if len(texts) and data is not None:
            places = memoryview(offsets).cast("q")
            file.write(memoryview(data)[places[texts.offset] : places[texts.offset + len(texts)]])


def one(db: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """Return the only row."""
    return db.execute(sql).fetchall()[0]
