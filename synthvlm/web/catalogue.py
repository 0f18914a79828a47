"""What a run holds, a line per pair, in a DuckDB file of its own that follows the run: what the page lists, filters, sorts and ranks.

``pairs`` has a line for each image that is wanted, made or not (of a run that captions images: each image of the input), with the
stage that it has come to, the reason if it failed there, every score, and where its pixels lie; ``samples`` has ids and captions.
It is read by chunks of samples, the first at once, so that the page has something to show; afterwards only those chunks are read
again whose parts have changed. No lock is taken and nothing is written into the run.
"""

from __future__ import annotations

import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import duckdb

from synthvlm import parts
from synthvlm.errors import RunError
from synthvlm.options import digest
from synthvlm.run import SAMPLES_PER_FILE, RunDirectory, Stage, quote, steadily
from synthvlm.selecting.gather import key_sql, numbers
from synthvlm.sql import TYPES, identifier, nothing

SAMPLES = "samples"
MEMORY = "1GB"
AT_ONCE = (1, 2, 5, 10, 20)
"""Chunks that are read at a time: few at first, so that the page shows something soon."""
CAPTION_COLUMNS = ("captions", "characters", "tokens")
"""Of each image that was captioned: how many captions, and their mean length."""
_FIXED = (
    "row BIGINT, candidate INTEGER, stage VARCHAR, reason VARCHAR, stored BOOLEAN, scored BOOLEAN, "
    'tar VARCHAR, "offset" BIGINT, bytes BIGINT, width INTEGER, height INTEGER, made_at DOUBLE'
)


@dataclass(frozen=True)
class Shape:
    """What stages the lines are made of; another shape is another table."""

    source: str
    """The image stage, or ``samples``: the input's own images."""
    images: Stage | None
    scores: tuple[Stage, ...]
    """Of the images: those by which pairs are ranked."""
    texts: tuple[Stage, ...]
    """What was measured of captions, or of the input's own pairs."""
    captions: tuple[Stage, ...]

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Return all of them, in the order in which a pair goes through them."""
        return (*([self.images] if self.images else []), *self.texts, *self.scores, *self.captions)

    @property
    def columns(self) -> dict[str, tuple[Stage, str]]:
        """Return the scores: name → (stage, column). A column that another stage has too is told by its stage."""
        found: dict[str, tuple[Stage, str]] = {}
        for stage in (*self.scores, *self.texts):
            for column in numbers([stage]):
                found[column if column not in found else f"{stage.name}.{column}"] = (stage, column)
        return found

    @property
    def weighable(self) -> list[str]:
        """Return the scores that pairs can be ranked by."""
        return [name for name, (stage, _) in self.columns.items() if stage in self.scores]

    @property
    def numbers(self) -> list[str]:
        """Return all columns to sort and filter by."""
        return [*self.columns, *(CAPTION_COLUMNS if self.captions else ())]

    def same_tables(self, other: Shape | None) -> bool:
        """Say whether lines of the other shape can stand in the same table."""
        return other is not None and (self.source, self.numbers) == (other.source, other.numbers)


def shape(run: RunDirectory, source: str | None = None) -> Shape:
    """Return what there is to show: of image stage ``source``, or the last of the run, or the input's images. Raises RunError."""
    stages = [run.stage(n) for n in run.stage_names()]
    made = [s for s in stages if s.kind == "generate"]
    if source not in (None, SAMPLES) and source not in [s.name for s in made]:
        raise RunError(f"{run.root} has no image stage {source!r}", f"it has: {', '.join(s.name for s in made) or 'none'}")
    if source is None:
        read = {s.reads.get("image") for s in stages if s.kind == "score"}
        best = [s for s in made if s.name in read] or made
        source = best[0].name if best else SAMPLES
    images = None if source == SAMPLES else run.stage(source)
    scores = [s for s in stages if s.kind == "score"]
    return Shape(
        source,
        images,
        tuple(s for s in scores if images and s.reads.get("image") == source),
        tuple(s for s in scores if s.reads_text or (images is None and s.reads.get("image") == SAMPLES)),
        tuple(s for s in stages if s.kind == "caption" and s.reads["image"] == source),
    )


