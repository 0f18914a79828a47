"""``--store top``: the disk holds about as many images as are selected, and the selection is that of a run which kept them all."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from synthvlm import pruning
from synthvlm.errors import OptionError
from synthvlm.following import follow
from synthvlm.pipeline import Run
from synthvlm.recipe import parse
from tests import rows
from tests.core.test_faults import COMMAND, wait_for, workers


@pytest.fixture(autouse=True)
def _models(faulty):
    return faulty


@pytest.fixture
def often(monkeypatch):
    """Prune at every turn."""
    monkeypatch.setattr(pruning, "PAUSE", 0.0)
    monkeypatch.setattr(pruning, "SPARE", 0)


def stored(run):
    return [(r["id"], r["candidate"]) for r in rows.table(run, "cheap") if r["stored"]]


def picked(run):
    return pq.read_table(run.store.path("selections/default.parquet")).to_pylist()


def test_the_selection_is_that_of_a_run_that_kept_everything(tmp_path, write_captions, often, monkeypatch):
    captions = write_captions([f"caption {n}" for n in range(120)])
    calm = Run.create(tmp_path / "calm", captions).generate("cheap", repeat=3).score({"brightness": {}}).select(top="5%")
    prunes = []
    real = pruning.prune
    monkeypatch.setattr(pruning, "prune", lambda *a, **k: prunes.append(real(*a, **k)) or prunes[-1])
    run = Run.create(tmp_path / "run", captions).using(commit_seconds=0.0)
    run.generate("cheap", repeat=3, store="top", keep_top="5%", scorers={"brightness": {}}, seconds=0.05)
    assert len(prunes) > 2, "it pruned as it went"
    assert all(p["kept"] <= 6 for p in prunes)
    assert len(stored(run)) == 6
    assert not run.store.exists("cheap/floor.json"), "it holds for one execution"
    assert run.select(top="5%").results["select"] == calm.results["select"]
    assert picked(run) == picked(calm)
    kept = {(r["id"], r["candidate"]) for r in picked(calm)}
    assert rows.pixels(run, "cheap") == {k: v for k, v in rows.pixels(calm, "cheap").items() if k in kept}
    assert rows.table(run, "brightness") == rows.table(calm, "brightness")
    run.score({"brightness": {}})
    assert run.results["score"]["made"] == 360, "everything is scored, though nearly nothing is stored"


def test_more_candidates_may_replace_what_stayed(tmp_path, write_captions, often):
    captions = write_captions([f"caption {n}" for n in range(60)])
    calm = Run.create(tmp_path / "calm", captions).generate("cheap", repeat=4).score({"brightness": {}}).select(top=7)
    run = Run.create(tmp_path / "run", captions)
    for repeat in (1, 2, 4):
        run.generate("cheap", repeat=repeat, store="top", keep_top=7, scorers={"brightness": {}})
        assert len(stored(run)) == 7
    assert run.select(top=7).results["select"] == calm.results["select"]
    assert picked(run) == picked(calm)


def test_the_floor_counts_only_for_the_same_weights(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(["a", "b"]))
    run.generate("cheap", store="top", keep_top=1, scorers={"brightness": {}}, weights={"clip": 1.0})
    stage = run.stage("cheap")
    run.store.put_json("cheap/floor.json", {"total": 0.5, "weights": {"clip": 1.0}})
    assert pruning.floor(run, stage, {"clip": 1.0}) == 0.5
    assert pruning.floor(run, stage, {"clip": 2.0}) is None
    stage.runtime["store"] = "best"
    assert pruning.floor(run, stage, {"clip": 1.0}) is None


def test_a_selection_that_may_want_others_is_refused_before_anything_is_spent(tmp_path, write_captions):
    for other in ({"group_by": "source"}, {"normalise": "rank"}, {"clusters": 3}):
        steps = [{"generate": {"model": "cheap", "store": "top"}}, {"score": {"scorers": {"brightness": {}}}}, {"select": other}]
        run = Run.create(tmp_path / "run", write_captions(["a", "b"]))
        with pytest.raises(OptionError, match=f"store: top keeps the top by total, and {next(iter(other))}"):
            follow(parse({"steps": steps}, "here"), run)
        assert run.stage_names() == []


def test_a_line_keeps_as_many_as_it_selects(tmp_path, write_captions, synthvlm):
    captions = write_captions([f"caption {n}" for n in range(30)])
    flags = ["--model", "cheap", "--scorer", "brightness", "--repeat", "2", "--store", "top", "--top", "20%", "--no-curate"]
    said = synthvlm("synth", captions, "--out", tmp_path / "run", *flags)
    assert said.code == 0, said.err
    assert len(stored(Run.open(tmp_path / "run"))) == 6
    assert "Selected 6 of 30" in said.out
    assert "not kept" not in said.err


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_at_random_moments_the_selection_ends_equal(tmp_path, write_captions):
    captions = write_captions([f"caption {n}" for n in range(160)])
    flags = ["--model", "cheap", "--scorer", "brightness", "--repeat", "2", "--top", "10%", "--no-curate", "--export", "jsonl"]
    calm = subprocess.run([*COMMAND, captions, "--out", str(tmp_path / "calm"), *flags], capture_output=True, timeout=120, check=False)
    assert calm.returncode == 0, calm.stderr.decode()
    often = "import sys\nfrom synthvlm import compact, pruning\npruning.PAUSE, pruning.SPARE, compact.MAX_ROWS = 0.0, 0, 50\n"
    often += "from synthvlm import execution\nexecution.Execution.commit_seconds = 0.2\nfrom synthvlm.cli import main\nmain(sys.argv[1:])"
    where = tmp_path / "run"
    line = [sys.executable, "-c", often, "synth", captions, "--out", str(where), *flags, "--store", "top", "--workers", "2"]
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    kills = 0
    while kills < 12:
        process = subprocess.Popen([*line, "-o", "seconds=0.1"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(chance.uniform(1.0, 6.0))
        victims = workers(where) if chance.random() < 0.3 else []
        for victim in victims[:1]:
            os.kill(victim, signal.SIGKILL)
            kills += 1
            time.sleep(chance.uniform(0, 2))
        if process.poll() is None:
            process.kill()
            kills += 1
        else:
            kills += 1
        process.communicate()
    last = subprocess.run(line, capture_output=True, timeout=120, check=False)
    assert last.returncode == 0, last.stderr.decode()
    wait_for(lambda: not workers(where), 10)
    calm, run = Run.open(tmp_path / "calm"), Run.open(where)
    assert picked(run) == picked(calm)
    kept = {(r["id"], r["candidate"]) for r in picked(calm)}
    assert set(stored(run)) == kept
    assert rows.pixels(run, "cheap") == {k: v for k, v in rows.pixels(calm, "cheap").items() if k in kept}
    assert rows.files(where / "exports") == rows.files(tmp_path / "calm/exports")
    run.store.sweep("")
    assert not rows.litter(where)
