"""Marks: what is written, and how `select`, `prune` and a trial honour them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from synthvlm import marks
from synthvlm.cli import cli
from synthvlm.errors import OptionError, RunError, RunLocked
from synthvlm.pipeline import Run
from synthvlm.run import fetch
from synthvlm.web.catalogue import Catalogue
from synthvlm.web.trial import Settings, Trial
from tests.fabricate import captions, fabricate_run

TEXTS = captions(30)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    fabricate_run(
        tmp_path / "run", TEXTS, 3, side=32, shard_size=10, dropped={("8", 2)}, meta={str(n): {"group": "ab"[n % 2]} for n in range(30)}
    )
    return Run.open(tmp_path / "run")


def image(run: Run, id: str, candidate: int) -> dict[str, Any]:
    with run.connect() as db:
        found = fetch(
            db, f"SELECT key, row, id, candidate FROM {run.table_sql(run.stage('mini'))} WHERE id = '{id}' AND candidate = {candidate}"
        )
    return found[0] | {"stage": "mini"}


def mark(run: Run, *asked: tuple[str, int, str | None]) -> None:
    marks.put(run, [image(run, i, c) | {"mark": m} for i, c, m in asked])


def chosen(run: Run, name: str = "default") -> list[tuple[str, int]]:
    table = pq.read_table(f"{run.root}/selections/{name}.parquet")
    return list(zip(table["id"].to_pylist(), table["candidate"].to_pylist(), strict=True))


def ranking(run: Run) -> list[tuple[str, int]]:
    """Return the best pair of each caption, best first, as `select --top all` has it."""
    return chosen(run.select(top="all", name="all", ignore_marks=True), "all")


def test_marks_and_notes_are_kept_apart_and_go_when_they_are_taken_away(run: Run):
    mark(run, ("4", 0, "keep"), ("2", 1, "drop"))
    marks.put(run, [image(run, "4", 0) | {"note": "  a fine one "}])
    lines = marks.load(run).to_pylist()
    assert [(r["id"], r["candidate"], r["mark"], r["note"]) for r in lines] == [("2", 1, "drop", None), ("4", 0, "keep", "a fine one")]
    marks.put(run, [image(run, "4", 0) | {"mark": None}, image(run, "2", 1) | {"mark": None}])
    assert [(r["id"], r["mark"], r["note"]) for r in marks.load(run).to_pylist()] == [("4", None, "a fine one")]
    marks.put(run, [image(run, "4", 0) | {"note": " "}])
    assert marks.load(run).num_rows == 0


def test_what_cannot_be_marked_is_refused(run: Run):
    with pytest.raises(OptionError, match="cannot be marked 'best'"):
        marks.put(run, [image(run, "4", 0) | {"mark": "best"}])
    with pytest.raises(OptionError, match="2,001 characters"):
        marks.put(run, [image(run, "4", 0) | {"note": "x" * 2001}])
    with run.store.lock("pruning"), pytest.raises(RunLocked, match="pruning"):
        marks.put(run, [image(run, "4", 0) | {"mark": "keep"}], wait=0)
    assert marks.load(run).num_rows == 0


def test_keep_is_in_and_drop_is_out_and_the_number_stays(run: Run):
    best = ranking(run)
    run.select(top=6)
    assert "marks" not in run.results["select"] and chosen(run) == best[:6]
    worst, first = best[-1], best[0]
    mark(run, (*worst, "keep"), (*first, "drop"))
    said = run.select(top=6).results["select"]
    assert said["marks"] == {"keep": 1, "drop": 1, "of_other_images": 0}
    got = chosen(run)
    assert len(got) == 6 and worst in got and first not in got
    # The caption of the dropped pair may still be there with another candidate; the rest is as it was, less the place that was taken.
    others = [p for p in got if p not in (worst,) and p[0] != first[0]]
    assert others == [p for p in best[1:] if p != worst][: len(others)]
    assert said["threshold"] == min(
        r["total"] for r in pq.read_table(f"{run.root}/selections/default.parquet").to_pylist() if (r["id"], r["candidate"]) != worst
    )


def test_keep_holds_against_threshold_and_quota_and_takes_its_captions_place(run: Run):
    best = dict(ranking(run))
    others = [(i, (c + 1) % 3) for i, c in list(best.items())[-4:] if (i, (c + 1) % 3) != ("8", 2)]
    mark(run, *((*p, "keep") for p in others))
    run.select(top=2, threshold=0.7)
    assert set(others) <= set(chosen(run)) and len(chosen(run)) == len(others)
    run.select(top="all")
    got = chosen(run)
    assert set(others) <= set(got) and len(got) == 30 and len({i for i, _ in got}) == 30
    with pytest.raises(RunError, match="no pair reaches"):
        run.select(threshold=9.0, ignore_marks=True)
    assert sorted(chosen(run.select(threshold=9.0))) == sorted(others)


def test_groups_give_way_each_to_its_own(run: Run):
    last = next(p for p in reversed(ranking(run)) if int(p[0]) % 2)
    mark(run, (*last, "keep"))
    run.select(top=3, group_by="group")
    got = chosen(run)
    assert last in got and sum(int(i) % 2 for i, _ in got) == 3 == sum(1 - int(i) % 2 for i, _ in got)


def test_if_everything_is_dropped_it_is_said(run: Run):
    with run.connect() as db:
        rows = fetch(db, f"SELECT key, row, id, candidate FROM {run.table_sql(run.stage('mini'))}")
    marks.put(run, [r | {"stage": "mini", "mark": "drop"} for r in rows])
    with pytest.raises(RunError, match="every pair that could be selected is marked drop") as error:
        run.select()
    assert error.value.hint is not None and "--ignore-marks" in error.value.hint
    assert chosen(run.select(top=3, ignore_marks=True)) == ranking(run)[:3]
    assert run.results["select"]["marks"]["ignored"] == 90


def test_a_mark_is_of_the_image_that_was_looked_at(run: Run, tmp_path: Path):
    worst = ranking(run)[-1]
    mark(run, (*worst, "keep"))
    edited = [c if str(n) != worst[0] else f"{c}, edited" for n, c in enumerate(TEXTS)]
    fabricate_run(tmp_path / "run", edited, 3, side=32, shard_size=10)
    said = Run.open(tmp_path / "run").select(top=3).results["select"]
    assert said["marks"] == {"keep": 0, "drop": 0, "of_other_images": 1}


def test_a_kept_pair_without_pixels_cannot_be_in(run: Run):
    mark(run, ("8", 2, "keep"))
    assert run.select(top=3).results["select"]["marks"] == {"keep": 0, "drop": 0, "without_score_or_pixels": 1, "of_other_images": 0}
    assert ("8", 2) not in chosen(run)


def test_prune_keeps_the_pixels_of_kept_pairs(run: Run):
    worst = ranking(run)[-1]
    for name in ("all", "default"):
        for kind in ("json", "parquet"):
            Path(f"{run.root}/selections/{name}.{kind}").unlink(missing_ok=True)
    mark(run, (*worst, "keep"))
    run.prune(5)
    with run.connect() as db:
        stored = fetch(db, f"SELECT id, candidate FROM {run.table_sql(run.stage('mini'))} WHERE stored")
    assert len(stored) == 6 and worst in {(r["id"], r["candidate"]) for r in stored}


def test_the_command_tells_of_marks(run: Run):
    mark(run, ("4", 0, "drop"))
    done = CliRunner().invoke(cli, ["select", str(run.root), "--top", "5"], catch_exceptions=False)
    assert "marks: 0 pairs in by a mark, 1 out" in done.output
    done = CliRunner().invoke(cli, ["select", str(run.root), "--top", "5", "--ignore-marks", "--json"], catch_exceptions=False)
    assert json.loads(done.output)["marks"] == {"keep": 0, "drop": 0, "ignored": 1}


def test_a_limit_holds_for_kept_pairs_too(run: Run):
    worst = ranking(run)[-1]
    mark(run, (*worst, "keep"))
    (clip,) = [r["clip"] for r in pq.read_table(f"{run.root}/selections/all.parquet").to_pylist() if (r["id"], r["candidate"]) == worst]
    assert worst in chosen(run.select(top=6))
    said = run.select(top=6, limits={"clip": [clip + 1e-6, None]}).results["select"]
    assert worst not in chosen(run) and said["marks"] == {"keep": 0, "drop": 0, "without_score_or_pixels": 1, "of_other_images": 0}


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("top", ["20%", "7", "all"])
@pytest.mark.parametrize("ssim", [0.0, 0.5, 3.0])
def test_a_trial_chooses_what_select_does(run: Run, ssim: float, top: str, limited: bool):
    best = ranking(run)
    clips = sorted(r["clip"] for r in pq.read_table(f"{run.root}/selections/all.parquet").to_pylist())
    limits = {"clip": [round(clips[8], 3), None]} if limited else {}
    Path(f"{run.root}/selections/all.json").unlink()
    mark(run, (*best[-1], "keep"), (*best[0], "drop"))
    before = set(chosen(run.select(top="20%", limits=limits)))
    catalogue = Catalogue(run)
    try:
        catalogue.refresh()
        trial = Trial(catalogue)
        told = trial.settle(Settings((("clip", 1.0), ("ssim", ssim)), top))
        said = run.select(top=top, weights={"clip": 1.0, "ssim": ssim}, limits=limits, name="other").results["select"]
        after = set(chosen(run, "other"))
        assert (told["selected"], told["enter"], told["leave"]) == (len(after), len(after - before), len(before - after))
        assert told["threshold"] == pytest.approx(said["threshold"]) and told["captions"] == said["captions"]
        assert told["after"]["clip"] == pytest.approx(said["sets"]["selected"]["clip"])
        rows = {(r, c) for r, c in catalogue.cursor().execute("SELECT row, candidate FROM trial.chosen").fetchall()}
        assert rows == {(int(i), c) for i, c in after}
        # The command that the page gives selects just that.
        words = told["command"].split()
        assert words[:2] == ["synthvlm", "select"]
        CliRunner().invoke(cli, [*words[1:], "--as", "told"], catch_exceptions=False)
        assert set(chosen(run, "told")) == after
    finally:
        catalogue.close()
