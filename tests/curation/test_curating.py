"""Curation on a run: what is measured again and what not, what image models then take, what is kept when something dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from synthvlm.errors import OptionError, RunError
from synthvlm.pipeline import Run
from tests import rows

GOOD = [f"A dog with {n} toys lies on the grass." for n in range(6)]
BAD = ["Buy now and save 20%", "IMG_2034.JPG", "cat"]


@pytest.fixture(autouse=True)
def _models(faulty):
    return faulty


def decided(run, name="default"):
    return {r["id"]: r for r in pq.read_table(run.store.url(f"curation/{name}.parquet")).to_pylist()}


def parts_of(run, stage):
    return sorted(n for folder in run.store.list(stage) if folder.isdigit() for n in run.store.list(f"{stage}/{folder}"))


def test_images_are_made_of_what_is_kept(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(GOOD + BAD)).curate()
    funnel = {f["reason"]: f for f in run.results["curate"]["funnel"]}
    assert (run.results["curate"]["captions"], run.results["curate"]["kept"]) == (9, 6)
    assert {r: f["dropped"] for r, f in funnel.items() if f["dropped"]} == {"words": 1, "filenames": 1, "advertising": 1}
    assert funnel["filenames"]["examples"] == [{"id": "7", "caption": "IMG_2034.JPG"}]
    run.generate("cheap")
    assert (run.results["generate"]["wanted"], run.results["generate"]["made"]) == (6, 6)
    assert {r["id"] for r in rows.table(run, "cheap")} == {str(n) for n in range(6)}
    run.generate("cheap", curation="off")
    assert run.results["generate"]["made"] == 9
    run.generate("cheap")
    assert run.results["generate"]["wanted"] == 6, "nothing is deleted, and nothing else wanted"


def test_a_caption_counts_as_it_now_is(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(GOOD + BAD)).curate().generate("cheap")
    write_captions([*GOOD[:5], "A new text about a red barn.", "A cat on a sofa.", *BAD[1:], "A horse behind a fence."])
    run.add(tmp_path / "captions.json").generate("cheap")
    assert run.results["generate"]["wanted"] == 5, "what was edited or added is not taken before it is curated"
    before = parts_of(run, "text")
    run.curate()
    new = [p for p in parts_of(run, "text") if p not in before]
    assert sum(pq.read_metadata(run.store.url(f"text/000/{p}")).num_rows for p in new) == 3
    assert run.results["curate"]["kept"] == 8
    run.generate("cheap")
    assert (run.results["generate"]["wanted"], run.results["generate"]["made"]) == (8, 8)


def test_again_with_other_limits_measures_nothing_and_again_with_the_same_decides_nothing(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(GOOD + BAD)).curate()
    measured = parts_of(run, "text")
    file = tmp_path / "run/curation/default.parquet"
    stamp = file.stat().st_mtime_ns
    run.curate()
    assert file.stat().st_mtime_ns == stamp
    run.curate(limits={"words": [1, 5], "advertising": None})
    assert parts_of(run, "text") == measured
    reasons = {r["id"]: r["reason"] for r in decided(run).values()}
    assert (reasons["8"], reasons["6"], reasons["0"]) == (None, None, "words")
    with pytest.raises(RunError, match="no curation 'strict'"):
        run.generate("cheap", curation="strict")


def test_every_reason_is_kept_and_the_first_is_first(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(["Buy now at www.shop.com or call 555-123-4567", *GOOD])).curate()
    row = decided(run)["0"]
    assert row["reason"] == "urls"
    assert row["reasons"] == ["urls", "phones", "advertising"]
    told = {f["reason"]: (f["dropped"], f["holds_of"]) for f in run.results["curate"]["funnel"]}
    assert told["phones"] == (0, 1)


def test_dry_decides_and_writes_nothing(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(GOOD + BAD)).curate(dry=True)
    assert run.results["curate"]["kept"] == 6
    assert not (tmp_path / "run/curation").exists()
    run.generate("cheap")
    assert run.results["generate"]["made"] == 9


def test_a_line_without_a_caption_left_says_why(tmp_path, write_captions):
    from synthvlm import recipe
    from synthvlm.following import follow

    line = recipe.parse({"steps": [{"curate": {}}, {"generate": {"model": "cheap"}}]}, "here")
    run = Run.create(tmp_path / "run", write_captions(["cat", "dog", "Buy now for free shipping"]))
    with pytest.raises(RunError, match=r"keeps none of the 3 captions: 2 by words .*1 by advertising") as error:
        follow(line, run)
    assert "--no-curate" in str(error.value)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"words": "many"}, "is not MIN..MAX"),
        ({"words": [5, 2]}, "leaves nothing"),
        ({"beauty": [1, None]}, "no scorer that is asked for measures 'beauty'"),
    ],
)
def test_limits_that_are_none_are_refused(tmp_path, write_captions, limits, says):
    run = Run.create(tmp_path / "run", write_captions(GOOD))
    with pytest.raises(OptionError, match=says):
        run.curate(limits=limits)


def test_blocklists_are_read_and_a_changed_one_measures_anew(tmp_path, write_captions):
    from synthvlm import recipe

    (tmp_path / "words.txt").write_text("# mine\ntoys\nred barn\n")
    settings = {"blocklists": [str(tmp_path / "words.txt")]}
    step = recipe.parse({"steps": [{"curate": settings}]}, "here").steps[0].settings
    captions = ["A red  barn at night.", "Two toy cars on a shelf.", "A child with toys on the floor."]
    run = Run.create(tmp_path / "run", write_captions(captions)).curate(**step.settings())
    assert [r["reason"] for r in decided(run).values()] == ["blocked", None, "blocked"]
    (tmp_path / "words.txt").write_text("shelf\n")
    run.curate(**step.settings())
    assert [r["reason"] for r in decided(run).values()] == [None, "blocked", None]
    with pytest.raises(OptionError, match=r"gone\.txt cannot be read"):
        recipe.parse({"steps": [{"curate": {"blocklists": ["gone.txt"]}}]}, "here").steps[0].settings.settings()


def test_a_language_is_only_told_where_there_is_enough_to_tell(tmp_path, write_captions):
    captions = [*GOOD, "Ein roter Bus fährt durch eine enge Straße.", "un chat", "一只狗在草地上奔跑。", "Собака бежит по зелёной траве."]
    run = Run.create(tmp_path / "run", write_captions(captions)).curate(languages=["en"])
    assert {i for i, r in decided(run).items() if r["reason"] == "language"} == {"6", "8", "9"}
    run.curate(languages=["en", "de"])
    assert {i for i, r in decided(run).items() if not r["keep"]} == {"8", "9"}
    assert run.results["curate"]["cards"]["language"]["model"].startswith("fastText")


KILLED = """
import sys, synthvlm.curation
from synthvlm.pipeline import Run
Run.open(sys.argv[1]).using(commit_seconds=0.0, devices=["cpu"]).curate({"text": {}, "ngrams": {}}, duplicates="near")
"""


def test_killed_while_curating_it_ends_equal(tmp_path):
    captions = [f"A {colour} {thing} number {n} stands beside the {place} in the morning." for n in range(2500)
                for colour, thing, place in (("red", "bus", "church"), ("small", "horse", "river"))]  # fmt: skip
    (tmp_path / "captions.json").write_text(json.dumps([{"id": n, "caption": c} for n, c in enumerate(captions)]))
    whole = Run.create(tmp_path / "whole", tmp_path / "captions.json").curate({"text": {}, "ngrams": {}}, duplicates="near")
    cut = Run.create(tmp_path / "cut", tmp_path / "captions.json")
    for pause in (2.0, 3.0, 4.0):
        process = subprocess.Popen([sys.executable, "-c", KILLED, cut.root], stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(pause)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    cut.curate({"text": {}, "ngrams": {}}, duplicates="near")
    assert rows.table(whole, "text") == rows.table(cut, "text")
    assert rows.table(whole, "ngrams") == rows.table(cut, "ngrams")
    assert decided(whole) == decided(cut)
    assert not rows.litter(tmp_path / "cut")


def test_two_workers_measure_what_one_does(tmp_path, write_captions):
    path = write_captions([f"A dog with {n} toys lies on the grass." for n in range(3000)])
    one = Run.create(tmp_path / "one", path).using(devices=["cpu"]).curate()
    two = Run.create(tmp_path / "two", path)
    from synthvlm.execution import execute
    from synthvlm.preparing import prepare_measure

    execution = two.using(devices=["cpu"] * 2).execution
    execute(two, [prepare_measure(two, "text", execution=execution)], execution)
    two.curate()
    assert rows.table(one, "text") == rows.table(two, "text")
    assert decided(one) == decided(two)
