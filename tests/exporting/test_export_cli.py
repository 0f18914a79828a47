"""``synthvlm export`` and the export step of a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from synthvlm.cli import main
from synthvlm.following import follow
from synthvlm.pipeline import Run
from synthvlm.recipe import parse
from synthvlm.run import RunDirectory
from tests.exporting.captioned import caption, read_in
from tests.fabricate import captions
from tests.test_export import chosen


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return chosen(tmp_path / "run", captions(12))


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["export", *arguments])
    out = capsys.readouterr()
    return int(ended.value.code or 0), out.out, out.err


def test_several_formats_with_their_settings(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(
        capsys, run.root, "--format", "parquet", "--format", "webdataset", "--shard", "5", "--license", "cc0-1.0", "--title", "Shapes"
    )
    assert code == 0 and out.count("12 images in") == 2
    for format, ending in (("parquet", "parquet"), ("webdataset", "tar")):
        folder = Path(run.root) / "exports" / format
        assert len(list(folder.glob(f"data/*.{ending}"))) == 3
        assert "license: cc0-1.0" in (folder / "README.md").read_text() and "# Shapes" in (folder / "README.md").read_text()


def test_a_limit_keeps_images_out(run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, run.root, "--format", "jsonl", "--out", str(tmp_path / "out"), "--within", "clip=0.33..")
    kept = [json.loads(x) for x in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()]
    assert code == 0 and 0 < len(kept) < 12 and all(r["clip"] >= 0.33 for r in kept)
    assert f"{len(kept)} images in" in out and f"{12 - len(kept)} more were kept out by the limit on clip" in err
    assert f"| kept out by the limit on clip | {12 - len(kept)} |" in (tmp_path / "out" / "README.md").read_text()
    for flags, message in (
        (("--within", "nothing=..1"), "no score of these images"),
        (("--within", "clip=a..b"), "is not MIN..MAX"),
        (("--within", "clip=2.."), "is left"),
    ):
        code, _, err = said(capsys, run.root, *flags)
        assert code == 2 and message in err


def test_captions_of_chosen_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = read_in(tmp_path, ["a.png", "b.png"], {"a.png": "own"})
    caption(run, "one", ["detail"])
    caption(run, "two", ["detail"])
    assert "2 images with 5 captions in" in said(capsys, run.root, "--format", "jsonl")[1]
    assert "2 images with 2 captions in" in said(capsys, run.root, "--format", "jsonl", "--stage", "two", "--no-original")[1]
    code, _, err = said(capsys, run.root, "--captions", "--selection", "default")
    assert code == 2 and "of a selection, or of captions" in err


def test_one_push_one_format(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, run.root, "--format", "jsonl", "--format", "llava", "--push", "hf://me/x")
    assert code == 2 and "one format goes into one repository" in err
    code, _, err = said(capsys, run.root, "--push", "me/x")
    assert code == 2 and "hf://user/name" in err and not (Path(run.root) / "exports").exists()


def test_the_step_of_a_recipe(run: RunDirectory, tmp_path: Path) -> None:
    step = {"formats": ["parquet", "recipe"], "shard": 5, "limits": {"clip": [0.3, None]}, "licence": "mit", "out": str(tmp_path / "out")}
    done = follow(parse({"steps": [{"export": step}]}, "here"), Run.open(run.root)).results["export"]
    assert done["parquet"]["images"] == done["recipe"]["images"] < 12
    assert len(list((tmp_path / "out" / "data").glob("*.parquet"))) == -(-done["parquet"]["images"] // 5)
