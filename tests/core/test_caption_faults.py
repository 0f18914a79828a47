"""Captioning goes on whatever happens: workers that die, memory that runs out, streams that break, parents that are killed at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from synthvlm import parts
from synthvlm.pipeline import Run
from tests import rows
from tests.core.test_faults import workers

BOTH = ["detail", "nouns"]


@pytest.fixture(autouse=True)
def _models(faulty):
    return faulty


@pytest.fixture
def write_images(tmp_path: Path) -> Any:
    def write(ids: list[str], side: int = 16) -> str:
        records = []
        (tmp_path / "pictures").mkdir(exist_ok=True)
        for n, i in enumerate(ids):
            Image.new("RGB", (side + n, side), (n * 5 % 256, 255 - n % 256, n % 7)).save(tmp_path / "pictures" / f"{n}.png")
            records.append({"image": f"pictures/{n}.png", "id": i})
        (tmp_path / "images.json").write_text(json.dumps(records))
        return str(tmp_path / "images.json")

    return write


def table(run: Run) -> list[dict[str, Any]]:
    """Return the rows without what says how they were made rather than what they are."""
    return [{k: v for k, v in r.items() if k != "batch_size"} for r in rows.table(run, "parrot")]


def ids(count: int, **others: str) -> list[str]:
    return [others.get(f"at_{n}", f"image {n}") for n in range(count)]


def test_batches_and_a_stream_make_the_same_rows_on_any_number_of_workers(tmp_path, write_images):
    path = write_images(ids(70, at_5="refuse it", at_9="cut off", at_11="parrot it", at_33="please fail", at_50="chatter"))
    Image.new("RGB", (20, 20), "blue").save(tmp_path / "pictures" / "40.png")
    (tmp_path / "pictures" / "41.png").write_bytes(b"no image")
    runs = []
    for name, size, devices, seconds in (("one", 4, ["cpu"], 60.0), ("two", 4, ["cpu", "cpu"], 0.0), ("stream", 0, ["cpu", "cpu"], 0.0)):
        run = Run.create(tmp_path / name, images=path).using(devices=devices, threads=1, commit_seconds=seconds)
        run.caption("parrot", BOTH, batch_size=size)
        runs.append(run)
    one, two, stream = runs
    assert table(one) == table(two)
    keyless = [[{k: v for k, v in r.items() if k != "key"} for r in table(run)] for run in (one, stream)]
    assert keyless[0] == keyless[1], "the batch size is part of the identity, the rows are the same"
    assert {r["batch_size"] for r in rows.table(one, "parrot") if r["error_class"] not in ("ImageError",)} == {4}
    assert one.results["caption"]["failed"] == 2 + 2 + 2 + 1 + 1
    flags = {(r["id"], r["perspective"]): r["flags"] for r in table(one)}
    assert flags["parrot it", "detail"] == "retried"
    assert flags["cut off", "detail"] == "trimmed"
    assert flags["chatter", "detail"] == "preamble,unwrapped"


@pytest.mark.parametrize("size", [4, 0])
def test_only_the_culprit_of_a_dying_worker_is_set_aside(tmp_path, write_images, size):
    run = Run.create(tmp_path / "run", images=write_images(ids(12, at_5="this makes it die")))
    run.using(commit_seconds=0.0).caption("parrot", ["detail"], batch_size=size)
    result = run.results["caption"]
    assert (result["made"], result["failed"]) == (11, 1)
    assert result["failures"][0]["class"] == "WorkerDied"
    failed = next(r for r in rows.table(run, "parrot") if r["error"])
    assert (failed["id"], failed["perspective"]) == ("this makes it die", "detail")


@pytest.mark.parametrize("size", [4, 0])
def test_a_worker_that_dies_once_costs_nothing(tmp_path, write_images, size):
    run = Run.create(tmp_path / "run", images=write_images(ids(10, at_3="die-once, please")))
    run.caption("parrot", ["detail"], marks=str(tmp_path), batch_size=size)
    assert (tmp_path / "died").exists()
    assert (run.results["caption"]["made"], run.results["caption"]["failed"]) == (10, 0)


def test_out_of_memory_halves_the_batch_and_the_rows_record_it(tmp_path, write_images):
    run = Run.create(tmp_path / "run", images=write_images(ids(16))).caption("parrot", ["detail"], batch_size=8, memory=3)
    assert {r["batch_size"] for r in rows.table(run, "parrot")} == {2}


def test_a_stream_that_breaks_costs_the_row_that_broke_it(tmp_path, write_images):
    run = Run.create(tmp_path / "run", images=write_images(ids(20, at_7="please raise"))).caption("parrot", BOTH, batch_size=0)
    assert (run.results["caption"]["made"], run.results["caption"]["failed"]) == (38, 2)
    assert run.results["caption"]["failures"][0]["class"] == "ValueError"


def test_large_images_do_not_pile_up(tmp_path, write_images, monkeypatch):
    """Twelve images of 4 megapixels while 8 may wait; the stream ends and begins again, and every row is made."""
    path = write_images(ids(12), side=2000)
    from synthvlm.stages import requests

    monkeypatch.setattr(requests, "MOST_PIXELS", 8_000_000)
    from synthvlm.worker import Context

    for size in (4, 0):
        run = Run.create(tmp_path / f"run{size}", images=path)
        held = _drive(run, Context, size, monkeypatch)
        assert run.tally(run.stage("parrot"))["made"] == 24
        assert max(held) <= 16_000_000


def _drive(run: Run, context_class: Any, size: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Caption in this process, watching how many pixels are held."""
    import queue
    from dataclasses import asdict

    from synthvlm.execution import Execution
    from synthvlm.plugins import discover
    from synthvlm.preparing import prepare_caption
    from synthvlm.stages import caption, requests
    from synthvlm.worker import Commands

    monkeypatch.setattr(caption, "MOST_PIXELS", 8_000_000)
    prepared = prepare_caption(run, "parrot", BOTH, options={"batch_size": size}, execution=Execution())
    context = context_class({"run": run.root, "devices": ["cpu"], "threads": 1}, lambda *_, **__: None)
    held: list[int] = []
    add = requests.Held.add

    def watched(self: Any, item: Any, sign: int) -> None:
        add(self, item, sign)
        held.append(self.pixels)

    monkeypatch.setattr(requests.Held, "add", watched)
    inbox: queue.Queue[Any] = queue.Queue()
    for shard, _ in run.pending_shards(prepared.stage):
        inbox.put({"shard": shard})
    inbox.put(None)
    loaded = discover().create("captioner", "parrot", {"batch_size": size}).load(["cpu"])
    caption.Captioning(context, type(prepared.stage)(**asdict(prepared.stage)), loaded).run(Commands(inbox, context))
    context.close()
    assert held[-1] == 0, "every image is let go of"
    return held


