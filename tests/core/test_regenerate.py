"""Images made again: the same bytes or none, with the batch size that was recorded; from a run and from a recipe export."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from synthvlm import parts
from synthvlm.errors import InputError, RunError, RunMismatch
from synthvlm.pipeline import Run
from tests import rows


@pytest.fixture(autouse=True)
def _models(faulty):
    return faulty


def made(root, captions, **options):
    return Run.create(root, captions).generate("cheap", repeat=3, **options).score({"brightness": {}})


def stored(run):
    return {(r["id"], r["candidate"]) for r in rows.table(run, "cheap") if r["stored"]}


def test_pruned_images_come_back_bit_for_bit(tmp_path, write_captions):
    run = made(tmp_path / "run", write_captions([f"caption {n}" for n in range(20)]))
    before, table = rows.pixels(run, "cheap"), rows.table(run, "cheap")
    run.prune(3).regenerate(["4", "17"])
    assert run.results["regenerate"]["made"] + run.results["regenerate"]["there"] == 6
    assert {i for i, _ in stored(run)} >= {"4", "17"}
    assert rows.pixels(run, "cheap") == {k: before[k] for k in stored(run)}
    run.regenerate(["4"], candidate=1)
    assert run.results["regenerate"] == {"stage": "cheap", "asked": 1, "there": 1, "made": 0}
    run.regenerate([str(n) for n in range(20)])
    assert rows.pixels(run, "cheap") == before
    assert rows.table(run, "cheap") == table, "every column of every row"
    assert run.generate("cheap", repeat=3).results["generate"]["made"] == 60


def test_what_a_larger_top_wants_can_be_had(tmp_path, write_captions):
    captions = write_captions([f"caption {n}" for n in range(20)])
    calm = made(tmp_path / "calm", captions).select(top=8)
    run = made(tmp_path / "run", captions).prune(3)
    assert run.select(top=8).results["select"]["winners_not_stored"] == 5
    run.store.remove("selections/default.json")
    run.regenerate(top=8).select(top=8)
    assert run.results["regenerate"] == {"stage": "cheap", "asked": 8, "there": 3, "made": 5}
    assert run.results["select"] == calm.results["select"]
    assert run.store.read("selections/default.parquet") == calm.store.read("selections/default.parquet")


def test_the_recorded_batch_size_is_used_and_kept(tmp_path, write_captions):
    captions = write_captions([f"caption {n}" for n in range(16)])
    run = made(tmp_path / "run", captions, batch_size=8, memory=3).prune(2)
    run.regenerate(["1", "2", "3"], memory=1000)
    assert run.results["regenerate"]["made"] > 6
    assert {r["batch_size"] for r in rows.table(run, "cheap")} == {2}
    log = run.store.read("logs/cheap-0.log").decode().rsplit("loading", 1)[-1]
    assert log.count("out of memory") == 2, "8, then 4, when they were made first; never again"


def test_other_bytes_are_not_stored_and_said(tmp_path, write_captions, refused):
    run = Run.create(tmp_path / "run", write_captions(["a", "b"])).generate("cheap", repeat=1)
    (part,) = parts.list_parts(run.store, "cheap")
    table = pq.read_table(run.store.path(part.path)).to_pylist()
    run.store.remove(part.path)
    changed = [r | {"stored": False, "tar": None, "offset": None} | ({"sha256": "0" * 64} if r["id"] == "0" else {}) for r in table]
    parts.commit(
        run.store, "cheap", 0, run.stage("cheap").schema, changed, info={"device": "gpu7", "threads": 4, "versions": {"torch": "9.9"}}
    )
    with pytest.raises(RunError, match=r"1 of 2 images came out with other bytes .*'0'") as error:
        run.regenerate(["0", "1"])
    assert "gpu7, 4 threads, torch 9.9" in str(error.value.hint)
    assert stored(run) == {("1", 0)}
    assert "came out with other bytes" in refused("regenerate", tmp_path / "run", "0")
    assert rows.pixels(run, "cheap") == {("1", 0): table[1]["sha256"]}


def test_a_model_that_is_another_now_is_refused(tmp_path, write_captions, monkeypatch):
    run = made(tmp_path / "run", write_captions(["a", "b", "c"])).prune(1)
    with pytest.raises(RunMismatch, match="size"):
        run.regenerate(["0", "1", "2"], size=8)
    assert len(stored(run)) == 1


def test_what_is_asked_for_must_be_there(tmp_path, write_captions, refused, synthvlm):
    run = made(tmp_path / "run", write_captions(["a", "b", "c"])).prune(1)
    with pytest.raises(RunError, match=r"no such image of id '7' \(and 1 more\)"):
        run.regenerate(["1", "7", "9"])
    with pytest.raises(RunError, match="has no selection 'mine'"):
        run.regenerate(selection="mine")
    assert "which images?" in refused("regenerate", tmp_path / "run")
    assert "which images?" in refused("regenerate", tmp_path / "run", "1", "--top", "2")
    assert "holds no recipe export" in refused("regenerate", tmp_path / "run", "--out", tmp_path / "other")
    said = synthvlm("regenerate", tmp_path / "run", "1", "--candidate", "2")
    assert said.code == 0, said.err
    assert "Images (cheap): " in said.err


def test_a_recipe_export_stands_for_the_data_set(tmp_path, write_captions, synthvlm):
    run = made(tmp_path / "run", write_captions([("é1", "caption one"), ("b", "caption two"), *[f"caption {n}" for n in range(10)]]))
    run.select(top=6).export("recipe").export("jsonl")
    recipe = tmp_path / "run/exports/recipe"
    assert not list(recipe.rglob("*.jpg"))
    said = synthvlm("regenerate", recipe, "--out", tmp_path / "again")
    assert said.code == 0, said.err
    again = Run.open(tmp_path / "again")
    chosen = {(r["id"], r["candidate"]) for r in pq.read_table(tmp_path / "run/selections/default.parquet").to_pylist()}
    assert rows.pixels(again, "cheap") == {k: v for k, v in rows.pixels(run, "cheap").items() if k in chosen}
    again.export("jsonl")
    pictures = rows.files(tmp_path / "run/exports/jsonl/images")
    assert sorted(rows.files(tmp_path / "again/exports/jsonl/images").values()) == sorted(pictures.values())
    again.report()
    assert Run.from_recipe(recipe, tmp_path / "again").results["regenerate"]["made"] == 0, "resumable"
    with pytest.raises(RunMismatch, match=r"made with cheap.size=16, and here it is 8"):
        Run.from_recipe(recipe, tmp_path / "smaller", size=8)
    with pytest.raises(InputError, match="holds no recipe export"):
        Run.from_recipe(tmp_path / "run", tmp_path / "nothing")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_miniature_diffusion_model_repeats_itself(tmp_path):
    captions = [
        "a red circle above a blue square",
        "a green triangle",
        "two yellow stars",
        "a purple ring left of an orange square",
        "a dog",
    ]
    source = tmp_path / "captions.txt"
    source.write_text("\n".join(captions))
    run = Run.create(tmp_path / "run", source).generate("mini", repeat=2, batch_size=4, steps=2)
    run.score({"ssim": {"side": 32}})
    before = rows.pixels(run, "mini")
    run.prune(1)
    assert sum(r["stored"] for r in rows.table(run, "mini")) == 1
    ids = [r["id"] for r in rows.table(run, "mini")]
    run.regenerate([ids[0]]).regenerate(ids)
    assert rows.pixels(run, "mini") == before
