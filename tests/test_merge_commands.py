"""``synthvlm merge`` and the seeds' two commands: what they say, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from synthvlm.cli import main
from tests.merging import Form, write

PAIRS = [(f"{n}.jpg", f"caption {n}") for n in range(5)]
UTILS = Path(__file__).parents[1] / "utils"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in path.read_text().splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with an original and some sources."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "original.jsonl", [(i, f"own {i}") for i, _ in PAIRS], Form())
    (tmp_path / "out").mkdir()
    for n in range(12):
        write(tmp_path / "out" / f"images_{n}.json", [(f"{n}.jpg", f"part {n}")], Form("array"))
    write(tmp_path / "llava.json", PAIRS[:3], Form("index"))
    return tmp_path


def command(*arguments: str, code: int = 0) -> tuple[str, str]:
    """Run a command as a user does; return what it says."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, env=os.environ | {"COLUMNS": "200"})
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def merge(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Run ``synthvlm merge`` in this process; give what it says."""
    handler = signal.getsignal(signal.SIGTERM)

    def call(*arguments: str, code: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as end:
            main(["merge", *arguments])
        said = capsys.readouterr()
        assert end.value.code == code, said
        return said.out, said.err

    yield call
    signal.signal(signal.SIGTERM, handler)


def test_it_says_what_each_position_is(folder: Path, merge: Any) -> None:
    out, err = merge("original.jsonl", "out/images_*.json", "llava.json", "--out", "merged/all.jsonl")
    assert out.splitlines() == [
        "Merged: merged/all.jsonl, 5 lines of 5 images",
        "  0  original",
        "  1  images",
        "  2  llava (2 images lack it)",
    ]
    assert err.splitlines() == ["Note: images: 7 captions are of images that the original lacks"]
    assert lines_of(folder / "merged/all.jsonl")[3:] == [
        {"image": "3.jpg", "caption": ["own 3.jpg", "part 3"]},
        {"image": "4.jpg", "caption": ["own 4.jpg", "part 4"]},
    ]
    assert {p.name for p in (folder / "merged").iterdir()} == {"all.jsonl", "all.provenance.json", "all.provenance.jsonl"}


def test_its_options(folder: Path, merge: Any) -> None:
    flags = ["--order", "llava", "--missing", "drop", "--drop-original", "--dedupe", "--no-provenance", "--composed", "composed"]
    out, _ = merge("original.jsonl", "out/images_*.json", "llava.json", "same=llava.json", "--out", "m.jsonl", *flags)
    assert out.splitlines() == [
        "Composed: composed/images/composed.jsonl and composed_index.json, 12 images",
        "Composed: composed/llava/composed.jsonl and composed_index.json, 3 images",
        "Composed: composed/same/composed.jsonl and composed_index.json, 3 images",
        "Merged: m.jsonl, 3 lines of 5 images (2 without a line)",
        "  0  llava (2 images lack it)",
        "  1  images",
        "  2  same (2 images lack it)",
    ]
    assert lines_of(folder / "m.jsonl")[0] == {"image": "0.jpg", "caption": ["caption 0", "part 0"]}
    assert [x["image"] for x in lines_of(folder / "composed/images/composed.jsonl")] == [f"{n}.jpg" for n in range(12)]
    out, _ = merge("out/images_*.json", "--composed", "c", "--separate")
    assert len(out.splitlines()) == len(list((folder / "c").iterdir())) == 12


def test_it_ends_with_2_only_where_nothing_sensible_can_be_written(folder: Path, merge: Any) -> None:
    _, err = merge("original.jsonl", "gone.json", "llava.json", "--out", "m.jsonl")
    assert err.splitlines() == ["Note: there is no file gone.json; it is left out", "Note: gone has no usable caption: it gets no position"]
    for arguments, said in {
        ("original.jsonl",): "nothing to merge original.jsonl with",
        ("original.jsonl", "llava.json"): "--out is missing",
        ("original.jsonl", "gone.json", "--out", "n.jsonl"): "there is no usable caption in gone",
        ("gone.jsonl", "llava.json", "--out", "n.jsonl"): "there is no file gone.jsonl",
        ("original.jsonl", "llava.json", "--stage", "x", "--out", "n.jsonl"): "--stage is for a run",
        ("gone.json", "--composed", "c"): "there is no usable caption in gone",
        (".", "--out", "n.jsonl"): "is no run",
        (".", "--separate"): "are for files, not for a run",
    }.items():
        _, err = merge(*arguments, code=2)
        error, way_on = err.splitlines()[-2:]
        assert error.startswith("Error: ") and said in error, err
        assert way_on.startswith("  "), err
    assert not (folder / "n.jsonl").exists() and not list(folder.glob(".*"))


def test_the_seeds_two_commands(folder: Path) -> None:
    """As their README has it: parts of each GPU into one file, then all captioners' into one line for each image."""
    parts = sorted(f"out/images_{n}.json" for n in range(12))  # as a shell sorts: 0, 1, 10, 11, 2 …
    out, _ = command(str(UTILS / "merge.py"), *parts)
    assert out == "Composed: ./composed.jsonl and composed_index.json, 12 images\n"
    assert [x["image"] for x in lines_of(folder / "composed.jsonl")] == [f"{n}.jpg" for n in range(12)]
    assert json.loads((folder / "composed_index.json").read_text()) == {f"{n}.jpg": f"part {n}" for n in range(12)}
    _, err = command(str(UTILS / "merge_multi_caption.py"), "original.jsonl", "composed_index.json", "llava.json")
    assert err == "Note: composed_index: 7 captions are of images that the original lacks\n"
    assert lines_of(folder / "output_file.jsonl") == [
        {"image": f"{n}.jpg", "caption": [f"own {n}.jpg", f"part {n}", *([f"caption {n}"] if n < 3 else [])]} for n in range(5)
    ]
    for number in (0, 1):  # indexes that differ in a number are two captioners' here
        write(folder / f"index_{number}.json", PAIRS, Form("index"))
    out, _ = command(str(UTILS / "merge_multi_caption.py"), "original.jsonl", "index_0.json", "index_1.json", "--out", "two.jsonl")
    assert lines_of(folder / "two.jsonl")[0]["caption"] == ["own 0.jpg", "caption 0", "caption 0"]


def test_the_seeds_commands_from_another_folder_and_what_they_say(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "deep").mkdir()
    monkeypatch.chdir(folder / "deep")
    utils = os.path.relpath(UTILS)
    command(f"{utils}/merge.py", "../out/images_*.json", "--out", "../there")
    command(f"{utils}/merge_multi_caption.py", "../original.jsonl", "../there/composed_index.json", "--out", "../m.jsonl")
    assert len(lines_of(folder / "m.jsonl")) == 5
    assert "PART" in command(f"{utils}/merge.py", "--help")[0]
    assert "ORIGINAL.jsonl INDEX.json" in command(f"{utils}/merge_multi_caption.py", "--help")[0]
    assert "there is no usable caption in composed" in command(f"{utils}/merge.py", "gone.json", code=2)[1]
    assert "required: PART" in command(f"{utils}/merge.py", code=2)[1]
    assert not list((folder / "deep").iterdir())
