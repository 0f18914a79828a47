"""Caption files in: a stream of Samples from JSON, JSONL, CSV, TSV, Parquet or plain text, local or on any place fsspec reads.
Images in: :mod:`synthvlm.formats.images`.

A record that cannot be used comes as a BadRecord in its place, so that one bad row costs one row; what is wrong with the file
itself (no such file, broken syntax, no such column, not UTF-8) is an InputError that names the line. Memory does not grow with
the file.

- ``json``: an array of ``{"id": 1, "caption": "…"}`` or of bare captions. As people write it: commas before closing brackets, a
  byte order mark, NaN. LLaVA's records (``conversations``) are known by their fields, in JSON, JSONL and Parquet alike: the caption
  is the first turn from ``gpt``.
- ``jsonl``: an object or a bare caption a line.
- ``csv``, ``tsv``: with a header. ``parquet``.
- ``text``: a caption a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from synthvlm.errors import InputError, OptionError
from synthvlm.formats.files import open_source, without_bom
from synthvlm.formats.json_array import read_json_array
from synthvlm.formats.lines import read_jsonl, read_text
from synthvlm.formats.records import BadRecord, Fields, ImageFields
from synthvlm.formats.tables import read_csv, read_parquet, read_tsv
from synthvlm.sample import Sample

__all__ = ["FORMATS", "BadRecord", "read_captions", "read_records", "sniff"]

_READERS = {
    "json": read_json_array,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
    "text": read_text,
}
FORMATS = tuple(_READERS)
_ENDINGS = {
    "json": "json",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "csv": "csv",
    "tsv": "tsv",
    "parquet": "parquet",
    "pq": "parquet",
    "txt": "text",
    "text": "text",
}
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".lzma", ".zip")
_HEAD = 1 << 16


def read_captions(
    source: str, *, caption_column: str | None = None, id_column: str | None = None, format: str | None = None
) -> Iterator[Sample | BadRecord]:
    """Return a stream of the captions in ``source``, a path or URL, as Samples; a BadRecord stands for each that cannot be used.

    ``caption_column`` and ``id_column`` name fields or columns (default: ``caption``, else ``text``, ``prompt`` and the like, in any
    letter case; ``id``); ``format`` is one of FORMATS (default: as ``sniff`` finds). Ids come as text, so ``1`` and ``"1"`` are the
    same; a missing one is None. Captions lose white space at their ends. Other fields are kept in ``meta``.

    Raises OptionError for an unknown format at once, and InputError, while it is read, for a file that cannot be.
    """
    if format is not None and format not in _READERS:
        raise OptionError(f"there is no format {format!r}", f"there are: {', '.join(FORMATS)}")
    return read_records(source, Fields(caption_column, id_column), format)


def read_records(source: str, fields: Fields | ImageFields, format: str | None = None) -> Iterator[Sample | BadRecord]:
    """Yield what ``fields`` makes of each record in ``source``. Raises InputError for a file that cannot be read."""
    reader = _READERS[format or sniff(source)]
    with open_source(source) as file:
        yield from reader(source, file, fields)


def sniff(source: str) -> str:
    """Return the format of ``source``, by the ending of its name and, where that does not decide, by how it begins.

    Raises InputError if neither tells, or the file cannot be read.
    """
    name = source.partition("::")[0].lower()
    for packed in _PACKED:
        name = name.removesuffix(packed)
    by_name = _ENDINGS.get(name.rpartition(".")[2]) if "." in name else None
    # JSON Lines are often called .json, and the other way round.
    if by_name not in (None, "json", "jsonl"):
        return by_name
    with open_source(source) as file:
        head = file.read(_HEAD)
    if head.startswith(b"PAR1"):
        return "parquet"
    head = without_bom(source, head).lstrip()
    if head.startswith(b"["):
        return "json"
    if by_name == "jsonl" or (head.startswith(b"{") and _has_lines_of_objects(head)):
        return "jsonl"
    if by_name is None:
        raise InputError(f"{source} does not say what format it is in", f"name it with --format: {', '.join(FORMATS)}")
    return by_name


def _has_lines_of_objects(head: bytes) -> bool:
    first, _, rest = head.partition(b"\n")
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return rest.lstrip().startswith(b"{")
