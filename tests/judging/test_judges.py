"""Judges that ship: any captioner of several images, really run, and the one made of a captioner that takes one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from synthvlm.errors import OptionError
from synthvlm.pipeline import Run
from synthvlm.plugins import discover
from synthvlm.sample import CaptionRequest, Failed
from tests import rows
from tests.tiny_captioners import picture, qwen2_vl

RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


@pytest.mark.usefixtures("one_thread")
def test_a_model_of_several_images_is_asked_with_both(tmp_path: Path, synthvlm: Any) -> None:
    """A random checkpoint: its answers are no verdicts, and each is asked for twice, with two pictures."""
    for name, seed in (("a", 1), ("b", 5)):
        (tmp_path / name).mkdir()
        for n in range(2):
            picture(seed + n, (56, 56)).save(tmp_path / name / f"{n}.png")
        (tmp_path / name / "list.json").write_text(json.dumps([{"id": n, "caption": "a cat", "image": f"{n}.png"} for n in range(2)]))
    checkpoint = qwen2_vl(tmp_path / "qwen")
    out = tmp_path / "run"
    sets = (tmp_path / "a" / "list.json", tmp_path / "b" / "list.json", "--out", out)
    settings = ("-o", f"checkpoint={checkpoint}", "-o", "batch_size=2", "--max-new-tokens", 6, "--threads", 1)
    said = synthvlm("judge", *sets, "--model", "qwen2-vl", *settings)
    assert said.code == 0, said
    assert "4 failed with Unparsable" in said.err
    run = Run.open(out)
    (stage,) = run.stage_names()
    table = rows.table(run, stage)
    assert {(r["error_class"], r["repaired"], r["verdict"]) for r in table} == {("Unparsable", True, None)}
    judge = discover().create("captioner", "qwen2-vl", {"checkpoint": str(checkpoint), "batch_size": 2}).load(["cpu"])
    pair = picture(1, (56, 56)), picture(5, (56, 56))
    asked = [CaptionRequest("x", "which?", order, max_new_tokens=24, json_schema={}) for order in (pair, pair[::-1])]
    first, second = judge.caption(asked)
    assert first.text != second.text, "it sees both, and in which order they come"


def test_describing_decides_without_knowing_the_order(synthvlm: Any, pictures: Callable[..., str], tmp_path: Path) -> None:
    """The captioner names colours: a picture of the caption's colour wins, two of other colours are a tie."""
    captions = ["A red picture.", "A green picture.", "A blue picture."]
    a = pictures("a", [(str(n), c, color) for n, (c, color) in enumerate(zip(captions, (RED, RED, RED), strict=True))])
    b = pictures("b", [(str(n), c, color) for n, (c, color) in enumerate(zip(captions, (GREEN, GREEN, GREEN), strict=True))])
    told = synthvlm("judge", a, b, "--out", tmp_path / "run", "--model", "captioner-agreement", "-o", "model=teller", "--json")
    (judge,) = json.loads(told.out)["judges"]
    assert (judge["wins"], judge["losses"], judge["ties"]) == (1, 1, 1)
    assert judge["flip_rate"]["value"] == 0 and judge["first"]["value"] == 0.5
    table = rows.table(Run.open(tmp_path / "run"), judge["stage"])
    assert {r["reason"] for r in table if r["id"] == "0" and not r["flipped"]} == {
        "nearness of A and B: 1.00 'A red picture.' / 0.67 'A green picture.'"
    }


def test_what_a_describing_judge_cannot_do(tmp_path: Path) -> None:
    registry = discover()
    own = tmp_path / "quoting.yaml"
    own.write_text("prompt: 'Is this {{ caption }}?'")
    with pytest.raises(OptionError, match="quotes caption"):
        registry.create("captioner", "captioner-agreement", {"model": "teller", "perspectives": [str(own)]})
    judge = registry.create("captioner", "captioner-agreement", {"model": "teller"}).load(["cpu"])
    (answer,) = judge.caption([CaptionRequest("1", "A red picture.", (Image.new("RGB", (8, 8), RED),), ("x",))])
    assert isinstance(answer, Failed) and "two images" in answer.error
    assert registry.create("captioner", "captioner-agreement").checkpoint.endswith("captioner"), "the one that ships is found ahead"
