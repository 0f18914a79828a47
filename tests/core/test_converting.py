"""Conversions in general, on a tiny InternVL2: whole or not at all, never over something else, in bounded memory; what PyTorch's files may hold."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from synthvlm_internvl2.convert import Conversion

import tests.tiny_internvl2 as tiny
from synthvlm.converting import read_weights
from synthvlm.converting.directory import RECORD
from synthvlm.errors import CheckpointError


def convert(source: Path, target: Path, **options: Any) -> Path:
    Conversion(**options).convert(str(source), str(target), lambda line: None)
    return target


def config_of(source: Path) -> dict[str, Any]:
    return json.loads((source / "config.json").read_text())


def written(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tiny.published(tmp_path / "published")


def test_files_are_written_as_they_fill(source, tmp_path, monkeypatch):
    monkeypatch.setattr("synthvlm.converting.weights.SHARD", 200_000)
    target = convert(source, tmp_path / "converted")
    files = sorted(target.glob("model-*.safetensors"))
    assert len(files) > 3
    assert files[-1].name == f"model-{len(files):05}-of-{len(files):05}.safetensors"
    for file in files:
        tensors = load_file(file)
        assert len(tensors) == 1 or sum(t.numel() * t.element_size() for t in tensors.values()) <= 200_000
    table = json.loads((target / "model.safetensors.index.json").read_text())
    assert table["weight_map"] == {name: file.name for file in files for name in load_file(file)}
    assert table["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in written(target).values())
    from transformers import AutoModelForImageTextToText

    _, told = AutoModelForImageTextToText.from_pretrained(target, output_loading_info=True)
    assert not any(told.values()), told


def test_missing_and_damaged_files_are_refused(source, tmp_path):
    second = source / "model-00002-of-00002.safetensors"
    whole = second.read_bytes()
    second.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002.safetensors cannot be read"):
        convert(source, tmp_path / "converted")
    second.unlink()
    with pytest.raises(CheckpointError, match="incomplete: it lacks model-00002"):
        convert(source, tmp_path / "converted")
    (source / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer.model"):
        convert(source, tmp_path / "converted")
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        convert(tmp_path / "nowhere", tmp_path / "converted")


def test_a_killed_conversion_is_done_again(source, tmp_path):
    target, beside = tmp_path / "converted", tmp_path / ".converted.converting"
    code = f"""
