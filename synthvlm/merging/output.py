"""What a merge leaves on the disk: the lines, their provenance beside them, and composed files; each whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb

from synthvlm.errors import InputError, OptionError, RunError
from synthvlm.merging import join
from synthvlm.merging.join import Column, one
from synthvlm.sql import quote
from synthvlm.storage import Store, alive

_MEMORY = "1000MB"
"""DuckDB's share; what else there is takes 300 MB at most."""


@contextlib.contextmanager
def workshop(out: str) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
    """Yield a database of bounded memory and a folder beside ``out``, which takes what does not fit until the end.

    Raises RunError where the disk is full.
    """
    store, name = place(out)
    scratch = tempfile.gettempdir()
    if store.is_local:
        scratch = store.root or "/"
        try:
            os.makedirs(scratch, exist_ok=True)
        except OSError as error:
            raise RunError(f"{out} cannot be written: {error.strerror}", "choose another --out") from error
        for mine in (name, *_sidecars(name)):
            _sweep(scratch, mine)
    folder = f"{scratch}/.{name}.{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"
    try:
        os.makedirs(folder)
        with duckdb.connect() as db:
            db.execute(
                f"SET temp_directory = {quote(f'{folder}/spilled')}; SET memory_limit = '{_MEMORY}'; SET preserve_insertion_order = true"
            )
            db.execute(f"SET threads = {min(2, os.cpu_count() or 1)}")  # more would only need more memory
            db.execute("SET arrow_large_buffer_size = true")
            # Joins are written so that the side whose order is to be kept is the one that DuckDB keeps.
            db.execute("SET disabled_optimizers = 'join_order,build_side_probe_side'")
            yield db, folder
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        raise RunError(
            f"the merge does not fit on the disk beside {out}: {str(error).splitlines()[0]}",
            "free some space (it takes about as much as its inputs), or choose another --out",
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def place(out: str) -> tuple[Store, str]:
    """Return the store and the name of a file to write. Raises OptionError for a folder."""
    head, name = os.path.split(out)
    if not name or os.path.isdir(out):
        raise OptionError(f"{out} is a folder", "name a file in it")
    return Store(head or "."), name


def _sidecars(name: str) -> tuple[str, str]:
    """Return the names of what tells of the lines: of all, and of each."""
    base = name.removesuffix(".jsonl")
    return f"{base}.provenance.json", f"{base}.provenance.jsonl"


def _sweep(folder: str, name: str) -> None:
    """Delete what merges into the same file left when they were killed."""
    mine = f".{name}.{socket.gethostname()}-"
    for entry in os.listdir(folder):
        pid = entry.removeprefix(mine).partition("-")[0]
        if entry.startswith(mine) and entry.endswith(".tmp") and pid.isdigit() and not alive(int(pid)):
            path = f"{folder}/{entry}"
            if os.path.isdir(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)


def ordered(columns: list[Column], order: Sequence[str]) -> list[Column]:
    """Return the columns with those that ``order`` names (by source, or by the stage of a source) first.

    Raises OptionError for a name that is none.
    """
    rank: dict[str, int] = {}
    for n, name in enumerate(order):
        meant = [c.source for c in columns if name in (c.source, c.about.get("stage"))]
        if not meant:
            there = ", ".join(dict.fromkeys(c.source for c in columns))
            raise OptionError(f"--order {name}: there is no such source", f"there are: {there}")
        for source in meant:
            rank.setdefault(source, n)
    return sorted(columns, key=lambda c: rank.get(c.source, len(order)))


def write_lines(
    db: duckdb.DuckDBPyConnection, columns: list[Column], out: str, missing: str, dedupe: bool, provenance: bool, table: str = "images"
) -> dict[str, Any]:
    """Write the lines and, with ``provenance``, what each position is; return that.

    Where positions differ from line to line (one is skipped, a caption is dropped as a duplicate), a second file beside says for
    each line which ones it has. ``table`` has the images; if it is another than that name, columns are counted once it was read.
    Raises InputError, and leaves everything as it was, if there is no line.
    """
    store, name = place(out)
    record, positions = _sidecars(name)

    def uneven() -> bool:
        skipped = [c for c in columns if c.lacking and (missing == "skip" or (c.source == "original" and c.caption != "caption_0"))]
        return missing != "empty" and (dedupe or bool(skipped))

    beside_them = provenance and (uneven() or (table != "images" and missing != "empty"))
    sql = join.lines_sql(columns, missing, dedupe, beside_them, table)
    (images,) = one(db, "SELECT count(*) FROM images")
    with contextlib.ExitStack() as files:
        lines = files.enter_context(store.writer(name))
        beside = [files.enter_context(store.writer(positions))] if beside_them else []
        count = join.write(db, sql, [lines, *beside])
        if not count:
            what = "has a caption from every source" if missing == "drop" else "has a caption"
            raise InputError(f"no image {what}: there is nothing to write to {out}", "are images named alike in all files?")
        store.remove(record)  # it tells of the lines that are about to be replaced
    if not uneven() or not provenance:
        store.remove(positions)
    done = {
        "file": name,
        "lines": count,
        "images": images,
        "dropped": images - count,
        "missing": missing,
        "dedupe": dedupe,
        "positions": [{"position": n, **c.about, "lacking": c.lacking} for n, c in enumerate(columns)],
        "lines_have": positions if uneven() else "all positions",
    }
    if provenance:
        store.put_json(record, done)
    return {"out": out, **done}


def compose(db: duckdb.DuckDBPyConnection, table: str, folder: str) -> int:
    """Write a table of captions as ``composed.jsonl`` and ``composed_index.json``, in its order; return the number of images."""
    store = Store(folder)
    with store.writer("composed.jsonl") as out:
        count = join.write(db, f"SELECT '{{\"image\": ' || image || ', \"caption\": ' || caption_0 || '}}' || chr(10) FROM {table}", [out])
    with store.writer("composed_index.json") as out:
        out.write(b"{")
        join.write(db, f"SELECT CASE WHEN rowid > 0 THEN ', ' ELSE '' END || image || ': ' || caption_0 FROM {table}", [out])
        out.write(b"}\n")
    return count
