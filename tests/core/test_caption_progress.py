"""Captions: work to do = wanted keys - present keys, for image × perspective."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from synthvlm import parts
from synthvlm.compact import compact
from synthvlm.errors import OptionError, RunError, RunMismatch
from synthvlm.pipeline import Run
from tests import rows
from tests.core.test_progress_rule import Count, counted

BOTH = ["detail", "nouns"]


@pytest.fixture(autouse=True)
def _models(faulty):
    return faulty


@pytest.fixture
def write_images(tmp_path: Path) -> Any:
    """Write images and the seeds' list of them: a number of images, or their ids; return the list's path."""

    def write(ids: Any, name: str = "images.json", **fields: Any) -> str:
        records = []
        for n, i in enumerate(range(ids) if isinstance(ids, int) else ids):
            path = tmp_path / "pictures" / f"{n}.png"
            path.parent.mkdir(exist_ok=True)
            if not path.exists():
                Image.new("RGB", (16 + n, 16), (n * 5 % 256, 255 - n, n % 7)).save(path)
            records.append({"image": f"pictures/{n}.png", **({} if isinstance(ids, int) else {"id": i}), **fields})
        (tmp_path / name).write_text(json.dumps(records))
        return str(tmp_path / name)

    return write


def captions(run: Run, stage: str = "parrot") -> list[dict[str, Any]]:
    return [r for r in rows.table(run, stage) if r["error"] is None]


def texts(run: Run, stage: str = "parrot") -> dict[tuple[int, str], str]:
    return {(r["row"], r["perspective"]): r["text"] for r in captions(run, stage)}


def prompt(folder: Path, text: str, name: str = "mine") -> str:
    (folder / f"{name}.yaml").write_text(f"prompt: '{text}'\n")
    return str(folder / f"{name}.yaml")


def test_a_row_per_image_and_perspective(tmp_path, write_images):
    run = Run.create(tmp_path / "run", images=write_images(9))
    first = counted(run)
    run.caption("parrot", BOTH)
    assert first.rows == 18
    made = captions(run)
    assert [(r["row"], r["perspective"]) for r in made] == [(n, p) for n in range(9) for p in BOTH]
    one = made[2]
    assert one["text"].startswith("A picture of 5 254 1, 17 wide, said plain. Asked: Describe this image in detail.")
    assert (one["finish_reason"], one["prompt_tokens"], one["raw"], one["flags"], one["batch_size"]) == ("stop", 7, None, None, 4)
    assert (made[3]["text"], made[3]["flags"], made[3]["raw"]) == ("picture, colour", "repeats", "picture, colour, picture")
    again = Run.create(tmp_path / "run", images=tmp_path / "images.json")
    assert again.results["add"].unchanged
    second = counted(again)
    again.caption("parrot", BOTH)
    assert second.rows == 0


def test_a_perspective_added_adds_only_its_rows(tmp_path, write_images):
    run = Run.create(tmp_path / "run", images=write_images(5)).caption("parrot", ["detail"])
    before = captions(run)
    count = counted(run)
    run.caption("parrot", ["nouns"])
    assert count.rows == 5
    assert [r for r in captions(run) if r["perspective"] == "detail"] == before
    assert list(run.stage("parrot").perspectives) == BOTH
    at_once = Run.create(tmp_path / "other", images=tmp_path / "images.json").caption("parrot", BOTH)
    assert captions(at_once) == captions(run)


def test_a_reworded_perspective_makes_only_its_rows_and_can_be_taken_back(tmp_path, write_images):
    run = Run.create(tmp_path / "run", images=write_images(5))
    run.caption("parrot", ["detail", prompt(tmp_path, "What is this?")])
    before = captions(run)
    count = counted(run)
    run.caption("parrot", [prompt(tmp_path, "What is that?")])
    assert count.rows == 5
    assert len(captions(run)) == 10
    assert {r["text"].rsplit("Asked: ")[1] for r in captions(run) if r["perspective"] == "mine"} == {"What is that?"}
    count = counted(run)
    run.caption("parrot", [prompt(tmp_path, "What is this?")])
    assert count.rows == 0
    assert captions(run) == before


def test_limits_and_policy_count_and_the_name_of_the_file_does_not(tmp_path, write_images):
    run = Run.create(tmp_path / "run", images=write_images(3)).caption("parrot", ["detail"])
    count = counted(run)
    run.caption("parrot", ["detail"], preset="clip-training")
    assert count.rows == 3
    count = counted(run)
    run.caption("parrot", ["detail"], max_new_tokens=77)
    assert count.rows == 0


def test_an_image_that_was_replaced_makes_only_its_rows(tmp_path, write_images):
    run = Run.create(tmp_path / "run", images=write_images(5)).caption("parrot", BOTH)
    before = texts(run)
    Image.new("RGB", (99, 9), "red").save(tmp_path / "pictures" / "3.png")
    run = Run.create(tmp_path / "run", images=tmp_path / "images.json")
    assert run.results["add"].edited == 1
    count = counted(run)
    run.caption("parrot", BOTH)
    assert count.rows == 2
    after = texts(run)
    assert {k for k in after if after[k] != before[k]} == {(3, "detail")}
    assert "99 wide" in after[3, "detail"]


def test_an_image_replaced_behind_the_runs_back_is_not_captioned_as_the_old_one(tmp_path, write_images):
    run = Run.create(tmp_path / "run", images=write_images(3))
    Image.new("RGB", (99, 9), "red").save(tmp_path / "pictures" / "1.png")
    (tmp_path / "pictures" / "2.png").unlink()
    run.caption("parrot", ["detail"])
    assert {f["class"]: f["rows"] for f in run.results["caption"]["failures"]} == {"ImageChanged": 1, "ImageError": 1}
    run = Run.create(tmp_path / "run", images=tmp_path / "images.json")
    assert (run.results["add"].edited, run.results["add"].rejected) == (1, 1)
    run.caption("parrot", ["detail"])
    assert (run.results["caption"]["made"], run.results["caption"]["failed"]) == (2, 1)


def test_new_images_make_only_theirs(tmp_path, write_images):
    run = Run.create(tmp_path / "run", images=write_images(3)).caption("parrot", BOTH)
    before = captions(run)
    run.add_images(write_images(5))
    count = counted(run)
    run.caption("parrot", BOTH)
    assert count.rows == 4
    assert captions(run)[:6] == before


def test_a_quoted_field_is_consumed(tmp_path, write_images):
    mine = prompt(tmp_path, "Was it {{ caption }} in {{ place }}?")
    run = Run.create(tmp_path / "run", images=write_images(3, caption="a dog", place="Rome")).caption("parrot", ["detail", mine])
    assert captions(run)[1]["text"].endswith("Asked: Was it a dog in Rome?")
    count = counted(run)
    run.add_images(write_images(3, caption="a dog", place="Paris", other=3))
    run.caption("parrot", ["detail", mine])
    assert count.rows == 3, "detail quotes nothing"
    count = counted(run)
    run.add_images(write_images(3, caption="a dog", place="Paris", other=4))
    run.caption("parrot", ["detail", mine])
    assert count.rows == 0, "nobody quotes it"


def test_a_field_that_nobody_has_is_an_error_and_one_that_some_lack_costs_their_rows(tmp_path, write_images):
    run = Run.create(tmp_path / "run", images=write_images(3))
    with pytest.raises(OptionError, match="the perspective 'mine' quotes caption, place, which no image"):
        run.caption("parrot", [prompt(tmp_path, "Was it {{ caption }} in {{ place }}?")])
    assert run.stage_names() == []
    records = json.loads((tmp_path / "images.json").read_text())
    records[1]["caption"] = "a dog"
    (tmp_path / "images.json").write_text(json.dumps(records))
    run.add_images(tmp_path / "images.json").using(max_failures=1.0).caption("parrot", [prompt(tmp_path, "Was it {{ caption }}?")])
    assert (run.results["caption"]["made"], run.results["caption"]["failed"]) == (1, 2)
    assert run.results["caption"]["failures"][0]["class"] == "MissingField"
    run.caption("parrot", [prompt(tmp_path, "Was it {% if caption is defined %}{{ caption }}{% else %}a cat{% endif %}?")])
    assert run.results["caption"]["made"] == 3


def test_failures_are_rows_and_are_retried_when_asked(tmp_path, write_images):
    run = Run.create(tmp_path / "run", images=write_images(["a", "please fail", "please raise", "refuse it", "e"]))
    run.using(max_failures=1.0).caption("parrot", ["detail"])
    result = run.results["caption"]
    assert (result["made"], result["failed"]) == (2, 3)
    assert {f["class"]: f["rows"] for f in result["failures"]} == {"Refused": 2, "ValueError": 1}
    refused = next(r for r in rows.table(run, "parrot") if r["id"] == "refuse it")
    assert (refused["text"], refused["raw"]) == (None, "I'm sorry, but I can't help with that.")
    count = counted(run)
    run.caption("parrot", ["detail"])
    assert count.rows == 0
    count = counted(run, retry_failed=True, max_failures=1.0)
    run.caption("parrot", ["detail"])
    assert count.rows == 3
    with run.connect() as db:
        tries = db.execute(f"SELECT DISTINCT tries FROM {run.table_sql(run.stage('parrot'))} WHERE error IS NOT NULL").fetchall()
    assert tries == [(2,)]


def test_another_model_or_option_is_a_mismatch(tmp_path, write_images):
    run = Run.create(tmp_path / "run", images=write_images(2)).caption("parrot", ["detail"])
    with pytest.raises(RunMismatch, match=r"parrot\.voice='plain', now asked for 'odd'"):
        run.caption("parrot", ["detail"], voice="odd")
    run.caption("parrot", ["detail"], voice="odd", name="second")
    assert "said odd" in captions(run, "second")[0]["text"]
    assert "said plain" in captions(run)[0]["text"]
    run.using(overwrite=True).caption("parrot", ["nouns"], preset="loud")
    assert list(run.stage("parrot").perspectives) == ["nouns"]


def test_images_of_a_run_are_captioned_by_their_pixels(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions([f"caption {n}" for n in range(6)])).generate("cheap", repeat=2)
    count = counted(run)
    run.caption("parrot", ["detail", prompt(tmp_path, "Was it {{ caption }}?")])
    assert count.rows == 24
    made = captions(run)
    assert [(r["row"], r["candidate"]) for r in made[:4]] == [(0, 0), (0, 0), (0, 1), (0, 1)]
    assert made[1]["text"].endswith("Asked: Was it caption 0?")
    images = {(r["id"], r["candidate"]): r["sha256"] for r in rows.table(run, "cheap")}
    assert all(r["sha256"] == images[r["id"], r["candidate"]] for r in made)
    run.using(overwrite=True).generate("cheap", repeat=2, size=24)
    count = counted(run)
    run.caption("parrot", ["detail"])
    assert count.rows == 24, "images made anew make their captions stale"


def test_only_a_selections_images_are_captioned_if_one_is_named(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions([f"caption {n}" for n in range(10)])).generate("cheap", repeat=2)
    run.score({"brightness": {}}).select(top=3)
    with pytest.raises(RunError, match="has no selection 'other'"):
        run.caption("parrot", ["detail"], selection="other")
    run.caption("parrot", ["detail"], selection="default")
    assert run.results["caption"]["wanted"] == 3
    run.select(top=5)
    count = counted(run)
    run.caption("parrot", ["detail"], selection="default")
    assert count.rows == 2
    run.caption("parrot", ["detail"])
    assert run.results["caption"]["made"] == 20


def test_pixels_that_turn_out_damaged_cost_nothing_for_good(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions([f"caption {n}" for n in range(6)])).generate("cheap")
    tar = Path(run.store.path(parts.part_info(run.store, parts.list_parts(run.store, "cheap")[0])["tar"]))
    data = bytearray(tar.read_bytes())
    data[700] ^= 0xFF
    tar.write_bytes(data)
    run.caption("parrot", ["detail"])
    assert run.results["caption"]["damaged_parts"] == 1
    run.generate("cheap").caption("parrot", ["detail"])
    assert run.results["caption"]["made"] == 6


def test_a_run_without_images_says_so(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(["a"]))
    with pytest.raises(RunError, match="has no images to caption"):
        run.caption("parrot")
    run.generate("cheap")
    with pytest.raises(RunError, match="has no stage 'other'"):
        run.caption("parrot", images="other")


def test_compaction_changes_no_caption(tmp_path, write_images):
    run = Run.create(tmp_path / "run", images=write_images(70)).using(commit_seconds=0.0)
    run.caption("parrot", BOTH)
    before = captions(run)
    assert len(parts.list_parts(run.store, "parrot")) == 1, "done by itself at the end"
    compact(run, run.stage("parrot"), drop_stale=True)
    assert captions(run) == before
    count: Count = counted(run)
    run.caption("parrot", BOTH)
    assert count.rows == 0
