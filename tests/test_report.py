from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from synthvlm import parts
from synthvlm.errors import RunError
from synthvlm.report import report
from synthvlm.reporting import charts, figures
from synthvlm.reporting.names import is_remark
from synthvlm.reporting.subjects import Subject
from synthvlm.run import RunDirectory, Stage, fetch
from synthvlm.select import scored_sql, select
from synthvlm.selecting.gather import opened
from tests.fabricate import captions, fabricate_run

EVIL = "<script>alert('caption')</script> a red circle & \"quotes\""


def chosen(root: Path, texts: Any, repeat: int = 3, top: str = "20%", **settings: Any) -> RunDirectory:
    run = fabricate_run(root, texts, repeat, **settings)
    select(run, [run.stage("clip-ssim")], top=top, weights=None)
    return run


def page_and_figures(path: str) -> tuple[str, dict[str, Any]]:
    """Return the page without plotly's own code, and the figures of its only run."""
    page = Path(path).read_text("utf-8")
    (numbers,) = json.loads(Path(path).with_suffix(".json").read_text("utf-8"))["runs"]
    return re.sub(r"<script>/\*.*?</script>", "", page, flags=re.DOTALL), numbers


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    root = tmp_path_factory.mktemp("report") / "my-run"
    texts = [*captions(29), EVIL]
    notes = {str(n): "outside the miniature world" for n in range(4)}
    return chosen(root, texts, side=256, failed={("3", 1), ("4", 0)}, notes=notes, cut={"5": 14, "6": 4}, shard_size=16)


@pytest.fixture(scope="module")
def made(run: RunDirectory) -> tuple[str, dict[str, Any], str]:
    path = report(run)
    return *page_and_figures(path), path


def test_the_share_of_captions_that_were_cut_is_always_there(made: tuple[str, dict[str, Any], str], tmp_path: Path) -> None:
    page, numbers, _ = made
    (remark,) = [r for r in numbers["scored"]["remarks"] if r["column"] == "clip_cut"]
    assert (remark["captions"], remark["of"], remark["pairs"]) == (2, 30, 6)
    assert "2 of 30 captions (6.7%): the caption was cut." in page
    whole, _ = page_and_figures(report(chosen(tmp_path / "none-cut", captions(3))))
    assert "0 of 3 captions (0.0%): the caption was cut." in whole


def test_a_flag_is_told_by_the_score_that_it_stands_beside() -> None:
    columns = ["clip_mean", "clip_min", "clip_cut", "ssim", "ssim_small", "clear_cut", "cut"]
    assert [c for c in columns if is_remark(c, columns)] == ["clip_cut", "ssim_small"]


def test_the_table_stands_in_the_page_as_the_selection_has_it(run: RunDirectory, made: tuple[str, dict[str, Any], str]) -> None:
    page, numbers, path = made
    assert path == f"{run.root}/report/report.html"
    sets = run.store.read_json("selections/default.json")["sets"]  # type: ignore[index]
    found = {name: {c: numbers["sets"][name][c] for c in ("clip", "ssim", "total")} for name in sets}
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())
    for name, values in sets.items():
        assert {c: (v["mean"], v["sd"]) for c, v in found[name].items()} == {
            c: (pytest.approx(values[c]), pytest.approx(values[f"{c} sd"])) for c in found[name]
        }
        cells = (f"{v['mean']:.3f} ± {(v['high'] - v['low']) / 2:.3f} sd {v['sd']:.3f}" for v in found[name].values())
        assert f"{name.capitalize()} {values['samples']} {' '.join(cells)}" in text
    assert "CLIPScore + 0.5 · SSIMScore" in text and "A photo depicts" in text


