"""What captioners share: options that are checked before anything loads, end tokens, and checkpoints that a server has."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from synthvlm.checkpoints import files_to_fetch, resolve
from synthvlm.engines.captioning import CaptionerOptions, end_tokens
from synthvlm.errors import CheckpointError, OptionError
from synthvlm.options import build, describe
from synthvlm.plugins import Registry
from synthvlm.sample import CaptionRequest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclasses.dataclass(frozen=True)
class Family(CaptionerOptions):
    engines: ClassVar[tuple[str, ...]] = ("transformers", "openai")
    max_images: ClassVar[int | None] = 1
    stop: ClassVar[tuple[str, ...]] = ("###", "Human:")


def test_importing_brings_no_heavy_library() -> None:
    code = (
        "import sys, synthvlm.engines.captioning, synthvlm.engines.transformers, synthvlm.engines.decoding;"
        "import synthvlm_llava, synthvlm_qwen2_vl, synthvlm_transformers, synthvlm_mini.captioner;"
        "print(sorted({'torch', 'transformers', 'numpy', 'PIL', 'pydantic', 'openai', 'vllm', 'qwen_vl_utils'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_changes_words_is_identity() -> None:
    roles = {info.name: info.role for info in describe(CaptionerOptions)}
    assert {name for name, role in roles.items() if role == "runtime"} == {
        "base_url",
        "api_key_env",
        "served_model",
        "concurrency",
        "request_timeout",
        "gpu_memory_utilization",
        "max_model_len",
    }
    assert {name for name, role in roles.items() if role == "checkpoint"} == {"checkpoint"}
    assert all(info.help for info in describe(CaptionerOptions))


def test_an_engine_that_does_not_run_the_family_is_refused() -> None:
    with pytest.raises(OptionError, match="does not run on the engine vllm") as caught:
        build(Family, {"checkpoint": "a/b", "engine": "vllm"}, "family")
    assert caught.value.hint == "it runs on: transformers, openai"


@pytest.mark.parametrize("checkpoint", ["org/name", "org/name@main", f"org/name@{COMMIT[:12]}"])
def test_remote_code_needs_a_pinned_revision(checkpoint: str) -> None:
    with pytest.raises(OptionError, match="pinned revision"):
        build(Family, {"checkpoint": checkpoint, "trust_remote_code": True}, "family")


def test_remote_code_runs_from_a_commit_or_a_directory(tmp_path: Path) -> None:
    for checkpoint in (f"org/name@{COMMIT}", str(tmp_path)):
        assert build(Family, {"checkpoint": checkpoint, "trust_remote_code": True}, "family").trust_remote_code


def test_code_is_fetched_only_where_it_may_run() -> None:
    files = ["config.json", "modeling_x.py", "model.safetensors", "README.md"]
    assert files_to_fetch(files, "any", None) == ["config.json", "model.safetensors"]
    assert files_to_fetch(files, "any", None, code=True) == ["config.json", "model.safetensors", "modeling_x.py"]


def test_what_a_server_has_is_known_by_name_and_not_fetched() -> None:
    options = build(Family, {"checkpoint": "org/name", "engine": "openai"}, "family")
    local, found = resolve(options)
    assert local == options
    assert found["checkpoint"].revision == "name:org/name"
    assert found["checkpoint"].path == "org/name"


def test_too_many_images_are_refused_in_words() -> None:
    options, image = Family("x"), Image.new("RGB", (8, 8))
    assert options.refusal(CaptionRequest("1", "?")) is None
    assert options.refusal(CaptionRequest("1", "?", (image,))) is None
    failed = options.refusal(CaptionRequest("1", "?", (image, image)))
    assert failed is not None
    assert (failed.error, failed.error_class) == ("this model takes one image at a time, not 2", "TooManyImages")


def test_the_family_in_the_docs_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "captioners.md").read_text()
    lines = page.split("# synthvlm_kosmos9.py")[1].splitlines()
    code = "\n".join(line[4:] for line in itertools.takewhile(lambda line: not line.strip() or line.startswith("    "), lines))
    (tmp_path / "synthvlm_kosmos9.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry()
    registry.add_plugin("kosmos9", importlib.import_module("synthvlm_kosmos9"))
    assert not registry.broken
    options = registry.create("captioner", "kosmos9", {"side": "100"})
    assert options.render("Hm?", 1, None) == "<image>### Human: Hm? ### Assistant:"
    assert options.prepare(Image.new("RGB", (200, 50))).size == (100, 25)
    assert isinstance(options, CaptionerOptions)


def test_answers_are_cut_at_the_first_stop() -> None:
    assert Family("x").trim("  A cat. Human: and? ### A dog") == "A cat."
    assert Family("x").trim(" A cat.\n") == "A cat."


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [7, 9], "temperature": 0.1}, {"eos_token_id": 3}, (7, 9)),
        ({"temperature": 0.1}, {"text_config": {"eos_token_id": 0}}, (0,)),
        (None, {"eos_token_id": 3, "text_config": {"eos_token_id": 5}}, (3,)),
        (None, {"eos_token_id": None, "llm_config": {"eos_token_id": 5}}, (5,)),
        (None, {}, ()),
    ],
)
def test_end_tokens(tmp_path: Path, generation: Any, config: Any, expected: tuple[int, ...]) -> None:
    for name, content in (("generation_config", generation), ("config", config)):
        if content is not None:
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert end_tokens(str(tmp_path)) == expected


def test_an_unreadable_configuration_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        end_tokens(str(tmp_path))
