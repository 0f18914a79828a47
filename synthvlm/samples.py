"""Take captions into a run: read once, streamed, given ids and row numbers, written as ``samples/00000.parquet`` of 10,000 rows.

Reading the same file again adds what is new in it and takes over what was edited; nothing is ever removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from synthvlm.errors import InputError, RunError
from synthvlm.formats import BadRecord, read_captions
from synthvlm.run import SAMPLES_PER_FILE, SEPARATOR, RunDirectory, quote
from synthvlm.sample import Sample

SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("image", pa.string()),
        pa.field("meta", pa.string()),
        pa.field("source", pa.int32(), nullable=False),
    ]
)
_STAGED = pa.schema(
    [("n", pa.int64()), ("line", pa.int64()), ("id", pa.string()), ("caption", pa.string()), ("image", pa.string()), ("meta", pa.string())]
)
_TRACKED = ("caption", "image", "meta")


@dataclass
class Ingested:
    """What reading a source did to the run."""

    path: str
    read: int = 0
    added: int = 0
    edited: int = 0
    duplicates: int = 0
    rejected: int = 0
    unchanged: bool = False
    """The source is byte for byte the one that was read before."""


def ingest(run: RunDirectory, source: str, *, on_duplicate: str = "error", limit: int | None = None, **reader: Any) -> Ingested:
    """Read ``source`` into ``run``. ``reader``: options of :func:`synthvlm.formats.read_captions`.

    ``on_duplicate`` says what to do when an id stands twice in the source: ``error``, ``first`` (keep the first) or ``number``
    (the later ones become ``id-2``, ``id-3`` …). Raises InputError if nothing usable is there or an id repeats, RunError if
    an id is already in the run from another source with another caption.
    """
    path = source if "://" in source else os.path.abspath(source)
    with run.store.lock(f"reading {os.path.basename(path)}", wait=600):
        record = run.record
        index = next((i for i, s in enumerate(record["sources"]) if s["path"] == path), len(record["sources"]))
        settings = {k: v for k, v in reader.items() if v is not None} | {"on_duplicate": on_duplicate}
        print_now = _fingerprint(path) | {"reader": settings, "limit": limit}
        if index < len(record["sources"]):
            before = record["sources"][index]
            if _same(before, print_now, path):
                return Ingested(**before["result"] | {"added": 0, "edited": 0, "unchanged": True})
        with tempfile.TemporaryDirectory(prefix="synthvlm-") as scratch, duckdb.connect() as db:
            db.execute(f"SET temp_directory = {quote(scratch)}")
            result = Ingested(path)
            rejects = Path(scratch) / "rejected.jsonl"
            records: Iterable[Sample | BadRecord] = read_captions(source, **reader)
            staged = _stage(islice(records, limit) if limit else records, Path(scratch), result, rejects)
            if not staged:
                raise InputError(f"{source}: no usable caption in it", _first_reject(rejects))
            if result.rejected:
                with run.store.writer(f"logs/rejected-{index}.jsonl") as out, rejects.open("rb") as found:
                    shutil.copyfileobj(found, out)
            else:
                run.store.remove(f"logs/rejected-{index}.jsonl")  # of an earlier reading of the same source
            _identify(db, staged, source, on_duplicate, result)
            _merge(run, db, index, path, result)
        print_now.setdefault("sha256", _sha256(path))
        record["sources"][index:] = [{"path": path, **print_now, "result": asdict(result)}, *record["sources"][index + 1 :]]
        run.store.put_json("run.json", record)
        return result


def _stage(records: Iterable[Sample | BadRecord], scratch: Path, result: Ingested, rejects: Path) -> list[str]:
    """Write the usable records to scratch Parquet files, the others, with their reason, to ``rejects``."""
    with rejects.open("w", encoding="ascii") as out:
        return _stage_chunks(records, scratch, result, out)


def _stage_chunks(records: Iterable[Sample | BadRecord], scratch: Path, result: Ingested, rejects: IO[str]) -> list[str]:
    files: list[str] = []
    for chunk in _chunks(records, 50_000):
        rows = []
        for n, record in chunk:
            if isinstance(record, Sample) and SEPARATOR in f"{record.id}{record.caption}":
                record = BadRecord(
                    record.line or n + 1, "caption", "holds the control character U+001F, which separates the parts of a key"
                )
            if isinstance(record, BadRecord):
                result.rejected += 1
                rejects.write(json.dumps(asdict(record), ensure_ascii=True) + "\n")
            else:
                meta = json.dumps(dict(record.meta), ensure_ascii=False, sort_keys=True, default=str) if record.meta else None
                rows.append((n, record.line, record.id, record.caption, record.image, meta))
        result.read += len(chunk)
        if rows:
            files.append(str(scratch / f"{len(files):05d}.parquet"))
            columns = [pa.array(values, type=f.type) for values, f in zip(zip(*rows, strict=True), _STAGED, strict=True)]
            pq.write_table(pa.table(columns, schema=_STAGED), files[-1])
    return files


def _chunks(records: Iterable[Any], size: int) -> Iterator[list[tuple[int, Any]]]:
    numbered = enumerate(records)
    while chunk := list(islice(numbered, size)):
        yield chunk


def _identify(db: duckdb.DuckDBPyConnection, files: list[str], source: str, on_duplicate: str, result: Ingested) -> None:
    """Make the table ``incoming`` (n, line, id, …) with every id given and unique.

    A missing id is the hash of the caption, plus the occurrence from the second on: the same line keeps its id when others are added.
    """
    db.execute(f"CREATE VIEW staged AS SELECT * FROM read_parquet([{', '.join(map(quote, files))}])")
    db.execute("""CREATE TABLE given AS SELECT * EXCLUDE (id), id IS NULL AS made,
        coalesce(id, substr(md5(caption), 1, 16)) AS id FROM staged""")
    db.execute("CREATE TABLE ranked AS SELECT *, row_number() OVER (PARTITION BY id, made ORDER BY n) AS occurrence FROM given")
    twice = db.execute(
        "SELECT id, min(line), max(line), count(*) FROM ranked WHERE NOT made GROUP BY id HAVING count(*) > 1 ORDER BY min(n) LIMIT 2"
    ).fetchall()
    if twice and on_duplicate == "error":
        named = " and ".join(f"{i!r} (lines {a} and {b})" for i, a, b, _ in twice)
        raise InputError(
            f"{source}: ids stand more than once: {named}",
            "--on-duplicate first keeps the first of each; --on-duplicate number renames the others",
        )
    result.duplicates = db.execute("SELECT count(*) FROM ranked WHERE NOT made AND occurrence > 1").fetchall()[0][0]
    keep = "WHERE made OR occurrence = 1" if on_duplicate == "first" else ""
    db.execute(f"""CREATE TABLE incoming AS SELECT n, line, caption, image, meta, made OR occurrence > 1 AS ours, occurrence,
        CASE WHEN occurrence > 1 THEN id || '-' || occurrence ELSE id END AS id FROM ranked {keep}""")
    # An id of our making gives way to one that the user gave: a, a, a-2 become a, a-2-2, a-2.
    clashing = "n IN (SELECT n FROM incoming QUALIFY ours AND row_number() OVER (PARTITION BY id ORDER BY ours, n) > 1)"
    while db.execute(f"UPDATE incoming SET id = id || '-' || greatest(occurrence, 2) WHERE {clashing}").fetchall()[0][0]:
        pass


def _merge(run: RunDirectory, db: duckdb.DuckDBPyConnection, source: int, path: str, result: Ingested) -> None:
    """Bring the run's sample files up to date with the table ``incoming``."""
    if not run.store.is_local:
        db.register_filesystem(run.store.fs)
    known = run.samples_sql()
    changed = " OR ".join(f"k.{c} IS DISTINCT FROM i.{c}" for c in _TRACKED)
    clash = db.execute(f"""SELECT i.id, i.line FROM incoming i JOIN {known} k USING (id)
        WHERE k.source != {source} AND k.caption IS DISTINCT FROM i.caption ORDER BY i.n LIMIT 1""").fetchall()
    if clash:
        raise RunError(
            f"{path}, line {clash[0][1]}: id {clash[0][0]!r} is already in {run.root}, from another source and with another caption",
            "give the new captions other ids, or choose another --out",
        )
    db.execute(
        f"""CREATE TABLE edited AS SELECT k.row, i.* FROM incoming i JOIN {known} k USING (id) WHERE k.source = {source} AND ({changed})"""
    )
    result.edited = db.execute("SELECT count(*) FROM edited").fetchall()[0][0]
    for (number,) in db.execute(f"SELECT DISTINCT row // {SAMPLES_PER_FILE} FROM edited ORDER BY 1").fetchall():
        rows = (number * SAMPLES_PER_FILE, (number + 1) * SAMPLES_PER_FILE)
        patched = ", ".join(f"CASE WHEN e.id IS NULL THEN k.{c} ELSE e.{c} END AS {c}" for c in _TRACKED)
        _write(
            run,
            number,
            db.sql(
                f"SELECT k.row, k.id, {patched}, k.source FROM {run.samples_sql(rows)} k LEFT JOIN edited e USING (id) ORDER BY k.row"
            ).to_arrow_table(),
        )
    base = run.sample_count()
    result.added = db.execute(f"SELECT count(*) FROM incoming i ANTI JOIN {known} k USING (id)").fetchall()[0][0]
    fresh = db.sql(f"""SELECT row_number() OVER (ORDER BY n) - 1 + {base} AS row, id, caption, image, meta, {source} AS source
        FROM incoming i ANTI JOIN {known} k USING (id) ORDER BY n""").to_arrow_reader(SAMPLES_PER_FILE)
    held = _last_file(run, base)
    number = base // SAMPLES_PER_FILE
    for batch in fresh:
        held = pa.concat_tables([held, pa.Table.from_batches([batch]).cast(SCHEMA)])
        while held.num_rows >= SAMPLES_PER_FILE:
            _write(run, number, held.slice(0, SAMPLES_PER_FILE))
            held, number = held.slice(SAMPLES_PER_FILE), number + 1
    if held.num_rows:
        _write(run, number, held)