class Catalogue:
    """The lines of one run. Its connections may be used by one thread each: :meth:`cursor` gives another."""

    def __init__(self, run: RunDirectory, source: str | None = None) -> None:
        shape(run, source)  # raises before anything is made
        self.run = run
        self._asked = source
        self._scratch = tempfile.TemporaryDirectory(prefix="synthvlm-view-")
        self._db = duckdb.connect(f"{self._scratch.name}/catalogue.duckdb")
        self._db.execute(f"SET memory_limit = '{MEMORY}'; SET temp_directory = {quote(self._scratch.name)}")
        self._db.execute("SET preserve_insertion_order = false; ATTACH ':memory:' AS trial")
        if not run.store.is_local:
            self._db.register_filesystem(run.store.fs)
        self._read: dict[int, str] = {}
        self._refreshing = threading.Lock()
        self.version = 0
        """Raised whenever something has changed."""
        self.progress = (0, 1)
        """Chunks that are up to date, of how many."""
        self.shape = self._reshape(None)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a connection for one thread."""
        return self._db.cursor()

    def close(self) -> None:
        """Let go of everything."""
        with self._refreshing:
            self._db.close()
            self._scratch.cleanup()

    # -- following the run ---------------------------------------------------------------------------------------------

    def refresh(self, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Read what has changed since the last time; return whether anything had."""
        with self._refreshing:
            self.shape = self._reshape(self.shape)
            now = self._fingerprints()
            stale = [n for n in now if self._read.get(n) != now[n]]
            self.progress = (len(now) - len(stale), max(1, len(now)))
            db = self.cursor()
            for first, last in _batches(stale):
                if stopping():
                    break
                steadily(lambda first=first, last=last: self._load(db, first, last))
                self._read |= {n: now[n] for n in range(first, last + 1)}
                self.progress = (self.progress[0] + last + 1 - first, self.progress[1])
                self.version += 1
            return bool(stale)

    def _reshape(self, before: Shape | None) -> Shape:
        now = shape(self.run, self._asked)
        if not now.same_tables(before):
            self._read = {}
            named = "".join(f", {identifier(c)} DOUBLE" for c in now.numbers)
            db = self.cursor()
            db.execute("CREATE OR REPLACE TABLE samples (row BIGINT, id VARCHAR, caption VARCHAR, image VARCHAR)")
            db.execute(f"CREATE OR REPLACE TABLE pairs ({_FIXED}{named})")
            self.version += 1
        return now

    def _fingerprints(self) -> dict[int, str]:
        """Return, for every chunk of samples, what it was made of: the input, the settings, the parts that may hold its rows."""
        run = self.run
        everywhere = [
            run.record["sources"],
            [[s.digest, s.repeat, s.runtime.get("curation"), list(s.perspectives)] for s in self.shape.stages],
        ]
        curation = self.shape.images and self.shape.images.runtime.get("curation")
        if curation:
            everywhere.append((run.store.read_json(f"curation/{curation}.json") or {}).get("inputs"))
        held: defaultdict[int, list[str]] = defaultdict(list)
        for stage in self.shape.stages:
            for part in parts.list_parts(run.store, stage.name):
                first, last = part.first * stage.shard_size, (part.last + 1) * stage.shard_size - 1
                for n in range(first // SAMPLES_PER_FILE, last // SAMPLES_PER_FILE + 1):
                    held[n].append(part.path)
        return {n: digest([everywhere, sorted(held[n])]) for n in range(-(-run.sample_count() // SAMPLES_PER_FILE))}

    def _load(self, db: duckdb.DuckDBPyConnection, first: int, last: int) -> None:
        """Read chunks ``first`` to ``last`` anew."""
        rows = (first * SAMPLES_PER_FILE, (last + 1) * SAMPLES_PER_FILE)
        db.execute(f"CREATE OR REPLACE TEMP TABLE fresh AS {self._pairs_sql(rows)}")
        texts = f"SELECT row, id, caption, image FROM {self.run.samples_sql(rows)} ORDER BY row"
        db.execute(f"CREATE OR REPLACE TEMP TABLE fresh_samples AS {texts}")
        within = f"WHERE row >= {rows[0]} AND row < {rows[1]}"
        db.execute("BEGIN")
        try:
            db.execute(f"DELETE FROM pairs {within}; INSERT INTO pairs BY NAME SELECT * FROM fresh ORDER BY row, candidate")
            db.execute(f"DELETE FROM samples {within}; INSERT INTO samples SELECT * FROM fresh_samples")
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("DROP TABLE fresh; DROP TABLE fresh_samples")

    # -- the lines -----------------------------------------------------------------------------------------------------

    def _pairs_sql(self, rows: tuple[int, int]) -> str:
        """Return SQL for the lines of a range of samples."""
        shape = self.shape
        base = self._made_sql(shape.images, rows) if shape.images else self._given_sql(rows)
        come, reasons, values, joins = "i.stage", ["i.reason"], [], ""
        for n, stage in enumerate((*shape.scores, *shape.texts)):
            joins += f" LEFT JOIN {latest_sql(self.run, stage, rows)} t{n} ON t{n}.key = {key_sql(stage, _consumed(stage))}"
            if stage in shape.scores:
                come = f"CASE WHEN t{n}.key IS NOT NULL THEN {quote(stage.name)} ELSE {come} END"
                reasons.append(f"t{n}.error_class")
            finite = "CASE WHEN t{n}.error IS NULL AND isfinite({c}) THEN {c} END AS {name}"
            values += [
                finite.format(n=n, c=f"t{n}.{identifier(c)}", name=identifier(name)) for name, (s, c) in shape.columns.items() if s is stage
            ]
        for n, stage in enumerate(shape.captions):
            joins += f" LEFT JOIN {self._said_sql(stage, rows)} c{n} ON c{n}.row = i.row AND c{n}.candidate = i.candidate"
            come = f"CASE WHEN c{n}.row IS NOT NULL THEN {quote(stage.name)} ELSE {come} END"
            reasons.append(f"c{n}.reason")
        if shape.captions:
            several = range(len(shape.captions))
            count = " + ".join(f"coalesce(c{n}.captions, 0)" for n in several)
            values.append(f"({count})::DOUBLE AS captions")
            values += [
                f"({' + '.join(f'coalesce(c{n}.{c}, 0)' for n in several)}) / nullif({count}, 0) AS {c}" for c in CAPTION_COLUMNS[1:]
            ]
        ranked = range(len(shape.scores))
        scored = " AND ".join(f"t{n}.key IS NOT NULL AND t{n}.error IS NULL" for n in ranked) or "false"
        head = f"i.row, i.candidate, {come} AS stage, coalesce({', '.join(reasons)}) AS reason, i.stored, {scored} AS scored"
        latest = ", ".join(["i.made_at", *(f"c{n}.made_at" for n in range(len(shape.captions)))])
        places = f'i.tar, i."offset", i.bytes, i.width, i.height, greatest({latest}) AS made_at'
        return f"SELECT {', '.join([head, places, *values])} FROM ({base}) i{joins}"

    def _made_sql(self, stage: Stage, rows: tuple[int, int]) -> str:
        """Return SQL for the images that a stage is to make, and for the captions that its curation left out."""
        name, curation = quote(stage.name), stage.runtime.get("curation")
        sql = f"""SELECT w.row, w.id, w.candidate, w.caption, p.sha256, CASE WHEN p.key IS NULL THEN 'waiting' ELSE {name} END AS stage,
            p.error_class AS reason, coalesce(p.stored, false) AS stored, p.tar, p."offset", p.bytes, p.width, p.height, p.made_at
            FROM {self.run.wanted_sql(stage, rows)} w LEFT JOIN {latest_sql(self.run, stage, rows)} p USING (key)"""
        if curation:
            decided = self.run.read_sql([f"curation/{curation}.parquet"])
            sql += f""" UNION ALL BY NAME SELECT s.row, s.id, 0 AS candidate, s.caption, 'curation' AS stage, false AS stored,
                coalesce(k.reason, 'not curated') AS reason
                FROM {self.run.samples_sql(rows)} s LEFT JOIN (SELECT * FROM {decided} WHERE NOT keep) k ON k.row = s.row AND k.caption_md5 = md5(s.caption)
                WHERE s.caption IS NOT NULL AND s.row NOT IN (SELECT row FROM {self.run.curated_sql(stage, rows)})"""
        return sql

    def _given_sql(self, rows: tuple[int, int]) -> str:
        """Return SQL for the input's own images."""
        return f"""SELECT row, id, 0 AS candidate, caption, image_sha256 AS sha256, 'waiting' AS stage, NULL::VARCHAR AS reason, true AS stored,
            NULL::VARCHAR AS tar, NULL::BIGINT AS "offset", NULL::BIGINT AS bytes, NULL::INTEGER AS width, NULL::INTEGER AS height,
            NULL::DOUBLE AS made_at FROM {self.run.samples_sql(rows)} WHERE image_sha256 IS NOT NULL"""

    def _said_sql(self, stage: Stage, rows: tuple[int, int]) -> str:
        """Return SQL for what a caption stage said of each image, counted and measured."""
        return f"""(SELECT w.row, w.candidate, count(*) FILTER (error IS NULL) AS captions, max(error_class) AS reason, max(made_at) AS made_at,
            sum(length(text)) FILTER (error IS NULL) AS characters, sum(tokens) FILTER (error IS NULL) AS tokens
            FROM {self.run.wanted_sql(stage, rows)} w JOIN {latest_sql(self.run, stage, rows)} p USING (key) GROUP BY w.row, w.candidate)"""


def latest_sql(run: RunDirectory, stage: Stage, rows: tuple[int, int]) -> str:
    """Return SQL for a stage's rows, stale ones included, of several with one key the one that counts, and when it was written."""
    shards = (rows[0] // stage.shard_size, (rows[1] - 1) // stage.shard_size)
    found = parts.list_parts(run.store, stage.name, shards)
    known = {f.name: str(f.type) for f in stage.schema if str(f.type) in TYPES} | {"made_at": "double"}
    none = nothing(known.items())
    if not found:
        return f"({none})"
    written = ", ".join(f"({quote(p.path.rsplit('/', 1)[-1])}, {_written(run, p)})" for p in found)
    of_parts = f"""SELECT * EXCLUDE (filename), parse_filename(filename) AS part FROM {run.read_sql((p.path for p in found), "filename = true")}
        WHERE row >= {rows[0]} AND row < {rows[1]}"""
    stored = ", stored DESC" if stage.kind == "generate" else ""
    once = f"QUALIFY row_number() OVER (PARTITION BY key ORDER BY error IS NOT NULL{stored}, tries DESC) = 1"
    # By name, beside no row at all: parts that were written before the columns were known have none of them.
    everything = f"""SELECT {", ".join(map(identifier, known))} FROM (({none}) UNION ALL BY NAME SELECT r.* EXCLUDE (part), m.made_at
        FROM ({of_parts}) r JOIN (VALUES {written}) m(part, made_at) USING (part))"""
    return f"({everything} {once})"


def _written(run: RunDirectory, part: parts.Part) -> str:
    """Return SQL for when a part was written; not of object stores, which would be asked for each."""
    return f"{run.store.modified(part.path)!r}::DOUBLE" if run.store.is_local else "NULL::DOUBLE"


def _consumed(stage: Stage) -> str:
    """Return SQL for the values that a score consumes, of a line ``i``."""
    if stage.reads_text:
        return "i.id, i.caption"
    return "i.id, i.caption, i.sha256" if stage.reads["image"] == SAMPLES else "i.id, i.caption, i.sha256, i.candidate"


def _batches(chunks: list[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of neighbouring chunks to read at a time, few at first."""
    sizes = iter(AT_ONCE)
    size, at = next(sizes), 0
    while at < len(chunks):
        end = at
        while end + 1 < len(chunks) and chunks[end + 1] == chunks[end] + 1 and end + 1 - at < size:
            end += 1
        yield chunks[at], chunks[end]
        size, at = next(sizes, size), end + 1
