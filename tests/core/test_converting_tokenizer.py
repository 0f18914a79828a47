"""A tokenizer made of a SentencePiece model gives SentencePiece's own ids, and text again."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from synthvlm.converting import added_tokens, from_sentencepiece
from synthvlm.errors import CheckpointError
from tests.tiny_internvl2 import sentencepiece_model

FIXED = [
    "",
    " ",
    "   ",
    "a photo of a cat",
    " leading",
    "trailing ",
    "two  spaces\n\nlines\n ",
    "你是",
    "🐉",
    "###Human: <Img>",
    "12345",
    "\ttab",
]


def texts() -> list[str]:
    draw = random.Random(0)
    return FIXED + ["".join(draw.choices("abc deg  \n\thISTU0129.,:#<>/你好人工🐉é", k=draw.randint(1, 40))) for _ in range(300)]


@pytest.mark.parametrize(
    ("dummy_prefix", "unused", "more"),
    [
        (True, 0, {}),  # Llama
        (False, 0, {}),
        (False, 3, {}),  # InternLM2
        (True, 0, {"remove_extra_whitespaces": True}),
        (False, 2, {"remove_extra_whitespaces": True}),
        (True, 0, {"normalization_rule_name": "nmt_nfkc"}),
    ],
)
def test_ids_and_text_are_sentencepiece_s(tmp_path, dummy_prefix, unused, more):
    reference = sentencepiece_model(tmp_path / "tokenizer.model", dummy_prefix, unused, **more)
    made = from_sentencepiece(tmp_path / "tokenizer.model")
    assert made.get_vocab_size() == reference.get_piece_size()
    for text in texts():
        ids = reference.encode(text)
        assert made.encode(text).ids == [1, *ids]
        assert made.encode(text, add_special_tokens=False).ids == ids
        assert made.decode(ids) == reference.decode(ids)


@pytest.mark.parametrize("dummy_prefix", [True, False])
def test_text_is_cut_at_special_tokens(tmp_path, dummy_prefix):
    reference = sentencepiece_model(tmp_path / "tokenizer.model", dummy_prefix)
    size = reference.get_piece_size()
    made = from_sentencepiece(tmp_path / "tokenizer.model", {size: "<one>", size + 1: "<two>"})
    expected = [1, *reference.encode("a cat"), size, size + 1, *reference.encode(" sat"), 2, *reference.encode("x")]
    assert made.encode("a cat<one><two> sat</s>x").ids == expected
    assert made.decode(expected) == made.decode(expected, skip_special_tokens=True)


def test_it_is_the_same_once_saved(tmp_path):
    from tokenizers import Tokenizer

    sentencepiece_model(tmp_path / "tokenizer.model", dummy_prefix=False, unused=2)
    made = from_sentencepiece(tmp_path / "tokenizer.model")
    made.save(str(tmp_path / "tokenizer.json"))
    again = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert all(again.encode(text).ids == made.encode(text).ids for text in texts())


def test_added_tokens_come_from_either_file(tmp_path):
    assert added_tokens(tmp_path) == {}
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<a>": 7}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {"8": {"content": "<b>"}}}))
    assert added_tokens(tmp_path) == {7: "<a>", 8: "<b>"}


def refused(path: Path, added: dict[int, str] | None = None) -> str:
    with pytest.raises(CheckpointError) as error:
        from_sentencepiece(path, added)
    return str(error.value)


def test_other_models_and_impossible_tokens_are_refused(tmp_path):
    model = tmp_path / "tokenizer.model"
    assert "has no tokenizer.model" in refused(model)
    model.write_bytes(b"\xff\xffnot a model")
    assert "is no SentencePiece model" in refused(model)
    unlike: list[dict[str, Any]] = [{"model_type": "unigram", "vocab_size": 400}, {"bos_id": -1}]
    for more in unlike:
        sentencepiece_model(model, True, **more)
        assert "not a SentencePiece model of the kind" in refused(model)
    sentencepiece_model(model, True, unused=2)
    assert "not a SentencePiece model of the kind" in refused(model)
    size = sentencepiece_model(model, True).get_piece_size()
    assert "there is a gap, or it is there twice" in refused(model, {size + 5: "<far>"})
    assert "there is a gap, or it is there twice" in refused(model, {size: "<s>"})
