"""Images with all their captions, as recaption runs make them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from synthvlm.errors import OptionError, RunError
from synthvlm.export import export
from synthvlm.run import RunDirectory
from synthvlm.select import select
from tests.exporting.captioned import caption, read_in
from tests.fabricate import captions as shapes
from tests.fabricate import fabricate_run
from tests.test_export import tree

NAMES = ["a.jpg", "b.png", "c.webp", "d.gif", "e.jpeg", "odd"]
ENDINGS = [".jpg", ".png", ".webp", ".gif", ".jpeg", ".png"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    made = read_in(tmp_path_factory.mktemp("captioned"), NAMES, {"a.jpg": "the first", "c.webp": "the third"}, page=7)
    caption(made, "one", ["detail", "nouns"], failed={("b", "detail"), ("d", "detail"), ("d", "nouns")})
    caption(made, "two", ["brief"], failed={("d", "brief")})
    return made


def expected(id: str) -> tuple[list[str], list[str]]:
    original = {"a": "the first", "c": "the third"}.get(id)
    said = [("original", original)] if original else []
    said += [("one/detail", f"one detail of {id}")] if id != "b" else []
    said += [("one/nouns", f"one nouns of {id}"), ("two/brief", f"two brief of {id}")]
    return [c for _, c in said], [s for s, _ in said]


def test_jsonl_has_lists_and_where_each_caption_comes_from(run: RunDirectory) -> None:
    done = export(run, "jsonl")
    assert done["out"].endswith("exports/jsonl-captions") and done["selection"] is None
    records = [json.loads(line) for line in Path(done["file"]).read_text("utf-8").splitlines()]
    assert [r["id"] for r in records] == ["a", "b", "c", "e", "odd"]  # d has no caption
    for r in records:
        assert (r["captions"], r["sources"]) == expected(r["id"]) and r["meta"] == {"page": 7}
        assert hashlib.sha256((Path(done["out"]) / r["image"]).read_bytes()).hexdigest() == r["sha256"]
    assert done["captions"] == sum(len(r["captions"]) for r in records) == 16 and done["most_captions"] == 4


def test_image_files_are_the_inputs_own_bytes_and_endings(run: RunDirectory, tmp_path: Path) -> None:
    export(run, "jsonl", out=tmp_path)
    photos = Path(run.root).parent / "photos"
    for name, ending in zip(NAMES, ENDINGS, strict=True):
        if not name.startswith("d"):
            assert (tmp_path / "images/00000" / f"{name.partition('.')[0]}-0{ending}").read_bytes() == (photos / name).read_bytes()
    assert export(run, "jsonl", out=tmp_path)["kept"] == 5


@pytest.mark.parametrize("format", ["parquet", "webdataset", "imagefolder"])
def test_datasets_gets_lists(run: RunDirectory, tmp_path: Path, format: str) -> None:
    datasets = pytest.importorskip("datasets")
    done = export(run, format, out=tmp_path / "out", shard=2)
    loaded = datasets.load_dataset(done["out"], split="train", cache_dir=str(tmp_path / "cache"))
    rows = [r["json"] if format == "webdataset" else r for r in loaded]
    assert [r["id"] for r in rows] == ["a", "b", "c", "e", "odd"]
    assert all((list(r["captions"]), list(r["sources"])) == expected(r["id"]) for r in rows)
    if format == "parquet":
        assert all(isinstance(r["image"], Image.Image) for r in rows) and "candidate" not in loaded.features
    if format == "webdataset":
        assert "txt" not in loaded.features


def test_stages_and_the_original_can_be_chosen(run: RunDirectory, tmp_path: Path) -> None:
    done = export(run, "jsonl", captions=["two"], keep_original=False, out=tmp_path)
    records = [json.loads(line) for line in Path(done["file"]).read_text("utf-8").splitlines()]
    assert all(r["sources"] == ["two/brief"] for r in records) and done["captions"] == 5


def test_of_images_that_the_run_made(tmp_path: Path) -> None:
    run = fabricate_run(tmp_path / "run", shapes(3), 2)
    caption(run, "one", ["detail"], images="mini")
    done = export(run, "jsonl")
    records = [json.loads(line) for line in Path(done["file"]).read_text("utf-8").splitlines()]
    assert [r["id"] for r in records] == ["0-0", "0-1", "1-0", "1-1", "2-0", "2-1"]
    assert records[0]["captions"] == [shapes(3)[0], "one detail of 0"] and records[0]["width"] == 64 and records[1]["candidate"] == 1
    select(run, [run.stage("clip-ssim")])
    assert export(run, "jsonl")["selection"] == "default"  # with a selection there, captions are exported when asked for
    assert export(run, "jsonl", captions=True)["written"] == 0


def test_thousands_of_samples_come_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from synthvlm.exporting import plan

    monkeypatch.setattr(plan, "SAMPLES_PER_FILE", 3)
    run = read_in(tmp_path, [f"{n}.png" for n in range(10)])
    caption(run, "one", ["detail"])
    done = export(run, "jsonl")
    records = [json.loads(line) for line in Path(done["file"]).read_text("utf-8").splitlines()]
    assert [r["captions"] for r in records] == [[f"one detail of {n}"] for n in range(10)]


def test_an_image_that_changed_or_went_stops_the_export(tmp_path: Path) -> None:
    run = read_in(tmp_path, ["a.png", "b.png"])
    caption(run, "one", ["detail"])
    photo = tmp_path / "photos" / "b.png"
    data = photo.read_bytes()
    photo.write_bytes(data + b"x")
    for format in ("jsonl", "parquet"):
        with pytest.raises(RunError, match="has changed since it was captioned"):
            export(run, format)
    photo.unlink()
    with pytest.raises(RunError, match="there is no such file"):
        export(run, "webdataset")
    photo.write_bytes(data)
    assert export(run, "webdataset")["images"] == 2


def test_equal_runs_give_equal_files(tmp_path: Path) -> None:
    outs = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        run = read_in(tmp_path / folder, NAMES)
        caption(run, "one", ["detail", "nouns"])
        outs.append({f: tree(export(run, f)["out"]) for f in ("jsonl", "webdataset", "parquet", "llava")})
    assert outs[0] == outs[1]


def test_what_cannot_be_says_why(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="a recipe is of images that the run made"):
        export(run, "recipe")
    with pytest.raises(OptionError, match="of a selection, or of captions"):
        export(run, "jsonl", selection="default", captions=True)
    with pytest.raises(RunError, match="no caption stage 'three'"):
        export(run, "jsonl", captions=["three"])
    bare = read_in(tmp_path, ["a.png"])
    caption(bare, "one", ["detail"], failed={("a", "detail")})
    with pytest.raises(RunError, match="no captions to export"):
        export(bare, "jsonl")
