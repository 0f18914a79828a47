"""MiniGPT-4 as a captioner: the authors' conversation to the token, their pixels, and the words that their code would say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from synthvlm_minigpt4.conversation import conversation, facts_of
from synthvlm_minigpt4.convert import Conversion

import tests.tiny_minigpt4 as tiny
from synthvlm import CaptionRequest
from synthvlm.errors import CheckpointError, OptionError
from synthvlm.plugins import Registry
from synthvlm.sample import Failed
from tests.tiny_captioners import picture

SYSTEM = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. "
    "Please answer my questions."
)
PROMPTS = ["Describe this image in detail.", "a cat?"]
VARIANTS = {"vicuna": False, "llama2": True}


def create(**values: Any) -> Any:
    import synthvlm_minigpt4

    registry = Registry()
    registry.add_plugin("minigpt4", synthvlm_minigpt4)
    assert not registry.broken
    return registry.create("captioner", "minigpt4", values)


class Model:
    """A variant: its converted directory, what the tests know of it, and its captioner."""

    def __init__(self, root: Path, variant: str) -> None:
        self.patches = VARIANTS[variant]
        language, self.pieces = tiny.language(root / "language")
        pth, self.directory = tiny.pth(root / "trained.pth", self.patches), root / "converted"
        conversion = Conversion(language=str(language), vision=str(tiny.hf_blip2(root / "blip2")))
        conversion.convert(str(pth), str(self.directory), lambda line: None)
        self.vocabulary = self.pieces.get_piece_size() + 1
        self.tokens = 4 if self.patches else tiny.QUERIES
        self.captioner = create(checkpoint=str(self.directory), batch_size=3).load(["cpu"])

    def around(self, prompt: str) -> tuple[list[int], list[int]]:
        """Return the tokens before and after the image: pieces encoded one by one, <s> on the first only, and where Llama 2 has it."""
        if self.patches:
            before = [1, *self.pieces.encode(SYSTEM), 1, *self.pieces.encode("[INST] <Img>")]
            return before, self.pieces.encode(f"</Img> {prompt} [/INST] ")
        return [1, *self.pieces.encode(SYSTEM + "###Human: <Img>")], self.pieces.encode(f"</Img> {prompt}###Assistant: ")


@pytest.fixture(scope="module", params=VARIANTS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Model(tmp_path_factory.mktemp(request.param), request.param)
    torch.set_num_threads(threads)


def authors_pixels(image: Image.Image) -> torch.Tensor:
    """Return the picture as ``blip2_image_eval`` makes it: squashed by Pillow, CLIP's mean and deviation."""
    small = np.asarray(image.convert("RGB").resize((tiny.SIDE, tiny.SIDE), Image.Resampling.BICUBIC)) / 255
    mean, deviation = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    return torch.tensor((small - mean) / deviation).permute(2, 0, 1)[None].float()


def request(prompt: str, n: int, size: tuple[int, int] = (96, 80), **more: Any) -> CaptionRequest:
    return CaptionRequest(f"{n} {prompt}", prompt, (picture(n, size),), image_ids=(f"{n} {size}",), **{"max_new_tokens": 6} | more)


def test_the_conversation_is_the_authors(model):
    image = "<image>" * model.tokens
    expected = {
        "vicuna": f"{SYSTEM}###Human: <Img>{image}</Img> What is it?###Assistant: ",
        "llama2": f"{SYSTEM}<s>[INST] <Img>{image}</Img> What is it? [/INST] ",
    }
    facts = facts_of(str(model.directory))
    assert conversation("What is it?", facts) == expected["llama2" if model.patches else "vicuna"]
    assert conversation("What <image>is it?", facts) == conversation("What is it?", facts)


def test_the_prompt_s_tokens(model):
    """Golden, by SentencePiece itself: the pieces around the image are encoded one by one."""
    before, after = model.around("a cat?")
    row = model.captioner._encode(request("a cat?", 0))
    assert row.tokens["input_ids"].tolist() == [[*before, *[model.vocabulary] * model.tokens, *after]]
    assert row.tokens["input_ids"][0, 0] == 1


@pytest.mark.parametrize("size", [(96, 80), (200, 40), (56, 56), (7, 300)])
def test_pixels_are_the_authors(model, size):
    seen = model.captioner._encode(request("a cat?", 1, size)).image["pixel_values"]
    assert torch.allclose(seen, authors_pixels(picture(1, size)), atol=1e-5)


