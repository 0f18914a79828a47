"""What an export holds: a row for each image with its captions, in order, in the table ``plan``; and the bytes of those images.

The table has: row, id, candidate, record_id (unique), n (from 0), path (of the image file), sha256, bytes, tar and "offset" (of an image
that the run made) or uri (of one of the input), meta, and caption with the scores, or captions and sources (where each comes from).
"""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

import duckdb

from synthvlm import images
from synthvlm.errors import OptionError, RunError
from synthvlm.exporting.formats import FORMATS, Layout, Row, Wording, records
from synthvlm.run import SAMPLES_PER_FILE, RunDirectory, Stage
from synthvlm.sql import identifier, quote
from synthvlm.storage import Store

BATCH = 256
THREADS = 8
_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "jp2", "avif", "ppm", "qoi")
_SCORES = ("DOUBLE", "FLOAT", "BIGINT", "INTEGER", "BOOLEAN", "VARCHAR")
T = TypeVar("T")


@dataclass
class Work:
    """One export under way."""

    run: RunDirectory
    store: Store
    format: str
    db: duckdb.DuckDBPyConnection
    wording: Wording
    selection: dict[str, Any] | None = None
    """How the pairs were selected; None: it is of captions."""
    stages: list[Stage] = field(default_factory=list)
    """Of captions: the stages that made them."""
    columns: list[str] = field(default_factory=list)
    limits: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    """Score → the least and the most that an image may have to be exported."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Score → images that its limit kept out."""
    shard: int = 1000
    """Images in a shard, of formats that have shards."""

    @property
    def layout(self) -> Layout:
        """Return where the format's files lie."""
        return FORMATS[self.format]

    @property
    def source(self) -> str:
        """Return which images are exported: ``samples`` (the input's) or an image stage."""
        return self.selection["images"] if self.selection else self.stages[0].reads["image"]

    @property
    def subject(self) -> str:
        """Return what is exported, for messages."""
        return f"selection {self.selection['name']!r} of {self.run.root}" if self.selection else f"the captions of {self.run.root}"

    def batches(self) -> Iterator[list[Row]]:
        """Yield the rows of the plan in order, some at a time."""
        expected = 0
        for some in batches(self.db.cursor(), "SELECT * FROM plan"):  # it was made in order, and a table keeps its order
            if [row["n"] for row in some] != list(range(expected, expected + len(some))):
                raise RunError(f"{self.subject}: rows out of order", "this is a fault of SynthVLM: please report it")
            expected += len(some)
            yield some

    def rows(self) -> Iterator[Row]:
        """Yield the rows of the plan in order."""
        return chain.from_iterable(self.batches())

    def records(self, row: Row) -> Iterator[Row]:
        """Yield what the data file says of a row."""
        return records(self.format, row, self.columns, self.wording)

    def count(self) -> int:
        """Return the number of images."""
        return self.db.execute("SELECT count(*) FROM plan").fetchall()[0][0]


