"""Caption files: what each format gives, and what a bad record costs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import fsspec
import ijson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthvlm.formats import FORMATS, BadRecord, read_captions, sniff
from synthvlm.sample import Sample

SEED = """[
    {
        "id": 1,
        "caption": "A red bus, seen from behind,]"
    },
    {
        "id": "2",
        "caption": "A dog \\"Rex\\" behind a window,}",
    },
]
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def put(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return put


def read(source: str, **options: Any) -> list[Sample | BadRecord]:
    return list(read_captions(source, **options))


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_the_seeds_json_with_its_trailing_commas(write: Any) -> None:
    assert read(write("captions.json", SEED)) == [
        Sample("1", "A red bus, seen from behind,]", line=2),
        Sample("2", 'A dog "Rex" behind a window,}', line=6),
    ]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", "\ufeff" + '["one", "two"]', [Sample(None, "one", line=1), Sample(None, "two", line=1)]),
        ("a.json", "[]", []),
        ("a.json", "\n\n[ ]\n", []),
        ("a.json", '[{"caption": "x", "image": "a.jpg", "k": 1.5, "n": NaN}]', [Sample(None, "x", "a.jpg", {"k": 1.5, "n": None}, 1)]),
        ("a.json", '[{"id": null, "caption": "x", "u": 18446744073709551615}]', [Sample(None, "x", None, {"u": 18446744073709551615}, 1)]),
        ("a.json", '[{"id": 1.0, "Caption": " x\\ty \\n"}]', [Sample("1", "x\ty", line=1)]),
        ("a.json", '[{"caption": "\\ud83d\\ude00 \\\\ud800"}]', [Sample(None, "😀 \\ud800", line=1)]),
        ("a.json", '{"caption": "x"}\n\n{"caption": "y"}\n', [Sample(None, "x", line=1), Sample(None, "y", line=3)]),
        ("a.jsonl", '\ufeff{"id": 7, "text": "x"}\r\n \r\n"bare"', [Sample("7", "x", line=1), Sample(None, "bare", line=3)]),
        ("a.jsonl", '[{"caption": "x"}]', [Sample(None, "x", line=1)]),
        ("a.ndjson", '{"caption": "\\ud83d\\ude00", "n": NaN}', [Sample(None, "😀", None, {"n": None}, 1)]),
        (
            "a.csv",
            '\ufeffid,Prompt,n\r\n1,"a, b\r\nc",\r\n\r\n,d,2\r\n',
            [Sample("1", "a, b\r\nc", None, {"n": ""}, 2), Sample(None, "d", None, {"n": "2"}, 5)],
        ),
        (
            "a.tsv",
            'id\tPROMPT\n1\t"G I" painted\n2\t"say ""hi"""\n3\t"a" and "b"\n4\t""""\n',
            [
                Sample("1", '"G I" painted', line=2),
                Sample("2", 'say "hi"', line=3),
                Sample("3", '"a" and "b"', line=4),
                Sample("4", '"', line=5),
            ],
        ),
        ("a.txt", "\ufeffone \n\n  two\r\n", [Sample(None, "one", line=1), Sample(None, "two", line=3)]),
        ("a.txt", "", []),
        ("a.jsonl", "", []),
    ],
)
def test_what_is_read(write: Any, name: str, content: str, expected: list[Sample]) -> None:
    assert read(write(name, content)) == expected


def test_llava_records_keep_their_conversation(write: Any) -> None:
    turns = [{"from": "human", "value": "What is it?\n<image>"}, {"from": "gpt", "value": " A cat. "}, {"from": "gpt", "value": "no"}]
    record = {"id": "x", "image": "part_0/0/1.jpg", "conversations": turns}
    expected = Sample("x", "A cat.", "part_0/0/1.jpg", {"conversations": turns}, 1)
    assert read(write("llava.json", json.dumps([record]))) == [expected]
    assert read(write("llava.jsonl", json.dumps(record))) == [expected]
    path = write("llava.parquet", b"")
    pq.write_table(pa.Table.from_pylist([record]), path)
    assert read(path) == [expected]
    both = read(write("both.json", json.dumps([{**record, "caption": "given"}])))
    assert isinstance(both[0], Sample) and both[0].caption == "given" and both[0].meta == {"conversations": turns}


