"""The kept pairs as a data set: LLaVA's JSON, JSON Lines, or a folder that Hugging Face datasets loads.

::

    OUT/llava.json                     llava: a JSON array; --data_path OUT/llava.json --image_folder OUT
    OUT/pairs.jsonl                    jsonl: a pair a line, with its scores and the user's own fields (meta)
    OUT/train/metadata.jsonl           imagefolder: load_dataset("imagefolder", data_dir=OUT)
    OUT/images/00003/<id>-<candidate>.jpg    the image of a sample in samples/00003.parquet (train/00003/… for imagefolder)
    OUT/llava.sha256                   the images of the export, for sha256sum -c

Image bytes are copied as they are. The JSON comes last: if it is there, the export is whole. Equal runs give equal files.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

import duckdb

from synthvlm import export_formats, prompts
from synthvlm.errors import OptionError, RunError
from synthvlm.export_formats import FORMATS, IMAGE_TOKEN, Layout, Row
from synthvlm.run import SAMPLES_PER_FILE, RunDirectory, quote
from synthvlm.storage import Store

_BATCH = 256
_THREADS = 8
_OURS = "[0-9a-f]{64}  (images|train)/[0-9]{5,}/[A-Za-z0-9][A-Za-z0-9._-]*"
"""What a line of a ``.sha256`` has to be before the file that it names is touched."""


@dataclass
class _Export:
    """One export under way."""

    run: RunDirectory
    store: Store
    format: str
    selection: str
    columns: list[str]
    wordings: list[str]
    db: duckdb.DuckDBPyConnection

    @property
    def layout(self) -> Layout:
        return FORMATS[self.format]

    def batches(self) -> Iterator[list[Row]]:
        """Yield the pairs in order, some at a time."""
        return _batches(self.db.cursor(), "SELECT * FROM plan ORDER BY row, candidate")

    def rows(self) -> Iterator[Row]:
        """Yield the pairs in order."""
        return chain.from_iterable(self.batches())

    def record(self, row: Row) -> Row:
        """Return what the data file says of a pair."""
        return export_formats.record(self.format, row, self.columns, self.wordings)


def export(
    run: RunDirectory,
    format: str = "llava",
    *,
    selection: str = "default",
    out: str | os.PathLike[str] | None = None,
    instructions: str = "llava",
) -> dict[str, Any]:
    """Write the pairs of ``selection`` as a data set in ``out`` (default: ``RUN/exports/FORMAT``) and check what was written.

    ``format`` is one of FORMATS. ``instructions`` names the wordings of LLaVA's human turns (a shipped list, or a YAML file's
    path). Images that are there already are kept; those of an earlier export of this format that are no longer selected go.
    Returns what was done. Raises RunError if there is no such selection, or an image is not in the run as it was selected.
    """
    if format not in FORMATS:
        raise OptionError(f"there is no export format {format!r}", f"there are: {', '.join(FORMATS)}")
    wordings = prompts.instructions(instructions) if format == "llava" else []
    summary = selected(run, selection)
    own = out is None
    where = f"{run.root}/exports/{format}" + ("" if selection == "default" else f"-{selection}") if out is None else os.fspath(out)
    store = Store(where)
    with tempfile.TemporaryDirectory(prefix="synthvlm-") as scratch, run.connect() as db:
        db.execute(f"SET temp_directory = {quote(scratch)}")
        work = _Export(run, store, format, selection, [*summary["cards"], "total"], wordings, db)
        store.sweep("" if own else work.layout.images)
        _plan(work, summary["images"])
        removed = _retire(work)
        with store.writer(f"{format}.sha256") as file:
            for rows in work.batches():
                file.write("".join(f"{r['sha256']}  {r['path']}\n" for r in rows).encode())
        written = _copy(work)
        with store.writer(work.layout.file) as file:
            export_formats.write(file, work.layout, map(work.record, work.rows()))
        _check(work)
        neutralised = f"count(*) FILTER (contains(caption, '{IMAGE_TOKEN}'))" if format == "llava" else "0"
        records, size, changed = db.execute(f"SELECT count(*), sum(bytes), {neutralised} FROM plan").fetchall()[0]
    done = {
        "format": format,
        "selection": selection,
        "out": where,
        "file": f"{where}/{work.layout.file}",
        "records": records,
        "bytes": int(size),
    }
    return done | {"written": written, "kept": records - written, "removed": removed, "neutralised": changed}


def selected(run: RunDirectory, name: str) -> dict[str, Any]:
    """Return how a selection was made; raises RunError, naming those there are, if there is none of that name."""
    summary = run.store.read_json(f"selections/{name}.json")
    if summary is None or not run.store.exists(f"selections/{name}.parquet"):
        there = ", ".join(n.removesuffix(".json") for n in run.store.list("selections", ".json"))
        hint = f"it has: {there}" if there else "choose pairs first: synthvlm select RUN"
        raise RunError(f"{run.root} has no selection {name!r}", hint)
    return summary


def _plan(work: _Export, images: str) -> None:
    """Make the table ``plan``: the selected pairs, where their pixels lie now (compaction moves them), and their names.

    A name is the id where every file system takes it (the pattern leaves out separators, Windows' device names, and what
    looks like an MD5) and no other id is equal to it but for case; otherwise the id's MD5.
    """
    run, db = work.run, work.db
    chosen = f"read_parquet('{_escape(run.store.url(f'selections/{work.selection}.parquet'))}')"
    table = run.table_sql(run.stage(images))
    db.execute(f"""CREATE TABLE located AS SELECT s.*, g.key AS there, g.sha256 AS now, g.stored AND g.tar IS NOT NULL AS stored, g.tar, g."offset", m.meta
        FROM {chosen} s LEFT JOIN (SELECT key, sha256, stored, tar, "offset" FROM {table} WHERE error IS NULL) g USING (key)
        LEFT JOIN (SELECT row, meta FROM {run.samples_sql()}) m USING (row)""")
    counts = "count(*), count(*) FILTER (there IS NULL OR NOT stored), count(*) FILTER (now != sha256)"
    total, missing, changed = db.execute(f"SELECT {counts} FROM located").fetchall()[0]
    if missing or changed:
        which = "there IS NULL OR NOT stored" if missing else "now != sha256"
        (first,) = db.execute(f"SELECT min(id) FROM located WHERE {which}").fetchall()[0]
        state = f"are no longer in {run.root}" if missing else "were made anew since"
        hint = "run the synth command again: it makes what is missing and selects anew"
        raise RunError(
            f"{missing or changed} of the {total} images of selection {work.selection!r} {state} (the first: id {first!r})", hint
        )
    if not total:
        raise RunError(
            f"selection {work.selection!r} of {run.root} is empty",
            "the winners' pixels were not kept; generate with --store all, or select again",
        )
    extension = _extension(_pixels(run, next(_batches(db.cursor(), "SELECT * FROM located ORDER BY row, candidate LIMIT 1"))[0]))
    plain = "regexp_full_match(id, '[A-Za-z0-9][A-Za-z0-9._-]{0,99}')"
    special = r"regexp_full_match(lower(id), '[0-9a-f]{32}|(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?')"
    alone = "min(id) OVER (PARTITION BY lower(id)) = max(id) OVER (PARTITION BY lower(id))"
    name = f"CASE WHEN {plain} AND NOT {special} AND {alone} THEN id ELSE md5(id) END"
    # With several candidates of one caption, all ids get their number: a suffix here and there could meet another id.
    several = "(SELECT count(*) > count(DISTINCT id) FROM located)"
    db.execute(f"""CREATE TABLE plan AS SELECT *,
        printf('{work.layout.images}/%05d/%s-%d.{extension}', row // {SAMPLES_PER_FILE}, {name}, candidate) AS path,
        CASE WHEN {several} THEN id || '-' || candidate ELSE id END AS record_id FROM located""")
    twice = db.execute("SELECT count(*) - count(DISTINCT lower(path)), count(*) - count(DISTINCT record_id) FROM plan").fetchall()[0]
    if any(twice):
        raise RunError(f"selection {work.selection!r} holds a pair twice", "select again")


def _extension(image: bytes) -> str:
    """Return the ending of the image files: all images of a stage have one format, which is part of its identity."""
    return "png" if image[:4] == b"\x89PNG" else "webp" if image[:4] == b"RIFF" else "jpg"


def _retire(work: _Export) -> int:
    """Remove the images of an earlier export of this format that this one has not; return how many."""
    store, db = work.store, work.db
    if not store.is_local:
        db.register_filesystem(store.fs)
    db.execute("CREATE TABLE listed (format VARCHAR, path VARCHAR, sha256 VARCHAR)")
    for name in FORMATS:
        if store.exists(f"{name}.sha256"):
            lines = f"read_csv('{_escape(store.url(f'{name}.sha256'))}', delim = '\\t', header = false, quote = '', columns = {{'l': 'VARCHAR'}}, ignore_errors = true)"
            db.execute(f"INSERT INTO listed SELECT '{name}', l[67:], l[:64] FROM {lines} WHERE regexp_full_match(l, '{_OURS}')")
        elif name == work.format and store.exists(work.layout.file):
            raise RunError(f"{store.path(work.layout.file)} is not from an export of SynthVLM", "choose another --out")
    other = db.execute(
        f"SELECT format FROM listed l JOIN plan p USING (path) WHERE format != '{work.format}' AND l.sha256 != p.sha256 LIMIT 1"
    ).fetchall()
    if other:
        raise RunError(f"{store.path('')} holds the export of another run, in the format {other[0][0]}", "choose another --out")
    old = f"SELECT DISTINCT path FROM listed l WHERE format = '{work.format}' AND path NOT IN (SELECT path FROM listed WHERE format != '{work.format}')"
    removed = 0
    for rows in _batches(db.cursor(), f"SELECT path FROM ({old}) ANTI JOIN plan USING (path) ORDER BY path"):
        if not removed:
            store.remove(work.layout.file)  # it names images that are about to go
        for row in rows:
            store.remove(row["path"])
        removed += len(rows)
    return removed


def _copy(work: _Export) -> int:
    """Copy what is not there yet; return how many images were written."""

    def one(row: Row) -> bool:
        if work.store.size(row["path"]) == row["bytes"] and hashlib.sha256(work.store.read(row["path"])).hexdigest() == row["sha256"]:
            return False
        work.store.put(row["path"], _pixels(work.run, row))
        return True

    return sum(_each(work, one))


def _pixels(run: RunDirectory, row: Row) -> bytes:
    """Return an image's bytes, as they stand in the run; raises RunError if they are not what they were."""
    try:
        data = run.store.read(row["tar"], row["offset"], row["bytes"])
    except FileNotFoundError:
        data = b""
    if len(data) == row["bytes"] and hashlib.sha256(data).hexdigest() == row["sha256"]:
        return data
    what = "is damaged" if data else "is gone"
    raise RunError(
        f"the image of {row['id']!r}, candidate {row['candidate']}, cannot be exported: {run.store.path(row['tar'])} {what}",
        "`synthvlm status RUN --verify` sets damaged parts aside; the synth command, run again, repairs the run by making them anew",
    )


def _check(work: _Export) -> None:
    """Read the data set back: every record as it should be, every image there. Raises RunError, and takes the data file away."""
    path = work.store.path(work.layout.file)
    try:
        with work.store.fs.open(path, "rb") as file:
            found = export_formats.read(file, work.layout)
            for row in work.rows():
                record = next(found, None)
                if record != work.record(row) or not export_formats.is_sound(work.format, record or {}):
                    raise RunError(f"{path} does not hold what was written to it, at {row['record_id']!r}")
            if next(found, None) is not None:
                raise RunError(f"{path} has more records than pairs are selected")
        for row, size in _each(work, lambda r: (r, work.store.size(r["path"]))):
            if size != row["bytes"]:
                raise RunError(f"{work.store.path(row['path'])} has {size} bytes, not {row['bytes']}")
    except (RunError, ValueError, OSError) as error:
        work.store.remove(work.layout.file)
        hint = "another program may write there, or the disk is failing: export again, or elsewhere with --out"
        raise RunError(getattr(error, "message", f"{path} cannot be read back: {error}"), hint) from error


def _each(work: _Export, do: Callable[[Row], Any]) -> Iterator[Any]:
    """Yield ``do(row)`` for every pair, in order, several at a time."""
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="export") as pool:
        for rows in work.batches():
            yield from pool.map(do, rows)


def _batches(cursor: duckdb.DuckDBPyConnection, sql: str) -> Iterator[list[Row]]:
    """Yield a result as dicts, some rows at a time; it is never whole in memory."""
    cursor.execute(sql)
    names = [d[0] for d in cursor.description or []]
    while rows := cursor.fetchmany(_BATCH):
        yield [dict(zip(names, values, strict=True)) for values in rows]


def _escape(text: str) -> str:
    return text.replace("'", "''")
