"""Qwen2-VL and Qwen2.5-VL: prompt, picture sizes, and equality with the authors' own rules."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthvlm_qwen2_vl
from synthvlm_qwen2_vl import size_seen

from synthvlm.errors import OptionError
from synthvlm.options import build
from synthvlm.plugins import Registry, discover
from synthvlm.sample import Caption, CaptionRequest
from tests.tiny_captioners import picture, qwen2_5_vl, qwen2_vl

PROMPT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What is this?<|im_end|>\n<|im_start|>assistant\n"
)
TOKEN = 28 * 28


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=[qwen2_vl, qwen2_5_vl])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    make: Callable[[Path], Path] = request.param
    return make(tmp_path_factory.mktemp("qwen"))


def create(checkpoint: Path | str, **values: Any) -> Any:
    registry = Registry()
    registry.add_plugin("qwen2-vl", synthvlm_qwen2_vl)
    assert not registry.broken
    return registry.create("captioner", "qwen2-vl", {"checkpoint": str(checkpoint), "batch_size": 2, **values})


def test_registered() -> None:
    found = discover().get("captioner", "qwen2-vl")
    options = build(found.cls, {}, "qwen2-vl")
    assert (options.checkpoint, options.min_pixels, options.max_pixels) == ("Qwen/Qwen2-VL-7B-Instruct", 4 * TOKEN, 1280 * TOKEN)


def test_the_prompt_is_what_the_checkpoint_s_template_makes(checkpoint: Path) -> None:
    from transformers import AutoProcessor

    options = create(checkpoint)
    processor: Any = AutoProcessor.from_pretrained(checkpoint)
    assert options.render("What is this?", 1, lambda _: "") == PROMPT
    for images in (0, 1, 2):
        made = processor.apply_chat_template(options.conversation("What is this?", images), add_generation_prompt=True)
        assert made == options.render("What is this?", images, lambda _: "")


def test_tokens_of_the_prompt(checkpoint: Path) -> None:
    captioner = create(checkpoint, max_pixels=12 * TOKEN).load(["cpu"])
    tokenizer = captioner._tokenizer
    row = captioner._encode(CaptionRequest("1", "What is this?", (picture(0, (300, 200)),), ("a",)))
    before, after = PROMPT.split("<|image_pad|>")
    pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert row.tokens["input_ids"][0].tolist() == [*tokenizer(before).input_ids, *[pad] * 8, *tokenizer(after).input_ids]
    assert row.image["image_grid_thw"].tolist() == [[1, 4, 8]]  # 112 × 56 pixels: 4 × 2 tokens


def test_picture_sizes_follow_the_authors_rule() -> None:
    # Its own warnings on old and new names are no concern here.
    smart_resize = pytest.importorskip("qwen_vl_utils").smart_resize
    draw = random.Random(0)
    for _ in range(3000):
        width, height = (round(2 ** draw.uniform(0, 13)) for _ in range(2))
        low, high = sorted(round(2 ** draw.uniform(11, 24)) for _ in range(2))
        if max(width, height) > 200 * min(width, height):
            with pytest.raises(ValueError, match="too narrow"):
                size_seen(width, height, low, high)
            continue
        expected = smart_resize(height, width, factor=28, min_pixels=low, max_pixels=high)
        assert size_seen(width, height, low, high) == (max(28, expected[1]), max(28, expected[0])), (width, height, low, high)


@pytest.mark.parametrize(
    ("size", "limits", "tokens"),
    [
        ((1024, 1024), (4 * TOKEN, 16384 * TOKEN), 37 * 37),
        ((1024, 1024), (4 * TOKEN, 1280 * TOKEN), 35 * 35),
        ((1024, 1024), (4 * TOKEN, 512 * TOKEN), 22 * 22),
        ((10, 10), (4 * TOKEN, 1280 * TOKEN), 4),
    ],
)
def test_tokens_that_a_picture_takes(size: tuple[int, int], limits: tuple[int, int], tokens: int) -> None:
    width, height = size_seen(*size, *limits)
    assert width * height == tokens * TOKEN


def test_pictures_are_resized_once_and_by_us(checkpoint: Path) -> None:
    from transformers import AutoProcessor

    captioner = create(checkpoint, min_pixels=16 * TOKEN, max_pixels=64 * TOKEN).load(["cpu"])
    for size in ((500, 300), (40, 30), (224, 112)):
        image = picture(2, size)
        width, height = seen = size_seen(*size, 16 * TOKEN, 64 * TOKEN)
        prepared = captioner.options.prepare(image)
        assert prepared.size == seen
        assert (np.asarray(prepared) == np.asarray(image.resize(seen))).all()
        row = captioner._encode(CaptionRequest("1", "?", (image,), (str(size),)))
        assert row.image["image_grid_thw"].tolist() == [[1, height // 14, width // 14]]
        plain: Any = AutoProcessor.from_pretrained(checkpoint)
        untouched = plain.image_processor(images=[prepared], do_resize=False, return_tensors="pt")["pixel_values"]
        assert (row.image["pixel_values"] == untouched).all()
    assert captioner.options.prepare(image) is image  # 224 × 112: nothing to do


def test_two_images_and_none(checkpoint: Path) -> None:
    captioner = create(checkpoint).load(["cpu"])
    two, none = captioner.caption(
        [CaptionRequest("2", "Which?", (picture(1), picture(2)), ("1", "2"), 4), CaptionRequest("0", "Who are you?", max_new_tokens=4)]
    )
    assert isinstance(two, Caption)
    assert isinstance(none, Caption)
    assert two.prompt_tokens is not None
    assert none.prompt_tokens is not None
    assert two.prompt_tokens > none.prompt_tokens + 2


def test_limits_that_no_picture_can_meet() -> None:
    with pytest.raises(OptionError, match="min_pixels=8000 is above max_pixels=4000"):
        create("x", min_pixels=8000, max_pixels=4000)