def test_parquet_types(write: Any) -> None:
    path = write("a.parquet", b"")
    columns = {
        "id": pa.array([1.0, None], pa.float64()),
        "TEXT": ["x", "y"],
        "picture": pa.array([{"bytes": b"\xff"}, None]),
        "day": pa.array([0, 1], pa.date32()),
        "price": pa.array([None, None], pa.decimal128(5, 2)),
    }
    pq.write_table(pa.table(columns), path)
    assert read(path) == [
        Sample("1", "x", None, {"day": "1970-01-01", "price": None}, 1),
        Sample(None, "y", None, {"day": "1970-01-02", "price": None}, 2),
    ]


def test_columns_by_name(write: Any) -> None:
    rows = "key,caption,alt,Alt\n9,wrong,right,other\n"
    expected = [Sample("9", "right", None, {"caption": "wrong", "Alt": "other"}, 2)]
    assert read(write("a.csv", rows), caption_column="alt", id_column="key") == expected
    source = write("a.json", '[{"key": 9, "caption": "wrong", "alt": "right", "Alt": "other"}, {"key": 9, "caption": "x"}]')
    first, second = read(source, caption_column="alt", id_column="key")
    assert first == Sample("9", "right", None, {"caption": "wrong", "Alt": "other"}, 1)
    assert second == BadRecord(1, "alt", "is missing; the record has 'key', 'caption'")


def test_packed_files_and_other_places(write: Any) -> None:
    expected = ["A red bus, seen from behind,]", 'A dog "Rex" behind a window,}']
    assert captions(read(write("captions.json.gz", gzip.compress(SEED.encode())))) == expected
    with fsspec.open("memory://formats/captions.json", "wb") as file:
        file.write(SEED.encode())  # type: ignore[attr-defined]
    assert captions(read("memory://formats/captions.json")) == expected


def test_long_captions_pass(write: Any) -> None:
    long = "1234567890" * 100_000
    record = json.dumps({"id": 1, "caption": long})
    for name, content in {
        "a.json": f"[{record},]",
        "a.jsonl": record,
        "a.csv": f"id,caption\n1,{long}\n",
        "a.tsv": f"id\tcaption\n1\t{long}\n",
    }.items():
        assert captions(read(write(name, content))) == [long], name
    assert captions(read(write("a.txt", long))) == [long]


def captions(found: list[Sample | BadRecord]) -> list[str | None]:
    assert all(isinstance(one, Sample) for one in found), found
    return [one.caption for one in found if isinstance(one, Sample)]


