"""Captions into a run: ids, duplicates, what changed since the last reading, files of 10,000 rows."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from synthvlm import samples
from synthvlm.errors import InputError, RunError
from synthvlm.run import RunDirectory, fetch
from synthvlm.samples import ingest
from tests import rows


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run")


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Write records (text, (id, text) or dicts) as JSON; the time of writing always moves on."""
    time = [1_700_000_000]

    def put(records: Any, name: str = "captions.json") -> str:
        path = tmp_path / name
        path.write_text(
            json.dumps(
                [{"id": r[0], "caption": r[1]} if isinstance(r, tuple) else r if isinstance(r, dict) else {"caption": r} for r in records]
            )
        )
        time[0] += 1
        os.utime(path, (time[0], time[0]))
        return str(path)

    return put


def held(run: RunDirectory) -> list[tuple[str, str]]:
    """Return (id, caption) in order of rows, which are consecutive."""
    with run.connect() as db:
        found = fetch(db, f"SELECT * FROM {run.samples_sql()} ORDER BY row")
    assert [r["row"] for r in found] == list(range(len(found)))
    assert len({r["id"] for r in found}) == len(found)
    assert run.sample_count() == len(found)
    return [(r["id"], r["caption"]) for r in found]


def made_id(caption: str) -> str:
    return hashlib.md5(caption.encode()).hexdigest()[:16]


# --- ids --------------------------------------------------------------------------------------------------------------


def test_given_ids_are_kept_and_numbers_are_text(run, write):
    result = ingest(run, write([(1, "one"), ("x y", "two"), ("01", "three")]))
    assert (result.read, result.added, result.edited, result.duplicates, result.rejected) == (3, 3, 0, 0, 0)
    assert held(run) == [("1", "one"), ("x y", "two"), ("01", "three")]


def test_a_missing_id_is_the_hash_of_the_caption_and_its_occurrence(run, write):
    ingest(run, write(["a cat", "a dog", "a cat", "a cat"]))
    cat, dog = made_id("a cat"), made_id("a dog")
    assert held(run) == [(cat, "a cat"), (dog, "a dog"), (f"{cat}-2", "a cat"), (f"{cat}-3", "a cat")]


def test_lines_without_ids_keep_theirs_when_others_come_between(run, write):
    ingest(run, write(["a cat", "a dog"]))
    before = held(run)
    result = ingest(run, write(["a bird", "a cat", "a horse", "a dog", "a cat"]))
    assert (result.added, result.edited) == (3, 0)
    assert held(run) == [*before, (made_id("a bird"), "a bird"), (made_id("a horse"), "a horse"), (f"{made_id('a cat')}-2", "a cat")]


def test_the_same_id_twice_is_an_error_that_names_the_first_two(run, tmp_path):
    path = tmp_path / "captions.jsonl"
    path.write_text(
        "".join(
            json.dumps({"id": i, "caption": c}) + "\n" for i, c in ((7, "a"), ("x", "b"), ("7", "c"), ("y", "d"), ("x", "e"), ("y", "f"))
        )
    )
    with pytest.raises(InputError, match=r"ids stand more than once: '7' \(lines 1 and 3\) and 'x' \(lines 2 and 5\)") as error:
        ingest(run, str(path))
    assert "--on-duplicate first" in str(error.value)
    assert held(run) == []
    assert run.record["sources"] == []


def test_the_first_of_each_id(run, write):
    result = ingest(run, write([("a", "1"), ("b", "2"), ("a", "3"), ("a", "4")]), on_duplicate="first")
    assert result.duplicates == 2
    assert held(run) == [("a", "1"), ("b", "2")]


def test_numbered(run, write):
    path = write([("a", "1"), ("b", "2"), ("a", "3"), ("a", "1")])
    result = ingest(run, path, on_duplicate="number")
    assert result.duplicates == 2
    assert held(run) == [("a", "1"), ("b", "2"), ("a-2", "3"), ("a-3", "1")]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a", "a", "a-2"], ["a", "a-2-2", "a-2"]),
        (["a-2", "a", "a"], ["a-2", "a", "a-2-2"]),
        (["a", "a", "a-2", "a-2"], ["a", "a-2-2", "a-2", "a-2-2-2"]),
        (["a", "a", "a-2", "a-2-2", "a", "a-3"], ["a", "a-2-2-2", "a-2", "a-2-2", "a-3-3", "a-3"]),
    ],
)
def test_a_number_never_meets_an_id_that_was_given(run, write, given, expected):
    ingest(run, write([(i, f"caption {n}") for n, i in enumerate(given)]), on_duplicate="number")
    assert held(run) == [(i, f"caption {n}") for n, i in enumerate(expected)]
    before = held(run)
    assert ingest(run, write([(i, f"caption {n}") for n, i in enumerate(given)]), on_duplicate="number").edited == 0
    assert held(run) == before


