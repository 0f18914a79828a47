"""InternVL2 as a captioner: the prompt it was trained with to the token, tiles as its authors cut them, and the words it should say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from synthvlm_internvl2 import InternVL2, published
from synthvlm_internvl2.conversation import conversation
from synthvlm_internvl2.convert import Conversion

import tests.tiny_internvl2 as tiny
from synthvlm import CaptionRequest
from synthvlm.errors import OptionError
from synthvlm.plugins import Registry
from tests.tiny_captioners import picture

PROMPTS = ["Describe this image in detail.", "a cat?"]


def create(**values: Any) -> Any:
    import synthvlm_internvl2

    registry = Registry()
    registry.add_plugin("internvl2", synthvlm_internvl2)
    assert not registry.broken
    return registry.create("captioner", "internvl2", values)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.published(tmp_path_factory.mktemp("published") / "InternVL2-tiny")


@pytest.fixture(scope="module")
def converted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("converted") / "internvl2"
    Conversion().convert(str(source), str(target), lambda line: None)
    return target


@pytest.fixture(scope="module")
def captioner(converted: Path) -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield create(checkpoint=str(converted), batch_size=3).load(["cpu"])
    torch.set_num_threads(threads)


def tiles(image: Image.Image, most: int, side: int = tiny.SIDE) -> np.ndarray:
    """Cut as the authors' ``dynamic_preprocess`` does, with Pillow: the grid nearest in shape, then the whole once more."""
    shape = image.width / image.height
    grids = [(i, j) for n in range(1, most + 1) for i in range(1, most + 1) for j in range(1, most + 1) if i * j == n]
    best, nearest = (1, 1), float("inf")
    for columns, rows in grids:
        far = abs(shape - columns / rows)
        if far < nearest or (far == nearest and image.width * image.height > 0.5 * side * side * columns * rows):
            best, nearest = (columns, rows), far
    large = image.resize((side * best[0], side * best[1]), Image.Resampling.BICUBIC)
    cut = [large.crop((x * side, y * side, (x + 1) * side, (y + 1) * side)) for y in range(best[1]) for x in range(best[0])]
    whole = [image.resize((side, side), Image.Resampling.BICUBIC)] if len(cut) > 1 else []
    return np.stack([np.asarray(tile) for tile in [*cut, *whole]])


def normalised(pixels: np.ndarray) -> torch.Tensor:
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return torch.tensor((pixels / 255 - mean) / deviation).permute(0, 3, 1, 2).float()


def test_the_prompt_is_what_the_model_was_trained_with():
    assert conversation("What is it?", 1) == (
        "<|im_start|>system\n你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。<|im_end|>"
        "<|im_start|>user\n<IMG_CONTEXT>\nWhat is it?<|im_end|><|im_start|>assistant\n"
    )
    assert "user\nImage-1: <IMG_CONTEXT>\nImage-2: <IMG_CONTEXT>\nWhich?<|im_end|>" in conversation("Which?", 2)
    assert "user\nWhich?<|im_end|>" in conversation("Which?", 0)


def test_a_placeholder_in_a_quoted_caption_is_no_image():
    assert conversation("Improve: <image>\na cat", 1, "<image>") == conversation("Improve: \na cat", 1, "<image>")


def test_the_prompt_s_tokens(captioner, source):
    """Golden: <s> once, special tokens whole, 4 tokens for each of 3 tiles between <img> and </img>."""
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(source / "tokenizer.model"))
    added = json.loads((source / "added_tokens.json").read_text())
    row = captioner._encode(CaptionRequest("1", "a cat?", (picture(0, (120, 60)),)))
    system = "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
    start, end = added["<|im_start|>"], added["<|im_end|>"]
    expected = [1, start, *pieces.encode("system\n" + system), end, start, *pieces.encode("user\n")]
    expected += [added["<img>"], *[added["<IMG_CONTEXT>"]] * 12, added["</img>"], *pieces.encode("\na cat?"), end]
    expected += [start, *pieces.encode("assistant\n")]
    assert row.tokens["input_ids"].tolist() == [expected]


@pytest.mark.parametrize("size", [(64, 64), (200, 90), (90, 200), (300, 299), (56, 112), (168, 168), (500, 60)])
@pytest.mark.parametrize("most", [1, 6, 12])
def test_tiles_are_cut_as_the_authors_do(converted, size, most):
    from transformers import AutoProcessor

    options = create(checkpoint=str(converted), max_patches=most)
    image = picture(3, size)
    seen = AutoProcessor.from_pretrained(converted).image_processor(
        options.prepare(image), **options.processor_kwargs(), return_tensors="pt"
    )
    expected = normalised(tiles(image, most))
    assert seen["pixel_values"].shape == expected.shape
    # torchvision's resizing and Pillow's differ by at most two of 255 steps.
    assert (seen["pixel_values"] - expected).abs().max() < 2.5 / 255 / 0.224


