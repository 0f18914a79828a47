"""Caption files, for any data: what was written is read back, wherever chunks end and commas trail, in flat memory."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthvlm.errors import InputError
from synthvlm.formats import BadRecord, read_captions
from synthvlm.formats.json_array import ArrayScanner
from synthvlm.sample import Sample

unhurried = settings(deadline=None, max_examples=60)  # no deadline: the machine may be busy

TEXT = st.text(st.characters(exclude_characters="\0\ufdd0", codec="utf-8"), min_size=1, max_size=30).map(str.strip).filter(bool)
META = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def samples(draw: st.DrawFn, text: st.SearchStrategy[str] = TEXT) -> list[dict[str, Any]]:
    rows = draw(st.lists(st.tuples(st.integers(-(2**53), 2**53) | text, text, META), max_size=8))
    return [{"id": id, "caption": caption, "extra": extra} for id, caption, extra in rows]


def wanted(rows: list[dict[str, Any]], first: int | None = None) -> list[tuple[Any, ...]]:
    return [
        (str(row["id"]), row["caption"], {"extra": row["extra"]}, *([] if first is None else [first + i])) for i, row in enumerate(rows)
    ]


def got(rows: Iterator[Sample | BadRecord], lines: bool = True) -> list[tuple[Any, ...]]:
    return [(row.id, row.caption, row.meta, *([row.line] if lines else [])) for row in rows if isinstance(row, Sample)]


def stored(name: str, content: bytes) -> str:
    fsspec.filesystem("memory").pipe(f"/formats/{name}", content)
    return f"memory://formats/{name}"


def with_trailing_commas(draw: Any, value: Any, space: st.SearchStrategy[str]) -> str:
    """Write ``value`` as JSON with white space anywhere and, now and then, a comma after the last item."""
    if not isinstance(value, (list, dict)) or not value:
        return draw(space) + json.dumps(value, ensure_ascii=draw(st.booleans())) + draw(space)
    items = [with_trailing_commas(draw, item, space) for item in (value if isinstance(value, list) else value.values())]
    if isinstance(value, dict):
        items = [f"{draw(space)}{json.dumps(key)}{draw(space)}:{item}" for key, item in zip(value, items, strict=True)]
    left, right = "[]" if isinstance(value, list) else "{}"
    return draw(space) + left + ",".join(items) + draw(st.sampled_from(["", ",", ", \r\n"])) + right + draw(space)


@unhurried
@given(st.data())
def test_any_array_with_any_trailing_commas_comes_back(data: st.DataObject) -> None:
    rows = data.draw(samples())
    text = with_trailing_commas(data.draw, rows, st.sampled_from(["", " ", "\n", "\t\r\n"]))
    found = list(read_captions(stored("random.json", text.encode())))
    assert got(iter(found), lines=False) == wanted(rows)
    # The line is that of the record's brace, found here by a decoder that knows nothing of the scanner.
    starts, decoder, at = [], json.JSONDecoder(), text.index("[") + 1
    clean = scanned(text.encode(), len(text)).decode()
    for _ in rows:
        while clean[at] in " \t\r\n,":
            at += 1
        starts.append(clean.count("\n", 0, at) + 1)
        at = decoder.raw_decode(clean, at)[1]
    assert [row.line for row in found] == starts


def scanned(data: bytes, size: int) -> bytes:
    scanner = ArrayScanner("x")
    pieces = [scanner.feed(data[at : at + size]) for at in range(0, len(data), size)]
    scanner.close()
    return b"".join(pieces)


TRICKY = r"""[ {"a\\": "x,]\"},", "b" : [1 , 2 , ] , "é😀" : {"c": NaN , } , } ,
"\\",  "\"", "\ud83d\ude00", "\ud800", "\\ud800", [ ], [[], ], -Infinity, "NaN", {} , ]  """.encode()


def test_the_scanner_does_not_care_where_chunks_end() -> None:
    whole = scanned(TRICKY, len(TRICKY))
    assert json.loads(whole) == [
        {"a\\": 'x,]"},', "b": [1, 2], "é😀": {"c": None}}, "\\", '"', "😀", "\ufdd0", "\\ud800", [], [[]], None, "NaN", {},
    ]  # fmt: skip
    for cut in range(1, len(TRICKY)):
        scanner = ArrayScanner("x")
        assert scanner.feed(TRICKY[:cut]) + scanner.feed(TRICKY[cut:]) == whole
        scanner.close()
        assert list(scanner.lines) == [1] + [2] * 10
        assert scanned(TRICKY, cut) == whole


@unhurried
@given(st.lists(META, max_size=5), st.integers(1, 40), st.booleans())
def test_the_scanner_changes_nothing_in_clean_json(value: list[Any], size: int, ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii, indent=1).encode()
    assert json.loads(scanned(text, size)) == json.loads(text)


@unhurried
@given(st.binary(max_size=60) | st.text('[]{}",:\\ 1ud8NaN\n', max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for format in ("json", "jsonl", "csv", "tsv", "text", "parquet"):
        try:
            assert all(isinstance(one, (Sample, BadRecord)) for one in read_captions(stored("any.bin", b"[" + data), format=format))
        except InputError as error:
            assert "any.bin" in error.message


@unhurried
@given(samples())
def test_any_jsonl_comes_back(rows: list[dict[str, Any]]) -> None:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    assert got(read_captions(stored("random.jsonl", content), format="jsonl")) == wanted(rows, 1)


LINE = TEXT.map(lambda text: " ".join(text.split())).filter(bool)


@unhurried
@given(samples(LINE))
def test_any_table_comes_back(rows: list[dict[str, Any]]) -> None:
    rows = [{**row, "extra": f"{row['extra']!r}".replace("\0", "")} for row in rows]
    for name, dialect in {"random.csv": csv.excel, "random.tsv": csv.excel_tab}.items():
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, ["id", "caption", "extra"], dialect=dialect)
        writer.writeheader()
        writer.writerows(rows)
        assert got(read_captions(stored(name, out.getvalue().encode()))) == wanted(rows, 2)
    parquet = io.BytesIO()
    schema = pa.schema([("id", pa.string()), ("caption", pa.string()), ("extra", pa.string())])
    pq.write_table(pa.Table.from_pylist([{**row, "id": str(row["id"])} for row in rows], schema), parquet)
    assert got(read_captions(stored("random.parquet", parquet.getvalue()))) == wanted(rows, 1)
    text = "".join(f"{row['caption']}\n" for row in rows).encode()
    assert [row.caption for row in read_captions(stored("random.txt", text)) if isinstance(row, Sample)] == [row["caption"] for row in rows]


@pytest.mark.parametrize("name", ["big.json", "big.jsonl", "big.csv"])
def test_memory_stays_flat(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    caption = "A long caption of a street with people, cars and shops. " * 8
    with path.open("w") as file:
        file.write({".json": "[", ".csv": "id,caption\n"}.get(path.suffix, ""))
        for number in range(80_000):
            row = (
                f'{number},"{caption}"\n'
                if name == "big.csv"
                else json.dumps({"id": number, "caption": caption}) + {".json": ",\n"}.get(path.suffix, "\n")
            )
            file.write(row)
        file.write({".json": "]"}.get(path.suffix, ""))
    assert path.stat().st_size > 35_000_000
    program = """
import re, sys
from synthvlm.formats import read_captions
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
stream = read_captions(sys.argv[1])
for _ in range(2000): next(stream)
before = peak()
rest = sum(1 for _ in stream)
print(rest, peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    rest, grown = map(int, done.stdout.split())
    assert rest == 78_000
    assert grown < 8_000, "kilobytes while 35 MB were read"
