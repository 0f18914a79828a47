"""Exports to object stores and from runs on them, and inputs from them: memory:// and an S3 server on this machine."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from synthvlm.errors import RunError
from synthvlm.export import FORMATS, export
from synthvlm.formats import read_captions
from synthvlm.formats.images import read_images
from synthvlm.images import read_image_bytes
from synthvlm.run import RunDirectory
from synthvlm.samples import ingest
from synthvlm.select import select
from tests.exporting import object_store
from tests.exporting.captioned import caption, write_images
from tests.fabricate import captions
from tests.test_export import chosen, tree

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with object_store.running() as bucket:
        yield bucket


@pytest.fixture(params=["memory", "s3"])
def place(request: pytest.FixtureRequest) -> str:
    """An empty folder on an object store."""
    root = "memory://" if request.param == "memory" else f"{request.getfixturevalue('s3')}/"
    return f"{root}{uuid.uuid4().hex}"


def remote_tree(url: str) -> dict[str, bytes]:
    fs, root = fsspec.core.url_to_fs(url)
    fs.invalidate_cache()
    return {p[len(root) :].lstrip("/"): fs.cat_file(p) for p in sorted(fs.find(root))}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return chosen(tmp_path_factory.mktemp("remote") / "run", captions(12))


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_to_an_object_store_is_the_local_one(run: RunDirectory, tmp_path: Path, place: str, format: str) -> None:
    local = export(run, format, out=tmp_path, shard=5)
    done = export(run, format, out=place, shard=5)
    assert remote_tree(place) == tree(tmp_path)
    assert {k: v for k, v in done.items() if k not in ("out", "file")} == {k: v for k, v in local.items() if k not in ("out", "file")}
    again = export(run, format, out=place, shard=5)
    assert (again["written"], again["kept"]) == (0, 12) and remote_tree(place) == tree(tmp_path)


@pytest.mark.parametrize("format", ["llava", "webdataset"])
def test_what_is_no_longer_selected_goes_there_too(tmp_path: Path, place: str, format: str) -> None:
    run = chosen(tmp_path / "run", captions(12))
    export(run, format, out=place, shard=5)
    select(run, [run.stage("clip-ssim")], top="4")
    export(run, format, out=place, shard=5)
    assert remote_tree(place) == tree(export(run, format, out=tmp_path / "whole", shard=5)["out"])


def test_a_run_on_an_object_store_is_exported_from_there_to_there(run: RunDirectory, tmp_path: Path, place: str) -> None:
    fs, root = fsspec.core.url_to_fs(place)
    for name, data in tree(run.root).items():
        fs.pipe_file(f"{root}/run/{name}", data)
    there = RunDirectory.open(f"{place}/run")
    export(there, "parquet")
    export(there, "jsonl", out=f"{place}/set")
    assert remote_tree(f"{place}/run/exports/parquet") == tree(export(run, "parquet", out=tmp_path / "one")["out"])
    assert remote_tree(f"{place}/set") == tree(export(run, "jsonl", out=tmp_path / "two")["out"])


def test_damage_there_is_noticed(run: RunDirectory, place: str) -> None:
    export(run, "webdataset", out=place)
    whole = remote_tree(place)
    fs, root = fsspec.core.url_to_fs(place)
    fs.pipe_file(f"{root}/data/train-00000-of-00001.tar", b"x" * 4096)
    assert export(run, "webdataset", out=place)["written"] == 12 and remote_tree(place) == whole
    fs.pipe_file(f"{root}/{uuid.uuid4().hex}/pairs.jsonl", b"mine")
    other = next(n for n in remote_tree(place) if n.endswith("pairs.jsonl")).partition("/")[0]
    with pytest.raises(RunError, match="not from an export"):
        export(run, "jsonl", out=f"{place}/{other}")


def test_captions_are_read_from_there(run: RunDirectory, tmp_path: Path, place: str) -> None:
    export(run, "llava", out=place)
    assert [s.caption for s in read_captions(f"{place}/llava.json")] == captions(12)  # type: ignore[union-attr]


def put_photos(tmp_path: Path, place: str) -> Any:
    write_images(tmp_path / "photos", ["a.jpg", "b.png"])
    write_images(tmp_path / "photos" / "more", ["c.webp"])
    (tmp_path / "photos" / "a.txt").write_text("what the first is")
    fs, root = fsspec.core.url_to_fs(place)
    for name, data in tree(tmp_path / "photos").items():
        fs.pipe_file(f"{root}/photos/{name}", data)
    return fs, root


def test_a_list_of_images_there_becomes_a_data_set(tmp_path: Path, place: str) -> None:
    fs, root = put_photos(tmp_path, place)
    names = ["photos/a.jpg", "photos/b.png", "photos/more/c.webp"]
    fs.pipe_file(f"{root}/images.json", json.dumps([{"image": n} for n in names]).encode())
    run = RunDirectory.create(tmp_path / "run")
    assert ingest(run, f"{place}/images.json", images=True).read == 3
    caption(run, "one", ["detail"])
    done = export(run, "jsonl", out=f"{place}/set")
    found = remote_tree(f"{place}/set")
    records = [json.loads(line) for line in found["pairs.jsonl"].decode().splitlines()]
    assert done["images"] == 3 and [found[r["image"]] for r in records] == [(tmp_path / n).read_bytes() for n in names]
    assert [r["image"].rpartition(".")[2] for r in records] == ["jpg", "png", "webp"]


@pytest.mark.parametrize("source", ["photos", "photos/", "photos/**", "photos/**/*.*"])
def test_folders_and_patterns_there_are_searched(tmp_path: Path, place: str, source: str) -> None:
    put_photos(tmp_path, place)
    found = list(read_images(f"{place}/{source}"))
    assert [str(f.sample.image).replace("memory:///", "memory://") for f in found] == [
        f"{place}/photos/{n}" for n in ("a.jpg", "b.png", "more/c.webp")
    ]  # type: ignore[union-attr]
    assert found[0].sample.caption == "what the first is"  # type: ignore[union-attr]
    assert [read_image_bytes(f.places[0]) for f in found] == [
        (tmp_path / "photos" / n).read_bytes() for n in ("a.jpg", "b.png", "more/c.webp")
    ]  # type: ignore[union-attr]


def test_tars_there_are_read_in_place(run: RunDirectory, tmp_path: Path, place: str) -> None:
    export(run, "webdataset", out=place, shard=5)
    found = list(read_images(f"{place}/data/train-{{00000..00002}}-of-00003.tar"))
    assert [f.sample.caption for f in found] == captions(12)  # type: ignore[union-attr]
    again = RunDirectory.create(tmp_path / "run")
    assert ingest(again, f"{place}/data", images=True).read == 12
    assert ingest(again, f"{place}/data", images=True).unchanged
