"""Opening inputs: any place that fsspec reads, unpacked on the way, with failures told as InputError."""

from __future__ import annotations

import codecs
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from synthvlm.errors import InputError

CHUNK = 1 << 18
"""Bytes read at a time."""
LONGEST = 1 << 26
"""Bytes that one line or value may have: beyond it the file is not what it is taken for (a quotation mark is missing, say)."""

_WIDE_BOMS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


@contextmanager
def open_source(source: str) -> Iterator[IO[bytes]]:
    """Open ``source`` (a path or any URL that fsspec knows) for reading bytes, unpacked if its name says it is packed.

    Raises InputError for whatever goes wrong in the ``with`` block: no such file, no right to read it, a broken archive.
    """
    import fsspec

    try:
        opener = fsspec.open(source, "rb", compression="infer")
    except ImportError as error:
        raise InputError(
            f"{source} needs a package that is not installed: {error}", "install it beside synthvlm, or copy the file here"
        ) from error
    except ValueError as error:  # an unknown kind of URL, or of packing
        raise InputError(f"{source} cannot be opened: {error}", "copy the file here and unpack it") from error
    try:
        with opener as file:
            yield file  # type: ignore[misc]
    except FileNotFoundError as error:
        raise InputError(f"there is no file {source}", "look at the path: relative ones start from the current directory") from error
    except IsADirectoryError as error:
        raise InputError(f"{source} is a folder, not a file of captions", "name the file in it") from error
    except PermissionError as error:
        raise InputError(f"{source} may not be read by this user", f"check its permissions ({error.strerror or error})") from error
    except (zlib.error, EOFError, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise InputError(f"{source} cannot be unpacked: {error}", "the file was cut off or damaged: copy or fetch it again") from error
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error}", "check the file, or copy it to a local disk first") from error


def without_bom(source: str, head: bytes) -> bytes:
    """Return the first bytes of a file without the UTF-8 mark; raise InputError if they carry the mark of another encoding."""
    for bom, name in _WIDE_BOMS:
        if head.startswith(bom):
            raise InputError(f"{source} is {name}, not UTF-8", f"save it as UTF-8, for example: iconv -f {name} -t UTF-8 IN > OUT")
    return head.removeprefix(codecs.BOM_UTF8)


def not_utf8(source: str, line: int, error: UnicodeDecodeError) -> InputError:
    """Return the InputError for bytes on ``line`` that are not UTF-8."""
    what = f"byte 0x{error.object[error.start]:02x} is not UTF-8"
    return InputError(f"{source}, line {line}: {what}", "save the file as UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8 IN > OUT")


def text_lines(source: str, file: IO[bytes]) -> Iterator[tuple[int, str]]:
    """Yield every line with its number, from 1, without its line feed.

    Raises InputError where a line is not UTF-8 or too long to be one.
    """
    number = 0
    rest = b""
    for chunk in iter(lambda: file.read(CHUNK), b""):
        *lines, rest = (rest + chunk).split(b"\n")
        for raw in lines:
            number += 1
            yield number, _decoded(source, number, raw)
        if len(rest) > LONGEST:
            raise InputError(
                f"{source}, line {number + 1} is longer than {LONGEST >> 20} MiB", "is this a text file with one record a line?"
            )
    if rest:
        yield number + 1, _decoded(source, number + 1, rest)


def _decoded(source: str, number: int, raw: bytes) -> str:
    if number == 1:
        raw = without_bom(source, raw)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise not_utf8(source, number, error) from error
