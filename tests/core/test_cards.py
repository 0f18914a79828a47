"""Numbers with different cards are refused, with the difference named; precision and versions only warn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synthvlm import cards, parts
from synthvlm.errors import RunMismatch
from synthvlm.run import RunDirectory, Stage

CARD = {"metric": "CLIPScore", "weights": "sha256:a", "preprocessing": {"size": [224, 224]}, "dtype": "float32"}


def test_equal_cards_pass_and_tuples_are_lists() -> None:
    assert cards.refuse("here", {"clip": CARD}, {"clip": CARD | {"preprocessing": {"size": (224, 224)}}, "other": {}}) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": "sha256:b"}, r"'clip' of here .*weights='sha256:a'.*weights='sha256:b'"),
        ({"preprocessing": {"size": [336, 336]}}, r"preprocessing\.size=\[224, 224\].*\[336, 336\]"),
        ({"prefix": "A photo depicts ", "dtype": "float16"}, r"prefix=None.*prefix='A photo depicts '"),
        ({"prefix": "x", "metric": "another"}, r"metric='CLIPScore'.*\(and 1 more\)"),
    ],
)
def test_what_is_measured_must_be_the_same(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RunMismatch, match=said) as caught:
        cards.refuse("here", {"clip": CARD}, {"clip": CARD | change})
    assert "--as NAME" in str(caught.value)


def test_precision_only_warns() -> None:
    (line,) = cards.refuse("here", {"clip": CARD}, {"clip": CARD | {"dtype": "bfloat16"}})
    assert "dtype='float32'" in line
    assert "'bfloat16'" in line


def scored(path: Path, *of_parts: dict[str, Any]) -> tuple[RunDirectory, Stage]:
    """Return a run whose score stage has a part with each of these cards."""
    run = RunDirectory.create(path)
    stage = Stage("s", "score", [], {"clip": {}}, {"image": "made", "caption": "samples"}, 4, columns=["clip"], cards={"clip": of_parts[0]})
    for shard, card in enumerate(of_parts):
        row = {"key": f"k{shard}", "row": shard, "id": str(shard), "candidate": 0, "clip": 0.5, "tries": 1}
        parts.commit(run.store, "s", shard, stage.schema, [row], info={"stage": stage.digest, "columns": ["clip"], "cards": {"clip": card}})
    return run, stage


def test_parts_of_another_measure_are_found(tmp_path: Path) -> None:
    assert cards.check(*_listed(scored(tmp_path / "same", CARD, CARD))) == []
    (line,) = cards.check(*_listed(scored(tmp_path / "precision", CARD, CARD | {"dtype": "float16"})))
    assert "float16" in line
    with pytest.raises(RunMismatch, match=r"stage 's' of .*weights"):
        cards.check(*_listed(scored(tmp_path / "other", CARD, CARD | {"weights": "sha256:b"})))


def _listed(made: tuple[RunDirectory, Stage]) -> tuple[RunDirectory, list[Stage]]:
    return made[0], [made[1]]