def test_it_says_what_the_authors_code_would(captioner, source):
    """Greedy, by the forward pass that is written out for the tests, from the authors' pixels and the prompt's tokens."""
    images = [picture(n, size) for n, size in enumerate([(120, 60), (64, 64), (60, 120)])]
    requests = [
        CaptionRequest(f"{n} {prompt}", prompt, (image,), image_ids=(str(n),), max_new_tokens=6)
        for n, image in enumerate(images)
        for prompt in PROMPTS
    ]
    said = captioner.caption(requests)
    weights = tiny.weights(json.loads((source / "config.json").read_text()))
    image_token = json.loads((source / "added_tokens.json").read_text())["<IMG_CONTEXT>"]
    tokenizer = captioner._tokenizer
    for request, caption in zip(requests, said, strict=True):
        ids = captioner._encode(request).tokens["input_ids"]
        assert caption.prompt_tokens == ids.shape[1]
        embedding = weights["language_model.model.tok_embeddings.weight"]
        embedded = embedding[ids].clone()
        embedded[ids == image_token] = tiny.image_features(weights, normalised(tiles(request.images[0], 6))).flatten(0, 1)
        answer: list[int] = []
        for _ in range(6):
            answer.append(int(tiny.logits(weights, torch.cat([embedded, embedding[answer][None]], 1))[0, -1].argmax()))
        assert caption.text == tokenizer.decode(answer, skip_special_tokens=True).strip()
        assert (caption.finish_reason, caption.tokens) == ("length", 6)
    assert len({caption.text for caption in said}) > 3


def test_a_caption_does_not_depend_on_its_neighbours(captioner):
    request = CaptionRequest("a", PROMPTS[0], (picture(0, (120, 60)),), max_new_tokens=8)
    others = [CaptionRequest(str(n), "a cat?" * n, (picture(n, (60 + 40 * n, 60)),), max_new_tokens=8) for n in range(1, 4)]
    assert (
        captioner.caption([request]) == captioner.caption([*others, request])[3:] == captioner.caption([others[0], request, request])[1:2]
    )


def test_the_answer_ends_with_the_turn(captioner):
    assert set(captioner._tokenizer.convert_ids_to_tokens(captioner._ends)) == {"</s>", "<|im_end|>"}


def test_a_server_is_handed_the_same_conversation(converted):
    from transformers import AutoProcessor

    messages = create(engine="openai").conversation("What is it?", 2)
    template = AutoProcessor.from_pretrained(converted).apply_chat_template
    # Servers tokenise it as it is, so the template begins with what a tokenizer puts first elsewhere.
    assert template(messages, add_generation_prompt=True) == "<s>" + conversation("What is it?", 2)


def test_a_published_checkpoint_is_converted_once_before_workers_start(source, converted, tmp_path, monkeypatch, caplog):
    from synthvlm.checkpoints import resolve

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    local, found = resolve(create(checkpoint=str(source)), fetch=False)
    assert local.checkpoint == str(source)
    local, found = resolve(create(checkpoint=str(source)))
    made = Path(local.checkpoint)
    assert made.parent == tmp_path / "synthvlm" / "converted"
    assert not published(str(made))
    weights = {p.name: p.read_bytes() for p in made.glob("*.safetensors")}
    assert weights
    assert weights == {p.name: p.read_bytes() for p in Path(converted).glob("*.safetensors")}
    assert found["checkpoint"].revision == resolve(create(checkpoint=str(source)), fetch=False)[1]["checkpoint"].revision
    assert [r.message for r in caplog.records if "converting" in r.message and "once" in r.message] == [
        f"converting {source}, once, into {made}"
    ]
    again, _ = resolve(create(checkpoint=str(source)))
    assert again == local
    assert len([r for r in caplog.records if "once, into" in r.message]) == 1


def test_only_what_cannot_be_loaded_is_converted(source, converted):
    for name in (str(source), "OpenGVLab/InternVL2-8B", "OpenGVLab/InternVL2-2B@main"):
        assert published(name)
    assert not published("OpenGVLab/InternVL3-8B-hf")
    assert create(checkpoint=str(source), engine="vllm").needs_conversion(str(source))
    assert not create(checkpoint=str(source), engine="vllm", trust_remote_code=True).needs_conversion(str(source))
    assert not create(checkpoint=str(converted)).needs_conversion(str(converted))
    with pytest.raises(OptionError, match="pinned revision"):
        create(checkpoint="OpenGVLab/InternVL2-8B", engine="vllm", trust_remote_code=True)
    assert create(engine="openai", base_url="http://localhost:1/v1").checkpoint == "OpenGVLab/InternVL2-8B"


def test_on_vllm_the_published_layout_has_its_own_words(source, converted):
    theirs = create(checkpoint=str(source), engine="vllm", trust_remote_code=True, max_patches=4)
    assert theirs.processor_kwargs() == {"max_dynamic_patch": 4}
    ours = create(checkpoint=str(converted), engine="vllm", max_patches=4)
    assert ours.processor_kwargs() == {"crop_to_patches": True, "max_patches": 4}
    assert theirs.render("a cat?", 1, None).replace("<image>", "<IMG_CONTEXT>") == ours.render("a cat?", 1, None)


def test_max_patches_is_part_of_the_identity():
    from synthvlm.options import as_dict

    assert as_dict(InternVL2(engine="openai"), ["identity"])["max_patches"] == 6
    with pytest.raises(OptionError, match="max_patches=0"):
        create(engine="openai", max_patches=0)
