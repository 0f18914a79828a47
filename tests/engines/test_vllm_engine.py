"""The vLLM engine, really run on the CPU: what it does with a shard, and that no row is missing or doubled whatever is killed."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from synthvlm_mini import world

from synthvlm.pipeline import Run
from tests import rows, tiny_captioners
from tests.core.test_faults import workers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (bash test.sh brings it, on x86-64 Linux)"),
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``tests.engines.vllm_checks`` saw, in a process of its own. 224 pixels make 256 tokens: enough for whole blocks to be shared."""
    from safetensors.torch import load_file, save_file

    root = tmp_path_factory.mktemp("vllm")
    checkpoint = tiny_captioners.llava(root / "llava", side=224)
    broken = Path(shutil.copytree(checkpoint, root / "broken"))
    # As transformers 5 itself writes it, which vLLM does not read.
    weights = {k.replace("vision_tower.vision_model.", "vision_tower."): v for k, v in load_file(broken / "model.safetensors").items()}
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    command = [sys.executable, "-m", "tests.engines.vllm_checks", str(checkpoint), str(broken)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=500, check=False)
    [line] = [x for x in done.stdout.splitlines() if x.startswith("SEEN ")] or pytest.fail(done.stderr[-3000:])
    return json.loads(line.removeprefix("SEEN "))


def test_what_cannot_be_followed_is_said_in_a_line(seen):
    kind, said = seen["too long"]
    assert kind == "OptionError" and said.startswith("max_model_len=1000000 is more than the model was made for: ")
    assert seen["int8"] == ["OptionError", "vLLM cannot quantise to int8 as it loads\n  choose quantization=int4, or engine=transformers"]
    kind, said = seen["broken"]
    assert kind == "CheckpointError" and "vLLM cannot load" in said and said.endswith("or choose -o engine=transformers")


def test_prompts_on_one_image_share_its_work(seen):
    assert seen["prepared"] == 2, "two images, three prompts on each"
    first, *others = seen["cached"][:3]
    assert first == 0 and min(others) >= 128 and seen["cached"][3] == 0


def test_a_shard_streams(seen):
    stream = seen["stream"]
    assert stream["answers"] == stream["total"] > stream["room"] >= stream["taken at the first"]
    assert stream["in order"] and stream["as alone"] and all(stream["as alone"])
    assert all(seen["after a break"]) and len(seen["after a break"]) == 6


def test_a_row_s_trouble_is_its_own(seen):
    kinds = [kind for kind, _ in seen["odd"]]
    assert kinds == ["Caption", "Failed", "Failed", "Failed", "Caption", "Failed", "Caption", "Caption"]
    said = [text for kind, text in seen["odd"] if kind == "Failed"]
    assert said[0] == "this model takes one image at a time, not 2"
    assert all(s.startswith("vLLM refuses it: ") for s in said[1:])
    assert "maximum context length" in said[1] and "json schema" in said[3]
    assert seen["odd is as alone"] == [True, True]


def test_a_json_schema_is_kept_to(seen):
    assert len(seen["schema"]) == 6
    for value, reason in seen["schema"]:
        assert value["better"] in ("first", "second") and len(value) == 1 and reason == "stop"


def test_sampling_follows_the_seed(seen):
    assert seen["sampling"] == {"again": True, "greedy": False, "seed": False}


# The whole line.

PERSPECTIVES = ("detail", "nouns", "background")
IMAGES = 150


@pytest.fixture
def scenes(tmp_path: Path) -> list[world.Scene]:
    """Write pictures of the miniature world, and return what is on them."""
    draw = random.Random(11)
    made = [world.sample(draw) for _ in range(IMAGES)]
    (tmp_path / "pictures").mkdir()
    for n, scene in enumerate(made):
        Image.fromarray(world.render(scene, 64, n)).save(tmp_path / "pictures" / f"{n}.png")
    (tmp_path / "images.json").write_text(json.dumps([{"image": f"pictures/{n}.png"} for n in range(IMAGES)]))
    return made


def start(folder: Path, log: Any) -> subprocess.Popen[bytes]:
    flags = [f for p in PERSPECTIVES for f in ("--perspective", p)]
    command = [sys.executable, "-m", "synthvlm", "recaption", str(folder / "images.json"), "--out", str(folder / "run"), *flags]
    command += ["--model", "mini-captioner", "-o", "engine=vllm", "--threads", "1"]
    return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def wait_for_part(folder: Path, process: subprocess.Popen[bytes], more_than: int) -> int:
    """Wait until the run has more parts than so many, and return how many."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        count = len(list((folder / "run" / "mini-captioner").rglob("*.parquet")))
        if count > more_than:
            return count
        assert process.poll() is None, "it must not end before it is killed"
        time.sleep(0.02)
    raise AssertionError("no part came")


def test_killed_workers_and_parents_cost_no_row(tmp_path, scenes):
    with (tmp_path / "log").open("wb") as log:
        process = start(tmp_path, log)
        try:
            parts = wait_for_part(tmp_path, process, 0)
            [worker] = workers(tmp_path / "run")
            os.kill(worker, signal.SIGKILL)
            wait_for_part(tmp_path, process, parts)  # by the worker that follows
        finally:
            process.kill()
            process.wait()
        deadline = time.monotonic() + 30
        while workers(tmp_path / "run") and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not workers(tmp_path / "run"), "a worker leaves when its parent is gone"
        before = rows.table(Run.open(tmp_path / "run"), "mini-captioner")
        assert 0 < len(before) < 3 * IMAGES, "it was killed mid-way"
        last = start(tmp_path, log)
        assert last.wait(timeout=250) == 0, (tmp_path / "log").read_text()[-3000:]
    run = Run.open(tmp_path / "run")
    table = rows.table(run, "mini-captioner")
    assert Counter((r["row"], r["perspective"]) for r in table) == {(n, p): 1 for n in range(IMAGES) for p in PERSPECTIVES}
    after = {r["key"]: r for r in table}
    assert all(after[r["key"]] == r for r in before), "what was committed is not made again"
    told = {r["row"]: r["text"] for r in table if r["perspective"] == "background"}
    assert sum(told[n] == world.PERSPECTIVES["background"](scene) for n, scene in enumerate(scenes)) >= 0.9 * IMAGES
    merged = [json.loads(line) for line in (tmp_path / "run" / "merged.jsonl").read_text().splitlines()]
    assert [m["image"] for m in merged] == [f"pictures/{n}.png" for n in range(IMAGES)]
