"""Tables: CSV, TSV and Parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import IO, Any

from synthvlm.errors import InputError
from synthvlm.formats.files import LONGEST, text_lines
from synthvlm.formats.records import BadRecord, Fields, ImageFields
from synthvlm.sample import Sample

_BATCH = 512


def read_csv(source: str, file: IO[bytes], fields: Fields | ImageFields) -> Iterator[Sample | BadRecord]:
    """Yield what each row under the header makes.

    Raises InputError where there is no header or no column of captions, or a quotation mark is never closed.
    """
    # The limit is the module's, and too low for long captions. It is only ever raised here, so nobody else's reading breaks.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST))
    # strict: else the rest of the file after a stray quotation mark would be taken for one caption, and quotation marks
    # within a field would vanish.
    rows = csv.reader((f"{line}\n" for _, line in text_lines(source, file)), strict=True)
    header: list[str] | None = None
    last = 0
    while True:
        line = last + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            if "end of data" in str(error) or "field limit" in str(error):
                raise InputError(
                    f"{source}, line {line}: a quotation mark opens here that is never closed",
                    'close it; within a field write it twice: ""',
                ) from error
            if header is None:
                raise InputError(
                    f"{source}, line {line}: the header cannot be read: {error}", "its first line names the columns"
                ) from error
            yield BadRecord(line, None, f'stray quotation mark ({error}); a field that holds some is written "like ""this"""')
            row = []
        if row is None:
            break
        last = rows.line_num
        if not row:
            continue
        if header is None:
            header = [name.strip() for name in row]
            fields.check(header, source)
        else:
            yield _row(fields, header, row, line, "a field with commas goes in quotation marks")
    if header is None:
        raise InputError(f"{source} is empty", "its first line names the columns, such as: id,caption")


def read_tsv(source: str, file: IO[bytes], fields: Fields | ImageFields) -> Iterator[Sample | BadRecord]:
    """Yield what each line under the header makes. A row is one line; only a field that is quoted as a whole loses its quotation marks.

    Raises InputError where there is no header or no column of captions.
    """
    header: list[str] | None = None
    for number, line in text_lines(source, file):
        if not line or line.isspace():
            continue
        raw = line.removesuffix("\r").split("\t")
        row = [_unquoted(value) for value in raw]
        if header is None:
            header = [name.strip() for name in row]
            fields.check(header, source)
        # A stray mark, or a quoted field with a line feed or tab in it: the file does not say which.
        elif opened := [i for i, value in enumerate(raw) if value.startswith('"') and value.count('"') % 2]:
            field = header[opened[0]] if opened[0] < len(header) else None
            yield BadRecord(number, field, "opens a quotation mark and does not close it on this line")
        else:
            yield _row(fields, header, row, number, "tabs within a field are not possible")
    if header is None:
        raise InputError(f"{source} is empty", "its first line names the columns, with tabs between them")


def _row(fields: Fields | ImageFields, header: list[str], row: list[str], line: int, advice: str) -> Sample | BadRecord:
    if len(row) > len(header):
        return BadRecord(line, None, f"has {len(row)} fields where the header has {len(header)}; {advice}")
    return fields.sample(dict(zip(header, row, strict=False)), line)


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == '"':
        inner = value[1:-1]
        if '"' not in inner.replace('""', ""):
            return inner.replace('""', '"')
    return value


def read_parquet(source: str, file: IO[bytes], fields: Fields | ImageFields) -> Iterator[Sample | BadRecord]:
    """Yield what each row makes; its "line" is its number, from 1. Binary columns (pictures) are left behind; dates become text.

    Raises InputError where the file is not Parquet or has no column of captions.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        names = [field.name for field in table.schema_arrow if not _holds_bytes(field.type)]
        fields.check(names, source)
        as_text = {field.name for field in table.schema_arrow if pa.types.is_temporal(field.type) or pa.types.is_decimal(field.type)}
        number = 0
        for batch in table.iter_batches(_BATCH, columns=names):
            for name in as_text.intersection(names):
                place = batch.schema.get_field_index(name)
                batch = batch.set_column(place, name, batch.column(place).cast(pa.string()))
            for record in batch.to_pylist():
                number += 1
                yield fields.sample(record, number)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{source} cannot be read as Parquet: {str(error).splitlines()[0]}", "the file is damaged, cut off, or of another format"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: a text in it is not UTF-8: {error}", "write the file again from valid text") from error


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return True
    return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
