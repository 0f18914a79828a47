"""The whole line with a server: what it refuses is set aside, what is killed goes on, and the key stays in the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from synthvlm.pipeline import Run
from tests import rows
from tests.core.test_faults import workers
from tests.engines.stand_in_server import Reply, Server, answer, refuse

KEY = "sk-very-secret-5678"
IMAGES = 40
WORDS = ("amber", "bronze", "coral", "denim", "ebony", "fawn", "green", "hazel", "ivory", "jade")


@pytest.fixture
def images(tmp_path: Path) -> str:
    """Write images, each of another width."""
    (tmp_path / "pictures").mkdir()
    for n in range(IMAGES):
        Image.new("RGB", (20 + n, 16), (5 * n, 90, 200)).save(tmp_path / "pictures" / f"{n}.png")
    (tmp_path / "images.json").write_text(json.dumps([{"image": f"pictures/{n}.png"} for n in range(IMAGES)]))
    return str(tmp_path / "images.json")


def number(body: dict[str, Any]) -> int:
    """Return which image a request shows, by its width (PNG, bytes 16 to 20)."""
    import base64

    [part] = [p for p in body["messages"][-1]["content"] if p["type"] == "image_url"]
    return int.from_bytes(base64.b64decode(part["image_url"]["url"].split(",")[1])[16:20], "big") - 20


def told(n: int) -> str:
    return f"A {WORDS[n % 10]} and {WORDS[n // 10]} rectangle on a plain wall."


def start(images: str, out: Path, server: Server, *more: str) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "synthvlm",
        "recaption",
        images,
        "--out",
        str(out),
        "--perspective",
        "detail",
        "--perspective",
        "sentence",
    ]
    environment = os.environ | {"MY_KEY": KEY, "NO_PROXY": "*"}
    command += ["-o", "api_key_env=MY_KEY", "--base-url", server.url, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, start_new_session=True)


@pytest.mark.parametrize(
    "model",
    [("--model", "openai", "-o", "checkpoint=m"), ("--model", "llava", "--engine", "openai", "-o", "served_model=m")],
    ids=["openai", "llava"],
)
def test_a_server_captions_a_folder(tmp_path, images, model):
    def behave(body: dict[str, Any], attempt: int) -> Reply:
        n = number(body)
        if n == 7:
            return refuse(400, f"this image is not wanted, {KEY}")
        return refuse(429, "slow down", Retry_After="0") if attempt % 9 == 0 else answer(told(n))

    with Server(behave) as server:
        process = start(images, tmp_path / "run", server, *model)
        said, _ = process.communicate(timeout=200)
        assert process.returncode == 0, said.decode()
        assert server.keys == {f"Bearer {KEY}"}
    run = Run.open(tmp_path / "run")
    table = rows.table(run, model[1])
    assert Counter((r["row"], r["perspective"]) for r in table) == {(n, p): 1 for n in range(IMAGES) for p in ("detail", "sentence")}
    assert {r["row"]: r["error_class"] for r in table if r["error"]} == {7: "Refused"}
    assert {r["row"]: r["text"] for r in table if r["text"]} == {n: told(n) for n in range(IMAGES) if n != 7}
    assert {r["prompt_tokens"] for r in table if r["text"]} == {20}
    files = [p for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert any(p.suffix == ".log" for p in files)
    assert not [p for p in files if KEY.encode() in p.read_bytes()]
    assert KEY not in said.decode()


@pytest.mark.slow
def test_killed_it_goes_on_without_asking_for_what_it_has(tmp_path, images):
    def behave(body: dict[str, Any], attempt: int) -> Reply:
        return Reply(body=answer(told(number(body))).body, delay=slow[0])

    slow = [0.05]
    with Server(behave) as server:
        flags = ("--model", "openai", "-o", "checkpoint=m", "-o", "concurrency=1")
        process = start(images, tmp_path / "run", server, *flags)
        deadline = time.monotonic() + 100
        # The first shard is 32 images; its end commits it.
        while not list((tmp_path / "run").glob("openai/**/*.parquet")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
        process.communicate()
        while workers(tmp_path / "run") and time.monotonic() < deadline:
            time.sleep(0.1)
        before = rows.table(Run.open(tmp_path / "run"), "openai")
        assert 64 <= len(before) < 2 * IMAGES
        asked, slow[0] = len(server.bodies), 0.0
        last = start(images, tmp_path / "run", server, *flags)
        said, _ = last.communicate(timeout=200)
        assert last.returncode == 0, said.decode()
        assert len(server.bodies) - asked == 2 * IMAGES - len(before), "only what is missing is asked for"
    table = rows.table(Run.open(tmp_path / "run"), "openai")
    assert Counter((r["row"], r["perspective"]) for r in table) == {(n, p): 1 for n in range(IMAGES) for p in ("detail", "sentence")}
    assert {r["row"]: r["text"] for r in table} == {n: told(n) for n in range(IMAGES)}
    merged = [json.loads(line) for line in (tmp_path / "run" / "merged.jsonl").read_text().splitlines()]
    assert [m["caption"][0] for m in merged] == [told(n) for n in range(IMAGES)]