import os, signal
import synthvlm.converting.weights as weights
from synthvlm_internvl2.convert import Conversion
weights.SHARD = 200_000
Conversion().convert({str(source)!r}, {str(target)!r}, lambda line: os.kill(os.getpid(), signal.SIGKILL))
"""
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    assert (beside / "model-00001.safetensors").is_file()
    (beside / "left over").mkdir()
    convert(source, target)
    assert not beside.exists()
    undisturbed = convert(source, tmp_path / "undisturbed")
    assert {p.name: p.read_bytes() for p in target.iterdir()} == {p.name: p.read_bytes() for p in undisturbed.iterdir()}


def test_run_again_it_leaves_what_is_finished(source, tmp_path):
    target = convert(source, tmp_path / "converted")
    before = {p.name: p.stat().st_mtime_ns for p in target.iterdir()}
    said: list[str] = []
    Conversion().convert(str(source), str(target), said.append)
    assert said == [f"{target} is already made of this"]
    assert {p.name: p.stat().st_mtime_ns for p in target.iterdir()} == before


def test_something_else_is_never_overwritten(source, tmp_path):
    target = convert(source, tmp_path / "converted")
    with pytest.raises(CheckpointError, match="was converted from something else, or with other options"):
        convert(source, target, dtype="float16")
    weights = tiny.weights(config_of(source))
    weights["mlp1.0.bias"] += 1
    tiny.write_shards(source, weights, 2)
    with pytest.raises(CheckpointError, match="was converted from something else"):
        convert(source, target)
    mine = tmp_path / "mine"
    mine.mkdir()
    convert(source, mine)  # an empty directory is as good as none
    assert (mine / RECORD).is_file()
    for place in (tmp_path / "full", tmp_path / "file"):
        (place / "notes.txt" if place.name == "full" else place).parent.mkdir(exist_ok=True)
        (place / "notes.txt" if place.name == "full" else place).write_text("mine")
        with pytest.raises(CheckpointError, match="holds something else"):
            convert(source, place)
    assert (tmp_path / "file").read_text() == (tmp_path / "full" / "notes.txt").read_text() == "mine"


def test_two_conversions_into_one_place_do_not_mix(source, tmp_path):
    import fcntl

    beside = tmp_path / ".converted.converting"
    beside.mkdir()
    (beside / "model-00001.safetensors").write_text("the other's")
    handle = os.open(beside, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(CheckpointError, match="another process is converting"):
            convert(source, tmp_path / "converted")
        assert (beside / "model-00001.safetensors").read_text() == "the other's"
    finally:
        os.close(handle)


def test_a_full_disk_is_a_line(source, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(*_: Any, **__: Any) -> None:  # as safetensors says it
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(CheckpointError, match="the disk is full"):
        convert(source, tmp_path / "converted")
    assert list(tmp_path.iterdir()) == [source]


class Malicious:
    def __reduce__(self) -> Any:
        return (os.system, ("touch was-run",))


def test_files_that_hold_code_are_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"weight": torch.ones(2)}, "config": Malicious()}, "pickled.pth")
    with pytest.raises(CheckpointError, match=r"holds more than tensors \(posix.system\)") as refused:
        list(read_weights("pickled.pth"))
    assert "safetensors" in str(refused.value)
    assert not Path("was-run").exists()


@pytest.mark.parametrize("zipped", [True, False])  # before PyTorch 1.6 they were not
def test_pytorch_s_files_are_read_as_data(tmp_path, zipped):
    weights = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1, dtype=torch.bfloat16)}
    for name, content in {"plain.pth": weights, "training.pth": {"model": weights, "optimizer": {"lr": 0.1}, "epoch": 3}}.items():
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
        assert {n: t.tolist() for n, t in read_weights(tmp_path / name)} == {n: t.tolist() for n, t in weights.items()}
        assert [n for n, _ in read_weights(tmp_path / name, ("a.",))] == ["a.weight"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "cannot be read"), (b"not a checkpoint", "damaged, or no file of PyTorch"), ([1, 2], "holds no table of tensors")],
)
def test_files_that_are_no_checkpoint_are_refused(tmp_path, content, reason):
    file = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(CheckpointError, match=reason):
        list(read_weights(file))


def test_files_that_hold_nothing_of_interest_need_not_be_there(source):
    (source / "model-00002-of-00002.safetensors").unlink()
    assert [n for n, _ in read_weights(source, ("vision_model.embeddings.",))] == sorted(
        n for n in tiny.weights(config_of(source)) if n.startswith("vision_model.embeddings.")
    )
    with pytest.raises(CheckpointError, match="incomplete"):
        list(read_weights(source, ("mlp1.",)))


@pytest.mark.slow
def test_memory_is_a_shard_s_whatever_the_size(tmp_path):
    """Some 160 MB in, 10 MB out at a time: above what the libraries take, far less than the whole is held."""
    source = tiny.published(tmp_path / "published", {**tiny.INTERNLM2, "num_hidden_layers": 700}, shards=4)
    size = sum(f.stat().st_size for f in source.glob("*.safetensors"))
    assert size > 100_000_000
    code = f"""
import re, threading, time
import torch, transformers
from transformers import InternVLForConditionalGeneration, InternVLProcessor, GotOcr2ImageProcessor
import synthvlm.converting.weights as weights
from synthvlm_internvl2.convert import Conversion
weights.SHARD = 10_000_000
def anonymous():
    return int(re.search(r"RssAnon:\\s*(\\d+)", open("/proc/self/status").read())[1]) * 1024
before, peak = anonymous(), [0]
def watch():
    while True:
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.005)
threading.Thread(target=watch, daemon=True).start()
Conversion().convert({str(source)!r}, {str(tmp_path / "converted")!r}, lambda line: None)
print(peak[0] - before)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=environment, timeout=250, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < size / 2
