"""Pruning: what can still be selected keeps its pixels, whatever is killed; what a stage has still to read stays."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from synthvlm import parts
from synthvlm.errors import RunError, RunLocked
from synthvlm.pipeline import Run
from synthvlm.pruning import prune
from tests import rows


@pytest.fixture(autouse=True)
def _models(faulty):
    return faulty


def made(root, captions, repeat=3, **how):
    return Run.create(root, captions).using(**how).generate("cheap", repeat=repeat).score({"brightness": {}})


def stored(run, stage="cheap"):
    return {(r["id"], r["candidate"]) for r in rows.table(run, stage) if r["stored"]}


def picked(run, name="default"):
    import pyarrow.parquet as pq

    return pq.read_table(run.store.path(f"selections/{name}.parquet")).to_pylist()


def test_what_the_top_takes_keeps_its_pixels_and_nothing_else(tmp_path, write_captions):
    run = made(tmp_path / "run", write_captions([f"caption {n}" for n in range(40)]))
    before = run.select(top=12).results["select"]
    calm, bytes_before = picked(run), rows.pixels(run, "cheap")
    run.store.remove("selections/default.json")
    run.store.remove("selections/default.parquet")
    told = run.prune(12).results["prune"]
    assert (told["kept"], told["dropped"], told["kept_for_selections"]) == (12, 108, 0)
    assert told["freed"] > 0
    assert stored(run) == {(r["id"], r["candidate"]) for r in calm}
    assert rows.pixels(run, "cheap") == {(r["id"], r["candidate"]): bytes_before[r["id"], r["candidate"]] for r in calm}
    tars = sum(p.stat().st_size for p in (tmp_path / "run/cheap").rglob("*.tar"))
    assert tars <= sum(-(-r["bytes"] // 512) * 512 + 512 for r in calm) + 10240 * len(parts.list_parts(run.store, "cheap"))
    after = run.select(top=12).results["select"]
    assert after == before, "every figure follows from the scores, which stay"
    assert picked(run) == calm
    assert run.select(top=5).results["select"]["winners_not_stored"] == 0
    assert run.select(top=20).results["select"]["winners_not_stored"] == 8
    assert run.results["select"]["selected"] == 12
    again = run.prune(12).results["prune"]
    assert (again["dropped"], again["freed"]) == (0, 0)
    run.generate("cheap", repeat=3).score({"brightness": {}})
    assert run.results["generate"]["made"] == 120, "a dropped image is not made again unasked"


def test_other_weights_and_selections_are_heeded(tmp_path, write_captions):
    run = made(tmp_path / "run", write_captions([f"caption {n}" for n in range(20)]))
    run.select(top=4, weights={"ssim": 1.0}, name="by-ssim")
    chosen = {(r["id"], r["candidate"]) for r in picked(run, "by-ssim")}
    alone = run.select(top=5, weights={"clip": -1.0}, name="temporary")
    best = {(r["id"], r["candidate"]) for r in picked(alone, "temporary")}
    for ending in ("json", "parquet"):
        run.store.remove(f"selections/temporary.{ending}")
    dry = run.prune(5, weights={"clip": -1.0}, dry=True).results["prune"]
    assert len(stored(run)) == 60, "a dry run touches nothing"
    told = run.prune(5, weights={"clip": -1.0}).results["prune"]
    assert {k: v for k, v in told.items() if k != "freed"} == {k: v for k, v in dry.items() if k != "freed"}
    assert stored(run) == chosen | best
    assert told["kept_for_selections"] == len(chosen - best)


def test_a_share_counts_of_all_captions_made_or_not(tmp_path, write_captions):
    run = made(tmp_path / "run", write_captions(["a", "b"]), repeat=1)
    run.add(write_captions([(f"x{n}", f"caption {n}") for n in range(18)], "more.json"))
    assert run.prune("10%").results["prune"]["keep"] == 2
    assert len(stored(run)) == 2


def test_refused_while_a_stage_has_still_to_read(tmp_path, write_captions, refused):
    run = Run.create(tmp_path / "run", write_captions(["a", "b", "c"])).generate("cheap", repeat=2).score({"brightness": {}})
    run.generate("cheap", repeat=3)
    with pytest.raises(RunError, match=r"stage 'brightness' of .* has still to read 3 images of 'cheap'"):
        run.prune(1)
    said = refused("prune", tmp_path / "run", "--keep-top", "1")
    assert "finish it first: synthvlm score RUN" in said
    assert len(stored(run)) == 9
    run.score({"brightness": {}}).prune(1)
    assert len(stored(run)) == 1


def test_what_has_no_score_stays(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(["a", "unscorable", "c"])).using(max_failures=1.0)
    run.generate("cheap", repeat=2).score({"brightness": {}}).prune(1)
    assert len([i for i, _ in stored(run) if i == "1"]) == 2, "--retry-failed may score them yet"
    assert len(stored(run)) == 3


def test_the_lock_is_taken(tmp_path, write_captions):
    run = made(tmp_path / "run", write_captions(["a", "b"]))
    with run.store.lock("another step"), pytest.raises(RunLocked, match="another step"):
        prune(run, [run.stage("brightness")], 1, wait=0)
    assert len(stored(run)) == 6


def test_the_command_says_what_went(tmp_path, write_captions, synthvlm):
    made(tmp_path / "run", write_captions(["a", "b", "c", "d"]))
    assert "would drop 10" in synthvlm("prune", tmp_path / "run", "--keep-top", "50%", "--dry-run").err
    said = synthvlm("prune", tmp_path / "run", "--keep-top", "50%", "--weight", "clip=1")
    assert said.code == 0
    assert "kept the best image of 2 captions; dropped 10" in said.err


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_at_random_moments_it_ends_equal(tmp_path, write_captions, monkeypatch):
    captions = write_captions([f"caption {n}" for n in range(300)])
    calm = made(tmp_path / "calm", captions, commit_seconds=0.0)
    shutil.copytree(tmp_path / "calm", tmp_path / "run")
    calm.prune(30).select(top=30)
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    # Small parts, and a pause before each step on the disk, so that kills fall between any two of them.
    slow = """
import sys, time
from synthvlm import compact, storage
compact.MAX_ROWS = 60
for name in ("put", "remove"):
    def slowly(self, *a, _real=getattr(storage.Store, name)):
        time.sleep(0.02)
        return _real(self, *a)
    setattr(storage.Store, name, slowly)
from synthvlm.cli import main
main(sys.argv[1:])
"""
    command = [sys.executable, "-c", slow, "prune", str(tmp_path / "run"), "--keep-top", "30"]
    kills = 0
    while True:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if kills < 8:
            began = time.monotonic()
            while not (tmp_path / "run/lock.json").exists() and process.poll() is None and time.monotonic() < began + 30:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 1.2))
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
        _, said = process.communicate(timeout=120)
        run = Run.open(tmp_path / "run")
        assert {(r["id"], r["candidate"]) for r in picked(calm)} <= stored(run), "never one too many"
        rows.pixels(run, "cheap")
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, said.decode()
    assert kills
    assert rows.table(run, "cheap") == rows.table(calm, "cheap")
    assert rows.pixels(run, "cheap") == rows.pixels(calm, "cheap")
    assert run.select(top=30).results["select"] == calm.results["select"]
    assert picked(run) == picked(calm)
    run.store.sweep("")
    assert not rows.litter(tmp_path / "run")