def test_it_says_what_the_authors_code_would(model):
    requests = [request(prompt, n, size) for n, size in enumerate([(96, 80), (200, 40), (64, 64)]) for prompt in PROMPTS]
    said = model.captioner.caption(requests)
    embedding = tiny.llama(model.vocabulary)["model.embed_tokens.weight"]
    for asked, caption in zip(requests, said, strict=True):
        before, after = model.around(asked.prompt)
        seen = tiny.features(authors_pixels(asked.images[0]), model.patches)[0]
        answer: list[int] = []
        while len(answer) < 6 and answer[-1:] != [2]:
            embedded = torch.cat([embedding[before], seen, embedding[after + answer]])[None]
            answer.append(int(tiny.next_logits(model.vocabulary, embedded)[0].argmax()))
        assert caption.text == model.captioner._tokenizer.decode(answer, skip_special_tokens=True).strip()
        assert caption.prompt_tokens == len(before) + model.tokens + len(after)
        assert caption.tokens == len(answer)
    assert len({caption.text for caption in said}) > 2


def test_pictures_are_seen_once_for_all_their_prompts(model):
    assert model.captioner._vision.active
    seen = []
    hook = model.captioner.model.vision_model.register_forward_hook(lambda *_: seen.append(1))
    model.captioner.caption([request(prompt, 40) for prompt in ("a cat?", "a dog?", "a mat?", "a fox?")])
    hook.remove()
    assert len(seen) == 1


def test_a_caption_does_not_depend_on_its_neighbours(model):
    alone = model.captioner.caption([request(PROMPTS[0], 0)])
    others = [request("a cat? " * n, n) for n in (1, 2, 3)]
    assert model.captioner.caption([*others, request(PROMPTS[0], 0)])[3:] == alone


def test_with_vicuna_transformers_own_generation_says_the_same(model):
    if model.patches:
        pytest.skip("a class of this plugin")
    from transformers import Blip2ForConditionalGeneration

    plain = Blip2ForConditionalGeneration.from_pretrained(model.directory).eval()
    plain.vision_model.post_layernorm.eps = 1e-5
    row = model.captioner._encode(request("a cat?", 0))
    arguments = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": 2, "pad_token_id": 2}
    inputs = {**row.tokens, **row.image}
    theirs = plain.generate(**inputs, **arguments)
    (ours,) = model.captioner.caption([request("a cat?", 0)])
    assert ours.text == model.captioner._tokenizer.decode(theirs[0, row.length :], skip_special_tokens=True).strip()


def test_the_model_is_as_its_authors_have_it(model):
    inner = model.captioner.model
    assert inner.vision_model.post_layernorm.eps == 1e-5
    assert inner.vision_model.encoder.layers[0].layer_norm1.eps == 1e-6
    assert not inner.language_model.generation_config.to_diff_dict().keys() & {"do_sample", "temperature", "top_p", "top_k", "eos_token_id"}


def test_an_answer_ends_where_the_next_turn_would_begin(model):
    options = model.captioner.options
    assert options.stop == ("###",)
    assert options.trim("a cat on a mat.### Human: and") == "a cat on a mat."
    assert model.captioner._ends == [2]


def test_one_image_no_less_and_no_more(model):
    none = CaptionRequest("a", "Which?")
    two = CaptionRequest("b", "Which?", (picture(0), picture(1)))
    refused = model.captioner.caption([none, two])
    assert all(isinstance(answer, Failed) for answer in refused)
    assert [answer.error_class for answer in refused] == ["NoImage", "TooManyImages"]


def test_what_is_not_converted_is_refused_with_the_command_that_does_it(tmp_path):
    language, _ = tiny.language(tmp_path / "vicuna")
    for directory, reason in (
        (language, "not a converted MiniGPT-4"),
        (tiny.hf_blip2(tmp_path / "blip2"), "blip-2 with t5"),
        (tmp_path, "config.json"),
    ):
        with pytest.raises(CheckpointError, match=reason) as refused:
            create(checkpoint=str(directory)).load(["cpu"])
        assert "synthvlm convert minigpt4" in str(refused.value)
    with pytest.raises(OptionError, match="needs the option 'checkpoint'"):
        create()
    with pytest.raises(OptionError, match="does not run on the engine vllm"):
        create(checkpoint=str(tmp_path), engine="vllm")


def test_the_published_sizes(tmp_path):
    """224 pixels are 32 tokens through the Q-Former, 64 without."""
    vision, text = {"image_size": 224, "patch_size": 14}, {"model_type": "llama"}
    for name, config in {
        "vicuna": {"model_type": "blip-2", "num_query_tokens": 32},
        "llama2": {"model_type": "minigpt4-patches", "patch_group": 4},
    }.items():
        directory = tmp_path / name
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps({**config, "vision_config": vision, "text_config": text}))
        facts = facts_of(str(directory))
        assert (facts.conversation, facts.tokens, facts.side) == (name, 32 if name == "vicuna" else 64, 224)