def pairs(work: Work) -> None:
    """Plan the selected pairs, where their pixels lie now (compaction moves them). Raises RunError if one is not as it was selected."""
    run, db = work.run, work.db
    assert work.selection is not None
    name = work.selection["name"]
    chosen = run.read_sql([f"selections/{name}.parquet"])
    table = run.table_sql(run.stage(work.selection["images"]))
    there = 'key, sha256, stored, tar, "offset", batch_size'
    db.execute(f"""CREATE TABLE located AS SELECT s.*, g.key AS there, g.sha256 AS now, g.stored AND g.tar IS NOT NULL AS stored, g.tar, g."offset",
        g.batch_size AS batch_made, NULL::VARCHAR AS uri, m.meta, NULL::VARCHAR AS ending
        FROM {chosen} s LEFT JOIN (SELECT {there} FROM {table} WHERE error IS NULL) g USING (key)
        LEFT JOIN (SELECT row, meta FROM {run.samples_sql()}) m USING (row)""")
    lost = "there IS NULL" if work.format == "recipe" else "(there IS NULL OR NOT stored)"
    total, missing, changed = db.execute(
        f"SELECT count(*), count(*) FILTER ({lost}), count(*) FILTER (now != sha256) FROM located"
    ).fetchall()[0]
    if missing or changed:
        (first,) = db.execute(f"SELECT min(id) FROM located WHERE {lost if missing else 'now != sha256'}").fetchall()[0]
        state = f"are no longer in {run.root}" if missing else "were made anew since"
        raise RunError(
            f"{missing or changed} of the {total} images of selection {name!r} {state} (the first: id {first!r})",
            "run the synth command again: it makes what is missing and selects anew",
        )
    if not total:
        hint = "the winners' pixels were not kept; generate with --store all, or select again"
        raise RunError(f"selection {name!r} of {run.root} is empty", hint)
    kinds = {column: kind for column, kind, *_ in db.execute("DESCRIBE located").fetchall()}
    work.columns = [c for c in work.columns if kinds.get(c) in _SCORES]  # vectors stay in the run
    _apply_limits(work)
    if work.format != "recipe":
        _one_ending(work)
    _number(work)


def _one_ending(work: Work) -> None:
    """Give all images the ending of the first: those of a stage have one format, which is part of its identity."""
    first = next(batches(work.db.cursor(), "SELECT * FROM located ORDER BY row, candidate LIMIT 1"))[0]
    work.db.execute(f"UPDATE located SET ending = {quote(ending(pixels(work.run, first)))}")


def captions(work: Work, source: str, keep_original: bool) -> None:
    """Plan the images of ``source`` (``samples`` or an image stage) that ``work.stages`` captioned, each with its captions in order.

    They are the original first, if there is one and it is kept, then stage by stage and perspective by perspective.
    """
    run, db = work.run, work.db
    db.execute("""CREATE TABLE located (row BIGINT, id VARCHAR, candidate INTEGER, sha256 VARCHAR, seed BIGINT, width INTEGER, height INTEGER,
        bytes BIGINT, tar VARCHAR, "offset" BIGINT, uri VARCHAR, meta VARCHAR, ending VARCHAR, captions VARCHAR[], sources VARCHAR[])""")
    # Some thousand samples at a time: lists of all texts at once would have to fit into memory.
    for first in range(0, run.sample_count(), SAMPLES_PER_FILE):
        rows = (first, first + SAMPLES_PER_FILE)
        made = " UNION ALL ".join(_made(run, stage, n, rows) for n, stage in enumerate(work.stages))
        original = "UNION ALL SELECT row, candidate, -1 AS place, 'original' AS source, caption AS text FROM i WHERE caption IS NOT NULL"
        db.execute(f"""INSERT INTO located WITH i AS ({_images(run, source, rows)}), made AS ({made}),
            texts AS (SELECT * FROM made {original if keep_original else ""}),
            lists AS (SELECT row, candidate, list(text ORDER BY place) AS captions, list(source ORDER BY place) AS sources
                FROM texts SEMI JOIN made USING (row, candidate) GROUP BY row, candidate)
            SELECT i.* EXCLUDE (caption), captions, sources FROM i JOIN lists USING (row, candidate) ORDER BY row, candidate""")
    if not db.execute("SELECT count(*) FROM located").fetchall()[0][0]:
        raise RunError(f"{run.root} has no captions to export", "make some: synthvlm recaption IMAGES --out RUN --model MODEL")
    _apply_limits(work)
    if source == "samples":
        for row in chain.from_iterable(batches(db.cursor(), "SELECT * FROM located WHERE ending IS NULL")):  # its name does not say
            db.execute(f"UPDATE located SET ending = {quote(ending(pixels(run, row)))} WHERE row = {row['row']}")
    else:
        _one_ending(work)
    _number(work)


