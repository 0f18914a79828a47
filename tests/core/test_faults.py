"""Workers that die, run out of memory, print; parents that are stopped or killed: nothing is lost, nothing is left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from synthvlm.errors import TooManyFailures, WorkerError
from synthvlm.pipeline import Run
from tests import rows


@pytest.fixture(autouse=True)
def _models(faulty):
    return faulty


def test_only_the_culprit_of_a_dying_worker_is_set_aside(tmp_path, write_captions):
    captions = [f"caption {n}" for n in range(10)]
    captions[5] = "this makes it die"
    run = Run.create(tmp_path / "run", write_captions(captions)).generate("cheap")
    result = run.results["generate"]
    assert (result["made"], result["failed"]) == (9, 1)
    assert result["failures"][0]["class"] == "WorkerDied"
    assert "SIGKILL" in result["failures"][0]["example"]


def test_a_worker_that_dies_once_costs_nothing(tmp_path, write_captions):
    captions = [f"caption {n}" for n in range(10)]
    captions[3] = "die-once, please"
    run = Run.create(tmp_path / "run", write_captions(captions)).generate("cheap", marks=str(tmp_path))
    assert (tmp_path / "died").exists()
    assert (run.results["generate"]["made"], run.results["generate"]["failed"]) == (10, 0)


def test_out_of_memory_halves_the_batch_and_the_rows_record_it(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions([f"caption {n}" for n in range(16)])).generate("cheap", batch_size=8, memory=3)
    assert {r["batch_size"] for r in rows.table(run, "cheap")} == {2}
    run = Run.create(tmp_path / "hopeless", tmp_path / "captions.json").using(max_failures=1.0).generate("cheap", memory=0)
    assert run.results["generate"]["failures"][0]["class"] == "OutOfMemory"


def test_a_plugin_that_prints_disturbs_nothing(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(["please print", "b"])).generate("cheap")
    assert run.results["generate"]["made"] == 2
    assert b"a plugin that prints" in run.store.read("logs/cheap-0.log")


def test_most_of_the_last_rows_failing_for_one_reason_stops_early(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions([f"please fail {n}" for n in range(200)]))
    with pytest.raises(TooManyFailures, match="rows failed with Refused, for example") as error:
        run.generate("cheap")
    assert error.value.exit_code == 3
    assert 10 <= run.tally(run.stage("cheap"))["failed"] < 200
    run.using(max_failures=1.0).generate("cheap")
    assert run.results["generate"]["failed"] == 200


def test_a_worker_that_cannot_load_says_why(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(["a"])).using(python="/bin/false")
    with pytest.raises(WorkerError, match="workers keep dying"):
        run.generate("cheap")


def test_workers_and_batches_change_nothing(tmp_path, write_captions):
    captions = write_captions([f"caption {n}" for n in range(30)])
    one = Run.create(tmp_path / "one", captions).using(threads=1).generate("cheap", repeat=2).score({"brightness": {}}).select(top=7)
    three = Run.create(tmp_path / "three", captions).using(devices=["cpu"] * 3, threads=1, commit_seconds=0.0)
    three.generate("cheap", repeat=2).score({"brightness": {}}).select(top=7)
    assert rows.table(one, "cheap") == rows.table(three, "cheap")
    assert rows.table(one, "brightness") == rows.table(three, "brightness")
    assert one.store.read("selections/default.parquet") == three.store.read("selections/default.parquet")


COMMAND = [sys.executable, "-m", "synthvlm", "synth"]


def start(run: Path, captions: str, *more: str, seconds: float = 0.03) -> subprocess.Popen[bytes]:
    """Start the whole line as a user does."""
    flags = [
        "--out",
        str(run),
        "--model",
        "cheap",
        "--scorer",
        "brightness",
        "--repeat",
        "2",
        "-o",
        f"seconds={seconds}",
        "--top",
        "50%",
        "--export",
        "llava",
        *more,
    ]
    return subprocess.Popen([*COMMAND, captions, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def wait_for(happened, seconds: float = 60.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if happened():
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def workers(run: Path) -> list[int]:
    """List the worker processes of any parent, dead ones too, whose log lies in this run."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and b"synthvlm.worker" in (entry / "cmdline").read_bytes()
                and os.readlink(entry / "fd" / "2").startswith(f"{run}/")
            ):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["at the start", "at work"])
