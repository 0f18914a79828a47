"""LLaVA-1.5: the prompt and the pictures that it was trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthvlm_llava
from PIL import Image

from synthvlm.options import build, describe
from synthvlm.plugins import Registry, discover
from synthvlm.sample import Caption, CaptionRequest, Failed
from tests.tiny_captioners import llava, picture

PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
    "answers to the user's questions. USER: <image>\nWhat is this? ASSISTANT:"
)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def captioner(checkpoint: Path) -> Any:
    return create(checkpoint).load(["cpu"])


def create(checkpoint: Path | str, **values: Any) -> Any:
    registry = Registry()
    registry.add_plugin("llava", synthvlm_llava)
    assert not registry.broken
    return registry.create("captioner", "llava", {"checkpoint": str(checkpoint), "batch_size": 2, **values})


def test_registered() -> None:
    found = discover().get("captioner", "llava")
    assert found.cls.__name__ == "LLaVA"
    assert build(found.cls, {}, "llava").checkpoint == "llava-hf/llava-1.5-7b-hf"
    assert {i.name: i.role for i in describe(found.cls)}["image_aspect"] == "identity"


def test_the_prompt_is_the_one_it_was_trained_with(checkpoint: Path) -> None:
    options = create(checkpoint)

    def never(*_: Any) -> str:
        raise AssertionError("the checkpoint's own template has no system sentence")

    assert options.render("What is this?", 1, never) == PROMPT
    assert options.render("What is this?", 0, never) == PROMPT.replace("<image>\n", "")


def test_a_server_with_the_checkpoint_s_template_makes_the_same_prompt(checkpoint: Path) -> None:
    from transformers import AutoProcessor

    options = create(checkpoint, engine="openai")
    made = AutoProcessor.from_pretrained(checkpoint).apply_chat_template(
        options.conversation("What is this?", 1), add_generation_prompt=True
    )
    assert made == PROMPT


def test_tokens_of_the_prompt(captioner: Any) -> None:
    tokenizer = captioner._tokenizer
    row = captioner._encode(CaptionRequest("1", "What is this?", (picture(),), ("a",)))
    before, after = PROMPT.split("<image>")
    ids = tokenizer(before, add_special_tokens=False).input_ids, tokenizer(after, add_special_tokens=False).input_ids
    image = tokenizer.convert_tokens_to_ids("<image>")
    assert row.tokens["input_ids"][0].tolist() == [tokenizer.bos_token_id, *ids[0], *[image] * 16, *ids[1]]
    assert tokenizer.decode(ids[1]) == "\nWhat is this? ASSISTANT:"


@pytest.mark.parametrize(("size", "place"), [((40, 20), (0, 10)), ((15, 30), (7, 0)), ((24, 24), (0, 0)), ((1, 9), (4, 0))])
def test_pictures_are_padded_to_a_square_of_the_mean_colour(size: tuple[int, int], place: tuple[int, int]) -> None:
    image = picture(3, size)
    square = np.asarray(create("x").prepare(image))
    side, (x, y) = max(size), place
    assert square.shape == (side, side, 3)
    expected = np.full((side, side, 3), [int(255 * mean) for mean in (0.48145466, 0.4578275, 0.40821073)], np.uint8)
    expected[y : y + size[1], x : x + size[0]] = np.asarray(image)
    assert (square == expected).all()


def test_cropping_is_left_to_the_processor(checkpoint: Path) -> None:
    image = picture(1, (90, 30))
    assert create("x", image_aspect="crop").prepare(image) is image
    pads, crops = (create(checkpoint, image_aspect=aspect).load(["cpu"]) for aspect in ("pad", "crop"))
    request = CaptionRequest("1", "?", (image,), ("a",), 4)
    padded, cropped = (c._encode(request).image["pixel_values"][0].numpy() for c in (pads, crops))
    assert np.abs(padded[:, 0]).max() < 0.02  # padding is zero to the model
    assert np.abs(cropped[:, 0]).max() > 0.5
    middle = crops._encode(CaptionRequest("1", "?", (image.crop((30, 0, 60, 30)),), ("b",), 4))
    differs = np.abs(cropped - middle.image["pixel_values"][0].numpy())
    assert differs[:, :, 6:-6].max() < 0.02  # at its sides, resizing sees beyond the crop


def test_captions_one_image_and_refuses_two(captioner: Any) -> None:
    image = picture()
    one, two, none = captioner.caption(
        [
            CaptionRequest("1", "What is this?", (image,), ("a",), 4),
            CaptionRequest("2", "Which?", (image, image), ("a", "a"), 4),
            CaptionRequest("3", "Who are you?", (), (), 4),
        ]
    )
    assert isinstance(one, Caption)
    assert isinstance(none, Caption)
    assert isinstance(two, Failed)
    assert two.error == "this model takes one image at a time, not 2"


def test_a_grey_picture_is_not_an_error() -> None:
    assert create("x").prepare(Image.new("RGB", (3, 5))).size == (5, 5)
