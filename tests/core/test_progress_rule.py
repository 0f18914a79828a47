"""Work to do = wanted keys - present keys: each thing that must follow from it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from synthvlm import compact as compacting
from synthvlm import parts
from synthvlm.compact import compact
from synthvlm.errors import RunMismatch
from synthvlm.pipeline import Run
from tests import rows


@pytest.fixture(autouse=True)
def _models(faulty):
    return faulty


def pq_rows(run: Run, part: parts.Part) -> int:
    import pyarrow.parquet as pq

    return pq.read_metadata(run.store.path(part.path)).num_rows


class Count:
    """Counts what workers make."""

    def __init__(self) -> None:
        self.rows = 0

    def start(self, *_): ...
    def finish(self): ...

    def event(self, kind, facts):
        if kind == "rows":
            self.rows += facts["made"] + len(facts["failed"])


def counted(run: Run, **settings) -> Count:
    count = Count()
    run.using(listener=count, **settings)
    return count


def test_a_finished_run_has_nothing_to_do(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(["a", "b", "c"]))
    first = counted(run)
    run.generate("cheap", repeat=2).score({"brightness": {}})
    assert first.rows == 12
    again = Run.create(tmp_path / "run", tmp_path / "captions.json")
    assert again.results["add"].unchanged
    second = counted(again)
    again.generate("cheap", repeat=2).score({"brightness": {}})
    assert second.rows == 0


def test_more_candidates_make_only_the_new_ones(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(["a", "b", "c"]))
    run.generate("cheap", repeat=2)
    before = rows.pixels(run, "cheap")
    count = counted(run)
    run.generate("cheap", repeat=4)
    assert count.rows == 6
    after = rows.pixels(run, "cheap")
    assert len(after) == 12
    assert before.items() <= after.items()
    at_once = Run.create(tmp_path / "other", tmp_path / "captions.json").generate("cheap", repeat=4)
    assert rows.table(at_once, "cheap") == rows.table(run, "cheap")


def test_fewer_candidates_lose_nothing(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(["a", "b"])).generate("cheap", repeat=3)
    run.generate("cheap", repeat=1)
    assert len(rows.table(run, "cheap")) == 6


def test_appended_captions_make_only_theirs(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(["a", "b"])).generate("cheap").score({"brightness": {}})
    before = rows.table(run, "cheap")
    run.add(write_captions(["a", "b", "c"]))
    assert (run.results["add"].added, run.results["add"].edited) == (1, 0)
    count = counted(run)
    run.generate("cheap").score({"brightness": {}})
    assert count.rows == 2
    assert rows.table(run, "cheap")[:2] == before


def test_an_edited_caption_makes_only_its_rows_and_can_be_taken_back(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(["a", "b", "c"])).generate("cheap", repeat=2).score({"brightness": {}})
    before = rows.table(run, "cheap")
    run.add(write_captions(["a", "B!", "c"]))
    assert (run.results["add"].added, run.results["add"].edited) == (0, 1)
    count = counted(run)
    run.generate("cheap").score({"brightness": {}})
    assert count.rows == 4
    assert [r["caption"] for r in rows.table(run, "cheap")] == ["a", "a", "B!", "B!", "c", "c"]
    run.add(write_captions(["a", "b", "c"]))
    count = counted(run)
    run.generate("cheap").score({"brightness": {}})
    assert count.rows == 0, "the old rows are of use again"
    assert rows.table(run, "cheap") == before


def test_failures_are_rows_and_are_retried_when_asked(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(["a", "please fail", "please raise", "d", "e"]))
    run.generate("cheap")
    result = run.results["generate"]
    assert (result["made"], result["failed"]) == (3, 2)
    assert {f["class"]: f["rows"] for f in result["failures"]} == {"Refused": 1, "ValueError": 1}
    count = counted(run)
    run.generate("cheap")
    assert count.rows == 0
    count = counted(run, retry_failed=True)
    run.generate("cheap")
    assert count.rows == 2
    with run.connect() as db:
        tries = db.execute(f"SELECT id, tries FROM {run.table_sql(run.stage('cheap'))} WHERE error IS NOT NULL ORDER BY id").fetchall()
    assert tries == [("1", 2), ("2", 2)]
    run.score({"brightness": {}})
    assert run.results["score"]["wanted"] == 3


@pytest.mark.parametrize("harm", ["cut the table", "flip the table", "cut the pixels", "lose the pixels"])
def test_a_damaged_part_is_made_again(tmp_path, write_captions, harm):
    run = Run.create(tmp_path / "run", write_captions([f"caption {n}" for n in range(24)])).generate("cheap", repeat=2)
    before, images = rows.table(run, "cheap"), rows.pixels(run, "cheap")
    part = parts.list_parts(run.store, "cheap")[-1]
    tar = Path(run.store.path(parts.part_info(run.store, part)["tar"]))
    table = Path(run.store.path(part.path))
    if harm == "cut the table":
        table.write_bytes(table.read_bytes()[:-100])
    elif harm == "flip the table":
        table.write_bytes(b"\0" * 64 + table.read_bytes()[64:-8] + b"\0" * 8)
    elif harm == "cut the pixels":
        tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    else:
        tar.unlink()
    count = counted(run)
    run.generate("cheap")
    assert 0 < count.rows <= 48
    assert rows.table(run, "cheap") == before
    assert rows.pixels(run, "cheap") == images
    assert run.store.list(f"damaged/cheap/{part.path.split('/')[1]}")


def test_flipped_pixels_are_found_when_scored_and_by_verify(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions([f"caption {n}" for n in range(6)])).generate("cheap")
    images = rows.pixels(run, "cheap")
    part = parts.list_parts(run.store, "cheap")[0]
    tar = Path(run.store.path(parts.part_info(run.store, part)["tar"]))
    data = bytearray(tar.read_bytes())
    data[700] ^= 0xFF
    tar.write_bytes(data)
    assert parts.damage(run.store, part) is None
    assert parts.damage(run.store, part, thorough=True) == "its pixels do not match their digest"
    run.score({"brightness": {}})
    assert run.results["score"]["damaged_parts"] == 1
    run.generate("cheap").score({"brightness": {}})
    assert rows.pixels(run, "cheap") == images
    assert run.results["score"]["made"] == 6


def test_an_identity_option_is_a_mismatch_with_two_ways_on(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(["a", "b"])).generate("cheap", size=16)
    with pytest.raises(RunMismatch, match=r"cheap\.size=16, now asked for 24") as error:
        run.generate("cheap", size=24)
    assert "--as NAME" in str(error.value)
    assert "--overwrite" in str(error.value)
    run.generate("cheap", size=24, name="larger")
    assert {r["width"] for r in rows.table(run, "larger")} == {24}
    assert {r["width"] for r in rows.table(run, "cheap")} == {16}
    run.using(overwrite=True).generate("cheap", size=24)
    assert {r["width"] for r in rows.table(run, "cheap")} == {24}


def test_how_images_are_stored_is_identity_too(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(["a"])).generate("cheap")
    with pytest.raises(RunMismatch, match=r"image\.format='jpeg', now asked for 'png'"):
        run.generate("cheap", image_format="png")


def test_a_runtime_option_is_no_mismatch(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(["a", "b"])).generate("cheap", seconds=0.0)
    count = counted(run, devices=["cpu", "cpu"])
    run.generate("cheap", seconds=0.01)
    assert count.rows == 0


def test_another_seed_is_a_mismatch(tmp_path, write_captions):
    Run.create(tmp_path / "run", write_captions(["a"]), seed=1)
    with pytest.raises(RunMismatch, match="made with seed 1, not 2"):
        Run.create(tmp_path / "run", seed=2)


def test_an_image_made_anew_makes_its_score_stale(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(["a", "b"])).generate("cheap", size=16).score({"brightness": {}})
    run.using(overwrite=True).generate("cheap", size=24)
    count = counted(run)
    run.score({"brightness": {}})
    assert count.rows == 2


def test_compaction_changes_no_row_and_no_pixel(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions([f"caption {n}" for n in range(64)]))
    stage = run.generate("cheap", repeat=2).stage("cheap")
    before, images = rows.table(run, "cheap"), rows.pixels(run, "cheap")
    assert len(parts.list_parts(run.store, "cheap")) == 1, "done by itself at the end"
    run.add(write_captions([f"caption {n}" for n in range(32)] + [f"edited {n}" for n in range(32, 64)]))
    run.generate("cheap")
    run.add(write_captions([f"caption {n}" for n in range(64)]))
    compact(run, stage)
    assert rows.table(run, "cheap") == before, "rows of captions that were edited meanwhile are still there"
    compact(run, stage, drop_stale=True)
    assert rows.table(run, "cheap") == before
    assert rows.pixels(run, "cheap") == images
    assert pq_rows(run, parts.list_parts(run.store, "cheap")[0]) == 128
    tars = {parts.part_info(run.store, p)["tar"] for p in parts.list_parts(run.store, "cheap")}
    assert {f"cheap/000/{n}" for n in run.store.list("cheap/000", ".tar")} == tars, "merged pixels stand once"
    count = counted(run)
    run.generate("cheap")
    assert count.rows == 0


def test_parts_are_merged_while_more_are_made_and_nothing_changes(tmp_path, write_captions, monkeypatch):
    captions = write_captions([f"caption {n}" for n in range(96)])
    calm = Run.create(tmp_path / "calm", captions).generate("cheap", repeat=2)
    merged: list[str] = []
    merge = compacting.merge

    def counting(*given):
        merged.append(threading.current_thread().name)
        return merge(*given)

    monkeypatch.setattr(compacting, "merge", counting)
    monkeypatch.setattr(compacting, "PAUSE", 0.0)
    monkeypatch.setattr(compacting, "MEANWHILE_PARTS", 2)
    run = Run.create(tmp_path / "run", captions).using(commit_seconds=0.01, devices=["cpu", "cpu"], threads=1)
    run.generate("cheap", repeat=2, seconds=0.15)
    assert "compact" in merged, "beside the work"
    assert rows.table(run, "cheap") == rows.table(calm, "cheap") and rows.pixels(run, "cheap") == rows.pixels(calm, "cheap")
    assert len(parts.list_parts(run.store, "cheap")) < compacting.MIN_PARTS


def test_large_parts_are_left_as_they_are(tmp_path, write_captions, monkeypatch):
    run = Run.create(tmp_path / "run", write_captions([f"caption {n}" for n in range(64)])).generate("cheap")
    (large,) = parts.list_parts(run.store, "cheap")
    monkeypatch.setattr(compacting, "MAX_ROWS", 100)
    run.add(write_captions([f"caption {n}" for n in range(160)])).using(commit_seconds=0.01).generate("cheap", seconds=0.02)
    found = parts.list_parts(run.store, "cheap")
    assert large in found and len(found) < 6
    compact(run, run.stage("cheap"), drop_stale=True)
    assert large not in parts.list_parts(run.store, "cheap"), "leaving rows out takes all of them"
    assert sum(pq_rows(run, p) for p in parts.list_parts(run.store, "cheap")) == 160


def test_a_key_that_stands_twice_counts_once(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(["a", "b"])).generate("cheap")
    before = rows.table(run, "cheap")
    part = parts.list_parts(run.store, "cheap")[0]
    table = Path(run.store.path(part.path))
    twin = table.with_name(f"{part.first:06d}-{'0' * 16}.parquet")
    twin.write_bytes(table.read_bytes())
    assert rows.table(run, "cheap") == before
    assert run.tally(run.stage("cheap"))["made"] == 2


def test_stored_best_keeps_what_selection_would_choose(tmp_path, write_captions):
    captions = write_captions([f"caption {n}" for n in range(20)])
    whole = Run.create(tmp_path / "all", captions).generate("cheap", repeat=4).score({"brightness": {}}).select(top="all")
    best = Run.create(tmp_path / "best", captions)
    best.generate("cheap", repeat=2, store="best", scorers={"brightness": {}})
    assert len(rows.pixels(best, "cheap")) == 20
    best.generate("cheap", repeat=4, store="best", scorers={"brightness": {}}).score({"brightness": {}}).select(top="all")
    assert rows.table(best, "brightness") == rows.table(whole, "brightness")
    strip = [{k: v for k, v in r.items() if k != "stored"} for r in rows.table(best, "cheap")]
    assert strip == [{k: v for k, v in r.items() if k != "stored"} for r in rows.table(whole, "cheap")]
    assert best.results["select"]["winners_not_stored"] == 0
    assert best.store.read("selections/default.parquet") == whole.store.read("selections/default.parquet")
    count = counted(best)
    best.generate("cheap", repeat=4, store="best", scorers={"brightness": {}})
    assert count.rows == 0
