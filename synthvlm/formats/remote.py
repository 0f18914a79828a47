"""Folders and patterns on places that fsspec reads (``s3://``, ``gs://``, ``hf://``, ``memory://``), searched as local ones are.

Folders are listed one at a time, so that memory does not grow with the place. The web is not searched: it has no folders.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from synthvlm.errors import InputError

_STAMPS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file: its URL, what tells cheaply that it has not changed, and whether a text of the same name stands beside it."""

    url: str
    stamp: str
    text: bool


def is_remote(source: str) -> bool:
    """Say whether ``source`` is on a place that can be searched."""
    return "://" in source and not source.startswith(("http:", "https:", "file:", "local:"))


def is_folder(source: str) -> bool:
    """Say whether ``source`` is a folder. Raises InputError if the place cannot be reached."""
    with _told(source):
        fs, path = _opened(source)
        return bool(fs.isdir(path))


def search(sources: Iterable[str]) -> Iterator[Entry]:
    """Yield every file under folders, and every one that patterns match, each folder's in order of their names; hidden ones are left out.

    Raises InputError where nothing is, or the place cannot be reached.
    """
    for source in sources:
        with _told(source):
            fs, path = _opened(source)
            found = False
            for entry in _matches(fs, path) if set("*?[") & set(path) else _walk(fs, path.rstrip("/")):
                found = True
                yield entry
        if not found:
            raise InputError(
                f"nothing is called {source}", "look at the address; put a pattern in quotation marks, so that the shell leaves it alone"
            )


def read_text(url: str, longest: int) -> str:
    """Return the first ``longest`` bytes of a text. Raises OSError or UnicodeDecodeError."""
    fs, path = _opened(url)
    return fs.cat_file(path, start=0, end=longest).decode()


def _opened(source: str) -> tuple[Any, str]:
    import fsspec

    return fsspec.core.url_to_fs(source)


def _walk(fs: Any, folder: str) -> Iterator[Entry]:
    """Yield the files in a folder and below it; or a file itself."""
    entries = sorted(fs.ls(folder, detail=True), key=lambda e: e["name"].rstrip("/"))
    names = {e["name"] for e in entries}
    for entry in entries:
        name = entry["name"].rstrip("/")
        if name.rpartition("/")[2].startswith(".") or (name == folder and entry["type"] == "directory"):
            continue  # some stores list a folder as an empty file in itself
        if entry["type"] == "directory":
            yield from _walk(fs, name)
        elif entry.get("size") or name != folder:
            yield _entry(fs, entry, names)


def _matches(fs: Any, pattern: str) -> Iterator[Entry]:
    """Yield the files that a pattern matches."""
    folder, names = "", set[str]()
    for name, entry in sorted(fs.glob(pattern, detail=True).items()):
        if entry["type"] != "file":
            continue
        if name.rpartition("/")[0] != folder:
            folder = name.rpartition("/")[0]
            names = {e["name"] for e in fs.ls(folder, detail=True)}
        yield _entry(fs, entry, names)


def _entry(fs: Any, entry: dict[str, Any], names: set[str]) -> Entry:
    name = entry["name"]
    times = [str(entry[k]) for k in _STAMPS if entry.get(k)]
    return Entry(fs.unstrip_protocol(name), f"{entry.get('size')} {' '.join(times[:1])}", f"{name.rpartition('.')[0]}.txt" in names)


@contextlib.contextmanager
def _told(source: str) -> Iterator[None]:
    """Tell of what goes wrong with a place as InputError: each kind of store fails in its own way."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"there is nothing at {source}", "look at the address") from error
    except ImportError as error:
        raise InputError(
            f"{source} needs a package that is not installed: {error}", "install it beside synthvlm, or copy the files here"
        ) from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{source} cannot be read: {reason}", "check the address, and that this machine may read it (keys, network)"
        ) from error
