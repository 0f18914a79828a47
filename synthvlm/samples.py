"""Take captions or images into a run: read once, streamed, given ids and row numbers, written as ``samples/00000.parquet`` of 10,000 rows.

Reading the same source again adds what is new in it and takes over what was edited; nothing is ever removed. An image counts by its
bytes: one that was replaced on the disk is an edit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from synthvlm.errors import InputError, RunError
from synthvlm.formats import BadRecord, read_captions
from synthvlm.formats.images import Found, is_list, listing, read_images
from synthvlm.image_hashes import NOT_THERE, ImageHashes, Place, as_they_were
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
        pa.field("image_uri", pa.string()),
        pa.field("image_sha256", pa.string()),
    ]
)
"""``image`` is as the input has it; ``image_uri`` is where it was found and ``image_sha256`` the hash of its bytes, if images were read."""
_TEXTS = ("id", "caption", "image", "meta", "image_uri", "image_sha256")
_STAGED = pa.schema([("n", pa.int64()), ("line", pa.int64()), *((name, pa.string()) for name in _TEXTS)])
_TRACKED = ("caption", "image", "meta", "image_uri", "image_sha256")


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
    images: bool = False
    """Images were read, not captions."""


def ingest(
    run: RunDirectory,
    source: str,
    *,
    images: bool = False,
    on_duplicate: str = "error",
    limit: int | None = None,
    look_only: bool = False,
    tell: Callable[[int, int], None] | None = None,
    **reader: Any,
) -> Ingested:
    """Read ``source`` into ``run``. ``reader``: options of :func:`synthvlm.formats.read_captions`.

    With ``images`` it is read for its images (options of :func:`synthvlm.formats.images.read_images`), and those that are missing
    or cannot be read are set aside; ``tell(looked at, hashed)`` is then called every few seconds. ``look_only`` sees that they are
    there and reads none, for a run that is only to be planned. ``on_duplicate`` says what to do
    when an id stands twice in the source: ``error``, ``first`` (keep the first) or ``number`` (the later ones become ``id-2``,
    ``id-3`` …). Raises InputError if nothing usable is there or an id repeats, RunError if an id is already in the run from
    another source with another caption or image.
    """
    path = source if "://" in source else os.path.abspath(source)
    with run.store.lock(f"reading {os.path.basename(path)}", wait=600):
        record = run.record
        index = next((i for i, s in enumerate(record["sources"]) if s["path"] == path), len(record["sources"]))
        settings = (
            {k: v for k, v in reader.items() if v is not None} | {"on_duplicate": on_duplicate} | ({"images": True} if images else {})
        )
        print_now = _fingerprint(path, images) | {"reader": settings, "limit": limit}
        if index < len(record["sources"]):
            before = record["sources"][index]
            if _same(before, print_now, path) and (not images or as_they_were(run, index)):
                return Ingested(**before["result"] | {"added": 0, "edited": 0, "unchanged": True})
        with tempfile.TemporaryDirectory(prefix="synthvlm-") as scratch, duckdb.connect() as db, contextlib.ExitStack() as stack:
            db.execute(f"SET temp_directory = {quote(scratch)}")
            result = Ingested(path, images=images)
            rejects = Path(scratch) / "rejected.jsonl"
            hashes = stack.enter_context(contextlib.closing(ImageHashes(run, index, Path(scratch), look_only, tell))) if images else None
            records: Iterable[Any] = read_images(source, **reader) if images else read_captions(source, **reader)
            staged = _stage(islice(records, limit) if limit else records, Path(scratch), result, rejects, hashes)
            if not staged:
                raise InputError(f"{source}: no usable {'image' if images else 'caption'} in it", _first_reject(rejects, images))
            if result.rejected:
                with run.store.writer(f"logs/rejected-{index}.jsonl") as out, rejects.open("rb") as found:
                    shutil.copyfileobj(found, out)
            else:
                run.store.remove(f"logs/rejected-{index}.jsonl")  # of an earlier reading of the same source
            _identify(db, staged, source, on_duplicate, result)
            _merge(run, db, index, path, result)
            if hashes:
                hashes.keep()
        if not images:
            print_now.setdefault("sha256", _sha256(path))
        record["sources"][index:] = [{"path": path, **print_now, "result": asdict(result)}, *record["sources"][index + 1 :]]
        run.store.put_json("run.json", record)
        return result


def _stage(records: Iterable[Any], scratch: Path, result: Ingested, rejects: Path, hashes: ImageHashes | None) -> list[str]:
    """Write the usable records to scratch Parquet files, the others, with their reason, to ``rejects``."""
    files: list[str] = []
    with rejects.open("w", encoding="ascii") as out:
        for chunk in _chunks(records, 10_000 if hashes else 50_000):
            usable = []
            for n, record in _located(chunk, hashes) if hashes else ((n, r if isinstance(r, BadRecord) else (r, None)) for n, r in chunk):
                record = _checked(n, record)
                if isinstance(record, BadRecord):
                    result.rejected += 1
                    out.write(json.dumps(asdict(record), ensure_ascii=True) + "\n")
                else:
                    usable.append(record)
            result.read += len(chunk)
            if usable:
                files.append(str(scratch / f"{len(files):05d}.parquet"))
                columns = [pa.array(values, type=f.type) for values, f in zip(zip(*usable, strict=True), _STAGED, strict=True)]
                pq.write_table(pa.table(columns, schema=_STAGED), files[-1])
    return files


def _located(chunk: list[tuple[int, Found | BadRecord]], hashes: ImageHashes) -> Iterator[tuple[int, tuple[Sample, Place] | BadRecord]]:
    """Yield each image's sample and place, or why it cannot be used."""
    places = iter(hashes.locate([r for _, r in chunk if isinstance(r, Found)]))
    for n, record in chunk:
        if isinstance(record, BadRecord):
            yield n, record
            continue
        place = next(places)
        line = record.sample.line or n + 1
        yield n, BadRecord(line, "image", place.error) if place.error else (record.sample, place)


