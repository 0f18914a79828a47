"""Loose files → SQL for their records, in order: ``image`` and captions, as JSON literals (:func:`records.literal`).

DuckDB itself reads JSON Lines where every line is what it should be; any other file is read here, in pieces, into Parquet, so that
its complete records are used and the others told of.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from typing import IO, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synthvlm.errors import InputError
from synthvlm.formats.files import CHUNK, LONGEST, open_source, without_bom
from synthvlm.merging.arrays import literals
from synthvlm.merging.members import plain_members
from synthvlm.merging.records import Notes, Unusable, caption_of, captions_of, image_of
from synthvlm.merging.scan import Scanner, decode, leniently
from synthvlm.sql import quote_path
from synthvlm.storage import Store

_HEAD = 1 << 16
_FLUSH = 1 << 15
"""Records that are written at a time."""
_FLUSH_SIZE = 1 << 24
"""Characters of captions that are written at a time."""
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".lzma", ".zip")
_MEMBER = re.compile(rb'[\s,]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")\s*+:', re.DOTALL)
_LINE = re.compile(rb"\n[ \t\r]*+\{")
_BLANK = b" \t\r\n\f\v\0"


UNUSUAL = (duckdb.InvalidInputException, duckdb.ConversionException)
"""What DuckDB raises at a line that is not as it should be."""


def kind_of(source: str) -> str:
    """Return what ``source`` holds, by its content: ``array``, ``object`` ({image: caption}), ``lines`` (JSON Lines) or ``empty``.

    Raises InputError if it cannot be read, or only once.
    """
    if os.path.exists(source) and not (os.path.isfile(source) or os.path.isdir(source)):
        raise InputError(f"{source} is no file, and can be read but once", "save it as a file first")
    with open_source(source) as file:
        head = without_bom(source, file.read(_HEAD)).lstrip(_BLANK)
    if not head:
        return "empty"
    if head[:1] == b"[":
        return "array"
    # A record says "image"; an index has images for keys, and is one object.
    return "lines" if head[:1] != b"{" or _LINE.search(head) or _says_image(head) else "object"


def _says_image(head: bytes) -> bool:
    """Say whether the object that ``head`` begins with has the field ``image``."""
    scanner = Scanner("", "object", lambda *_: None)
    at = 1
    while member := _MEMBER.match(head, at):
        try:
            if json.loads(member[1]) == "image":
                return True
        except ValueError:
            pass
        at = scanner.item_end(head, member.start(1)) or len(head)
    return False


def clean_lines_sql(files: Sequence[str], original: bool = False) -> str | None:
    """Return SQL (``image``, ``caption_0``) for files that seem to be JSON Lines, for DuckDB to read; None for any others.

    Executing it raises one of UNUSUAL where a line is not as it should be. Raises InputError if a file cannot be read.
    """
    paths = []
    for file in files:
        store = Store(file)
        if not store.is_local or file.lower().endswith(_PACKED) or kind_of(file) != "lines":
            return None
        paths.append(quote_path(store.root))
    caption = "caption IS NULL OR " * original + "starts_with(caption::VARCHAR, '\"')"
    return f"""SELECT CASE WHEN starts_with(image::VARCHAR, '"') AND ({caption}) THEN image::VARCHAR ELSE error('unusual') END AS image,
        caption::VARCHAR AS caption_0 FROM read_json([{", ".join(paths)}], format = 'newline_delimited', compression = 'none',
        columns = {{image: 'JSON', caption: 'JSON'}})"""


def load_original(db: duckdb.DuckDBPyConnection, file: str, notes: Notes, folder: str) -> int:
    """Make the table ``images`` (``image``, ``caption_0``, …) of ``file``; return how many columns of captions it has.

    A record may have no caption, or a list of them. What cannot be used is noted; ``folder`` takes what is written on the way. Raises
    InputError if the file cannot be read.
    """
    if lines := clean_lines_sql([file], original=True):
        try:
            db.execute(f"CREATE TABLE images AS {lines}")
            return 1
        except UNUSUAL:
            pass
    reader = _Reader(file, notes, folder, original=True)
    captions = ", ".join(f"captions[{n + 1}] AS caption_{n}" for n in range(reader.width))
    db.execute(f"CREATE TABLE images AS SELECT image, {captions} FROM {reader.sql}")
    return reader.width


def load_source(db: duckdb.DuckDBPyConnection, file: str, notes: Notes, folder: str) -> str:
    """Return SQL (``image``, ``caption_0``) for the records of ``file`` that can be used; the others are noted.

    Raises InputError if the file cannot be read.
    """
    if lines := clean_lines_sql([file]):
        try:
            db.execute(f"SELECT count(image) FROM ({lines})").fetchall()
            return lines
        except UNUSUAL:
            pass
    return f"SELECT image, caption_0 FROM {_Reader(file, notes, folder).sql}"


class _Reader:
    """Reads one file in pieces into a Parquet file."""

    def __init__(self, source: str, notes: Notes, folder: str, original: bool = False) -> None:
        self.width = 1
        """The most captions that an image has."""
        self.sql = ""
        """What reads the Parquet file: ``image`` and ``caption_0``, or with ``original`` the list ``captions``."""
        self._notes = notes
        self._original = original
        self._images: list[str] = []
        self._captions: list[Any] = []
        """A text for each image; with ``original`` a list of them."""
        self._size = 0
        self._seen = self._used = 0
        path = f"{folder}/{uuid.uuid4().hex}.parquet"
        self.sql = f"read_parquet({quote_path(path)})"
        schema = pa.schema([("image", pa.string()), ("captions", pa.list_(pa.string())) if original else ("caption_0", pa.string())])
        with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False, write_statistics=False) as self._out:
            if (kind := kind_of(source)) == "empty":
                notes.facts.append(f"{source} is empty")
                return
            with open_source(source) as file:
                if kind == "lines":
                    ended = self._read_lines(source, file)
                else:
                    ended = self._read_items(source, kind, file)
            self._flush()
            if ended:
                notes.facts.append(f"{source} {ended}; its {self._used:,} complete records are used")

    def _read_items(self, source: str, kind: str, file: IO[bytes]) -> str | None:
        """Read an array or object; return how it ended, unless whole."""
        scanner = Scanner(source, kind, lambda line, reason: self._notes.add(f"line {line:,}", reason))
        take = self._elements if kind == "array" else self._members
        for items in scanner.pieces(file) if kind == "array" or self._original else scanner.pieces(file, plain_members):
            take(items)
            if len(self._images) >= _FLUSH or self._size >= _FLUSH_SIZE:
                self._flush()
        return {
            "cut off": f"is cut off in line {scanner.line:,}",
            "lost": f"cannot be followed beyond line {scanner.line:,}, where a quotation mark or bracket is missing",
            "followed": f"goes on after its end in line {scanner.line:,}, with what is not read",
        }.get(scanner.ended)

    def _read_lines(self, source: str, file: IO[bytes]) -> str | None:
        """Read JSON Lines; return how they ended, unless whole."""
        for number, raw, whole in _lines(source, file):
            if not raw:
                continue
            try:
                record = leniently(decode, raw)
            except ValueError as error:
                if len(raw) > LONGEST:
                    return f"cannot be followed beyond line {number:,}, which has more than {LONGEST >> 20} MiB"
                if not whole:
                    return f"is cut off in line {number:,}"
                self._notes.add(f"line {number:,}", str(error))
                continue
            self._record(record, f"line {number:,}")
            if len(self._images) >= _FLUSH or self._size >= _FLUSH_SIZE:
                self._flush()
        return None

    def _elements(self, items: list[Any]) -> None:
        """Take elements of an array."""
        if not self._original and (clean := _clean(items)):
            self._seen += len(items)
            self._extend(*clean)
            return
        for item in items:
            self._record(item, f"record {self._seen + 1:,}")

    def _members(self, items: list[tuple[str, Any]] | tuple[pa.Array, pa.Array]) -> None:
        """Take members of an object: an image's name and its caption each, or literals of many."""
        if type(items) is tuple:
            self._flush()
            self._out.write_batch(pa.record_batch([*items], self._out.schema))
            self._used += len(items[0])
            return
        images, captions = [image for image, _ in items], [caption for _, caption in items]
        if not self._original and set(map(type, captions)) == {str}:
            self._extend(images, captions)
            return
        for image, caption in items:
            self._take(image, caption, f"image {image!r}")

    def _extend(self, images: list[str], captions: list[str]) -> None:
        self._images += images
        self._captions += captions
        self._size += sum(map(len, captions))

    def _record(self, record: Any, place: str) -> None:
        self._seen += 1
        if type(record) is not dict:
            self._notes.add(place, "is not an object with an image and a caption")
            return
        try:
            self._take(image_of(record.get("image")), record.get("caption"), place)
        except Unusable as error:
            self._notes.add(place, str(error))

    def _take(self, image: str, caption: Any, place: str) -> None:
        if self._original:
            captions, wrong = captions_of(caption)
            if wrong:
                self._notes.add(place, wrong)
            self.width = max(self.width, len(captions))
            self._size += sum(map(len, captions))
            self._captions.append(captions)
        else:
            try:
                self._captions.append(caption_of(caption))
            except Unusable as error:
                self._notes.add(place, str(error))
                return
            self._size += len(caption)
        self._images.append(image)

    def _flush(self) -> None:
        """Write what was read."""
        if not self._images:
            return
        captions: Any
        if self._original:
            ends = np.cumsum([0, *map(len, self._captions)], dtype=np.int32)
            captions = pa.ListArray.from_arrays(ends, literals([text for texts in self._captions for text in texts]))
        else:
            captions = literals(self._captions)
        self._out.write_batch(pa.record_batch([literals(self._images), captions], self._out.schema))
        self._used += len(self._images)
        self._images, self._captions, self._size = [], [], 0


def _clean(items: list[Any]) -> tuple[list[str], list[str]] | None:
    """Return the images and captions of records that are all as they should be."""
    try:
        images, captions = [r["image"] for r in items], [r["caption"] for r in items]
    except (KeyError, TypeError, IndexError):
        return None
    return (images, captions) if set(map(type, images)) == set(map(type, captions)) == {str} else None


def _lines(source: str, file: IO[bytes]) -> Iterator[tuple[int, bytes, bool]]:
    """Yield every line with its number, stripped, and whether it ended with a line feed.

    Raises InputError for a file in another encoding.
    """
    number, rest = 0, without_bom(source, file.read(CHUNK))
    while True:
        *lines, rest = rest.split(b"\n")
        for line in lines:
            number += 1
            yield number, line.strip(_BLANK), True
        if len(rest) > LONGEST or not (chunk := file.read(max(CHUNK, len(rest)))):
            yield number + 1, rest.strip(_BLANK), False
            return
        rest += chunk
