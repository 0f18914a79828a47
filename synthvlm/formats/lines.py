"""One record a line: JSONL, and plain text with a caption a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO

from synthvlm.errors import InputError
from synthvlm.formats.files import text_lines
from synthvlm.formats.json_array import mend_surrogates
from synthvlm.formats.records import BadRecord, Fields, ImageFields
from synthvlm.sample import Sample


def read_jsonl(source: str, file: IO[bytes], fields: Fields | ImageFields) -> Iterator[Sample | BadRecord]:
    """Yield what each line's object (or bare caption) makes; blank lines are skipped.

    Raises InputError, naming the line, where a line is not JSON.
    """
    decode = json.JSONDecoder(parse_constant=lambda _: None).decode
    for number, line in text_lines(source, file):
        if not line or line.isspace():
            continue
        if "\\ud" in line or "\\uD" in line:
            line = mend_surrogates(line.encode()).decode()
        try:
            record = decode(line)
        except json.JSONDecodeError as error:
            where = f"{source}, line {number}, column {error.colno}"
            raise InputError(
                f"{where}: not JSON: {error.msg}", "every line holds one whole JSON object: mend or delete this one"
            ) from error
        except RecursionError as error:
            raise InputError(f"{source}, line {number}: lists and objects nest too deep", "mend or delete this line") from error
        except ValueError as error:
            raise InputError(f"{source}, line {number}: a number of more than 4,300 digits", "mend or delete this line") from error
        yield fields.sample(record, number)


def read_text(source: str, file: IO[bytes], fields: Fields | ImageFields) -> Iterator[Sample | BadRecord]:
    """Yield a Sample for each line that is not blank.

    Raises InputError, naming the line, where a line is not UTF-8.
    """
    for number, line in text_lines(source, file):
        if line and not line.isspace():
            yield fields.sample(line, number)
