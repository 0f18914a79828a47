"""Several runs in one page, and other sets beside them: runs, raw pairs that were scored, files that carry scores."""

from __future__ import annotations

import base64
import io
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from synthvlm.cli import cli
from synthvlm.errors import InputError, OptionError, RunError
from synthvlm.report import report, write
from synthvlm.reporting.pictures import Extent, embed
from synthvlm.run import RunDirectory
from synthvlm.select import select
from tests.fabricate import captions, fabricate_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunDirectory]:
    """Three runs; the last was scored with another CLIP."""
    root = tmp_path_factory.mktemp("runs")
    made = [fabricate_run(root / name, captions(n), 2, side=256) for name, n in (("one", 20), ("two", 8), ("three", 6))]
    select(made[0], [made[0].stage("clip-ssim")], top="20%")
    select(made[1], [made[1].stage("clip-ssim")], top="50%")
    stage = json.loads((root / "three" / "clip-ssim" / "stage.json").read_text())
    stage["cards"]["clip"]["model"] = "another"
    (root / "three" / "clip-ssim" / "stage.json").write_text(json.dumps(stage))
    return made


def rows(figures: dict[str, Any]) -> list[tuple[str, str, int]]:
    return [(r["of"], r["set"], r["samples"]) for r in figures["table"]["rows"]]


def test_several_runs_in_one_page(runs: list[RunDirectory], tmp_path: Path) -> None:
    path, figures = write(runs, out=tmp_path)
    assert rows(figures) == [
        ("one", "all candidates", 40),
        ("one", "best of each caption", 20),
        ("one", "selected", 4),
        ("two", "all candidates", 16),
        ("two", "best of each caption", 8),
        ("two", "selected", 4),
        ("three", "all candidates", 12),
        ("three", "best of each caption", 6),
    ]
    assert [(c["name"], c["mark"], c["of"]) for c in figures["table"]["columns"]] == [
        ("clip", "a", ["one", "two"]),
        ("clip", "b", ["three"]),
        ("ssim", "", ["one", "two", "three"]),
        ("total", "a", ["one", "two"]),
        ("total", "b", ["three"]),
    ]
    assert figures["table"]["notes"] == [
        "CLIPScore (a) and CLIPScore (b) are not comparable: their cards differ in model, fabricated and another"
    ]
    page = Path(path).read_text("utf-8")
    assert len(page.encode()) < 10 << 20 and page.count("plotly.js v") == 1
    named = re.findall(r'data-chart="([^"]+)"', page)
    assert len(named) == len(set(named)) and set(named) <= set(re.findall(r' id="([^"]+)"', page))
    assert {"means-ssim", "density", "run-2-density", "run-3-density"} <= set(named) and "means-clip-b" in named
    assert json.loads(Path(path).with_suffix(".json").read_text()) == figures


def test_pages_of_many_runs_show_less_of_each() -> None:
    def pictures(runs: int) -> float:
        """Return the megabytes, as base64, of so many runs that show all they may."""
        e = Extent.of(runs)
        return runs * (2 * e.sheet + 4 * e.line + 8 * e.rows + e.told) * e.most_bytes * 4 / 3 / 1e6

    assert [n for n in range(1, 31) if pictures(n) > 5] == []
    noise = io.BytesIO()
    Image.frombytes("RGB", (300, 300), random.Random(0).randbytes(300 * 300 * 3)).save(noise, "PNG")
    source, _ = embed(noise.getvalue(), Extent())
    assert len(base64.b64decode(source.split(",")[1])) <= Extent().most_bytes


def test_another_run_gives_its_scores_alone(runs: list[RunDirectory], tmp_path: Path) -> None:
    path, figures = write(runs[1], compare=[runs[2].root], out=tmp_path)
    assert [r["run"] for r in figures["runs"]] == ["two"]
    assert [of for of, _, _ in rows(figures)] == ["two", "two", "two", "three", "three"]
    assert "are not comparable: their cards differ in model" in Path(path).read_text("utf-8")


