"""VQAScore on tiny random captioners, against transformers' own forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synthvlm.checkpoints import resolve
from synthvlm.errors import OptionError
from synthvlm.options import build
from synthvlm.plugins import discover
from synthvlm.sample import Failed, ScoreRequest
from synthvlm.scorers import VQAScore
from tests.tiny_captioners import MAKERS, picture

CAPTIONS = ["a cat", "a dog on\n a mat", "the quick brown fox"]
ANSWER = "mat"
"""A word that the tiny tokenizers have a token for."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: MAKERS[name](tmp_path_factory.mktemp(name)) for name in ("llava", "qwen2_vl")}


def asked(directory: Path, **values: Any) -> VQAScore:
    given = {"model": "transformers", "checkpoint": str(directory), "answer": ANSWER, "options": {"batch_size": 2}}
    return build(VQAScore, given | values, "vqascore")


def requests() -> list[ScoreRequest]:
    return [ScoreRequest(str(n), 0, c, picture(n, (96 - 20 * n, 80))) for n, c in enumerate(CAPTIONS)]


def by_transformers(directory: Path, request: ScoreRequest, question: str) -> float:
    """Return the probability of the answer's tokens at the place where the answer begins, on one unpadded prompt."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(directory)
    model: Any = AutoModelForImageTextToText.from_pretrained(directory).eval()
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[text], images=[[request.image]], return_tensors="pt")
    with torch.inference_mode():
        odds = model(**inputs).logits[0, -1].float().softmax(-1)
    tokens = {n for n in range(len(odds)) if processor.tokenizer.decode([n]) in (ANSWER, f" {ANSWER}")}
    assert tokens
    return float(odds[sorted(tokens)].sum())


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_it_is_the_probability_that_transformers_gives(family: str, checkpoints: dict[str, Path]) -> None:
    options = asked(checkpoints[family], question="Is there {caption}?")
    scorer = options.load(["cpu"])
    batch = requests()
    padded = batch + batch[-1:] * 3
    got = [dict(r) for r in scorer.score(padded) if not isinstance(r, Failed)]
    expected = [by_transformers(checkpoints[family], r, f"Is there {' '.join(str(r.caption).split())}?") for r in batch]
    assert len({round(e, 9) for e in expected}) == 3  # it hangs on picture and caption
    assert [g["vqascore"] for g in got] == pytest.approx(expected + expected[-1:] * 3, rel=1e-4)
    card = scorer.cards["vqascore"]
    assert card["question"] == "Is there {caption}?"
    assert card["weights"].startswith("content:")
    assert card["dtype"] == "float32"
    assert str(checkpoints[family]) not in str(card)


def test_what_is_missing_fails_alone(checkpoints: dict[str, Path]) -> None:
    scorer = asked(checkpoints["qwen2_vl"]).load(["cpu"])
    image = picture(0)
    pairs = [("a", None), (" ", image), ("a cat", image), ("a cat", image.resize((2000, 4)))]
    none, blank, good, narrow = scorer.score([ScoreRequest("", 0, c, i) for c, i in pairs])
    assert isinstance(none, Failed)
    assert isinstance(blank, Failed)
    assert isinstance(narrow, Failed)
    assert (none.error_class, blank.error_class, narrow.error_class) == ("NoImage", "NoCaption", "ProcessorError")
    assert not isinstance(good, Failed)
    assert 0 < good["vqascore"] < 1


def test_an_answer_without_a_token_is_refused(checkpoints: dict[str, Path]) -> None:
    scorer = asked(checkpoints["llava"], answer="Nevertheless").load(["cpu"])
    with pytest.raises(OptionError, match="no token for the answer 'Nevertheless'"):
        scorer.score(requests())


def test_options_say_what_is_wrong_before_anything_loads() -> None:
    with pytest.raises(OptionError, match=r"\{caption\}"):
        build(VQAScore, {"model": "mini-captioner", "question": "is it?"}, "vqascore")
    for given in ({"model": "llava", "options": {"engine": "vllm"}}, {"model": "openai", "checkpoint": "x"}):
        with pytest.raises(OptionError, match=r"engine (vllm|openai) does not give"):
            build(VQAScore, given, "vqascore")


def test_the_captioners_own_checkpoint_is_fetched_before_workers_start() -> None:
    registry = discover()
    assert registry.create("scorer", "vqascore", {}).checkpoint == "Qwen/Qwen2-VL-7B-Instruct"
    local, found = resolve(registry.create("scorer", "vqascore", {"model": "mini-captioner"}))
    assert Path(local.checkpoint).is_dir()
    assert found["checkpoint"].revision.startswith("content:")


def test_a_captioner_without_probabilities_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        def load(self, devices: list[str]) -> object:
            return object()

    options = build(VQAScore, {"model": "mini-captioner"}, "vqascore")
    monkeypatch.setattr(VQAScore, "_options", lambda self, directory: Silent())
    with pytest.raises(OptionError, match="'mini-captioner' cannot tell"):
        options.load(["cpu"])