def test_a_stop_commits_what_is_done_and_leaves_nothing_behind(tmp_path, write_captions, how, when):
    captions = write_captions([f"caption {n}, print this" for n in range(400)])
    process = start(tmp_path / "run", captions, seconds=0.2)
    if when == "at work":
        wait_for(lambda: b"a plugin that prints" in (tmp_path / "run/logs/cheap-0.log").read_bytes())
        time.sleep(1)
    else:
        time.sleep(0.3)
    asked = time.monotonic()
    process.send_signal(how)
    _, said = process.communicate(timeout=20)
    assert time.monotonic() - asked < 5
    assert process.returncode in (130, -how), said
    assert not workers(tmp_path / "run")
    assert not rows.litter(tmp_path / "run")
    if when == "at work":
        assert b"the same command goes on" in said
        run = Run.open(tmp_path / "run")
        assert 0 < run.tally(run.stage("cheap"))["made"] < 800


@pytest.mark.timeout(400)
def test_killed_at_random_moments_the_run_ends_equal(tmp_path, write_captions):
    captions = write_captions([f"caption {n}" for n in range(120)])
    undisturbed = start(tmp_path / "calm", captions, seconds=0.0)
    _, said = undisturbed.communicate(timeout=120)
    assert undisturbed.returncode == 0, said.decode()
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    where, kills = tmp_path / "run", 0
    while kills < 20:
        process = start(where, captions, "--workers", "2")
        time.sleep(chance.uniform(0.2, 4.0))
        victims = [process.pid] if chance.random() < 0.5 else workers(where)
        for victim in victims[:1]:
            try:
                os.kill(victim, signal.SIGKILL)
                kills += 1
            except ProcessLookupError:
                continue
        if victims[:1] == [process.pid] or chance.random() < 0.5:
            process.kill()
            process.wait()
        else:
            try:
                process.wait(chance.uniform(0, 3))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
        process.stderr.close()
    last = start(where, captions, "--workers", "2", seconds=0.0)
    _, said = last.communicate(timeout=120)
    assert last.returncode == 0, said.decode()
    deadline = time.monotonic() + 6
    while workers(where) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not workers(where), "workers leave when their parent is gone"
    calm, run = Run.open(tmp_path / "calm"), Run.open(where)
    assert rows.table(run, "cheap") == rows.table(calm, "cheap")
    assert rows.pixels(run, "cheap") == rows.pixels(calm, "cheap")
    assert rows.table(run, "brightness") == rows.table(calm, "brightness")
    assert run.store.read("selections/default.parquet") == calm.store.read("selections/default.parquet")
    assert rows.files(where / "exports") == rows.files(tmp_path / "calm" / "exports")
    run.store.sweep("")
    assert not rows.litter(where)


def test_two_processes_on_one_run_end_in_one_row_per_key(tmp_path, write_captions):
    captions = write_captions([f"caption {n}" for n in range(60)])
    both = [start(tmp_path / "run", captions, seconds=0.05) for _ in range(2)]
    said = [p.communicate(timeout=120)[1].decode() for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    alone = start(tmp_path / "alone", captions, seconds=0.0)
    alone.communicate(timeout=60)
    assert alone.returncode == 0
    run, calm = Run.open(tmp_path / "run"), Run.open(tmp_path / "alone")
    assert rows.table(run, "cheap") == rows.table(calm, "cheap")
    assert rows.pixels(run, "cheap") == rows.pixels(calm, "cheap")
    assert rows.table(run, "brightness") == rows.table(calm, "brightness")