def _last_file(run: RunDirectory, base: int) -> pa.Table:
    """Return the rows of the last sample file if it has room, else none."""
    if base % SAMPLES_PER_FILE == 0:
        return SCHEMA.empty_table()
    with run.connect() as c:
        rows = (base // SAMPLES_PER_FILE * SAMPLES_PER_FILE, base)
        return (
            c.sql(f"SELECT row, id, caption, image, meta, source FROM {run.samples_sql(rows)} ORDER BY row").to_arrow_table().cast(SCHEMA)
        )


def _write(run: RunDirectory, number: int, table: pa.Table) -> None:
    with run.store.writer(f"samples/{number:05d}.parquet") as out:
        pq.write_table(table.cast(SCHEMA).combine_chunks(), out, compression="zstd")


def _fingerprint(path: str) -> dict[str, Any]:
    """Return what tells cheaply that a source has not changed."""
    if "://" in path:
        return {}
    try:
        stat = os.stat(path)
    except OSError:
        return {}
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _same(before: dict[str, Any], now: dict[str, Any], path: str) -> bool:
    if before.get("reader") != now["reader"] or before.get("limit") != now["limit"]:
        return False
    if now.get("mtime_ns") and all(before.get(k) == now.get(k) for k in ("size", "mtime_ns")):
        return True
    if now.get("size") != before.get("size"):
        return False
    now["sha256"] = _sha256(path)
    return now["sha256"] == before.get("sha256")


def _sha256(path: str) -> str:
    sha = hashlib.sha256()
    source: Any = fsspec.open(path, "rb")
    with source as f:
        while block := f.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def _first_reject(rejects: Path) -> str:
    with rejects.open(encoding="ascii") as lines:
        first = json.loads(next(lines, "null"))
    return f"the first problem: {BadRecord(**first)}" if first else "it is empty"