def test_a_file_with_scores(runs: list[RunDirectory], tmp_path: Path) -> None:
    records: list[Any] = [
        {"image": f"{n}.jpg", "caption": "a dog", "clip_score": 0.2 + n / 100, "SSIM": "0.5", "likes": n} for n in range(11)
    ]
    records += [{"image": "x.jpg"}, {"caption": "no image", "clip_score": 9}]
    (tmp_path / "web.json").write_text(json.dumps(records))
    _, figures = write(runs[0], compare=[tmp_path / "web.json"], out=tmp_path)
    row = figures["table"]["rows"][-1]
    assert (row["of"], row["set"], row["samples"]) == ("web.json", "all pairs", 11)
    by_name = {c["name"]: s["mean"] for c, s in zip(figures["table"]["columns"], row["scores"], strict=True) if s}
    assert by_name == pytest.approx({"clip": 0.25, "ssim": 0.5, "total": 0.5})
    assert all(s is None for c, s in zip(figures["table"]["columns"], row["scores"], strict=True) if c["of"] == ["one"])
    left_out, lacking, unknown = figures["table"]["notes"]
    assert left_out == "web.json: 1 of 13 records left out (cannot be read)"
    assert lacking == "web.json: 1 of 13 records left out (no image, or no caption)"
    assert unknown.startswith("web.json carries no score cards") and unknown.endswith(
        ": CLIPScore (b), SSIMScore (b), Weighted score (Total) (b)"
    )


def test_a_file_without_scores_says_how_to_get_them(runs: list[RunDirectory], tmp_path: Path) -> None:
    (tmp_path / "plain.jsonl").write_text('{"image": "a.jpg", "caption": "x"}\n{"image": "b.jpg", "caption": "y"}\n')
    page, figures = write(runs[0], compare=[tmp_path / "plain.jsonl"], out=tmp_path)
    assert rows(figures)[-1] == ("plain.jsonl", "all pairs", 2)
    assert "synthvlm curate plain.jsonl --out RUN --scorer clip --scorer ssim, then --compare RUN" in Path(page).read_text("utf-8")


def test_what_cannot_be_compared(runs: list[RunDirectory], tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a dog\na cat\n")
    with pytest.raises(InputError, match="no pair of an image and a caption"):
        report(runs[0], compare=[tmp_path / "captions.txt"], out=tmp_path)
    with pytest.raises(OptionError, match="is named twice"):
        report([runs[0], runs[0]])
    again = fabricate_run(tmp_path / "one", captions(2), 1)
    with pytest.raises(OptionError, match="would both be called one"):
        report([runs[0], again])
    with pytest.raises(RunError, match="none of the runs has a selection 'mine'"):
        report(runs[:2], selection="mine")


def test_raw_pairs_that_were_scored(tmp_path: Path, faulty: str) -> None:
    from synthvlm.pipeline import Run

    for n in range(4):
        Image.new("RGB", (40, 40), (60 * n, 9, 99)).save(tmp_path / f"{n}.png")
    (tmp_path / "web.json").write_text(json.dumps([{"image": f"{n}.png", "caption": f"picture number {n}"} for n in range(4)]))
    raw = Run.create(tmp_path / "web", images=tmp_path / "web.json").using(devices=["cpu"], threads=1)
    raw.curate({"ssim": {"side": 224}})
    page, figures = write(raw)
    assert rows(figures) == [("web", "all pairs", 4), ("web", "kept by curation", 4)]
    (run,) = figures["runs"]
    assert run["images"] is None and run["scored"]["remarks"][0]["pairs"] == 4
    assert [f["step"] for f in run["funnel"]] == ["read in", "with a scored pair", "kept by curation"]
    assert "4 pairs of image and caption from web.json, as they were read in." in " ".join(Path(page).read_text("utf-8").split())
    assert Path(page).read_text("utf-8").count("<figure") == 4


def test_the_command_prints_a_table_or_json(runs: list[RunDirectory], tmp_path: Path) -> None:
    asked = ["report", runs[0].root, runs[1].root, "--out", str(tmp_path / "both.html")]
    said = CliRunner(env={"COLUMNS": "150"}).invoke(cli, asked)
    assert said.exit_code == 0, said.output
    assert "one: best of each caption" in said.output and "Mean ± half of the 95% confidence interval." in said.output
    assert "Stage of two" in said.output and said.output.endswith(f"Report: {tmp_path}/both.html\n")
    printed = CliRunner().invoke(cli, [*asked, "--json"])
    assert json.loads(printed.stdout) == json.loads((tmp_path / "both.json").read_text())
