"""Plain JSON Lines in the images' order are read side by side; in any other order, or not plain, they give the same."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from synthvlm.merge import merge_files
from synthvlm.merging import abreast, output
from tests.merging import Form, expected, write

COUNT = 300
IMAGES = [f"{n:04d}é.jpg" for n in range(COUNT)]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which tables lines were written from, in order; batches are small."""
    seen: list[str] = []
    write_lines = output.write_lines

    def spy(*arguments: Any, **options: Any) -> Any:
        seen.append(options.get("table", "images"))
        return write_lines(*arguments, **options)

    monkeypatch.setattr(output, "write_lines", spy)
    monkeypatch.setattr(abreast, "_BATCH", 64)
    return seen


def check(folder: Path, sources: dict[str, list[Any]], **options: Any) -> dict[str, Any]:
    """Merge, and hold the lines and the provenance against loops over dicts."""
    own = [(i, f"own {i}" if n % 7 else None) for n, i in enumerate(IMAGES)]
    write(folder / "original.jsonl", own, Form())
    for name, pairs in sources.items():
        write(folder / f"{name}.jsonl", pairs, Form(ascii=name == "b"))
    done = merge_files(f"{folder}/original.jsonl", [f"{folder}/{n}.jsonl" for n in sources], folder / "out.jsonl", **options)
    want, positions = expected(own, sources, **options)
    assert [json.loads(x) for x in (folder / "out.jsonl").read_text().splitlines()] == want
    beside = folder / "out.provenance.jsonl"
    if beside.exists():
        assert [json.loads(x) for x in beside.read_text().splitlines()] == positions
    else:
        assert options.get("missing") == "empty" or all(p == positions[0] for p in positions)
    for position in (p for p in done["positions"] if p["source"] in sources):
        have = {i for i, _ in sources[position["source"]]} & set(IMAGES)
        assert (position["used"], position["lacking"]) == (len(have), COUNT - len(have))
        assert position["records"] == len(sources[position["source"]]) == sum(position[k] for k in ("used", "duplicates", "unknown"))
    assert json.loads((folder / "out.provenance.json").read_text())["positions"] == done["positions"]
    assert not list(folder.glob(".*"))
    return done


def pairs(name: str, images: list[str]) -> list[Any]:
    return [(i, f'{name} "{i}" \n') for i in images]


@pytest.mark.parametrize(
    "options", [{}, {"missing": "drop"}, {"missing": "empty"}, {"dedupe": True}, {"order": ["b"]}, {"keep_original": False}]
)
def test_in_order_with_gaps(tmp_path, tables, options):
    check(tmp_path, {"a": pairs("a", IMAGES), "b": pairs("b", IMAGES[100:250:3]), "c": pairs("c", IMAGES[120:])}, **options)
    assert tables == ["abreast"]


def test_all_have_all(tmp_path, tables):
    done = check(tmp_path, {"a": pairs("a", IMAGES), "b": pairs("a", IMAGES)}, keep_original=False)
    assert (tables, done["lines_have"]) == (["abreast"], "all positions")


@pytest.mark.parametrize(
    "images",
    [
        IMAGES[::-1],
        [*IMAGES[:150], "unknown", *IMAGES[150:]],
        [*IMAGES, "unknown"],
        ["unknown", *IMAGES],
        [*IMAGES[:150], IMAGES[149], *IMAGES[150:]],
        [*IMAGES, IMAGES[0]],
        [*IMAGES[:10], IMAGES[200], *IMAGES[10:200], *IMAGES[201:]],
        random.Random(1).sample(IMAGES, COUNT),
    ],
)
def test_any_other_order_gives_the_same(tmp_path, tables, images):
    check(tmp_path, {"a": pairs("a", IMAGES[::2]), "b": pairs("b", images)})
    assert tables == ["abreast", "images"]


@pytest.mark.parametrize(("count", "way"), [(300, ["images"]), (100_000, ["abreast", "images"])])
def test_a_broken_last_line_is_found_at_once_or_on_the_way(tmp_path, tables, monkeypatch, count, way):
    monkeypatch.setattr(abreast, "_BATCH", 1 << 14)
    images = [f"{n}.jpg" for n in range(count)]
    own, source = tmp_path / "original.jsonl", tmp_path / "a.jsonl"
    write(own, [(i, None) for i in images], Form())
    write(source, pairs("a", images), Form())
    with source.open("ab") as file:
        file.write(b'{"image": "x", "caption": 3}\n{\n')
    done = merge_files(str(own), [str(source)], tmp_path / "out.jsonl")
    assert done["lines"] == count
    assert [f"line {count + n:,}" in " ".join(done["notes"]) for n in (1, 2)] == [True, True], done["notes"]
    assert tables == way
