"""JSON arrays and objects of any size, as scripts leave them: read in pieces, every complete item found, wherever the file ends.

Clean stretches are cut where an item surely ends and parsed whole by the json module. What that cannot take (cut off, bytes that
are not UTF-8, an item broken in itself) is gone through item by item, so that one broken record costs one record. Commas may
be missing, doubled, or stand before a closing bracket; strings may hold raw line feeds and halves of surrogate pairs. ijson, which
parses clean files as fast, gives up for good at the first of these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import IO, Any

from synthvlm.formats.files import LONGEST, without_bom

CHUNK = 1 << 20
"""Bytes read at a time: what a processor's cache holds."""

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SPACE = rb"[ \t\r\n]*+"
_GAP = re.compile(rb"[ \t\r\n,]*+")
_SCALAR = re.compile(rb'[^ \t\r\n,:"\[\]{}]++')
_TEXT = re.compile(_STRING, re.DOTALL)
_KEY = re.compile(_STRING + _SPACE + rb"(:)?" + _SPACE, re.DOTALL)
_NESTED = re.compile(rb'[^"\[\]{}]*+(?:' + _STRING + rb'[^"\[\]{}]*+)*+([\[\]{}])', re.DOTALL)
_TRAILING_COMMA = re.compile(rb"(" + _STRING + rb")|," + _SPACE + rb"(?=[\]}])", re.DOTALL)
# Where one item ends and the next begins, if it is one of ours: a text (its closing mark is not an escaped one), or a record.
_BETWEEN = {
    "object": re.compile(rb'(?<!\\)(")' + _SPACE + rb"," + _SPACE + rb'(?=")'),
    "array": re.compile(rb"(\})" + _SPACE + rb"," + _SPACE + rb"(?=\{)"),
}
_TAIL = 1 << 15
_CUTS = 3
"""Places to try: between records stands the same as between the turns of a conversation within one."""
_NEXT_RECORD = re.compile(rb"\}" + _SPACE + rb"," + _SPACE + rb'(?=\{[ \t\r\n]*+")')


class Number(str):
    """A number as the file spells it: digits beyond counting, and ``1.0`` is not ``1``."""


decode: Callable[[str], Any] = json.JSONDecoder(strict=False, parse_int=Number, parse_float=Number).decode
decode_pairs: Callable[[str], Any] = json.JSONDecoder(
    strict=False, parse_int=Number, parse_float=Number, object_pairs_hook=lambda pairs: pairs
).decode


def leniently(read: Callable[[str], Any], data: bytes) -> Any:
    """Return ``read(data)``; commas before closing brackets do not matter.

    Raises ValueError with a reason for people where ``data`` is not UTF-8 or not JSON.
    """
    try:
        return read(data.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"byte 0x{error.object[error.start]:02x} is not UTF-8") from error
    except RecursionError as error:
        raise ValueError("lists and objects nest too deep") from error
    except ValueError as error:
        mended = _TRAILING_COMMA.sub(lambda match: match[1] or b"", data)
        if mended != data:
            return leniently(read, mended)
        raise ValueError(f"is not JSON: {getattr(error, 'msg', error)}") from error