def _images(run: RunDirectory, source: str, rows: tuple[int, int]) -> str:
    none = ("seed", "BIGINT"), ("width", "INTEGER"), ("height", "INTEGER"), ("bytes", "BIGINT"), ("tar", "VARCHAR"), ("offset", "BIGINT")
    if source == "samples":
        nothing = ", ".join(f"NULL::{kind} AS {identifier(name)}" for name, kind in none)
        found = f"regexp_extract(lower(image), '[.]({'|'.join(_ENDINGS)})$', 1)"
        return f"""SELECT row, id, 0::INTEGER AS candidate, image_sha256 AS sha256, {nothing}, image_uri AS uri, meta, nullif({found}, '') AS ending, caption
            FROM {run.samples_sql(rows)} WHERE image_sha256 IS NOT NULL"""
    return f"""SELECT g.row, g.id, g.candidate, g.sha256, g.seed, g.width, g.height, g.bytes, g.tar, g."offset", NULL::VARCHAR AS uri, s.meta,
        NULL::VARCHAR AS ending, g.caption FROM {run.table_sql(run.stage(source), rows)} g JOIN {run.samples_sql(rows)} s USING (row)
        WHERE g.error IS NULL AND g.stored AND g.tar IS NOT NULL"""


def _made(run: RunDirectory, stage: Stage, number: int, rows: tuple[int, int]) -> str:
    """Return SQL for the captions of a stage: where each stands among those of its image, and where it comes from."""
    return f"""SELECT row, candidate, {number} * 1000 + position AS place, {quote(stage.name)} || '/' || perspective AS source, text
        FROM {run.table_sql(stage, rows)} WHERE error IS NULL"""


def _apply_limits(work: Work) -> None:
    """Take images out of ``located`` that a score's limit keeps out, and count them. An image that was not scored stays."""
    db = work.db
    for column, (least, most) in work.limits.items():
        measured = "located"
        if column not in work.columns:
            stage = next((s for s in score_stages(work.run, work.source) if column in s.columns), None)
            if stage is None:
                raise OptionError(f"--within {column}: no score of these images has that name", "see the columns in: synthvlm status RUN")
            measured = f"(SELECT * FROM {work.run.table_sql(stage)} WHERE error IS NULL)"
        name = identifier(column)
        sides = [f"{name} < {least!r}"] if least is not None else []
        sides += [f"{name} > {most!r}"] if most is not None else []
        db.execute(f"CREATE OR REPLACE TABLE outside AS SELECT DISTINCT row, candidate FROM {measured} WHERE {' OR '.join(sides)}")
        (work.dropped[column],) = db.execute("""DELETE FROM located USING outside o
            WHERE located.row = o.row AND located.candidate = o.candidate""").fetchall()[0]
    if not db.execute("SELECT count(*) FROM located").fetchall()[0][0]:
        told = ", ".join(f"{n:,} by {c}" for c, n in work.dropped.items())
        raise RunError(f"nothing of {work.subject} is left to export: {told} were kept out", "see --within COLUMN=MIN..MAX|off")


def score_stages(run: RunDirectory, source: str) -> list[Stage]:
    """Return the score stages over the images of ``source`` (``samples`` or an image stage)."""
    return [s for s in map(run.stage, run.stage_names()) if s.kind == "score" and s.reads.get("image") == source]


