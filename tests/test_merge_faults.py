"""What is wrong with files of captions, and what is said of it; options that contradict the files; merges that are killed."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from synthvlm.errors import InputError, OptionError, RunError
from synthvlm.merge import compose, merge_files
from synthvlm.merging.sources import arrange
from tests.merging import Form, write

PAIRS = [(f"{n}.jpg", f"caption {n}") for n in range(5)]


@pytest.fixture
def original(tmp_path: Path) -> str:
    write(tmp_path / "original.jsonl", [(i, f"own {i}") for i, _ in PAIRS], Form())
    return str(tmp_path / "original.jsonl")


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in path.read_text().splitlines()]


def merged(original: str, sources: Any, **options: Any) -> tuple[list[list[str]], list[str], dict[str, Any]]:
    """Return the captions of each line, what was told, and all that was returned."""
    out = Path(original).parent / "out.jsonl"
    done = merge_files(original, sources, out, **options)
    return [line["caption"] for line in lines_of(out)], done["notes"], done


def test_bad_records_are_told_of_a_line_each_and_cost_only_themselves(tmp_path, original):
    (tmp_path / "x.jsonl").write_bytes(
        b'{"image": "0.jpg", "caption": "zero"}\n{"image": "1.jpg", "caption": 7}\n{"image": "2.jpg"}\n{"image": "3.jpg", "caption": "\xff"}\n'
        b'nothing\n[1]\n{"caption": "x"}\n\n{"image": "4.jpg", "caption": "four"}\n' + b'{"image": "1.jpg", "caption": null}\n' * 5
    )
    captions, notes, _ = merged(original, [str(tmp_path / "x.jsonl")], keep_original=False)
    assert captions == [["zero"], ["four"]]
    at = f"{tmp_path}/x.jsonl, line"
    assert f"{at} 2: the caption is a number, not a text; left out" in notes
    assert f"{at} 3: has no caption; left out" in notes
    assert f"{at} 4: byte 0xff is not UTF-8; left out" in notes
    assert any(n.startswith(f"{at} 5: is not JSON: ") for n in notes)
    assert f"{at} 6: is not an object with an image and a caption; left out" in notes
    assert f"{at} 7: has no image; left out" in notes
    assert f"{tmp_path}/x.jsonl: 3 more like that" in notes, "not a line for each of a million"


def test_a_broken_record_in_an_array_or_index_costs_only_itself(tmp_path, original):
    for name, content in {
        "a.json": b'[{"image": "0.jpg", "caption": "zero"}, {"image": "1.jpg", "caption": "one}, {"image": "2.jpg", "caption": "two"},'
        b' {"image": "3.jpg", "caption": "a "b" c"}\n {"image": "4.jpg", "caption": "four",},]',
        "b.json": b'{"0.jpg": "zero", "1.jpg": "\xff", "2.jpg": "two",, "3.jpg": {"caption": "three"}\n "4.jpg": "four",}',
    }.items():
        (tmp_path / name).write_bytes(content)
        captions, notes, _ = merged(original, [str(tmp_path / name)], keep_original=False)
        assert captions == [["zero"], ["two"], ["four"]], name
        assert any("line 1: " in n for n in notes), notes


def test_duplicates_and_unknown_images_are_counted_and_the_first_wins(tmp_path, original):
    write(tmp_path / "original.jsonl", [*[(i, f"own {i}") for i, _ in PAIRS], ("1.jpg", "second")], Form())
    write(tmp_path / "x.json", [("1.jpg", "first"), ("1.jpg", "second"), ("9.jpg", "nine"), ("2.jpg", "two")], Form("index"))
    captions, notes, done = merged(original, [str(tmp_path / "x.json")])
    assert captions == [["own 0.jpg"], ["own 1.jpg", "first"], ["own 2.jpg", "two"], ["own 3.jpg"], ["own 4.jpg"]]
    assert f"{original}: 1 records name an image again; the first of each is used" in notes
    assert "x: 1 records name an image again; the first of each is used" in notes
    assert "x: 1 captions are of images that the original lacks" in notes
    assert done["duplicates"] == 1
    own, x = done["positions"]
    assert own == {"position": 0, "source": "original", "files": [original], "records": 6, "duplicates": 1, "lacking": 0}
    assert {k: x[k] for k in ("records", "used", "duplicates", "unknown", "lacking")} == {
        "records": 4, "used": 2, "duplicates": 1, "unknown": 1, "lacking": 3,
    }  # fmt: skip


def test_a_source_that_cannot_be_read_is_left_out_and_said(tmp_path, original):
    write(tmp_path / "x.json", PAIRS, Form("index"))
    (tmp_path / "empty.json").touch()
    (tmp_path / "wide.json").write_bytes('{"0.jpg": "x"}'.encode("utf-16"))
    (tmp_path / "cut.json.gz").write_bytes(gzip.compress(b'{"0.jpg": "x"}' * 50)[:-20])
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    names = ["missing", "empty", "wide", "folder", "pipe"]
    captions, notes, done = merged(original, [str(tmp_path / f"{n}.json") for n in [*names, "x"]] + [str(tmp_path / "cut.json.gz")])
    assert captions == [[f"own {i}", c] for i, c in PAIRS]
    assert [p["source"] for p in done["positions"]] == ["original", "x"]
    for name, reason in zip(
        [*names, "cut"], ["there is no file", "is empty", "is UTF-16", "is a folder", "is no file", "cannot be unpacked"], strict=True
    ):
        assert any(reason in n and name in n for n in notes), (name, notes)
        assert f"{name} has no usable caption: it gets no position" in notes
    for bad in ("missing", "empty", "wide", "folder", "pipe"):
        with pytest.raises(InputError):
            merge_files(str(tmp_path / f"{bad}.json"), [str(tmp_path / "x.json")], tmp_path / "other.jsonl")
        with pytest.raises(InputError, match=f"no usable caption in {bad}"):
            merge_files(original, [str(tmp_path / f"{bad}.json")], tmp_path / "other.jsonl")
    assert not list(tmp_path.glob("*other*")), "nothing is left"


def test_the_original_may_have_lists_of_captions_or_none(tmp_path):
    own = [("a", ["one", "two"]), ("b", None), ("c", "single"), ("d", []), ("e", ["x", 3, "y"]), ("f", 7)]
    write(tmp_path / "original.json", own, Form("array"))
    write(tmp_path / "x.json", [(i, f"x {i}") for i, _ in own], Form("index"))
    captions, notes, done = merged(str(tmp_path / "original.json"), [str(tmp_path / "x.json")])
    assert captions == [["one", "two", "x a"], ["x b"], ["single", "x c"], ["x d"], ["x", "y", "x e"], ["x f"]]
    assert [p["lacking"] for p in done["positions"]] == [3, 4, 0]
    assert any("in the list of captions stands a number" in n for n in notes)
    assert any("the caption is a number, not a text or a list of texts" in n for n in notes)
    captions, _, _ = merged(str(tmp_path / "original.json"), [str(tmp_path / "x.json")], missing="drop")
    assert captions == [["one", "two", "x a"], ["single", "x c"], ["x", "y", "x e"]], "a shorter list of its own is no lack"


def test_parts_of_one_captioner_are_one_source_in_the_order_of_their_numbers(tmp_path, original):
    parts = [f"{tmp_path}/internvl2_{n}.json" for n in (10, 2, 0, 1)]
    for n, part in enumerate(parts):
        write(Path(part), [(f"{n}.jpg", f"part {n}"), ("4.jpg", f"four of {n}")], Form("array"))
    write(tmp_path / "llava-0.json", PAIRS, Form("index"))
    captions, notes, done = merged(original, [*parts, f"{tmp_path}/llava-0.json"], keep_original=False)
    assert [p["source"] for p in done["positions"]] == ["internvl2", "llava-0"]
    assert done["positions"][0]["files"] == [parts[2], parts[3], parts[1], parts[0]]
    assert captions[4] == ["four of 2", "caption 4"], "the first part wins"
    assert any("part 3, 4, 5, 6, 7, 8, 9 of 11 is not there" in n for n in notes)
    assert any("--separate makes each a source" in n for n in notes)
    assert len(merged(original, parts, group=False)[2]["positions"]) == 5
    named = arrange([f"x={p}" for p in parts])
    assert (named[0].name, named[0].files) == ("x", done["positions"][0]["files"])
    assert [s.name for s in arrange(["a/index.json", "b/index.json", "c/d/index.json"])] == ["a/index", "b/index", "d/index"]
    assert arrange([f"{tmp_path}/internvl2_*.json"])[0].files == done["positions"][0]["files"]


@pytest.mark.parametrize(
    ("sources", "options", "said"),
    [
        (["x.json"], {"missing": "odd"}, "--missing odd is not known"),
        (["x.json"], {"order": ["y"]}, "--order y: there is no such source"),
        (["no*.json"], {}, "no file fits"),
        (["x=x.json", "x/x.json"], {}, "two sources are called 'x'"),
        (["original=x.json"], {}, "a source cannot be called 'original'"),
        (["./out.jsonl"], {}, "is one of the files to merge"),
    ],
)
def test_options_that_make_no_sense(tmp_path, original, monkeypatch, sources, options, said):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.json", PAIRS, Form("index"))
    with pytest.raises(OptionError, match=said.replace("*", r"\*")):
        merge_files("original.jsonl", sources, f"{tmp_path}/out.jsonl", **options)
    with pytest.raises(OptionError, match="one of the files to merge"):
        merge_files("original.jsonl", ["x.json"], f"{tmp_path}/../{tmp_path.name}/original.jsonl")
    assert sorted(os.listdir(tmp_path)) == ["original.jsonl", "x.json"]


def test_composed_files_and_the_merged_one_at_once(tmp_path, original):
    write(tmp_path / "a_0.json", PAIRS[:2], Form("array"))
    write(tmp_path / "a_1.json", [*PAIRS[2:], PAIRS[0]], Form("array", cut=0.97))
    write(tmp_path / "b.json", [("9.jpg", "nine"), *PAIRS[:3]], Form("index"))
    sources = [f"{tmp_path}/{n}" for n in ("a_0.json", "a_1.json", "b.json")]
    _, notes, _ = merged(original, sources, composed=tmp_path / "composed")
    assert any("a_1.json is cut off in line 1; its 3 complete records are used" in n for n in notes)
    for name, pairs in (("a", PAIRS), ("b", [("9.jpg", "nine"), *PAIRS[:3]])):
        folder = tmp_path / "composed" / name
        assert lines_of(folder / "composed.jsonl") == [{"image": i, "caption": c} for i, c in pairs]
        assert list(json.loads((folder / "composed_index.json").read_text()).items()) == pairs
    done = compose(sources[:2], tmp_path / "alone")
    assert done["composed"] == [{"source": "a", "folder": str(tmp_path / "alone"), "images": 5, "duplicates": 0}]
    assert (tmp_path / "alone" / "composed.jsonl").read_bytes() == (tmp_path / "composed" / "a" / "composed.jsonl").read_bytes()
    again, _, _ = merged(original, [f"{tmp_path}/alone/composed_index.json"])
    assert again == [[f"own {i}", c] for i, c in PAIRS], "what one writes the other reads"


def test_provenance_goes_with_the_lines_that_it_tells_of(tmp_path, original):
    write(tmp_path / "x.json", PAIRS[:2], Form("index"))
    _, _, done = merged(original, [f"{tmp_path}/x.json"])
    assert json.loads((tmp_path / "out.provenance.json").read_text()) == {
        k: v for k, v in done.items() if k not in ("out", "duplicates", "notes")
    }
    assert (tmp_path / "out.provenance.jsonl").read_text() == "[0, 1]\n" * 2 + "[0]\n" * 3
    merged(original, [f"{tmp_path}/x.json"], missing="drop")
    assert not (tmp_path / "out.provenance.jsonl").exists(), "all lines have all positions"
    merged(original, [f"{tmp_path}/x.json"], provenance=False)
    assert sorted(p.name for p in tmp_path.glob("*out*")) == ["out.jsonl"]


def test_killed_while_it_writes_the_old_file_is_intact_and_nothing_is_left_in_the_end(tmp_path, original):
    pairs = [(f"{n}.jpg", f"caption {n}") for n in range(30_000)]
    write(tmp_path / "x.jsonl", pairs, Form())
    out = tmp_path / "out.jsonl"
    merged(original, [f"{tmp_path}/x.jsonl"])
    before = out.read_bytes()
    code = f"""
import time
from synthvlm import merge
from synthvlm.merging import join
write = join._write
def slowly(batch, files):
    write(batch, files)
    for file in files: file.flush()
    time.sleep(0.2)
join._write = slowly
merge.merge_files({str(tmp_path / "x.jsonl")!r}, [{f"own={original}"!r}], {str(out)!r})
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not any(p.is_file() and p.stat().st_size > 1000 for p in tmp_path.glob(".out.jsonl.*.tmp")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert out.read_bytes() == before
    assert list(tmp_path.glob(".*.tmp")), "killed in the middle"
    merged(original, [f"{tmp_path}/x.jsonl"])
    assert out.read_bytes() == before
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_folder_that_cannot_be_written(tmp_path, original):
    (tmp_path / "file").touch()
    write(tmp_path / "x.json", PAIRS, Form("index"))
    with pytest.raises(RunError, match="cannot be written"):
        merge_files(original, [f"{tmp_path}/x.json"], tmp_path / "file" / "out.jsonl")
    with pytest.raises(OptionError, match="is a folder"):
        merge_files(original, [f"{tmp_path}/x.json"], tmp_path)