def test_figures_count_what_the_run_holds(made: tuple[str, dict[str, Any], str]) -> None:
    page, numbers, _ = made
    images = numbers["images"]
    assert (images["wanted"], images["made"], images["failed"], images["pending"]) == (90, 88, 2, 0)
    assert (images["cut"], images["most_cut_tokens"], images["mean_cut_tokens"]) == (6, 14, 9.0)
    assert numbers["notes"] == [{"note": "outside the miniature world", "images": 11}]
    assert "11 of 88 images: outside the miniature world." in page
    assert numbers["stages"][0]["failures"] == [{"class": "MadeToFail", "rows": 2, "example": "the fabricated generator gave up"}]
    assert numbers["scored"]["pairs"] == 88 and numbers["scored"]["selected"] == numbers["selection"]["selected"] == 6
    for bins in numbers["scored"]["histograms"].values():
        assert sum(bins["all"]) == 88 and sum(bins["selected"]) == 6
    assert sum(map(sum, numbers["scored"]["density"]["counts"])) == 88


def test_without_a_selection_the_same_sets_are_computed(run: RunDirectory) -> None:
    with opened(run) as (db, _):
        subject = Subject(run, run.stage("mini"), [run.stage("clip-ssim")], None, db)
        found = figures.gather(subject)
    want = run.store.read_json("selections/default.json")["sets"]  # type: ignore[index]
    assert list(found["sets"]) == ["all candidates", "best of each caption"]
    for name, values in found["sets"].items():
        assert [values[c]["mean"] for c in ("clip", "ssim", "total")] == pytest.approx([want[name][c] for c in ("clip", "ssim", "total")])


def test_one_file_that_opens_offline(made: tuple[str, dict[str, Any], str]) -> None:
    page, _, path = made
    whole = Path(path).read_text("utf-8")
    assert len(whole.encode()) < 10 << 20 and whole.count("plotly.js v") == 1
    assert not re.search(r"<link|@import|url\(|src=(?!\"data:)|href=", page)
    assert "prefers-color-scheme: dark" in page and "@media print" in page