def test_a_made_id_never_meets_one_that_was_given(run, write):
    """As when a run's export is fed in again beside new lines."""
    cat = made_id("a cat")
    ingest(run, write([(cat, "a cat"), "a cat", (f"{cat}-2", "x"), "a cat"]))
    assert held(run) == [(cat, "a cat"), (f"{cat}-2-2", "a cat"), (f"{cat}-2", "x"), (f"{cat}-2-2-2", "a cat")]


# --- reading again ----------------------------------------------------------------------------------------------------


def test_an_unchanged_file_is_not_read_again(run, write, monkeypatch):
    path = write([("a", "1"), ("b", "2")])
    first = ingest(run, path)
    assert not first.unchanged
    monkeypatch.setattr(samples, "read_captions", lambda *_, **__: pytest.fail("read again"))
    monkeypatch.setattr(samples, "_sha256", lambda *_: pytest.fail("hashed again"))
    again = ingest(run, path)
    assert again.unchanged
    assert (again.read, again.added, again.edited) == (2, 0, 0)
    assert ingest(run, os.path.relpath(path)).unchanged, "by whichever path"


def test_a_touched_or_copied_file_is_hashed_not_read(run, write, monkeypatch):
    path = write([("a", "1")])
    ingest(run, path)
    os.utime(path, (1, 1))
    monkeypatch.setattr(samples, "read_captions", lambda *_, **__: pytest.fail("read again"))
    assert ingest(run, path).unchanged


def test_an_edit_of_the_same_size_is_seen(run, write):
    ingest(run, write([("a", "one"), ("b", "two")]))
    result = ingest(run, write([("a", "one"), ("b", "TWO")]))
    assert (result.added, result.edited, result.unchanged) == (0, 1, False)
    assert held(run) == [("a", "one"), ("b", "TWO")]


def test_nothing_is_ever_removed(run, write):
    ingest(run, write([("a", "1"), ("b", "2")]))
    result = ingest(run, write([("c", "3")]))
    assert (result.added, result.edited) == (1, 0)
    assert held(run) == [("a", "1"), ("b", "2"), ("c", "3")]


def test_other_settings_read_the_same_file_again(run, tmp_path):
    path = tmp_path / "captions.csv"
    path.write_text("name,caption,long\nx,short,a long caption\ny,brief,another long one\nx,again,and again\n")
    ingest(run, str(path), id_column="name", on_duplicate="first")
    assert held(run) == [("x", "short"), ("y", "brief")]
    assert ingest(run, str(path), id_column="name", on_duplicate="number").added == 1
    assert ingest(run, str(path), id_column="name", on_duplicate="number", caption_column="long").edited == 3
    assert held(run) == [("x", "a long caption"), ("y", "another long one"), ("x-2", "and again")]
    assert ingest(run, str(path), id_column="name", on_duplicate="number", caption_column="long").unchanged


def test_other_fields_are_kept_and_their_edits_taken_over(run, write):
    ingest(run, write([{"id": 1, "caption": "a", "source": "cc3m", "n": 2}]))

    def meta() -> Any:
        with run.connect() as db:
            return json.loads(fetch(db, f"SELECT meta FROM {run.samples_sql()}")[0]["meta"])

    assert meta() == {"source": "cc3m", "n": 2}
    assert ingest(run, write([{"id": 1, "caption": "a", "source": "laion", "n": 2}])).edited == 1
    assert meta() == {"source": "laion", "n": 2}


def test_a_limit_reads_the_first_and_a_larger_one_the_rest(run, write):
    path = write([(n, f"caption {n}") for n in range(10)])
    assert ingest(run, path, limit=3).added == 3
    assert ingest(run, path, limit=3).unchanged
    assert ingest(run, path, limit=5).added == 2
    result = ingest(run, path)
    assert (result.read, result.added) == (10, 5)
    assert held(run) == [(str(n), f"caption {n}") for n in range(10)]


# --- several sources --------------------------------------------------------------------------------------------------


def test_sources_are_appended(run, write):
    ingest(run, write([("a", "1")], "one.json"))
    ingest(run, write([("b", "2")], "two.json"))
    assert held(run) == [("a", "1"), ("b", "2")]
    assert [Path(s["path"]).name for s in run.record["sources"]] == ["one.json", "two.json"]
    assert ingest(run, write([("a", "1!"), ("c", "3")], "one.json")).edited == 1
    assert held(run) == [("a", "1!"), ("b", "2"), ("c", "3")]
    assert [Path(s["path"]).name for s in run.record["sources"]] == ["one.json", "two.json"]


def test_an_id_of_another_source_with_another_caption_is_a_clash(run, write):
    ingest(run, write([("a", "1"), ("b", "2")], "one.json"))
    with pytest.raises(
        RunError, match=r"two\.json, line 1: id 'b' is already in .*, from another source and with another caption"
    ) as error:
        ingest(run, write([("c", "3"), ("b", "two")], "two.json"))
    assert "other ids" in str(error.value)
    assert held(run) == [("a", "1"), ("b", "2")]
    assert len(run.record["sources"]) == 1
    assert ingest(run, write([("c", "3"), ("b", "2")], "two.json")).added == 1, "with the same caption it is the same sample"
    assert held(run) == [("a", "1"), ("b", "2"), ("c", "3")]


