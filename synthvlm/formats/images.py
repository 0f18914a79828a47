"""Images in: a list of them in any of the caption formats, a folder, a pattern, WebDataset tars. An image is required, a caption is not.

- A list names images in ``image`` (or ``path``, ``file_name`` …): the seeds' ``[{"image": path}, …]``, JSONL, CSV, TSV, Parquet, or
  text with a path a line. Relative paths start from the list's own folder, then from ``image_root``.
- A folder is searched with everything in it; ``photo.txt`` beside ``photo.jpg`` is its caption. A pattern is ``photos/**/*.jpg`` or
  ``shards/{000..127}.tar``; the tars of either are read as WebDataset. Both may be on a place that fsspec reads (``s3://bucket/photos``).
- A tar's images are named in place (no copy); of one sample, ``.txt`` is the caption and ``.json`` holds the other fields.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from synthvlm.errors import InputError, OptionError
from synthvlm.formats import FORMATS, read_records, remote
from synthvlm.formats.files import open_source
from synthvlm.formats.records import BadRecord, ImageFields
from synthvlm.images import tar_uri
from synthvlm.sample import Sample

ENDINGS = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jp2", ".avif", ".ppm", ".pgm", ".qoi")
_PACKED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_LONGEST_TEXT = 1 << 20
"""Bytes that a sample's ``.txt`` or ``.json`` may have."""
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Found:
    """An image of the input: ``sample.image`` is its name there, ``places`` are the URIs to look for it at, in this order."""

    sample: Sample
    places: tuple[str, ...]


def read_images(
    source: str,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    id_column: str | None = None,
    format: str | None = None,
    image_root: str | None = None,
) -> Iterator[Found | BadRecord]:
    """Return a stream of the images that ``source`` names; a BadRecord stands for each record that names none.

    Nothing is opened but lists and the headers of tars. Raises OptionError for an unknown format at once, and InputError,
    while it is read, for a source that is not there or cannot be read.
    """
    if format is not None and format not in FORMATS:
        raise OptionError(f"there is no format {format!r}", f"there are: {', '.join(FORMATS)}")
    return _read(source, ImageFields(image_column, caption_column, id_column), format, image_root)


def is_list(source: str) -> bool:
    """Say whether ``source`` is one file that lists images, rather than the images themselves (a folder, a pattern, tars)."""
    if source.lower().endswith((*ENDINGS, ".tar", *_PACKED_TAR)) or _is_pattern(source):
        return False
    return not (remote.is_folder(source) if remote.is_remote(source) else os.path.isdir(source))