def _checked(n: int, record: tuple[Sample, Place | None] | BadRecord) -> tuple[Any, ...] | BadRecord:
    """Return the row to stage, or what keeps the record out."""
    if isinstance(record, BadRecord):
        return record
    sample, place = record
    if SEPARATOR in f"{sample.id}{sample.caption}":
        return BadRecord(sample.line or n + 1, "caption", "holds the control character U+001F, which separates the parts of a key")
    meta = json.dumps(dict(sample.meta), ensure_ascii=False, sort_keys=True, default=str) if sample.meta else None
    where = (place.uri, place.sha256) if place else (None, None)
    return (n, sample.line, sample.id, sample.caption, sample.image, meta, *where)


def _chunks(records: Iterable[Any], size: int) -> Iterator[list[tuple[int, Any]]]:
    numbered = enumerate(records)
    while chunk := list(islice(numbered, size)):
        yield chunk


def _identify(db: duckdb.DuckDBPyConnection, files: list[str], source: str, on_duplicate: str, result: Ingested) -> None:
    """Make the table ``incoming`` (n, line, id, …) with every id given and unique.

    A missing id is the hash of the caption, or of the image's name if images are read, plus the occurrence from the second on:
    the same line keeps its id when others are added.
    """
    db.execute(f"CREATE VIEW staged AS SELECT * FROM read_parquet([{', '.join(map(quote, files))}])")
    db.execute("""CREATE TABLE given AS SELECT * EXCLUDE (id), id IS NULL AS made,
        coalesce(id, substr(md5(CASE WHEN image_uri IS NULL THEN caption ELSE image END), 1, 16)) AS id FROM staged""")
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
    db.execute(f"""CREATE TABLE incoming AS SELECT n, line, {", ".join(_TRACKED)}, made OR occurrence > 1 AS ours, occurrence,
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
    other = (
        "CASE WHEN i.image_sha256 IS NULL THEN k.caption IS DISTINCT FROM i.caption ELSE k.image_sha256 IS DISTINCT FROM i.image_sha256 END"
    )
    # Two folders may each have a 1.jpg: the id that we make of a name gives way where another source has another image under it.
    db.execute(f"""UPDATE incoming i SET id = substr(md5({source} || '/' || i.id), 1, 16) FROM {known} k
        WHERE k.id = i.id AND k.source != {source} AND i.ours AND i.image_sha256 IS NOT NULL AND {other}""")
    clash = db.execute(f"""SELECT i.id, i.line FROM incoming i JOIN {known} k USING (id)
        WHERE k.source != {source} AND {other} ORDER BY i.n LIMIT 1""").fetchall()
    if clash:
        what = "image" if result.images else "caption"
        raise RunError(
            f"{path}, line {clash[0][1]}: id {clash[0][0]!r} is already in {run.root}, from another source and with another {what}",
            f"give the new {what}s other ids, or choose another --out",
        )
    # An image that another source had already is that sample; only where it is now is taken over (the folder may have been moved).
    db.execute(
        f"""CREATE TABLE edited AS SELECT k.row, i.* EXCLUDE (caption, image, meta), CASE WHEN k.source = {source} THEN i.caption ELSE k.caption END AS caption,
            CASE WHEN k.source = {source} THEN i.image ELSE k.image END AS image, CASE WHEN k.source = {source} THEN i.meta ELSE k.meta END AS meta
            FROM incoming i JOIN {known} k USING (id)
            WHERE (k.source = {source} AND ({changed})) OR (k.source != {source} AND i.image_uri IS NOT NULL AND k.image_uri IS DISTINCT FROM i.image_uri)"""
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
    fresh = db.sql(f"""SELECT row_number() OVER (ORDER BY n) - 1 + {base} AS row, id, caption, image, meta, {source} AS source, image_uri, image_sha256
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
        return c.sql(f"SELECT {', '.join(SCHEMA.names)} FROM {run.samples_sql(rows)} ORDER BY row").to_arrow_table().cast(SCHEMA)


def _write(run: RunDirectory, number: int, table: pa.Table) -> None:
    with run.store.writer(f"samples/{number:05d}.parquet") as out:
        pq.write_table(table.select(SCHEMA.names).cast(SCHEMA).combine_chunks(), out, compression="zstd")


def _fingerprint(path: str, images: bool) -> dict[str, Any]:
    """Return what tells cheaply that a source has not changed."""
    if images and not is_list(path):
        return {"listing": listing(path)}
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
    if "listing" in now:
        return before.get("listing") == now["listing"]
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


def _first_reject(rejects: Path, images: bool) -> str:
    with rejects.open(encoding="ascii") as lines:
        first = json.loads(next(lines, "null"))
    if not first:
        return "it is empty"
    root = "; --image-root says where relative paths start from" if images and NOT_THERE in first["reason"] else ""
    return f"the first problem: {BadRecord(**first)}{root}"
