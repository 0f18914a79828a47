"""Texts of CLIPScore: long captions cut or sentence by sentence, texts encoded at their own length, vectors kept beside the scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthvlm.options import build
from synthvlm.sample import Failed, ScoreRequest
from synthvlm.scorers import ClipScore, clip, clip_model
from synthvlm.scorers.sentences import split_sentences
from tests.scorers.test_clip import by_open_clip, picture
from tests.tiny_clip import CONTEXT, make_tiny_clip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny", seed=1)


def load(directory: Path, **options: Any) -> clip.ClipScorer:
    return build(ClipScore, {"checkpoint": str(directory), "prefix": "", **options}, "clip").load(["cpu"])


def rows(scorer: clip.ClipScorer, batch: list[ScoreRequest]) -> list[dict[str, Any]]:
    results = list(scorer.score(batch))
    assert not any(isinstance(r, Failed) for r in results)
    return [dict(r) for r in results if not isinstance(r, Failed)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("a red boat", ["a red boat"]),
        ("A dog. A cat sits at 3.5 km. It is fun!", ["A dog.", "A cat sits at 3.5 km.", "It is fun!"]),
        ("Dr. Smith and J. Doe at Mt. Fuji, e.g. Today. Then left", ["Dr. Smith and J. Doe at Mt. Fuji, e.g. Today.", "Then left"]),
        ("“Hi,” he said. “Bye.” Then left.", ["“Hi,” he said.", "“Bye.”", "Then left."]),
        ("He asks: why? no idea. OK.", ["He asks: why? no idea.", "OK."]),
        ("一只狗。两只猫！很好", ["一只狗。", "两只猫！", "很好"]),
        ("¿Qué? Sí. Ähre. Дом.", ["¿Qué?", "Sí.", "Ähre.", "Дом."]),
        ("first line\n\n- second", ["first line", "- second"]),
        ("  ", [""]),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


def test_sentence_by_sentence_is_mean_and_least_in_columns_of_their_own(directory: Path) -> None:
    scorer = load(directory, text="sentences", column="c")
    captions = ["A cat. Red dog! Two.", "one", "A cat."]
    batch = [ScoreRequest(str(n), 0, c, picture(n)) for n, c in enumerate(captions)]
    got = rows(scorer, batch)
    assert tuple(scorer.columns) == ("c_mean", "c_min", "c_cut")
    pieces = [ScoreRequest("", 0, piece, picture(n)) for n, c in enumerate(captions) for piece in split_sentences(c)]
    cosines = [max(c, 0.0) for c in by_open_clip(directory, pieces, "")]
    expected = [cosines[:3], cosines[3:4], cosines[4:]]
    assert [g["c_mean"] for g in got] == pytest.approx([sum(e) / len(e) for e in expected], abs=1e-6)
    assert [g["c_min"] for g in got] == pytest.approx([min(e) for e in expected], abs=1e-6)
    assert got[0]["c_min"] < got[0]["c_mean"]
    whole = rows(load(directory), batch)
    assert got[1]["c_mean"] == got[1]["c_min"] == whole[1]["clip"]  # of one sentence it is the same number
    assert scorer.cards["c_mean"]["text_policy"].startswith("sentence by sentence")
    assert "text_policy" in scorer.cards["c_cut"]


def test_a_sentence_over_the_limit_is_cut_and_flagged(directory: Path) -> None:
    room = CONTEXT - 2
    got = rows(
        load(directory, text="sentences"),
        [ScoreRequest("", 0, c, picture(0)) for c in ("A b. " * 5 + "End", "Ab. " + "C" * (room + 1), "d" * (room + 1))],
    )
    assert [g["clip_cut"] for g in got] == [False, True, True]


@pytest.mark.parametrize("quick", [True, False])
def test_texts_are_encoded_at_their_own_length_and_agree_with_the_whole(tmp_path: Path, quick: bool) -> None:
    import open_clip
    import torch

    scorer = load(make_tiny_clip(tmp_path, seed=3, quick_gelu=quick))
    captions = ["a", "bcd", "efghi jkl", "m" * 30]
    lengths = [scorer._tower.length(t) for t in scorer._tokenize(captions)]
    assert lengths == [8, 8, 16, 16]
    found = scorer._encode_texts(captions)
    model: Any = open_clip.create_model(f"local-dir:{tmp_path}", require_pretrained=True)
    with torch.inference_mode():
        whole = model.eval().encode_text(scorer._tokenize(captions), normalize=True).numpy()
    for n, caption in enumerate(captions):
        assert np.abs(found[caption][0] - whole[n]).max() < 1e-6
    # Afterwards the model is whole again.
    with torch.inference_mode():
        assert scorer._model.encode_text(scorer._tokenize(captions), normalize=True).numpy() == pytest.approx(whole, abs=1e-6)


def test_a_model_that_reads_both_ways_keeps_its_length(tmp_path: Path) -> None:
    """SigLIP's kind: text in both directions, read off at the last place, images squashed to a square."""
    import open_clip
    from safetensors.torch import save_file

    make_tiny_clip(tmp_path, seed=1)
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
    config["model_cfg"] |= {"custom_text": True, "init_logit_bias": -10}
    config["preprocess_cfg"] |= {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    model = open_clip.CustomTextCLIP(**{k: v for k, v in config["model_cfg"].items() if k != "custom_text"})
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "open_clip_model.safetensors")
    scorer = load(tmp_path)
    batch = [ScoreRequest(str(n), 0, c, picture(n)) for n, c in enumerate(["a", "a blue cat", "x y z", "hill"])]
    cosines = by_open_clip(tmp_path, batch, "")
    assert [r["clip"] for r in rows(scorer, batch)] == pytest.approx([max(c, 0) for c in cosines], abs=1e-6)
    assert scorer._tower.length(scorer._tokenize(["a"])[0]) == CONTEXT
    assert scorer.cards["clip"]["preprocessing"]["resize_mode"] == "squash"