def _number(work: Work) -> None:
    """Make ``plan`` of ``located``.

    An image file has the id for its name where every file system takes it (the pattern leaves out separators, Windows' device names,
    and what looks like an MD5) and no other id is equal to it but for case; otherwise the id's MD5.
    """
    plain = "regexp_full_match(id, '[A-Za-z0-9][A-Za-z0-9._-]{0,99}')"
    special = r"regexp_full_match(lower(id), '[0-9a-f]{32}|(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?')"
    alone = "min(id) OVER (PARTITION BY lower(id)) = max(id) OVER (PARTITION BY lower(id))"
    name = f"CASE WHEN {plain} AND NOT {special} AND {alone} THEN id ELSE md5(id) END"
    # With several candidates of one caption, all ids get their number: a suffix here and there could meet another id.
    several = "(SELECT count(*) > count(DISTINCT id) FROM located)"
    work.db.execute(f"""CREATE TABLE plan AS SELECT *, row_number() OVER (ORDER BY row, candidate) - 1 AS n,
        printf('{work.layout.images}/%05d/%s-%d.', row // {SAMPLES_PER_FILE}, {name}, candidate) || coalesce(ending, '') AS path,
        CASE WHEN {several} THEN id || '-' || candidate ELSE id END AS record_id FROM located ORDER BY row, candidate""")
    work.db.execute("DROP TABLE located")
    counts = "count(*) - count(DISTINCT lower(path)), count(*) - count(DISTINCT record_id)"
    if any(work.db.execute(f"SELECT {counts} FROM plan").fetchall()[0]):
        raise RunError(f"{work.subject} holds an image twice", "select again")


def ending(image: bytes) -> str:
    """Return the ending of a file of these bytes. Raises ImageError if they are no image."""
    kind = images.measure(io.BytesIO(image))[0].lower()
    return {"jpeg": "jpg", "mpo": "jpg", "tiff": "tif", "jpeg2000": "jp2"}.get(kind, kind)


def pixels(run: RunDirectory, row: Row) -> bytes:
    """Return an image's bytes as they stand in the run, or in the input. Raises RunError if they are not what they were."""
    what = f"the image of {row['id']!r}, candidate {row['candidate']}, cannot be exported"
    if row["tar"] is None:
        try:
            data = images.read_image_bytes(row["uri"])
        except images.ImageError as error:
            raise RunError(f"{what}: {error.message}", "put it back, or give the recaption command again to take it out") from error
        if hashlib.sha256(data).hexdigest() == row["sha256"]:
            return data
        raise RunError(f"{what}: {row['uri']} has changed since it was captioned", "give the recaption command again: it captions it anew")
    try:
        data = run.store.read(row["tar"], row["offset"], row["bytes"])
    except FileNotFoundError:
        data = b""
    if len(data) == row["bytes"] and hashlib.sha256(data).hexdigest() == row["sha256"]:
        return data
    raise RunError(
        f"{what}: {run.store.path(row['tar'])} {'is damaged' if data else 'is gone'}",
        "`synthvlm status RUN --verify` sets damaged parts aside; the synth command, run again, repairs the run by making them anew",
    )


def ahead(do: Callable[[Row], T], rows: Iterable[Row], most: int = 2 * THREADS) -> Iterator[tuple[Row, T]]:
    """Yield (row, do(row)) in order, several at a time, never more than ``most`` ahead: results may be whole images."""
    waiting: deque[tuple[Row, Future[T]]] = deque()
    with ThreadPoolExecutor(THREADS, thread_name_prefix="export") as pool:
        try:
            for row in rows:
                waiting.append((row, pool.submit(do, row)))
                if len(waiting) >= most:
                    done, result = waiting.popleft()
                    yield done, result.result()
            while waiting:
                done, result = waiting.popleft()
                yield done, result.result()
        finally:
            pool.shutdown(cancel_futures=True)


def batches(cursor: duckdb.DuckDBPyConnection, sql: str) -> Iterator[list[Row]]:
    """Yield a result as dicts, some rows at a time; it is never whole in memory."""
    cursor.execute(sql)
    names = [d[0] for d in cursor.description or []]
    while some := cursor.fetchmany(BATCH):
        yield [dict(zip(names, values, strict=True)) for values in some]


def readable(file: Any, row: Row) -> None:
    """See that an open file begins as an image of the size that its row says. Raises ImageError or RunError."""
    _, width, height = images.measure(file)
    if row["width"] and (width, height) != (row["width"], row["height"]):
        raise RunError(f"the image of {row['record_id']!r} has {width} × {height} pixels, not {row['width']} × {row['height']}")
