"""Formats whose images are files of their own: copying them, writing what is said of them, reading it back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import IO, Any

from synthvlm.errors import RunError, SynthVLMError
from synthvlm.exporting.formats import FOLDERS, Layout, Row, is_sound
from synthvlm.exporting.plan import Work, ahead, batches, pixels, readable
from synthvlm.sql import quote

_OURS = "[0-9a-f]{64}  (images|train)/[0-9]{5,}/[A-Za-z0-9][A-Za-z0-9._-]*"
"""What a line of a ``.sha256`` has to be before the file that it names is touched."""
_INFO = "dataset_info.json"
_NAME = "synthvlm"
"""What LLaMA-Factory calls the data set (``dataset: synthvlm``)."""


def write(work: Work) -> dict[str, int]:
    """Write images and data file, the latter last, and check them; return images ``written``, ``kept`` and ``removed``, records and bytes."""
    removed = _retire(work)
    with work.store.writer(f"{work.format}.sha256") as file:
        for rows in work.batches():
            file.write("".join(f"{r['sha256']}  {r['path']}\n" for r in rows).encode())
    written, size = _copy(work)
    with work.store.writer(work.layout.file) as file:
        records = write_records(file, work.layout, (said for row in work.rows() for said in work.records(row)))
    _check(work)
    if work.format == "llamafactory":
        _register(work)
    return {"records": records, "bytes": size, "written": written, "kept": work.count() - written, "removed": removed}


def _retire(work: Work) -> int:
    """Remove the images of an earlier export of this format that this one has not; return how many."""
    store, db = work.store, work.db
    db.execute("CREATE TABLE listed (format VARCHAR, path VARCHAR, sha256 VARCHAR)")
    for name in FOLDERS:
        if store.exists(f"{name}.sha256"):
            lines = f"read_csv({quote(store.url(f'{name}.sha256'))}, delim = '\\t', header = false, quote = '', columns = {{'l': 'VARCHAR'}}, ignore_errors = true)"
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
    for rows in batches(db.cursor(), f"SELECT path FROM ({old}) ANTI JOIN plan USING (path) ORDER BY path"):
        if not removed:
            store.remove(work.layout.file)  # it names images that are about to go
        for row in rows:
            store.remove(row["path"])
        removed += len(rows)
    return removed


def _copy(work: Work) -> tuple[int, int]:
    """Copy what is not there yet; return how many images were written, and the bytes of all."""

    def one(row: Row) -> tuple[bool, int]:
        size = work.store.size(row["path"])
        if size is not None and row["bytes"] in (size, None) and hashlib.sha256(work.store.read(row["path"])).hexdigest() == row["sha256"]:
            return False, size
        data = pixels(work.run, row)
        work.store.put(row["path"], data)
        return True, len(data)

    written = total = 0
    for _, (fresh, size) in ahead(one, work.rows()):
        written, total = written + fresh, total + size
    return written, total


def _check(work: Work) -> None:
    """Read the data set back: every record as it should be, every image there. Raises RunError, and takes the data file away."""
    path = work.store.path(work.layout.file)
    try:
        with work.store.fs.open(path, "rb") as file:
            found = read_records(file, work.layout)
            for row in work.rows():
                for record in work.records(row):
                    back = next(found, None)
                    if back != record or not is_sound(work.format, back or {}):
                        raise RunError(f"{path} does not hold what was written to it, at {record['id']!r}")
            if next(found, None) is not None:
                raise RunError(f"{path} has more records than there should be")
        for row, size in ahead(lambda row: _look(work, row), work.rows()):
            if row["bytes"] not in (size, None):
                raise RunError(f"{work.store.path(row['path'])} has {size} bytes, not {row['bytes']}")
    except (SynthVLMError, ValueError, OSError) as error:
        work.store.remove(work.layout.file)
        raise damaged(path, error) from error


def _look(work: Work, row: Row) -> int | None:
    """Return the size of an image file that begins as an image should."""
    with work.store.fs.open(work.store.path(row["path"]), "rb") as file:
        readable(file, row)
    return work.store.size(row["path"])


def damaged(path: str, error: Exception) -> RunError:
    """Return what there is to say of a file that does not hold what was just written to it."""
    hint = "another program may write there, or the disk is failing: export again, or elsewhere with --out"
    return RunError(getattr(error, "message", f"{path} cannot be read back: {error}"), hint)


def _register(work: Work) -> None:
    """Tell LLaMA-Factory of the data file, beside others that its ``dataset_info.json`` may know."""
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages", "images": "images"}
    entry = {"file_name": work.layout.file, "formatting": "sharegpt", "columns": columns, "tags": tags}
    known = work.store.read_json(_INFO) or {}
    if known.get(_NAME) != entry:
        work.store.put_json(_INFO, known | {_NAME: entry})


def write_records(file: IO[bytes], layout: Layout, records: Iterable[Row]) -> int:
    """Write the data file, a record a line; return how many."""
    count, before = 0, "[\n" if layout.array else ""
    for item in records:
        file.write((before + json.dumps(item, ensure_ascii=False, allow_nan=False)).encode())
        before = ",\n" if layout.array else "\n"
        count += 1
    file.write(b"\n]\n" if layout.array else b"\n")
    return count


def read_records(file: IO[bytes], layout: Layout) -> Iterator[Any]:
    """Yield the records of a data file. Raises ValueError where it is no JSON."""
    if layout.array:
        import ijson

        try:
            yield from ijson.items(file, "item", use_float=True)
        except ijson.JSONError as error:
            raise ValueError(str(error)) from error
    else:
        yield from map(json.loads, file)
