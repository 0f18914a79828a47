"""A JSON array as people write it, read with ijson in bounded memory: a scanner in front mends what ijson cannot take.

ijson parses; the scanner sees every byte before it does, because ijson (3.6, its C backend) refuses a comma before the closing
bracket and Python's NaN, gives up on half a surrogate pair, tells no line numbers, and takes the process down (out of memory, or
a crash) on nesting thousands deep and on whole numbers of more than 4,300 digits.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from decimal import Decimal
from typing import IO, Any

from synthvlm.errors import InputError
from synthvlm.formats.files import CHUNK, LONGEST, not_utf8, without_bom
from synthvlm.formats.records import HALF_PAIR, BadRecord, Fields, ImageFields
from synthvlm.sample import Sample

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
# Up to and with the next comma or bracket outside strings. It matches only if the byte that decides on a comma has arrived.
_TOKEN = re.compile(
    rb'[^",\[\]{}]*+(?:' + _STRING + rb'[^",\[\]{}]*+)*+'
    rb"(?:,[ \t\r\n]*+(?=([\]}])|.)"  # no group: a comma; 1: a comma with nothing after it
    rb"|([\[{])[ \t\r\n]*+(?=.)"  # 2: opens
    rb"|([\]}]))",  # 3: closes
    re.DOTALL,
)
_STRINGS = re.compile(_STRING, re.DOTALL)
_CONSTANT = re.compile(rb"(" + _STRING + rb")|-?(?:NaN|Infinity)", re.DOTALL)
_ESCAPE = re.compile(rb"(\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u(?![dD][89a-fA-F])|\\[^u])|\\u[dD][89a-fA-F]..", re.DOTALL)
_MARK = f"\\u{ord(HALF_PAIR):04x}".encode()
_MOST_DIGITS = 4300
_LONG_NUMBER = re.compile(rb"[0-9]{%d}" % (_MOST_DIGITS + 1))
_DEEPEST = 200


def mend_surrogates(data: bytes) -> bytes:
    """Replace escapes in JSON that spell half of a surrogate pair by the escape of ``HALF_PAIR``; ``data`` must not end within one."""
    if b"\\ud" not in data and b"\\uD" not in data:
        return data
    return _ESCAPE.sub(lambda match: match[1] or _MARK, data)


class ArrayScanner:
    """Takes the bytes of a JSON array in pieces of any size and returns them in pieces that ijson can take.

    Dropped: a comma before a closing bracket. Replaced: NaN and infinities by null, halves of surrogate pairs by a mark. The
    rest passes unchanged. ``lines`` gets the line on which each element of the outer array starts.
    """

    def __init__(self, source: str) -> None:
        self.lines: deque[int] = deque()
        self.line = 1
        """The line on which ``held`` starts."""
        self.held = b""
        """What waits for the bytes that decide on it."""
        self.depth = 0
        self._source = source

    def feed(self, chunk: bytes) -> bytes:
        """Return what is decided once ``chunk`` has arrived.

        Raises InputError for bytes that are not UTF-8 and for what ijson must not see.
        """
        data = self.held + chunk if self.held else chunk
        pieces: list[bytes] = []
        start = copied = counted = end = 0
        line, depth = self.line, self.depth
        match_token = _TOKEN.match
        while found := match_token(data, end):
            start, end = end, found.end()
            kind = found.lastindex
            if end - start > _MOST_DIGITS:
                self._check_numbers(data[start:end], line + data.count(b"\n", counted, start))
            if kind is None or kind == 2:
                if kind == 2:
                    depth += 1
                    if depth > _DEEPEST:
                        where = line + data.count(b"\n", counted, start)
                        raise InputError(
                            f"{self._source}, line {where}: lists and objects nest more than {_DEEPEST} deep", "flatten that record"
                        )
                # At depth 1 an element starts here, unless the array closes at once.
                if depth == 1 and (kind is None or data[end] != 0x5D):
                    line += data.count(b"\n", counted, end)
                    counted = end
                    self.lines.append(line)
            elif kind == 1:
                comma = data.rindex(b",", start, end)
                pieces.append(data[copied:comma])
                copied = comma + 1
            else:
                depth -= 1
        pieces.append(data[copied:end])
        self.held = data[end:]
        first_line, self.line, self.depth = self.line, line + data.count(b"\n", counted, end), depth
        if len(self.held) > LONGEST:
            raise InputError(
                f"{self._source}, line {self.line}: a value of more than {LONGEST >> 20} MiB starts here",
                "is a quotation mark missing on that line?",
            )
        try:
            data[:end].decode()
        except UnicodeDecodeError as error:
            raise not_utf8(self._source, first_line + data.count(b"\n", 0, error.start), error) from error
        out = b"".join(pieces)
        if b"NaN" in out or b"Infinity" in out:
            out = _CONSTANT.sub(lambda match: match[1] or b"null", out)
        return mend_surrogates(out)

    def close(self) -> None:
        """Raise InputError unless the array was closed and nothing follows it."""
        if self.depth > 0:
            after = f" within or after the record on line {self.lines[-1]}" if self.lines else ""
            raise InputError(
                f"{self._source}, line {self.line}: the file ends before its array does{after}",
                "it was cut off: write it again, or close it with ]",
            )
        if self.held.strip():
            raise InputError(f"{self._source}, line {self.line}: something follows the end of the array", "delete what follows the last ]")

    def _check_numbers(self, token: bytes, line: int) -> None:
        if _LONG_NUMBER.search(_STRINGS.sub(b'""', token)):
            raise InputError(
                f"{self._source}, line {line}: a number of more than {_MOST_DIGITS:,} digits", "write it as a text, in quotation marks"
            )


def read_json_array(source: str, file: IO[bytes], fields: Fields | ImageFields) -> Iterator[Sample | BadRecord]:
    """Yield what each element of the JSON array in ``file`` makes.

    Raises InputError, naming the line, where the file is not a JSON array.
    """
    import ijson

    scanner = ArrayScanner(source)
    found: Any = ijson.sendable_list()
    parser = ijson.items_coro(found, "item")
    begun = False
    line = 1
    # Reading at least as much as is held back keeps the work linear when one string is longer than many chunks.
    while chunk := file.read(max(CHUNK, len(scanner.held))):
        if not begun:
            chunk = _checked_head(source, scanner, chunk)
            begun = bool(chunk.strip())
        problem: Exception | None = None
        if ready := scanner.feed(chunk):
            try:
                parser.send(ready)
            except (ijson.JSONError, ArithmeticError, ValueError) as error:
                problem = error
        for record in found:
            line = scanner.lines.popleft()
            yield fields.sample(_plain(record), line)
        del found[:]
        if problem is not None:
            raise _broken(source, scanner.lines[0] if scanner.lines else line, problem) from problem
    if not begun:
        raise InputError(f"{source} is empty", 'a file of captions looks like [{"id": 1, "caption": "…"}, …]')
    scanner.close()


def _checked_head(source: str, scanner: ArrayScanner, chunk: bytes) -> bytes:
    if scanner.line == 1 and not scanner.held:
        chunk = without_bom(source, chunk)
    first = chunk.lstrip()[:1]
    if first == b"{":
        raise InputError(
            f"{source} holds one JSON object, not an array of records",
            "take the array out of it (such as: jq .annotations IN > OUT), or name the format jsonl if every line is an object",
        )
    if first not in (b"[", b""):
        raise InputError(
            f"{source} is not a JSON array: it starts with {first!r}"[:200], 'it should look like [{"id": 1, "caption": "…"}, …]'
        )
    return chunk


def _broken(source: str, line: int, problem: Exception) -> InputError:
    # yajl: a line of reason, a line of the text around the fault, an arrow.
    reason, *around = str(problem).split("\n")
    reason = reason.partition(" error: ")[2] or reason or type(problem).__name__
    near = f", near: {around[0].strip()}" if around and around[0].strip() else ""
    return InputError(
        f"{source}: the record that starts on line {line}, or what follows it, is not JSON: {reason}{near}",
        "mend it there: a comma, quotation mark or bracket is missing or too many",
    )


def _plain(value: Any) -> Any:
    """Return ``value`` with floats in place of the decimals that ijson makes to lose no digit."""
    kind = type(value)
    if kind is dict:
        return {name: _plain(item) for name, item in value.items()}
    if kind is list:
        return [_plain(item) for item in value]
    return float(value) if kind is Decimal else value