def start(run: Path, images: str, *more: str, seconds: float = 0.03) -> subprocess.Popen[bytes]:
    """Start the whole line as a user does."""
    flags = ["--out", str(run), "--model", "parrot", "--perspective", "detail", "--perspective", "nouns", "-o", f"seconds={seconds}", *more]
    command = [sys.executable, "-m", "synthvlm", "recaption", images, *flags]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("size", [4, 0])
def test_killed_at_random_moments_the_merged_file_is_the_same(tmp_path, write_images, size):
    path = write_images(ids(150, at_5="refuse it", at_9="cut off", at_11="parrot it", at_100="chatter"))
    batches = ("-o", f"batch_size={size}")
    calm = start(tmp_path / "calm", path, *batches, seconds=0.0)
    _, said = calm.communicate(timeout=200)
    assert calm.returncode == 0, said.decode()
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    where, kills = tmp_path / "run", 0
    while kills < 12:
        process = start(where, path, "--workers", "2", *batches)
        time.sleep(chance.uniform(0.5, 9.0))
        victims = [process.pid] if chance.random() < 0.5 else workers(where)
        for victim in victims[:1]:
            os.kill(victim, signal.SIGKILL)
            kills += 1
        if victims[:1] != [process.pid]:
            time.sleep(chance.uniform(0, 3))
            process.kill()
            kills += 1
        process.wait()
        process.stderr.close()
    last = start(where, path, "--workers", "2", *batches, seconds=0.0)
    _, said = last.communicate(timeout=200)
    assert last.returncode == 0, said.decode()
    run = Run.open(where)
    assert rows.table(run, "parrot") == rows.table(Run.open(tmp_path / "calm"), "parrot")
    for name in ("merged.jsonl", "merged.provenance.json"):
        assert (where / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()
    run.store.sweep("")
    assert not rows.litter(where)
    deadline = time.monotonic() + 10
    while workers(where) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not workers(where), "workers leave when their parent is gone"


def test_a_stop_commits_what_is_done(tmp_path, write_images):
    path = write_images(ids(400))
    process = start(tmp_path / "run", path, seconds=0.2)
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not (tmp_path / "run" / "parrot").exists():
        time.sleep(0.1)
    time.sleep(12)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - asked < 8
    assert b"the same command goes on" in said
    assert not workers(tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert 0 < run.tally(run.stage("parrot"))["made"] < 800
    assert parts.list_parts(run.store, "parrot")