def listing(source: str) -> str:
    """Return the digest of names, sizes and times of everything that a folder, pattern or tar comes to: it tells of any change."""
    digest = hashlib.sha256()
    if remote.is_remote(source):
        for entry in remote.search(_expanded(source)):
            digest.update(f"{entry.url}\0{entry.stamp}\n".encode())
        return digest.hexdigest()
    for path in _files(source):
        try:
            stat = os.stat(path)
            digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        except OSError:
            digest.update(f"{path}\0gone\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _read(source: str, fields: ImageFields, format: str | None, root: str | None) -> Iterator[Found | BadRecord]:
    if is_list(source):
        base = source.rpartition("/")[0] if "://" in source else os.path.dirname(os.path.abspath(source))
        for record in read_records(source, fields, format):
            yield record if isinstance(record, BadRecord) else Found(record, places(record.image or "", base, root))
        return
    if remote.is_remote(source):
        found = ((entry.url, entry.text) for entry in remote.search(_expanded(source)))
    else:
        found = ((path, True) for path in _files(source))
    for path, text in found:
        low = path.lower()
        if low.endswith(_PACKED_TAR):
            raise InputError(f"{path} is packed, so that its images have no place in it to read them from", "unpack it to a plain .tar")
        if low.endswith(".tar"):
            yield from _tar(path, fields)
        elif low.endswith(ENDINGS):
            name, where = (path, path) if "://" in path else (os.path.normpath(path), os.path.abspath(path))
            record = fields.sample({fields.image: name, **(_beside(path, fields) if text else {})}, 1)
            yield record if isinstance(record, BadRecord) else Found(record, (where,))


def places(name: str, base: str, root: str | None) -> tuple[str, ...]:
    """Return where the image ``name`` of a list in the folder ``base`` may be."""
    if "://" in name or name.startswith("tar:") or os.path.isabs(name):
        return (name,)
    return tuple(f"{b.rstrip('/')}/{name}" if "://" in b else os.path.abspath(os.path.join(b, name)) for b in (base, root) if b)


def _is_pattern(source: str) -> bool:
    if source.startswith(("http:", "https:")) or ("://" not in source and os.path.exists(source)):
        return False
    return bool(set("*?[") & set(source) or _RANGE.search(source))


def _files(source: str) -> Iterator[str]:
    """Yield every image, tar and caption text that a folder, a pattern or a path comes to, in order of their names."""
    if os.path.isdir(source):
        yield from _walk(source, set())
    elif _is_pattern(source):
        matches = sorted({m for one in _expanded(source) for m in glob.glob(one, recursive=True)})
        if not matches:
            raise InputError(
                f"nothing is called {source}", "look at the pattern; put it in quotation marks, so that the shell leaves it alone"
            )
        yield from itertools.chain.from_iterable(_walk(m, set()) if os.path.isdir(m) else [m] for m in matches)
    else:
        yield source


def _expanded(pattern: str) -> Iterable[str]:
    """Yield ``pattern`` for each number of ``{000..127}`` and each word of ``{a,b}``."""
    found = _RANGE.search(pattern)
    if not found:
        return [pattern]
    first, last, words = found.groups()
    inside = words.split(",") if words else [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    return itertools.chain.from_iterable(_expanded(pattern[: found.start()] + x + pattern[found.end() :]) for x in inside)


def _walk(folder: str, above: set[tuple[int, int]]) -> Iterator[str]:
    """Yield the files in a folder and below it, each folder's in order; hidden ones and circles of links are left out."""
    try:
        stat = os.stat(folder)
        entries = sorted((e for e in os.scandir(folder) if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}", "mend its permissions, or name another folder") from error
    me = (stat.st_dev, stat.st_ino)
    if me in above:
        return
    for entry in entries:
        if entry.is_dir():
            yield from _walk(entry.path, above | {me})
        elif entry.name.lower().endswith((*ENDINGS, ".tar", *_PACKED_TAR, ".txt")):
            yield entry.path


def _beside(path: str, fields: ImageFields) -> dict[str, Any]:
    """Return the caption in the text file beside an image, if there is one."""
    beside = os.path.splitext(path)[0] + ".txt"
    try:
        if "://" in path:
            return {fields.caption: remote.read_text(beside, _LONGEST_TEXT)}
        with open(beside, encoding="utf-8") as file:
            return {fields.caption: file.read(_LONGEST_TEXT)}
    except (OSError, UnicodeDecodeError):
        return {}


def _tar(path: str, fields: ImageFields) -> Iterator[Found | BadRecord]:
    """Yield the images of a WebDataset tar; its headers are read, and the small files beside the images."""
    number = 0
    with open_source(path) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                members = (m for m in archive if m.isreg())
                for key, group in itertools.groupby(members, lambda m: _key(m.name)[0]):
                    number += 1
                    yield from _sample(path, archive, key, group, fields, number)
                    archive.members = []  # pyright: ignore[reportAttributeAccessIssue]  # tarfile would keep every header
        except tarfile.TarError as error:
            yield BadRecord(number + 1, None, f"{path}: the archive is damaged or cut off after {number:,} samples: {error}")


def _key(name: str) -> tuple[str, str]:
    """Return a member's sample and what it is of it: ``a/0001.left.jpg`` is ``left.jpg`` of ``a/0001``."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()


def _sample(
    path: str, archive: tarfile.TarFile, key: str, group: Iterable[tarfile.TarInfo], fields: ImageFields, number: int
) -> Iterator[Found | BadRecord]:
    record: dict[str, Any] = {}
    text = None
    image = None
    for member in group:
        ending = _key(member.name)[1]
        if f".{ending}".endswith(ENDINGS) and image is None:
            image = member
        elif ending in ("txt", "json", "caption") and member.size <= _LONGEST_TEXT:
            content = archive.extractfile(member)
            data = content.read() if content else b""
            try:
                if ending == "json":
                    loaded = json.loads(data)
                    record |= loaded if isinstance(loaded, dict) else {"json": loaded}
                else:
                    text = data.decode()
            except ValueError as error:
                yield BadRecord(number, member.name, f"{path}: cannot be read: {error}")
    if image is None:
        return
    name = f"{os.path.normpath(path) if '://' not in path else path}#{image.name}"
    record = {n: v for n, v in record.items() if n not in fields.image_names} | {fields.image: name}
    if text is not None:
        record[fields.caption] = text
    made = fields.sample(record, number)
    where = path if "://" in path else os.path.abspath(path)
    yield made if isinstance(made, BadRecord) else Found(made, (tar_uri(where, image.offset_data, image.size, image.name),))