def test_vectors_stand_beside_the_score_and_say_what_they_are(directory: Path) -> None:
    scorer = load(directory)
    (row,) = rows(scorer, [ScoreRequest("", 0, "a blue cat", picture(2))])
    image, text = row["clip_image"], row["clip_text"]
    assert image.dtype == text.dtype == np.float16
    assert image.shape == text.shape == (scorer.cards["clip_image"]["dim"],)
    assert float((image.astype(float) * text.astype(float)).sum()) == pytest.approx(row["clip"], abs=2e-3)
    assert np.linalg.norm(image.astype(float)) == pytest.approx(1, abs=1e-3)
    cards = scorer.cards
    assert [cards[c]["of"] for c in ("clip_cut", "clip_image", "clip_text")] == ["clip", "image", "caption"]
    assert [cards[c]["type"] for c in ("clip_cut", "clip_image", "clip_text")] == ["flag", "embedding", "embedding"]
    assert cards["clip_image"]["weights"] == cards["clip"]["weights"]


def test_work_done_ahead_changes_nothing(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = ["red", "red", "a blue cat", "x", "red"]
    batch = [ScoreRequest(str(n), 0, c, picture(n)) for n, c in enumerate(captions)]
    plain = rows(load(directory), batch)
    for threads in (1, 3):
        scorer = load(directory, threads=threads)
        scorer.expect(list(dict.fromkeys(captions)))
        ready = [ScoreRequest(r.id, 0, r.caption, r.image, scorer.prepare(r)) for r in batch]

        def refuse(*_: Any) -> Any:
            raise AssertionError("it was prepared")

        monkeypatch.setattr(scorer, "_transform", refuse)
        monkeypatch.setattr(scorer, "_tokenize", lambda texts: refuse() if texts else [])
        got = rows(scorer, ready)
        assert [{k: v.tobytes() if k.startswith(("clip_i", "clip_t")) else v for k, v in r.items()} for r in got] == [
            {k: v.tobytes() if k.startswith(("clip_i", "clip_t")) else v for k, v in r.items()} for r in plain
        ]


def test_lanes_give_back_the_thread_count() -> None:
    import torch

    before = torch.get_num_threads()
    lanes = clip_model.Lanes("cpu", 2)
    inputs = [torch.randn(4) for _ in range(5)]
    vectors = lanes.run(lambda chunk: chunk * 2, inputs, 2, None)
    assert torch.get_num_threads() == before
    assert [float(v @ v) for v in vectors] == pytest.approx([1.0] * 5)