def test_text_of_strangers_stays_text(tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    run = chosen(tmp_path / "run", {"1": EVIL, evil: evil, "3": evil}, failed={("3", 0)}, notes={"1": evil}, top="all")
    page, _ = page_and_figures(report(run))
    assert "<script>alert" not in page and "<img src=x" not in page
    assert html.escape(evil, quote=False) in page
    assert charts.as_script({"name": evil}).count("<") == 0


def test_the_same_run_gives_the_same_page(run: RunDirectory, made: tuple[str, dict[str, Any], str], tmp_path: Path) -> None:
    again = report(run, out=tmp_path)
    assert Path(again).read_bytes() == Path(made[2]).read_bytes()


def test_paths_and_secrets_stay_at_home(tmp_path: Path) -> None:
    run = chosen(tmp_path / "run", captions(4))
    stage = run.stage("mini")
    stage.plugins[0]["options"] |= {"api_key": "sk-very-secret", "offload_to": str(tmp_path)}
    stage.plugins[0]["checkpoints"] = {"checkpoint": {"asked": f"{tmp_path}/weights/sdxl", "revision": "abc123"}}
    run.ensure_stage(stage)
    page, numbers = page_and_figures(report(run, out=tmp_path / "out"))
    for text in (page, json.dumps(numbers)):
        assert "sk-very-secret" not in text and str(tmp_path) not in text and '"somewhere"' not in text
    assert numbers["stages"][0]["checkpoints"] == {"checkpoint": {"asked": "sdxl", "revision": "abc123"}}


def test_best_and_worst_and_candidates_in_order(run: RunDirectory, made: tuple[str, dict[str, Any], str]) -> None:
    with run.connect() as db:
        totals = [
            r["t"] for r in fetch(db, f"SELECT clip + 0.5 * ssim AS t FROM {scored_sql(run, [run.stage('clip-ssim')])} ORDER BY t DESC")
        ]
    shown = [float(t) for t in re.findall(r'<span class="total">([\d.]+)</span>', made[0])]
    assert shown[:12] == pytest.approx(totals[:12], abs=6e-4)
    middle = sorted(totals)[43:45]
    nearest = sorted(totals, key=lambda t: abs(t - sum(middle) / 2))[:6]
    assert shown[12:18] == pytest.approx(sorted(nearest, reverse=True), abs=6e-4)
    assert shown[18:30] == pytest.approx(totals[:-13:-1], abs=6e-4)
    assert made[0].count('class="candidates"') == 6
    rows = [[float(t) for t in re.findall(r'class="total">([\d.]+)', row)] for row in made[0].split('class="candidates"')[1:]]
    assert all(len(row) in (2, 3) and row == sorted(row, reverse=True) for row in rows)


def test_thumbnails_are_small_and_small_images_stay_as_they_are(tmp_path: Path) -> None:
    def embedded(run: RunDirectory) -> tuple[str, list[bytes]]:
        page, _ = page_and_figures(report(run))
        return page, [base64.b64decode(data) for data in re.findall(r'src="data:image/\w+;base64,([^"]+)"', page)]

    large = fabricate_run(tmp_path / "large", captions(4), 1, side=700)
    page, pictures = embedded(large)
    assert len(pictures) == 4 and all(max(Image.open(io.BytesIO(p)).size) == 256 for p in pictures) and 'class="small"' not in page
    tiny = fabricate_run(tmp_path / "tiny", captions(4), 1, image_format="png")
    page, pictures = embedded(tiny)
    assert 'class="small"' in page and all(Image.open(io.BytesIO(p)).format == "PNG" for p in pictures)


def test_a_run_with_images_only(tmp_path: Path) -> None:
    run = fabricate_run(tmp_path / "run", captions(5), 2, scores=None)
    page, numbers = page_and_figures(report(run))
    assert numbers["scored"] is None and numbers["selection"] is None
    assert "Nothing is scored yet" in page and page.count("<figure") == 10 and "histogram-clip" not in page


def test_a_run_with_scores_only(tmp_path: Path) -> None:
    page, numbers = page_and_figures(report(fabricate_run(tmp_path / "run", captions(5), 2)))
    assert numbers["selection"] is None and list(numbers["sets"]) == ["all candidates", "best of each caption"]
    assert "Nothing is selected yet" in page and "What decided" not in page
    assert "10 of 10 pairs: the image is not larger than S and scores 1 unseen." in page
    assert "SSIMScore: every pair has 1, so it has no say in the order." in page


@pytest.mark.parametrize("stage", ["images", "scores"])
def test_a_stage_without_rows_is_no_obstacle(tmp_path: Path, stage: str) -> None:
    run = fabricate_run(tmp_path / "run", captions(3), 1, scores=None)
    if stage == "images":
        shutil.rmtree(tmp_path / "run" / "mini" / "000")
    else:
        run.ensure_stage(Stage("clip-ssim", "score", [], {}, {"image": "mini", "caption": "samples"}, 4, columns=["clip", "ssim"]))
    _, numbers = page_and_figures(report(run))
    assert numbers["images"]["pending"] == (3 if stage == "images" else 0) and numbers["scored"] is None


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    empty = RunDirectory.create(tmp_path / "empty")
    with pytest.raises(RunError, match="no images yet"):
        report(empty)
    run = chosen(tmp_path / "run", captions(3))
    with pytest.raises(RunError, match="no selection 'other'"):
        report(run, selection="other")


def test_a_selection_of_yesterday_is_called_so(tmp_path: Path) -> None:
    run = chosen(tmp_path / "run", captions(6), 2)
    assert "Select again" not in page_and_figures(report(run))[0]
    fabricate_run(tmp_path / "run", captions(6), 4)
    page, numbers = page_and_figures(report(run))
    assert numbers["selection"]["stale"] and "made over 12 pairs; the run now has 24" in page


def test_pixels_that_are_damaged_or_were_not_kept(tmp_path: Path) -> None:
    dropped = {(str(i), c) for i in range(6) for c in (0, 1)}
    run = chosen(tmp_path / "run", captions(6), 3, dropped=dropped, top="all")
    tar = next((tmp_path / "run" / "mini").rglob("*.tar"))
    tar.write_bytes(b"\0" * tar.stat().st_size)
    page, numbers = page_and_figures(report(run))
    assert numbers["selection"]["winners_not_stored"] > 0 and "best candidate was not stored" in page
    assert numbers["images"]["stored"] == 6 and "not readable" in page and "data:image" in page


def test_another_selection_and_other_places(run: RunDirectory, tmp_path: Path) -> None:
    select(run, [run.stage("clip-ssim")], top="3", weights={"clip": 1.0}, name="by-clip")
    path = report(run, selection="by-clip")
    assert path.endswith("/report/report-by-clip.html")
    page, numbers = page_and_figures(path)
    assert numbers["scored"]["formula"] == "CLIPScore" and numbers["scored"]["density"] is None and "SSIMScore rewards" not in page
    assert report(run, out=tmp_path / "deep" / "mine.html") == f"{tmp_path}/deep/mine.html" and (tmp_path / "deep" / "mine.json").is_file()


def test_stages_of_one_measure_and_other_image_stages(tmp_path: Path) -> None:
    run = fabricate_run(tmp_path / "run", captions(3), 1)
    fabricate_run(tmp_path / "run", captions(3), 1, scores="second")
    fabricate_run(tmp_path / "run", captions(3), 2, name="zz-other", scores="third")
    _, numbers = page_and_figures(report(run))
    assert [s["name"] for s in numbers["stages"]] == ["mini", "clip-ssim"] and numbers["other_stages"] == ["second", "third", "zz-other"]
    _, other = page_and_figures(report(run, images="zz-other"))
    assert [s["name"] for s in other["stages"]] == ["zz-other", "third"] and other["images"]["made"] == 6


def test_throughput_comes_from_the_parts_however_merged(tmp_path: Path) -> None:
    from synthvlm.compact import compact

    run = fabricate_run(tmp_path / "run", captions(24), 1)
    before = page_and_figures(report(run))[1]["stages"][0]
    compact(run, run.stage("mini"))
    after = page_and_figures(report(run))[1]["stages"][0]
    assert len(parts.list_parts(run.store, "mini")) == 1
    assert before == after and after["rows_per_second"] == 0.5 and after["devices"] == ["cpu"]


def test_what_judges_said_has_its_part(run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures are those of :mod:`synthvlm.judging.statistics`, from verdicts that are made up."""
    import numpy as np

    from synthvlm.judging import statistics
    from synthvlm.judging.summary import _figures

    verdicts, truth = np.array([0, 0, 0, 1, 2, -1], np.int8), np.array([0, 0, 2, 0, 2, 0], np.int8)
    judge = {"judge": "mini-judge", "person": False, "stage": "judge.mini", "unparsable": 1, "failed": 0, **_figures(verdicts, truth)}
    agreement = [{"judges": ["mini-judge", "ann"], **(statistics.kappa(verdicts, truth) or {})}]
    told = {"name": "best-vs-worst", "kind": "images", "labels": ["best", "worst <of> 4"], "pairs": 6, "counts": {}, "judges": [judge]}
    monkeypatch.setattr("synthvlm.report.summaries", lambda run: [told | {"agreement": agreement}])
    page, numbers = page_and_figures(report(run, out=tmp_path))
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())
    assert numbers["judgements"][0]["judges"][0]["wins"] == 3
    assert "best-vs-worst: A is best, B is worst <of> 4 (6 pairs)" in text
    assert "mini-judge 5 3 1 1 70.0%" in text and "mini-judge: 1 answers could not be read, 0 failed." in text
    assert "mini-judge and ann agree with Cohen’s κ = " in text


def test_a_selection_by_ranks_is_reported_by_ranks(run: RunDirectory, tmp_path: Path) -> None:
    chosen_by = select(run, [run.stage("clip-ssim")], top="5", weights=None, normalise="rank", name="ranks")
    page, numbers = page_and_figures(report(run, selection="ranks", out=tmp_path))
    assert not numbers["selection"]["stale"] and numbers["scored"]["formula"] == "rank of CLIPScore + 0.5 · rank of SSIMScore"
    for name, values in chosen_by["sets"].items():
        assert numbers["sets"][name]["total"]["mean"] == pytest.approx(values["total"])
    density = next(c for c in charts.of_scores(numbers) if c["id"] == "density")
    assert [t["type"] for t in density["figure"]["data"]] == ["heatmap"], "a least total of ranks is no line among the scores"
    assert "Total = rank of CLIPScore" in page
