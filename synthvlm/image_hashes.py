"""Where the images of an input are and what they hold: found and hashed (SHA-256) by threads, remembered by size and time.

What is known of a source's images lies in ``sources/<number>/`` of the run. Files are added while images are hashed, so that a
killed reading goes on where it was, and become one at its end; reading the same source again then only looks at sizes and times.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from synthvlm import images
from synthvlm.formats.images import Found
from synthvlm.run import RunDirectory

_KNOWN = pa.schema([("uri", pa.string()), ("stamp", pa.string()), ("sha256", pa.string())])
NOT_THERE = "there is no such file"
_TELL_EVERY = 5.0
_BLOCK = 1 << 20
_ALL = "all.parquet"
_THREADS = 16
"""Most of their time goes to waiting for disks and networks."""
_AT_ONCE = 50
"""Images that a thread takes at a time."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image is and what it holds, or why it cannot be used."""

    uri: str
    sha256: str | None = None
    error: str | None = None


class ImageHashes:
    """Finds and hashes the images of one source of a run, chunk by chunk."""

    def __init__(
        self, run: RunDirectory, source: int, scratch: Path, look_only: bool = False, tell: Callable[[int, int], None] | None = None
    ) -> None:
        """``tell(looked at, hashed)`` is called every few seconds. ``look_only`` takes size and time for the hash."""
        self._look_only = look_only
        self._run, self._folder, self._tell = run, f"sources/{source:03d}", tell
        self._db = run.connect(1)
        self._before = run.store.list(self._folder, ".parquet")
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="hash")
        self._seen_file = scratch / "seen.parquet"
        self._seen = pq.ParquetWriter(self._seen_file, _KNOWN)
        self._lock = threading.Lock()
        self._looked = self.hashed = 0
        self._told = time.monotonic()

    def locate(self, found: Sequence[Found]) -> list[Place]:
        """Return, for each image, where it is and its hash; it takes the first of its places where there is anything."""
        chosen = [c for some in self._pool.map(lambda s: [_first_there(f.places) for f in s], _slices(found)) for c in some]
        known = self._lookup([(uri, stamp) for _, uri, stamp in chosen if stamp])
        fresh: list[tuple[str, str, str]] = []

        def settle(missed: Sequence[str], uri: str, stamp: str | None) -> Place:
            if stamp is None:
                return Place(uri, error=f"{uri}: {NOT_THERE}" + "".join(f", nor {m}" for m in missed if m != uri))
            if (uri, stamp) in known:
                return Place(uri, known[uri, stamp])
            try:
                sha = stamp if self._look_only else _sha256(uri)
            except images.ImageError as error:
                return Place(uri, error=error.message)
            with self._lock:
                fresh.append((uri, stamp, sha))
                self.hashed += 1
            return Place(uri, sha)

        places: list[Place] = []
        for some in self._pool.map(lambda s: [settle(*c) for c in s], _slices(chosen)):
            places += some
            self._looked += len(some)
            if self._tell and time.monotonic() - self._told > _TELL_EVERY:
                self._told = time.monotonic()
                self._tell(self._looked, self.hashed)
        if fresh:
            self._run.store.put(f"{self._folder}/{uuid.uuid4().hex}.parquet", _parquet(fresh))
        rows = [(uri, stamp or "", p.sha256) for (_, uri, stamp), p in zip(chosen, places, strict=True)]
        rows += [(m, "", None) for missed, _, _ in chosen for m in missed]
        self._seen.write_table(_table(rows))
        return places

    def _lookup(self, wanted: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Return what is known of (uri, stamp) pairs."""
        if not self._before or not wanted:
            return {}
        asked = pa.table({"uri": [u for u, _ in wanted], "stamp": [s for _, s in wanted]})
        self._db.register("asked", asked)
        known = self._run.read_sql(f"{self._folder}/{n}" for n in self._before)
        found = self._db.execute(
            f"SELECT uri, stamp, any_value(sha256) FROM asked JOIN {known} USING (uri, stamp) WHERE sha256 IS NOT NULL GROUP BY ALL"
        )
        return {(uri, stamp): sha for uri, stamp, sha in found.fetchall()}

    def keep(self) -> None:
        """Put what was seen in place of what was known before: one file, in order of the source."""
        self._seen.close()
        with self._run.store.writer(f"{self._folder}/{_ALL}") as out, self._seen_file.open("rb") as seen:
            shutil.copyfileobj(seen, out, _BLOCK)
        for name in self._run.store.list(self._folder, ".parquet"):
            if name != _ALL:
                self._run.store.remove(f"{self._folder}/{name}")

    def close(self) -> None:
        """Let go of threads and files."""
        self._pool.shutdown(cancel_futures=True)
        self._seen.close()
        self._db.close()


def as_they_were(run: RunDirectory, source: int) -> bool:
    """Say whether every image of a source is where it was, of the size and time that it had, and none that was missing has come."""
    name = f"sources/{source:03d}/{_ALL}"
    if not run.store.exists(name):
        return False
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="look") as pool, run.store.fs.open(run.store.path(name), "rb") as file:
        for batch in pq.ParquetFile(file).iter_batches(20_000, columns=["uri", "stamp", "sha256"]):
            rows = batch.to_pylist()
            stamps = [t for some in pool.map(lambda s: [_stamp(r["uri"]) for r in s], _slices(rows)) for t in some]
            for now, row in zip(stamps, rows, strict=True):
                if (now or "") != row["stamp"] or (now and row["sha256"] is None and _can_be_read(row["uri"])):
                    return False
    return True


def _slices(items: Sequence[T]) -> list[Sequence[T]]:
    """Return runs of items, enough for a thread to be worth its while."""
    return [items[at : at + _AT_ONCE] for at in range(0, len(items), _AT_ONCE)]


def _can_be_read(uri: str) -> bool:
    with contextlib.suppress(images.ImageError):
        return bool(_sha256(uri))
    return False


def _first_there(places: Sequence[str]) -> tuple[tuple[str, ...], str, str | None]:
    """Return the places where nothing is, the first where something is, and its stamp (None: there is none)."""
    missed: list[str] = []
    for uri in places:
        if (stamp := _stamp(uri)) is not None:
            return tuple(missed), uri, stamp
        missed.append(uri)
    return tuple(missed[1:]), places[0], None


def _stamp(uri: str) -> str | None:
    """Return what tells cheaply that a file has not changed, its size and time; None if there is no such file."""
    path = images.archive_of(uri) or uri
    if "://" in path:
        return _remote_stamp(path)
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return None
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _remote_stamp(path: str) -> str | None:
    if path.startswith(("http:", "https:")):  # not followed; reading it says so
        return "web"
    try:
        fs, inside = fsspec.core.url_to_fs(path)
        info: dict[str, Any] = fs.info(inside)
    except FileNotFoundError:
        return None
    except Exception:  # each kind of store fails in its own way; reading it gives the reason
        return "unknown"
    times = [str(info[k]) for k in ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created") if info.get(k)]
    return f"{info.get('size')} {' '.join(times[:1])}"


def _sha256(uri: str) -> str:
    """Return the SHA-256 of an image file's bytes. Raises ImageError if it cannot be read, is empty, or too large to be an image."""
    if "://" in uri or not os.path.isfile(uri):
        data = images.read_image_bytes(uri)
        if not data:
            raise images.ImageError(f"{uri} is empty")
        return hashlib.sha256(data).hexdigest()
    digest = hashlib.sha256()
    try:
        with open(uri, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if not 0 < size <= images.MAX_BYTES:
                raise images.ImageError(f"{uri} is empty" if not size else f"{uri} has {size:,} bytes, too many for an image")
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise images.ImageError(f"{uri} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def _table(rows: Iterable[tuple[str, str, str | None]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    return pa.table([pa.array(c, pa.string()) for c in columns], schema=_KNOWN)


def _parquet(rows: Iterable[tuple[str, str, str | None]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(_table(rows), buffer, compression="zstd")
    return buffer.getvalue()