class Scanner:
    """Reads the items of one JSON array (its elements) or object (its members, as pairs) from a file.

    ``pieces`` yields lists of items; ``on_bad(line, reason)`` is told of every item that cannot be read. Afterwards ``ended`` says
    how the file ended: ``"whole"``; ``"cut off"``, within an item or before the closing bracket; ``"lost"``, in a value longer than
    ``LONGEST``, past which nothing was read; or ``"followed"``, by something else after the closing bracket. ``line`` is where.
    """

    def __init__(self, source: str, kind: str, on_bad: Callable[[int, str], None]) -> None:
        self.kind = kind
        """``array`` or ``object``."""
        self.ended = "cut off"
        self.line = 1
        self._source = source
        self._on_bad = on_bad
        self._read = decode if kind == "array" else decode_pairs
        self._between = _BETWEEN[kind]
        self._open, self._close = (b"[", b"]") if kind == "array" else (b"{", b"}")

    def pieces(self, file: IO[bytes], quick: Callable[[bytes], tuple[Any, int] | None] = lambda _: None) -> Iterator[Any]:
        """Yield the items in order, some thousands at a time. Raises InputError for a file in another encoding.

        ``quick`` is given what was read, from an item on: it may return something to yield for some items, and where the next starts.
        """
        data = without_bom(self._source, file.read(CHUNK))
        start = data.find(self._open) + 1
        self.line += data.count(b"\n", 0, start)
        data = data[start:]
        done = False
        while not done:
            chunk = file.read(max(CHUNK, len(data)))  # at least what is held, so that a long value does not make the work quadratic
            if (whole := quick(data) or self._whole(data)) is not None:
                items, used = whole
            else:
                items, used, done = self._one_by_one(data, not chunk)
            if items:
                yield items
            self.line += data.count(b"\n", 0, used)
            if len(data) - used > LONGEST:
                self.ended = "lost"
                return
            data = data[used:] + chunk
        while self.ended == "whole" and data:
            if data.strip(b" \t\r\n\0"):
                self.ended = "followed"
            data = file.read(CHUNK)

    def _whole(self, data: bytes) -> tuple[list[Any], int] | None:
        """Return the items up to the last place where one surely ends, and where the next starts; None if that is not so simple."""
        cuts = list(self._between.finditer(data, max(0, len(data) - _TAIL)))
        for cut in cuts[: -_CUTS - 1 : -1]:
            try:
                # The brackets balance only if the cut was between two items.
                return self._read(b"".join((self._open, memoryview(data)[: cut.end(1)], self._close)).decode()), cut.end()
            except (ValueError, RecursionError):
                continue
        return None

    def _one_by_one(self, data: bytes, last: bool) -> tuple[list[Any], int, bool]:
        """Return the complete items in ``data``, where the first incomplete one starts, and whether nothing follows.

        ``last``: the file ends with ``data``.
        """
        items: list[Any] = []
        at = 0
        while True:
            at = _GAP.match(data, at).end()  # type: ignore[union-attr]
            if data[at : at + 1] == self._close:
                self.ended = "whole"
                return items, at + 1, True
            end = self.item_end(data, at)
            if end is None and (len(data) - at > LONGEST or last) and (found := self._next_record(data, at, len(data))):
                self._on_bad(self.line + data.count(b"\n", 0, at), "is not JSON: a quotation mark or bracket is missing")
                at = found
                continue
            if end is None:
                # A whole text, list or object has its closing mark; what has none may be half a word.
                return items, at, last
            try:
                items += leniently(self._read, self._open + data[at:end] + self._close)
            except ValueError as error:
                self._on_bad(self.line + data.count(b"\n", 0, at), str(error))
                damaged = not isinstance(error.__cause__, UnicodeDecodeError)
                end = (self._next_record(data, at, end) if damaged else None) or end
            at = end

    def _next_record(self, data: bytes, at: int, end: int) -> int | None:
        """Return where a record starts within what was taken for one item, because a quotation mark or bracket is missing in it."""
        found = _NEXT_RECORD.search(data, at, end) if self.kind == "array" else None
        return found.end() if found else None

    def item_end(self, data: bytes, at: int) -> int | None:
        """Return where the item ends that starts at ``at``, or None if ``data`` ends before it."""
        if self.kind == "object" and (key := _KEY.match(data, at)):
            if key.end() == len(data):
                return None
            if key[1]:
                at = key.end()
        first = data[at : at + 1]
        if first == b'"':
            text = _TEXT.match(data, at)
            return text.end() if text else None
        if first in (b"[", b"{"):
            depth = 0
            while bracket := _NESTED.match(data, at):
                at = bracket.end()
                depth += 1 if bracket[1] in b"[{" else -1
                if depth == 0:
                    return at
            return None
        if scalar := _SCALAR.match(data, at):
            return scalar.end() if scalar.end() < len(data) else None
        return at + 1 if first else None
