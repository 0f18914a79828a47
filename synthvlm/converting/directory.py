"""Make a directory whole or not at all, and know it again."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from synthvlm.converting.reading import read_json
from synthvlm.errors import CheckpointError
from synthvlm.options import as_dict

RECORD = ".synthvlm-conversion.json"
"""Says, in a finished directory, what it was made of. Hidden, so that it is no part of the checkpoint's identity."""
_SAMPLE = 1 << 20


@contextlib.contextmanager
def writing(kind: str, revision: int, sources: Mapping[str, str], target: str, options: Any) -> Iterator[Path | None]:
    """Give a folder beside ``target`` to write into; it becomes ``target`` when the block ends without an error.

    Gives None where ``target`` was made already, of the same ``sources`` with the same ``options`` (a dataclass) and ``revision``
    (raised when the same input gives other output). What a killed conversion left is removed. Raises CheckpointError if
    ``target`` holds something else, or another process is at it.
    """
    wanted = {
        "kind": kind,
        "revision": revision,
        "options": as_dict(options, ["identity"]),
        "sources": {n: fingerprint(s) for n, s in sorted(sources.items())},
    }
    place = Path(os.path.abspath(target))
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        record = read_json(place / RECORD) if (place / RECORD).is_file() else None
        if record == wanted:
            yield None
            return
        what = "was converted from something else, or with other options" if record else "holds something else"
        raise CheckpointError(f"{target} is there and {what}", "give another directory, or remove that one")
    folder = place.parent / f".{place.name}.converting"
    try:
        with _exclusive(folder, target):
            yield folder
            (folder / RECORD).write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
            _settle(folder)
            folder.replace(place)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CheckpointError(
                f"the disk is full: {target} could not be written", "free some space and run the same command again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise CheckpointError(
                f"{target} cannot be written: {error.strerror}", "choose another place or mend its permissions"
            ) from error
        raise


@contextlib.contextmanager
def _exclusive(folder: Path, target: str) -> Iterator[None]:
    """Hold ``folder``, empty, for this process alone; the lock ends with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.stat(folder)  # gone if another process has just finished, and given it its name
        except (BlockingIOError, FileNotFoundError) as error:
            raise CheckpointError(f"another process is converting into {target}", "wait for it, then look again") from error
        _empty(folder)
        try:
            yield
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    finally:
        os.close(handle)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _settle(folder: Path) -> None:
    """Have every file on the disk before the directory gets its name."""
    for path in [*folder.iterdir(), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def fingerprint(source: str | os.PathLike[str]) -> str:
    """Return a hash (hex) of a checkpoint's files: all of the small ones, of large ones the size and their first and last MiB.

    Quick even for hundreds of gigabytes, and any training changes it; two weight files that differ only in the middle are not told apart.
    """
    root = Path(source)
    whole = hashlib.sha256()
    files = [root] if root.is_file() else sorted(p for p in root.iterdir() if p.is_file() and not p.name.startswith("."))
    for file in files:
        size = file.stat().st_size
        whole.update(f"{file.name}\0{size}\n".encode())
        with file.open("rb") as opened:
            whole.update(opened.read(_SAMPLE))
            opened.seek(max(size - _SAMPLE, 0))
            whole.update(opened.read(_SAMPLE))
    return whole.hexdigest()
