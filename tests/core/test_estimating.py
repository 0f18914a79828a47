"""A few samples tell what the whole takes: rates from real workers, and the arithmetic on them."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from synthvlm import estimating
from synthvlm.cli import checks
from synthvlm.errors import OptionError
from synthvlm.estimating import Calibration, Timing, calibrate, hours, rows_of
from synthvlm.execution import Execution
from synthvlm.pipeline import Run
from synthvlm.preparing import Prepared
from synthvlm.recipe import parse

STEPS = [
    {"generate": {"model": "cheap", "repeat": 2, "options": {"seconds": 0.4}}},
    {"score": {"scorers": {"brightness": {}}}},
    {"select": {"top": "50%"}},
    {"report": {}},
]


def test_a_rate_is_that_of_the_work(write_captions, faulty, tmp_path):
    captions = [f"caption {n}" if n != 5 else "fail: bad luck" for n in range(40)]
    recipe = parse({"input": {"path": write_captions(captions)}, "steps": STEPS}, "the test")
    found = calibrate(recipe, str(tmp_path / "run"), 16, Execution(devices=["cpu", "cpu"]))
    made = next(t for t in found.timings if t.kind == "generate")
    assert (found.samples, found.repeat, made.rows, made.failed) == (16, 2, 32, 2)
    assert 0.05 < made.seconds < 1.0, "four rows sleep 0.4 s; what a busy machine adds is not ours to say"
    assert made.load > 0 and found.image_bytes > 100 and made.on_device
    assert not (tmp_path / "run/report").exists()
    with pytest.raises(OptionError, match="nothing to calibrate with"):
        calibrate(parse({"out": "x", "steps": STEPS}, "the test"), str(tmp_path / "other"), 16, Execution())


def test_what_follows_from_rates():
    text = Timing("text", "score", on_device=False, load=36, seconds=0.001, rows=16)
    images = Timing("sdxl", "generate", load=360, seconds=3.6, rows=32)
    found = Calibration(16, [text, images], kept=0.5, repeat=4)
    assert rows_of(found, text, 1000, 0.9) == 1000
    assert rows_of(found, images, 1000, 0.9) == 3600, "32 rows of the 8 captions that were left"
    took = hours(found, 1000, 0.9, (1, 4))
    assert took == {1: pytest.approx((36 + 1 + 360) / 3600 + 3.6), 4: pytest.approx((36 + 1 + 360) / 3600 + 0.9)}
    assert estimating.Timing("x", seconds=1.0).hours(0, 1) == 0.0


def test_what_plan_says_of_captions_licences_and_memory(write_captions, tmp_path, monkeypatch):
    run = Run.create(tmp_path / "run", write_captions(["a dog", "a cat on a mat", "very long " * 60]))
    assert checks.lengths(run) == (
        "Captions: 5 words at the median, 120 in the longest; about 33.3% are over 77 CLIP tokens, where CLIPScore cuts them (see docs/scoring.md)"
    )
    named = {
        "a": {"asked": "stabilityai/stable-diffusion-xl-base-1.0"},
        "b": {"asked": "nobody/nothing@main"},
        "c": {"asked": str(tmp_path)},
    }
    said = checks.licences({"checkpoints": named})
    assert "licence of stabilityai/stable-diffusion-xl-base-1.0: openrail++" in said
    assert "licence of nobody/nothing@main: unknown" in said and str(tmp_path) not in said
    weights = tmp_path / "model" / "unet"
    weights.mkdir(parents=True)
    (weights / "model.safetensors").write_bytes(bytes(3 << 20))
    (weights / "pytorch_model.bin").write_bytes(bytes(5 << 20))
    prepared = Prepared(SimpleNamespace(name="big"), [{"name": "x", "options": {"checkpoint": str(tmp_path / "model"), "steps": 3}}])
    monkeypatch.setattr(checks.subprocess, "run", lambda asked, **_: SimpleNamespace(stdout="2\n2\n" if "0,1" in asked[1] else "2\n"))
    assert checks.memory(prepared, "cpu") == checks.memory(prepared, "0,1") == []
    assert "the weights of big are 0.0 GB on the disk" in checks.memory(prepared, "0")[0]


def test_plan_tells_what_the_whole_takes(synthvlm, write_captions, faulty, tmp_path):
    captions = write_captions([f"a picture of {n} things" for n in range(48)] + ["http://a.b/c.jpg", "buy now for $3, click here"])
    flags = ["--model", "cheap", "--scorer", "brightness", "--repeat", "2", "--out", tmp_path / "run"]
    said = synthvlm("plan", captions, *flags, "--calibrate", "4", "--price", "2")
    assert said.code == 0, said.err
    assert "Yield: 50 captions, 48 after curation, 96 images, 5 selected" in said.out
    assert "Calibrated with 4 samples" in said.out and "0 of 8" in said.out
    table = re.findall(r"^(\d+) +│ +([\d.]+) (s|min) +│ +[\d.]+ │ +\d+ *$", said.out, re.M)
    assert [int(n) for n, _, _ in table] == list(estimating.WORKERS)
    assert not (tmp_path / "run").exists()
    assert "Calibrat" not in synthvlm("plan", captions, *flags).out