# --- what cannot be used ----------------------------------------------------------------------------------------------


def test_rejected_records_are_counted_and_listed(run, write):
    path = write([("a", "1"), {"id": 2}, {"id": 3, "caption": "  "}, {"id": 4, "caption": 5}, ("b", "2")])
    result = ingest(run, path)
    assert (result.read, result.added, result.rejected) == (5, 2, 3)
    listed = [json.loads(x) for x in run.store.read("logs/rejected-0.jsonl").splitlines()]
    assert [(r["field"], bool(r["reason"]), isinstance(r["line"], int)) for r in listed] == [("caption", True, True)] * 3
    assert ingest(run, path).rejected == 3, "said again, though nothing is read"
    assert ingest(run, write([("a", "1"), ("b", "2")])).rejected == 0
    assert not run.store.exists("logs/rejected-0.jsonl"), "what was mended is no longer listed"


def test_what_separates_the_parts_of_a_key_cannot_stand_in_one(run, write):
    """Else (a, b-c) and (a-b, c) would be one row."""
    result = ingest(run, write([("a", "b\x1fc"), ("a\x1fb", "c"), ("a", "fine")]))
    assert (result.added, result.rejected) == (1, 2)
    assert held(run) == [("a", "fine")]
    assert b"U+001F" in run.store.read("logs/rejected-0.jsonl")


def test_a_file_with_nothing_usable_says_the_first_reason(run, write):
    with pytest.raises(InputError, match="no usable caption in it") as error:
        ingest(run, write([{"id": 2, "caption": ""}, {"id": 3}]))
    assert "the first problem: line 1, caption" in str(error.value)
    with pytest.raises(InputError, match="no usable caption in it") as error:
        ingest(run, write([]))
    assert error.value.hint == "it is empty"
    assert held(run) == []


def test_a_broken_file_changes_nothing(run, tmp_path, write):
    ingest(run, write([("a", "1")]))
    before = rows.files(Path(run.root))
    path = tmp_path / "captions.json"
    path.write_text('[{"id": "b", "caption": "2"},\n{"id" "c"}]')
    with pytest.raises(InputError, match="line 2"):
        ingest(run, str(path))
    with pytest.raises(InputError, match=r"none\.json"):
        ingest(run, str(tmp_path / "none.json"))
    assert rows.files(Path(run.root)) == before


# --- many -------------------------------------------------------------------------------------------------------------


def test_files_of_10_000_rows(run, tmp_path):
    path = tmp_path / "captions.jsonl"

    def lines(count: int, edit: dict[int, str]) -> None:
        path.write_text("".join(json.dumps({"id": n, "caption": edit.get(n, f"caption {n}")}) + "\n" for n in range(count)))

    def sizes() -> list[int]:
        with run.connect() as db:
            return [
                db.execute(f"SELECT count(*) FROM read_parquet('{run.store.url(f'samples/{n}')}')").fetchall()[0][0]
                for n in run.store.list("samples")
            ]

    lines(12_345, {})
    assert ingest(run, str(path)).added == 12_345
    assert sizes() == [10_000, 2_345]
    first = run.store.read("samples/00000.parquet")
    lines(31_000, {5: "edited", 9_999: "edited too", 12_000: "edited three"})
    result = ingest(run, str(path))
    assert (result.added, result.edited) == (31_000 - 12_345, 3)
    assert sizes() == [10_000, 10_000, 10_000, 1_000]
    found = held(run)
    assert [i for i, _ in found] == [str(n) for n in range(31_000)]
    assert {n: c for n, (_, c) in enumerate(found) if c != f"caption {n}"} == {5: "edited", 9_999: "edited too", 12_000: "edited three"}
    edited = run.store.read("samples/00000.parquet")
    assert edited != first
    with run.connect() as db:
        some = fetch(db, f"SELECT id FROM {run.samples_sql((9_998, 10_002))} ORDER BY row")
    assert [r["id"] for r in some] == ["9998", "9999", "10000", "10001"], "a range across files"
    lines(40_000, {5: "edited", 9_999: "edited too", 12_000: "edited three"})
    ingest(run, str(path))
    assert sizes() == [10_000] * 4
    assert run.store.read("samples/00000.parquet") == edited, "what did not change is not written again"
    lines(40_001, {5: "edited", 9_999: "edited too", 12_000: "edited three"})
    ingest(run, str(path))
    assert sizes() == [10_000] * 4 + [1]


def test_in_pieces_or_at_once_the_run_is_the_same(tmp_path, write):
    def records(count: int) -> list[tuple[int, str]]:
        return [(n, f"caption {n}") for n in range(count)]

    once, pieces = (RunDirectory.create(tmp_path / n) for n in ("once", "pieces"))
    for count in (3, 9_999, 10_001, 10_050):
        ingest(pieces, write(records(count)))
    ingest(once, write(records(10_050)))
    assert held(once) == held(pieces)
