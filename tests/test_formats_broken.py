"""Caption files that cannot be read: the error says which file, which line, and what to do."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import pytest

from synthvlm.errors import InputError, OptionError
from synthvlm.formats import BadRecord, files, json_array, read_captions, tables
from synthvlm.sample import Sample

ARRAY = '[{"id": 1, "caption": "A red bus"}, {"id": 2, "caption": "A dog"}]'


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def put(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return put


def read(source: str, **options: Any) -> list[Sample | BadRecord]:
    return list(read_captions(source, **options))


@pytest.mark.parametrize(
    ("name", "content", "message", "hint"),
    [
        ("a.json", "", "a.json is empty", "looks like"),
        ("a.json", " \n ", "a.json is empty", "looks like"),
        ("a.json", '{"annotations": [{"caption": "x"}]}', "holds one JSON object, not an array", "jq .annotations"),
        ("a.json", '"x"', "is not a JSON array: it starts with b'\"'", "should look like"),
        ("a.json", '[\n{"caption": "a"},\n{"caption" "b"}\n]', "the record that starts on line 3", "comma, quotation mark"),
        ("a.json", '[\n{"caption": "a"}\n{"caption": "b"}\n]', "the record that starts on line 2", "comma, quotation mark"),
        ("a.json", '[\n{"caption": "a\nb"}]', "line 2, or what follows it, is not JSON: invalid character inside string", "mend it"),
        ("a.json", "[,,]", "line 1, or what follows it, is not JSON", "mend it"),
        ("a.json", '[\n{"caption": "a"},\n{"caption": "b', "a.json, line 3: the file ends before its array does", "close it with ]"),
        ("a.json", '[\n"a",\n"b"\n]\nx', "a.json, line 4: something follows the end of the array", "delete what follows"),
        ("a.json", '["a"][1]', "is not JSON: trailing garbage", "mend it"),
        ("a.json", b'[\n"a",\n"b\xff"]', "a.json, line 3: byte 0xff is not UTF-8", "iconv"),
        ("a.json", ARRAY.encode("utf-16"), "a.json is UTF-16, not UTF-8", "iconv -f UTF-16"),
        (
            "a.json",
            f'[\n{{"caption": "{"1" * 5000}", "n": -{"1" * 5000}}}]',
            "a.json, line 2: a number of more than 4,300 digits",
            "in quotation marks",
        ),
        ("a.json", "[1, 1e99999999999999999999]", "is not JSON", "mend it"),
        ("a.json", "[\n" + "[" * 100_000, "a.json, line 2: lists and objects nest more than 200 deep", "flatten"),
        ("a.jsonl", '{"caption": "a"}\n{"caption": "b"', "a.jsonl, line 2, column 16: not JSON: Expecting ',' delimiter", "mend or delete"),
        ("a.jsonl", "\n" + '{"a":' * 100_000, "a.jsonl, line 2: lists and objects nest too deep", "mend or delete"),
        ("a.jsonl", b'"a"\n"\xe9"', "a.jsonl, line 2: byte 0xe9 is not UTF-8", "iconv"),
        ("a.csv", "", "a.csv is empty", "id,caption"),
        ("a.csv", "name,alt\n", "a.csv has no column for the captions", "it has the columns 'name', 'alt'; say which"),
        ("a.csv", "caption,caption\n", "has the column 'caption' 2 times", "rename"),
        ("a.csv", 'id,caption\n1,a\n2,"b\n3,c\n', "a.csv, line 3: a quotation mark opens here that is never closed", "close it"),
        ("a.csv", b"caption\n\xe9\n", "a.csv, line 2: byte 0xe9 is not UTF-8", "iconv"),
        ("a.tsv", "", "a.tsv is empty", "with tabs"),
        ("a.tsv", "name\talt\n", "a.tsv has no column for the captions", "'name', 'alt'"),
        ("a.txt", b"a\n\xe9\n", "a.txt, line 2: byte 0xe9 is not UTF-8", "iconv"),
        ("a.parquet", b"PAR1 no", "cannot be read as Parquet", "damaged"),
        ("a.json.gz", gzip.compress(ARRAY.encode())[:-12], "cannot be unpacked", "cut off"),
        ("a.json.gz", b"plain", "cannot be read: Not a gzipped file", "check the file"),
        ("a.dat", "what", "does not say what format it is in", "--format: json, jsonl"),
    ],
)
def test_a_broken_file(write: Any, name: str, content: str | bytes, message: str, hint: str) -> None:
    with pytest.raises(InputError) as raised:
        read(write(name, content))
    assert message in raised.value.message
    assert name in raised.value.message
    assert hint in (raised.value.hint or "")


def test_records_before_the_fault_are_given(write: Any) -> None:
    for tail in ("{'b'}]", "", '{"caption": "cut'):
        stream = read_captions(write("a.json", f'[{{"caption": "a"}}, {{"caption": "b"}},\n{tail}'))
        assert [next(stream), next(stream)] == [Sample(None, "a", line=1), Sample(None, "b", line=1)]
        with pytest.raises(InputError):
            next(stream)


def test_places_that_cannot_be_read(write: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*none\.json"):
        read(str(tmp_path / "none.json"))
    with pytest.raises(InputError, match="is a folder"):
        read(str(tmp_path), format="json")
    with pytest.raises(InputError, match=r"nowhere://a\.json"):
        read("nowhere://a.json")
    with pytest.raises(OptionError, match="no format 'xml'"):
        read_captions("a.xml", format="xml")
    for options, message in [({"caption_column": "alt"}, "no column 'alt'"), ({"id_column": "key"}, "no column 'key'")]:
        with pytest.raises(InputError, match=message) as raised:
            read(write("a.csv", "id,caption\n1,a\n"), **options)
        assert "it has the columns 'id', 'caption'" in (raised.value.hint or "")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '[\n"ab', "a.json, line 2: a value of more than 1 MiB starts here"),
        ("a.jsonl", '"a"\n"b', "a.jsonl, line 2 is longer than 1 MiB"),
        ("a.csv", 'id,caption\n1,"b\n', "a.csv, line 2: a quotation mark opens here that is never closed"),
    ],
)
def test_a_quotation_mark_too_few_does_not_eat_the_memory(
    write: Any, monkeypatch: pytest.MonkeyPatch, name: str, content: str, message: str
) -> None:
    for module in (files, json_array, tables):
        monkeypatch.setattr(module, "LONGEST", 1 << 20)
    before = csv.field_size_limit(1 << 20)
    try:
        with pytest.raises(InputError) as raised:
            read(write(name, content + ("word\n" if name == "a.csv" else "word ") * 1_000_000))
    finally:
        csv.field_size_limit(before)
    assert message in raised.value.message
