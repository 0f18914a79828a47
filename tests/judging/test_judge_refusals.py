"""What cannot be judged is refused in a line, before anything loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synthvlm.errors import InputError
from synthvlm.judging import verdicts
from synthvlm.pipeline import Run

RED, DARK = (200, 0, 0), (100, 0, 0)


@pytest.fixture
def two(pictures: Callable[..., str], tmp_path: Path) -> tuple[str, str, str, Path]:
    """Two sets, and where to."""
    return pictures("a", [("1", "red", RED)]), pictures("b", [("1", "red", DARK)]), "--out", tmp_path / "run"


@pytest.mark.parametrize("model", ["one-eye", "llava", "mini-captioner"])
def test_a_captioner_of_one_image_is_refused_before_its_checkpoint_is_looked_for(refused: Any, two: Any, model: str) -> None:
    said = refused("judge", *two, "--model", model)
    assert f"{model} takes one image at a time" in said
    assert "qwen2-vl" in said and f"captioner-agreement -o model={model}" in said
    assert Run.open(two[3]).stage_names() == []


def test_sets_that_do_not_go_together(refused: Any, two: Any, pictures: Callable[..., str], tmp_path: Path) -> None:
    assert "neither a run nor images" in refused("judge", tmp_path / "nothing", two[1], "--model", "eye")
    assert "neither set is a run" in refused("judge", two[0], two[1], "--model", "eye")
    other = pictures("other", [("x", "red", RED)])
    said = refused("judge", two[0], other, *two[2:], "--model", "eye")
    assert "have no id in common" in said and "'1'" in said and "'x'" in said and "--join caption" in said
    run = Run.create(tmp_path / "images", images=two[0])
    run.caption("teller", ["brief"])
    there = refused("judge", run.root, "--a", "teler", "--b", "samples", "--model", "eye")
    assert "no images or captions 'teler'" in there and "teller/brief, samples" in there
    assert "one is images, the other captions" in refused("judge", run.root, "--a", "teller/brief", "--b", "samples", "--model", "eye")
    assert "what is to be compared?" in refused("judge", run.root, "--model", "eye")
    assert "nothing is judged" in refused("judge", run.root)
    assert "has no image stages" in refused("judge", run.root, "--a", "best", "--b", "worst", "--model", "eye")


def test_another_comparison_or_judge_under_the_same_name(refused: Any, synthvlm: Any, two: Any) -> None:
    assert synthvlm("judge", *two, "--as", "x", "--model", "eye").code == 0
    said = refused("judge", two[1], two[0], *two[2:], "--as", "x", "--model", "eye")
    assert "comparison 'x'" in said and "--as NAME" in said
    said = refused("judge", *two, "--as", "x", "--model", "eye", "-o", "careless=1")
    assert "eye.careless=0.0" in said and "--judge NAME" in said
    assert "people judge without a model" in refused("judge", *two, "--as", "x", "--model", "eye", "--judge", "human")
    assert "which model is the judge 'sharp'?" in refused("judge", *two, "--as", "x", "--judge", "sharp")


@pytest.mark.parametrize(
    ("prompt", "kind", "why"),
    [
        ("Which is better?", "images", "must quote {{ caption }}"),
        ("{{ caption }} and {{ mood }}", "images", "nothing else"),
        ("{{ caption_a }}", "captions", "{{ caption_a }}, {{ caption_b }}"),
        ("{{ caption", "images", "no template"),
    ],
)
def test_prompts_that_cannot_be_asked(tmp_path: Path, prompt: str, kind: str, why: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"prompt: '{prompt}'")
    with pytest.raises(InputError, match=r"mine\.yaml") as error:
        verdicts.load_prompt(tmp_path / "mine.yaml", kind)
    assert why in str(error.value)


@pytest.mark.parametrize("kind", ["images", "captions"])
def test_the_shipped_prompts(kind: str) -> None:
    prompt = verdicts.load_prompt(verdicts.DEFAULT[kind], kind)
    said = prompt.render({"caption": "C", "caption_a": "CA", "caption_b": "CB"})
    assert ("\nC\n" in said) == (kind == "images")
    assert ("\nCA\n" in said and said.index("\nCA\n") < said.index("\nCB\n")) == (kind == "captions")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"reason": "two dogs", "verdict": "A"}', ("A", "two dogs")),
        ('Sure!\n```json\n{"verdict": "b", "reason": "a\\nb"}\n```', ("B", "a b")),
        ('{"verdict": "Image B."}', ("B", "")),
        ('{"verdict": "TIE", "reason": null}', ("tie", "")),
        ('{"verdict": "both", "reason": "{braces}"}', ("tie", "{braces}")),
        ('{"thoughts": {"verdict": "A", "reason": "x"}}', ("A", "x")),
        ('{"verdict": "C"} no: {"verdict": "A"}', ("A", "")),
        ('{"verdict": ["A"]}', None),
        ("A", None),
        ('{"reason": "cut off bec', None),
        ("{" * 3000, None),
        ("", None),
    ],
)
def test_reading_answers(text: str, said: tuple[str, str] | None) -> None:
    assert verdicts.read(text) == said
