"""Merge a stage's small parts into large ones, so that millions of samples do not become millions of files.

Safe at any time: the merged part is committed before the small ones go, and a row that stands twice counts once.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions at import, where a type checker does not see them.
from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from synthvlm import parts
from synthvlm.parts import Part
from synthvlm.run import RunDirectory, Stage

MAX_ROWS = 200_000
MAX_TAR = 512 << 20
MAX_TABLE = 128 << 20
"""Bytes of Parquet a part, which is held in memory while it is written: rows with vectors are a kilobyte or more."""
DAMAGE = (OSError, pa.ArrowException)
"""What merging a damaged part raises."""
MIN_PARTS = 4
"""Fewer are not worth rewriting."""
LARGE = 0.5
"""Share of the largest size from which a part is left as it is: terabytes of pixels are copied once or twice, not again and again."""
MEANWHILE_PARTS = 16
PAUSE = 300.0
"""Seconds between two looks while a stage is made."""


def compact(run: RunDirectory, stage: Stage, drop_stale: bool = False, least: int = MIN_PARTS) -> tuple[int, int]:
    """Merge parts of ``stage``; return the number of parts before and after.

    Fewer neighbours than ``least`` stay as they are, and so do large ones. ``drop_stale`` leaves out rows that the run no longer
    wants (an edited caption's old images). It is for the user to ask: a row that is stale today is of use again when the edit is
    taken back.
    """
    with run.store.lock(f"compacting {stage.name}", wait=5):
        run.store.sweep(stage.name)
        before = parts.list_parts(run.store, stage.name)
        wanted = _wanted_keys(run, stage) if drop_stale else None  # after the listing: what is made meanwhile is not in it
        whole = [p for p in before if parts.damage(run.store, p) is None]
        for group in groups(run, whole, 1) if drop_stale else groups(run, whole, least, large=False):
            with contextlib.suppress(*DAMAGE):  # damage is for `status --verify` and the next step to find and mend
                merge(run, stage, group, wanted)
        if len(whole) == len(before):
            drop_orphans(run, stage)
        return len(before), len(parts.list_parts(run.store, stage.name))


def _wanted_keys(run: RunDirectory, stage: Stage) -> pa.Array:
    with run.connect() as db:
        return db.sql(f"SELECT key FROM {run.wanted_sql(stage)}").to_arrow_table()["key"].combine_chunks()


def groups(run: RunDirectory, found: list[Part], least: int, large: bool = True) -> Iterator[list[Part]]:
    """Yield runs of neighbouring parts of one folder whose rows and pixels fit into one part; not ``large``: of small ones alone."""
    group: list[Part] = []
    rows = size = table = 0
    for part in sorted(found, key=lambda p: (p.first // parts.SHARDS_PER_FOLDER, p.first, p.last, p.path)):
        with run.store.fs.open(run.store.path(part.path), "rb") as f:
            more_rows = pq.read_metadata(f).num_rows
        more_size = int(parts.part_info(run.store, part).get("tar_bytes", 0))
        more_table = run.store.size(part.path) or 0
        full = rows + more_rows > MAX_ROWS or size + more_size > MAX_TAR or table + more_table > MAX_TABLE
        alone = not large and (more_rows > LARGE * MAX_ROWS or more_size > LARGE * MAX_TAR or more_table > LARGE * MAX_TABLE)
        if group and (full or alone or part.first // parts.SHARDS_PER_FOLDER != group[0].first // parts.SHARDS_PER_FOLDER):
            if len(group) >= least:
                yield group
            group, rows, size, table = [], 0, 0, 0
        if alone:
            continue
        group.append(part)
        rows, size, table = rows + more_rows, size + more_size, table + more_table
    if len(group) >= least:
        yield group


def merge(
    run: RunDirectory, stage: Stage, group: list[Part], wanted: pa.Array | None = None, without_pixels: pa.Array | None = None
) -> list[Part]:
    """Put one part in the place of ``group``; return it, or nothing if no row is left.

    Only rows whose keys are ``wanted`` stay, if given; those of ``without_pixels`` lose theirs. The new part is committed before the old
    ones go: whatever dies in between, no row is lost.
    """
    store = run.store
    tables = []
    for part in group:
        with store.fs.open(store.path(part.path), "rb") as f:
            tables.append(pq.read_table(f).replace_schema_metadata(None))
    table = pa.concat_tables(tables, promote_options="permissive")
    table = _once(table)
    if wanted is not None:
        table = table.filter(pc.is_in(table["key"], value_set=wanted))
    if without_pixels is not None:
        table = _without_pixels(table, without_pixels)
    first, last = min(p.first for p in group), max(p.last for p in group)
    stem = f"{parts.folder(stage.name, first)}/{first:06d}-{last:06d}"
    info: dict[str, object] = {"merged": [leaf for p in group for leaf in _leaves(parts.part_info(store, p))]}
    third = [("perspective", "ascending")] if "perspective" in table.column_names else []
    table = table.sort_by([("row", "ascending"), ("candidate", "ascending"), *third])
    new = None
    if table.num_rows:
        if "tar" in table.column_names:
            table, pixels = _merge_pixels(run, stem, table)
            info |= pixels
        new = parts.write_table(store, stem, table, info)
    replaced = [(part.path, parts.part_info(store, part).get("tar")) for part in group if part.path != new]
    for path, _ in replaced:
        store.remove(path)
    for _, tar in replaced:
        if tar and tar != info.get("tar"):
            store.remove(tar)
    return [Part(new, first, last)] if new else []


def _without_pixels(table: pa.Table, keys: pa.Array) -> pa.Table:
    """Return an image table whose rows with ``keys`` are marked as not stored."""
    dropped = pc.is_in(table["key"], value_set=keys)
    changes = {"stored": pa.scalar(False), "tar": pa.scalar(None, pa.string()), "offset": pa.scalar(None, pa.int64())}
    for column, value in changes.items():
        at = table.column_names.index(column)
        table = table.set_column(at, table.schema.field(column), pc.if_else(dropped, value, table[column]))
    return table


def _leaves(info: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was noted beside the rows of each part that a part is made of."""
    return info.get("merged") or [{k: v for k, v in info.items() if not k.startswith("tar")}]


def _once(table: pa.Table) -> pa.Table:
    """Keep one row per key: a success before a failure, then the latest try."""
    table = table.append_column("_failed", pc.is_valid(table["error"])).append_column("_n", pa.array(range(table.num_rows)))
    keys: list[tuple[str, str]] = [("key", "ascending"), ("_failed", "ascending")]
    keys += [("stored", "descending")] if "stored" in table.column_names else []
    keys += [("tries", "descending"), ("_n", "ascending")]
    order = table.select([name for name, _ in keys]).sort_by(keys)
    first = order.group_by("key", use_threads=False).aggregate([("_n", "first")])
    return table.take(first["_n_first"].combine_chunks().sort()).drop_columns(["_failed", "_n"])


def _merge_pixels(run: RunDirectory, stem: str, table: pa.Table) -> tuple[pa.Table, dict[str, Any]]:
    """Copy the rows' pixels, byte for byte, into one tar; return the table pointing to it and what to note of it."""
    rows = table.select(["row", "candidate", "tar", "offset", "bytes", "sha256"]).to_pylist()
    members = []
    for r in rows:
        if r["tar"] is not None:
            data = run.store.read(r["tar"], r["offset"], r["bytes"])
            if hashlib.sha256(data).hexdigest() != r["sha256"]:
                raise OSError(f"{r['tar']} does not hold what its part says")
            members.append((f"{r['row']:09d}-{r['candidate']:03d}.{_extension(data)}", data))
    if not members:
        return table, {}
    tar, offsets = parts.pack(members)
    name = parts.tar_name(stem, tar)
    run.store.put(name, tar)
    at = iter(offsets)
    new = [None if r["tar"] is None else next(at) for r in rows]
    for column, values in (
        ("tar", pa.array([None if o is None else name for o in new], pa.string())),
        ("offset", pa.array(new, pa.int64())),
    ):
        table = table.set_column(table.column_names.index(column), table.schema.field(column), values)
    return table, {"tar": name, "tar_bytes": len(tar), "tar_sha256": hashlib.sha256(tar).hexdigest()}


def _extension(data: bytes) -> str:
    return "png" if data[:4] == b"\x89PNG" else "webp" if data[:4] == b"RIFF" else "jpg"


def drop_orphans(run: RunDirectory, stage: Stage) -> None:
    """Delete tars that no part names: pixels whose Parquet was never written, or whose rows were merged elsewhere.

    Only old ones: a worker of another process may be between the two writes right now.
    """
    named = {parts.part_info(run.store, p).get("tar") for p in parts.list_parts(run.store, stage.name)}
    for folder in [f for f in run.store.list(stage.name) if f.isdigit()]:
        for name in run.store.list(f"{stage.name}/{folder}", ".tar"):
            path = f"{stage.name}/{folder}/{name}"
            if path not in named and time.time() - run.store.modified(path) > 600:
                run.store.remove(path)


class AsItGoes:
    """Merges the parts of stages while workers make more, so that a stage of terabytes does not end with hours of copying."""

    def __init__(self, run: RunDirectory, stages: Sequence[Stage]) -> None:
        self._run, self._stages = run, stages
        self._thread: threading.Thread | None = None
        self._looked = time.monotonic()

    def look(self) -> None:
        """Have a look, in the background, unless one is on its way or not long ago."""
        if (self._thread is None or not self._thread.is_alive()) and time.monotonic() - self._looked > PAUSE:
            self._looked = time.monotonic()
            self._thread = threading.Thread(target=self._merge, name="compact", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Wait a moment for what is under way, no longer than a Ctrl-C may take; left alone it does no harm."""
        if self._thread is not None:
            self._thread.join(0.3)

    def finish(self) -> None:
        """Wait until what is under way is done."""
        if self._thread is not None:
            self._thread.join()

    def _merge(self) -> None:
        for stage in self._stages:
            with contextlib.suppress(Exception):  # whatever is in the way now may not be when the stage is done
                compact(self._run, stage, least=MEANWHILE_PARTS)
