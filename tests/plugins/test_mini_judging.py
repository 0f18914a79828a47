"""The truth of the miniature world tells which captions are right."""

from __future__ import annotations

import random

import pytest
from synthvlm_mini import world
from synthvlm_mini.captioner import MiniCaptioner
from synthvlm_mini.judging import is_right

TRUTH = "A line drawing of a small red star to the left of a large blue circle on a striped pink background."


@pytest.mark.parametrize("perspective", world.PERSPECTIVES)
def test_what_the_world_itself_says_is_right_and_what_it_says_of_another_scene_is_not(perspective: str) -> None:
    draw, told = random.Random(4), world.PERSPECTIVES[perspective]
    wrong = 0
    for _ in range(200):
        scene = world.sample(draw)
        truth = world.detail(scene, draw.randrange(world.PHRASINGS))
        assert is_right(perspective, told(scene), truth) is True
        other, what = world.corrupt(scene, draw)
        if told(other) != told(scene) and what != "swap":
            assert is_right(perspective, told(other), truth) is False, (told(other), truth)
            wrong += 1
    assert wrong > 20


@pytest.mark.parametrize(
    ("perspective", "caption", "right"),
    [
        (
            "detail",
            "There is a striped pink background with a small red star to the left of a large blue circle in this line drawing.",
            True,
        ),
        ("detail", "A line drawing of a small red star on the left on a striped pink background.", False),
        ("detail", "A cat on a sofa.", False),
        ("brief", "A red star and a blue circle.", True),
        ("brief", "A red star, a blue circle and a blue circle.", False),
        ("nouns", "stripes, circle, background, star", True),
        ("nouns", "star, background, stripes", False),
        ("style", "It is a line drawing that uses blue and red.", True),
        ("style", "It is a line drawing that uses red.", False),
        ("main", "The main object is a large blue circle on the right.", True),
        ("mine", "A red star.", None),
    ],
)
def test_right_is_what_agrees_with_the_truth(perspective: str, caption: str, right: bool | None) -> None:
    assert MiniCaptioner.is_right(perspective, caption, TRUTH) is right


@pytest.mark.parametrize(
    ("perspective", "truth", "right"),
    [
        ("brief", "A red star.", True),
        ("style", "A red star.", None),
        ("background", "A red star.", None),
        ("nouns", "A red star.", None),
        ("main", "A red star.", None),
        ("detail", "A photograph of a dog.", None),
    ],
)
def test_what_the_truth_leaves_open_is_not_judged(perspective: str, truth: str, right: bool | None) -> None:
    assert is_right(perspective, "A red star.", truth) is right
