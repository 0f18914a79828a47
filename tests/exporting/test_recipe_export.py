"""A recipe: captions, seeds and scores without pixels."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from synthvlm.errors import RunError
from synthvlm.export import export
from synthvlm.run import image_seed
from tests.fabricate import captions, fabricate_run
from tests.test_export import chosen, tree


def test_it_holds_what_images_are_made_of(tmp_path: Path) -> None:
    run = chosen(tmp_path / "run", captions(20), 2, seed=5)
    done = export(run, "recipe")
    out = Path(done["out"])
    rows = pq.read_table(out / "recipe.parquet").to_pylist()
    assert list(rows[0])[:8] == ["id", "candidate", "caption", "seed", "width", "height", "batch_size", "sha256"]
    assert {"clip", "ssim", "total"} <= set(rows[0]) and len(rows) == done["records"] == 20
    for n, row in enumerate(rows):
        assert (row["id"], row["caption"]) == (str(n), captions(20)[n]) and row["batch_size"] == 4
        assert row["seed"] == image_seed(5, row["id"], row["candidate"])
    said = json.loads((out / "recipe.json").read_text())
    assert said["run_seed"] == 5 and said["records"] == 20 and said["image"] == {"format": "jpeg", "quality": 90}
    assert said["generator"]["name"] == "mini" and said["generator"]["options"] == {"steps": 4, "guidance": 2.0, "batch_size": 4}
    assert said["selection"]["weights"] == {"clip": 1.0, "ssim": 0.5} and set(said["cards"]) == {"clip", "clip_cut", "ssim", "ssim_small"}
    assert said["versions"]["synthvlm"] == ["0.1.0"]
    assert {p.name for p in out.iterdir()} == {"recipe.parquet", "recipe.json", "recipe.sha256", "README.md"}
    assert done["bytes"] > 2 * (out / "recipe.parquet").stat().st_size  # tiny images; of real ones it is some thousand times


def test_pixels_need_not_be_there(tmp_path: Path) -> None:
    run = chosen(tmp_path / "run", captions(6), 1)
    whole = tree(export(run, "recipe", out=tmp_path / "whole")["out"])
    with duckdb.connect() as db:  # as pruning leaves a part: the row, without its pixels
        for part in Path(run.root, "mini").rglob("*.parquet"):
            table = db.sql(
                f"SELECT * REPLACE (false AS stored, NULL::VARCHAR AS tar, NULL::BIGINT AS \"offset\") FROM '{part}'"
            ).to_arrow_table()
            metadata = {k: v for k, v in (pq.read_schema(part).metadata or {}).items() if k == b"synthvlm"}
            metadata = {
                b"synthvlm": json.dumps({k: v for k, v in json.loads(metadata[b"synthvlm"]).items() if not k.startswith("tar")}).encode()
            }
            pq.write_table(table.cast(pq.read_schema(part).remove_metadata()).replace_schema_metadata(metadata), part)
    for tar in Path(run.root, "mini").rglob("*.tar"):
        tar.unlink()
    assert tree(export(run, "recipe", out=tmp_path / "out")["out"]) == whole
    with pytest.raises(RunError, match="are no longer in"):
        export(run, "jsonl")


def test_a_damaged_one_is_written_again(tmp_path: Path) -> None:
    run = chosen(tmp_path / "run", captions(20))
    out = Path(export(run, "recipe")["out"])
    whole = tree(out)
    assert export(run, "recipe")["written"] == 0 and tree(out) == whole
    data = (out / "recipe.parquet").read_bytes()
    (out / "recipe.parquet").write_bytes(data[:200] + b"\0\0\0\0" + data[204:])
    assert export(run, "recipe")["written"] == 20 and tree(out) == whole
    (out / "recipe.json").write_text("{}")
    export(run, "recipe")
    assert tree(out) == whole


def test_one_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    run = chosen(tmp_path / "run", captions(4))
    (tmp_path / "recipe.parquet").write_bytes(b"mine")
    with pytest.raises(RunError, match="not from an export"):
        export(run, "recipe", out=tmp_path)
    assert (tmp_path / "recipe.parquet").read_bytes() == b"mine"


def test_a_selection_is_needed(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="synthvlm select"):
        export(fabricate_run(tmp_path / "run", captions(2)), "recipe")
