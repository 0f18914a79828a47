"""The score stage: work done ahead, texts met once, vectors kept once a caption, cards that do not mix."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from synthvlm import Run
from synthvlm.errors import RunMismatch
from synthvlm.execution import Execution
from synthvlm.preparing import Prepared, note_columns, prepare_measure
from synthvlm.sample import Failed, ScoreRequest
from synthvlm.stages.score import OncePerCaption, Scorers, score_shard
from synthvlm.worker import Context


class Looking:
    """A scorer that notes what it is asked, and when."""

    batch_size = 4
    columns = ("light", "light_flag")
    cards = {
        "light": {"metric": "mean"},
        "light_flag": {"metric": "bright", "type": "flag", "of": "light"},
        "light_image": {"type": "embedding", "of": "image", "dim": 2},
        "light_text": {"type": "embedding", "of": "caption", "dim": 2},
    }

    def __init__(self) -> None:
        self.prepared: list[str] = []
        self.expected: list[list[str]] = []

    def prepare(self, request: ScoreRequest) -> Any:
        self.prepared.append(request.id)
        if request.caption == "broken":
            raise ValueError("cannot be\nprepared")
        return float(np.asarray(request.image).mean())

    def expect(self, captions: Sequence[str]) -> None:
        self.expected.append(list(captions))

    def score(self, batch: Sequence[ScoreRequest]) -> Iterator[Any]:
        for r in batch:
            assert r.prepared is not None
            vectors = {"light_image": np.array([r.prepared, 1], np.float16), "light_text": np.array([len(r.caption or ""), 0], np.float16)}
            yield {"light": r.prepared, "light_flag": r.prepared > 100} | vectors


def scored(path: Path, captions: list[str]) -> tuple[Run, Any, Looking]:
    """Return a run of raw pairs, scored by one shard of a worker's code in this process."""
    path.mkdir()
    lines = []
    for n, caption in enumerate(captions):
        Image.new("RGB", (8, 8), (10 * n, 10 * n, 10 * n)).save(path / f"{n}.png")
        lines.append(json.dumps({"id": f"s{n:02d}", "image": f"{n}.png", "caption": caption}))
    (path / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    run = Run.create(path / "run", images=path / "pairs.jsonl")
    stage = prepare_measure(run, "ssim", name="look", execution=Execution(devices=["cpu"])).stage
    looking = Looking()
    scorers = Scorers([looking])
    note_columns(run, [Prepared(stage)], {"columns": {"look": scorers.columns}, "cards": {"look": scorers.cards}})
    context = Context({"run": run.root, "threads": 2, "devices": ["cpu"]}, lambda event, **facts: None)
    score_shard(context, stage, scorers, 0, frozenset())
    context.close()
    return run, run.stage("look"), looking


def test_rows_are_prepared_ahead_and_hold_numbers_and_vectors(tmp_path: Path) -> None:
    captions = ["red", "blue", "red", "broken", "a cat", "red"]
    run, stage, looking = scored(tmp_path / "x", captions)
    assert sorted(looking.prepared) == [f"s{n:02d}" for n in range(6)]
    assert looking.expected == [["red", "blue", "broken", "a cat"]]
    with run.connect() as db:
        rows = db.execute(
            f"SELECT id, light, light_flag, light_image, light_text, error FROM {run.table_sql(stage)} ORDER BY row"
        ).fetchall()
    assert [r[5] for r in rows] == [None, None, None, "cannot be", None, None]
    for n, (_, light, flag, image, text, error) in enumerate(rows):
        if not error:
            assert (light, flag, list(image), list(text)) == (10.0 * n, 0.0, [10.0 * n, 1.0], [float(len(captions[n])), 0.0])
    assert stage.columns == ["light", "light_flag"]  # vectors are no scores


def test_a_captions_vector_stands_on_its_first_good_row() -> None:
    once = OncePerCaption(Scorers([Looking()]))
    rows = [{"id": i, "error": e, "light_text": i, "light_image": i} for i, e in (("a", "bad"), ("a", None), ("a", None), ("b", None))]
    assert [r.get("light_text") for r in once(rows)] == ["a", "a", None, "b"]
    assert [r.get("light_image") for r in rows] == ["a", "a", "a", "b"]
    (later,) = once([{"id": "b", "light_text": "b"}])
    assert "light_text" not in later


def test_what_goes_wrong_ahead_is_left_to_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Looking):
        def expect(self, captions: Sequence[str]) -> None:
            raise RuntimeError("out of memory")

    Scorers([Failing()]).expect(["a"])
    assert "encoded ahead" in caplog.text


def test_scorers_see_their_own_preparation_only() -> None:
    class Plain(Looking):
        columns = ("plain",)
        cards = {"plain": {}}
        prepare = None  # type: ignore[assignment]

        def score(self, batch: Sequence[ScoreRequest]) -> Iterator[Any]:
            return iter([Failed("it was prepared") if r.prepared is not None else {"plain": 1} for r in batch])

    scorers = Scorers([Plain(), Looking()])
    request = scorers.prepare(ScoreRequest("a", 0, "red", Image.new("RGB", (2, 2), (7, 7, 7))))
    (row,) = scorers.score([request])
    assert isinstance(row, dict)
    assert (row["plain"], row["light"]) == (1.0, 7.0)


def test_another_card_under_one_stage_is_refused(tmp_path: Path) -> None:
    run, stage, _ = scored(tmp_path / "x", ["red"])
    other = {**Looking.cards, "light": {"metric": "median"}}
    with pytest.raises(RunMismatch, match=r"metric='mean'.*metric='median'"):
        note_columns(run, [Prepared(stage)], {"columns": {"look": stage.columns}, "cards": {"look": other}})
    assert run.stage("look").cards["light"] == {"metric": "mean"}
