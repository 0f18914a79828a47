"""WebDataset and Parquet: read back by their own libraries, killed, damaged, of another selection."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from synthvlm.errors import RunError
from synthvlm.export import export
from synthvlm.run import RunDirectory
from synthvlm.select import select
from tests.fabricate import captions
from tests.test_export import chosen, pixels, tree

SHARDED = ["webdataset", "parquet"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return chosen(tmp_path_factory.mktemp("export") / "run", captions(25), meta={"5": {"source": {"page": 7}}})


def shards(out: str | Path) -> list[Path]:
    return sorted((Path(out) / "data").iterdir())


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its last file open
def test_webdataset_reads_its_shards(run: RunDirectory, tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    done = export(run, "webdataset", out=tmp_path, shard=10)
    assert [p.name for p in shards(tmp_path)] == [f"train-0000{k}-of-00003.tar" for k in range(3)]
    data = wds.WebDataset([str(p) for p in shards(tmp_path)], shardshuffle=False, empty_check=False).decode("pil")
    found = list(data)
    assert len(found) == done["images"] == done["records"] == 25
    stored = pixels(run)
    for sample, caption in zip(found, captions(25), strict=True):
        assert sample["txt"] == caption == sample["json"]["caption"]
        assert sample["jpg"].size == (64, 64) and sample["jpg"].mode == "RGB"
        assert sample["json"]["total"] == pytest.approx(sample["json"]["clip"] + 0.5 * sample["json"]["ssim"])
        assert sample["json"]["sha256"] in stored
    assert found[5]["json"]["meta"] == {"source": {"page": 7}} and len({s["__key__"] for s in found}) == 25
    del data
    gc.collect()


def test_image_bytes_are_those_of_the_run(run: RunDirectory, tmp_path: Path) -> None:
    stored = set(pixels(run).values())
    for format in SHARDED:
        export(run, format, out=tmp_path, shard=10)
    in_tars = []
    for path in tmp_path.glob("data/*.tar"):
        with tarfile.open(path) as tar:
            in_tars += [tar.extractfile(m).read() for m in tar if m.name.endswith(".jpg")]  # type: ignore[union-attr]
    in_tables = [r["bytes"] for p in shards(tmp_path) if p.suffix == ".parquet" for r in pq.read_table(p)["image"].to_pylist()]
    assert len(in_tars) == len(in_tables) == 25 and set(in_tars) == set(in_tables) and set(in_tars) <= stored


@pytest.mark.parametrize("format", SHARDED)
def test_hugging_face_datasets_reads_the_folder_by_its_card(run: RunDirectory, tmp_path: Path, format: str) -> None:
    datasets = pytest.importorskip("datasets")
    done = export(run, format, out=tmp_path / "out", shard=10)
    loaded = datasets.load_dataset(done["out"], cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train"} and loaded["train"].num_rows == 25
    rows = list(loaded["train"])
    image = "image" if format == "parquet" else "jpg"
    said = rows if format == "parquet" else [r["json"] for r in rows]
    assert all(isinstance(r[image], Image.Image) and r[image].size == (64, 64) for r in rows)
    assert [r["caption"] for r in said] == captions(25) and len({r["id"] for r in said}) == 25
    if format == "parquet":
        features = loaded["train"].features
        assert isinstance(features["image"], datasets.Image) and str(features["total"]) == "Value('float64')"
        assert json.loads(rows[5]["meta"]) == {"source": {"page": 7}}
        undecoded = loaded["train"].cast_column("image", datasets.Image(decode=False))
        assert {hashlib.sha256(r["image"]["bytes"]).hexdigest() for r in undecoded} == {r["sha256"] for r in rows}


def test_a_reader_of_one_image_reads_no_more_than_a_hundred(tmp_path: Path) -> None:
    run = chosen(tmp_path / "run", captions(230), 1, shard_size=64)
    out = export(run, "parquet")["out"]
    (file,) = shards(out)
    groups = pq.ParquetFile(file).metadata
    assert [groups.row_group(k).num_rows for k in range(groups.num_row_groups)] == [100, 100, 30]
    columns = [groups.row_group(0).column(k) for k in range(groups.row_group(0).num_columns)]
    image = next(c for c in columns if c.path_in_schema == "image.bytes")
    assert image.compression == "UNCOMPRESSED" and not image.is_stats_set and "RLE_DICTIONARY" not in image.encodings


@pytest.mark.parametrize("format", SHARDED)
@pytest.mark.parametrize("writes", [1, 2, 3, 4, 5])
def test_a_killed_export_is_finished_by_the_next(run: RunDirectory, tmp_path: Path, format: str, writes: int) -> None:
    whole = export(run, format, out=tmp_path / "whole", shard=8)
    script = f"""if True:
        import os, signal
        from synthvlm import storage
        from synthvlm.export import export
        from synthvlm.run import RunDirectory
        count, replace = 0, os.replace
        def deadly(old, new):
            global count
            count += 1
            if count == {writes}:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(old, new)
        storage.os.replace = deadly
        export(RunDirectory.open({run.root!r}), {format!r}, out={str(tmp_path / "out")!r}, shard=8)
    """
    died = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    listed = tmp_path / "out" / f"{format}.sha256"
    assert died.returncode == -signal.SIGKILL and not (listed.exists() and listed.stat().st_size)
    done = export(run, format, out=tmp_path / "out", shard=8)
    assert done["kept"] == {1: 0, 2: 0, 3: 8, 4: 16, 5: 24}[writes]  # the first write is the empty list
    assert tree(tmp_path / "out") == tree(whole["out"])


@pytest.mark.parametrize("format", SHARDED)
def test_an_export_again_reads_and_writes_nothing(run: RunDirectory, tmp_path: Path, format: str) -> None:
    export(run, format, out=tmp_path, shard=10)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert (export(run, format, out=tmp_path, shard=10)["written"], {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}) == (0, before)


@pytest.mark.parametrize("format", SHARDED)
@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "text", "more"])
def test_a_damaged_shard_is_written_again(run: RunDirectory, tmp_path: Path, format: str, harm: str) -> None:
    export(run, format, out=tmp_path, shard=10)
    whole = tree(tmp_path)
    shard = shards(tmp_path)[1]
    data = shard.read_bytes()
    middle = len(data) // 2
    harmed = {
        "flip": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "cut": data[:middle],
        "empty": b"",
        "text": data.replace(b"background", b"backgroand", 1) if format == "webdataset" else data[::-1],
        "more": shards(tmp_path)[0].read_bytes(),
    }[harm]
    shard.write_bytes(harmed)
    done = export(run, format, out=tmp_path, shard=10)
    assert (done["written"], done["kept"]) == (10, 15) and tree(tmp_path) == whole


@pytest.mark.parametrize("format", SHARDED)
def test_shards_of_another_selection_go(tmp_path: Path, format: str) -> None:
    run = chosen(tmp_path / "run", captions(25))
    out = tmp_path / "out"
    export(run, format, out=out, shard=5)
    (out / "data" / "mine.tar").write_bytes(b"mine")
    select(run, [run.stage("clip-ssim")], top="7")
    done = export(run, format, out=out, shard=5)
    assert (done["images"], done["removed"]) == (7, 5)
    ending = "tar" if format == "webdataset" else "parquet"
    assert {p.name for p in shards(out)} == {"mine.tar", f"train-00000-of-00002.{ending}", f"train-00001-of-00002.{ending}"}
    for line in (out / f"{format}.sha256").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("format", SHARDED)
def test_shards_that_are_not_ours_are_left_alone(run: RunDirectory, tmp_path: Path, format: str) -> None:
    ending = "tar" if format == "webdataset" else "parquet"
    mine = tmp_path / "data" / f"train-00000-of-00009.{ending}"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    with pytest.raises(RunError, match="not from an export"):
        export(run, format, out=tmp_path)
    assert list(tree(tmp_path)) == [f"data/{mine.name}"]


@pytest.mark.parametrize("format", SHARDED)
def test_what_cannot_be_read_back_does_not_count(run: RunDirectory, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that keeps other bytes than it was given."""
    from synthvlm import storage

    real = storage.os.replace

    def failing(old: str, new: str) -> None:
        path = Path(old)
        if new.endswith((".tar", ".parquet")):
            data = path.read_bytes()
            path.write_bytes(data[:900] + b"\0\0\0\0" + data[904:])
        real(old, new)

    monkeypatch.setattr(storage.os, "replace", failing)
    with pytest.raises(RunError) as caught:
        export(run, format, out=tmp_path, shard=10)
    assert "another program may write there" in str(caught.value.hint)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [f"{format}.sha256"]
    assert not (tmp_path / f"{format}.sha256").stat().st_size


def test_only_what_begins_as_an_image_is_exported(run: RunDirectory) -> None:
    from synthvlm.exporting.plan import readable
    from synthvlm.images import ImageError

    row = {"record_id": "x", "width": 64, "height": 64}
    image = next(iter(pixels(run).values()))
    readable(io.BytesIO(image), row)
    with pytest.raises(RunError, match="64 × 64 pixels, not 65 × 64"):
        readable(io.BytesIO(image), row | {"width": 65})
    with pytest.raises(ImageError):
        readable(io.BytesIO(b"not an image"), row)
