"""Judging in the miniature world, where it is known which picture is right."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from synthvlm_mini import world

from synthvlm.judging import pairs, sides
from synthvlm.pipeline import Run
from tests.judging.mini_truth import known_pairs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def test_it_tells_the_right_picture_from_one_with_a_single_thing_wrong(tmp_path: Path) -> None:
    """Drawn by the world itself: half of the time the better one is in either set."""
    a, b = known_pairs(tmp_path, 60, seed=3)
    run = Run.create(tmp_path / "run")
    drawn = pairs.draw(run, sides.find(str(a), {}), sides.find(str(b), {}), truth="better")
    run.judge_with(drawn, "captioner-agreement", {})
    (judge,) = run.judged()["judges"]
    assert judge["judged"] == 60 and judge["flip_rate"]["value"] == 0
    assert judge["accuracy"]["low"] > 0.75, "a coin is right half of the time"
    assert judge["win_rate"]["low"] < 0.5 < judge["win_rate"]["high"], "neither set is better"


def test_the_best_of_four_by_clip_is_preferred_to_the_worst(tmp_path: Path) -> None:
    """Guidance 1, where the model makes more mistakes than at 2: there has to be something to choose from."""
    draw = random.Random(6)
    captions = [{"id": n, "caption": world.detail(world.sample(draw), n % world.PHRASINGS)} for n in range(120)]
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    run = Run.create(tmp_path / "run", tmp_path / "captions.json")
    run.generate("mini", repeat=4, guidance=1.0).score()
    run.judge("best", "worst", "captioner-agreement", drawing={"weights": {"clip": 1.0}})
    (judge,) = run.judged()["judges"]
    assert judge["judged"] == 120
    assert judge["win_rate"]["low"] > 0.5 and judge["p"] < 0.05