# --- one bad record costs one record --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "field", "reason"),
    [
        ('{"id": 1}', "caption", "is missing; the record has 'id'"),
        ("{}", "caption", "is missing; the record has none"),
        ("[1]", None, "is a list, not an object with a caption"),
        ("null", None, "is null, not an object with a caption"),
        ('{"caption": null}', "caption", "is null"),
        ('{"Caption": ""}', "Caption", "is empty"),
        ('{"caption": " \\n "}', "caption", "is empty"),
        ('{"caption": 3}', "caption", "is a number, not a text"),
        ('{"caption": NaN}', "caption", "is null"),
        ('{"caption": ["a", "b"]}', "caption", "is a list, not a text"),
        ('{"caption": "a\\u0000b"}', "caption", "holds a NUL character"),
        ('{"caption": "a\\ud800b"}', "caption", "holds half of a surrogate pair (such as \\ud800), which is no text"),
        ('{"caption": "\\ud83d\\ud83d\\ude00"}', "caption", "holds half of a surrogate pair (such as \\ud800), which is no text"),
        ('{"caption": "\\udc00\\udc01"}', "caption", "holds half of a surrogate pair (such as \\ud800), which is no text"),
        ('{"caption": "\\\\\\uDC00"}', "caption", "holds half of a surrogate pair (such as \\ud800), which is no text"),
        ('{"caption": "x", "id": true}', "id", "is true or false; an id is a whole number or a text"),
        ('{"caption": "x", "id": 1.5}', "id", "is 1.5; an id is a whole number or a text"),
        ('{"caption": "x", "id": 1e300}', "id", "is 1e+300; an id is a whole number or a text"),
        ('{"caption": "x", "id": [1]}', "id", "is a list; an id is a whole number or a text"),
        ('{"caption": "x", "id": "a\\u0000"}', "id", "holds a NUL character"),
        ('{"caption": "x", "image": 5}', "image", "is a number, not a path or URL"),
        (
            '{"conversations": [{"from": "human", "value": "?"}]}',
            "conversations",
            'has no turn from "gpt", whose text would be the caption',
        ),
        ('{"conversations": [{"from": "gpt"}]}', "conversations", "is null"),
    ],
)
def test_a_bad_record_is_set_aside(write: Any, record: str, field: str | None, reason: str) -> None:
    good = '{"caption": "good"}'
    expected = [Sample(None, "good", line=1), BadRecord(2, field, reason), Sample(None, "good", line=3)]
    for name, content in {"a.json": f"[{good},\n{record},\n{good}]", "a.jsonl": f"{good}\n{record}\n{good}\n"}.items():
        assert read(write(name, content)) == expected


@pytest.mark.parametrize(
    ("name", "content", "bad"),
    [
        (
            "a.csv",
            "id,caption\n1,a\n2,b, c\n3,d\n",
            BadRecord(3, None, "has 3 fields where the header has 2; a field with commas goes in quotation marks"),
        ),
        ("a.csv", "id,caption\n1,a\n2\n3,d\n", BadRecord(3, "caption", "is missing; the record has 'id'")),
        (
            "a.csv",
            'id,caption\n1,a\n2,"G I" bus\n3,d\n',
            BadRecord(3, None, 'stray quotation mark (\',\' expected after \'"\'); a field that holds some is written "like ""this"""'),
        ),
        ("a.tsv", 'id\tcaption\n1\ta\n2\t"b\n3\td\n', BadRecord(3, "caption", "opens a quotation mark and does not close it on this line")),
        ("a.tsv", 'id\tcaption\n1\ta\n"2\tb\n3\td\n', BadRecord(3, "id", "opens a quotation mark and does not close it on this line")),
        (
            "a.tsv",
            "id\tcaption\n1\ta\n2\tb\tc\n3\td\n",
            BadRecord(3, None, "has 3 fields where the header has 2; tabs within a field are not possible"),
        ),
        ("a.tsv", "id\tcaption\n1\ta\n2\t\n3\td\n", BadRecord(3, "caption", "is empty")),
    ],
)
def test_a_bad_row_is_set_aside(write: Any, name: str, content: str, bad: BadRecord) -> None:
    assert read(write(name, content)) == [Sample("1", "a", line=2), bad, Sample("3", "d", line=4)]


def test_how_a_bad_record_reads() -> None:
    assert str(BadRecord(7, "caption", "is empty")) == "line 7, caption: is empty"
    assert str(BadRecord(7, None, "is a list")) == "line 7: is a list"


@pytest.mark.parametrize(
    ("name", "head", "expected"),
    [
        ("a.json", "[", "json"),
        ("A.JSON", '{\n"a": [', "json"),
        ("a.json", '{"a": 1}\n{"a": 2}', "jsonl"),
        ("a.jsonl", "\ufeff [", "json"),
        ("captions", '{"a": 1}\n{"a": 2}', "jsonl"),
        ("captions", "PAR1", "parquet"),
        ("a.pq", "", "parquet"),
        ("a.text", "[", "text"),
        ("a.tsv.gz", "", "tsv"),
    ],
)
def test_sniff(write: Any, name: str, head: str, expected: str) -> None:
    assert sniff(write(name, head)) == expected
    assert expected in FORMATS


def test_ijson_has_its_fast_backend() -> None:
    assert ijson.backend == "yajl2_c"
