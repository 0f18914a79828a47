"""The generic captioner: any image-text-to-text checkpoint with its own chat template, prompt and pictures as it makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import synthvlm_transformers

from synthvlm.errors import CheckpointError, OptionError
from synthvlm.plugins import Registry, discover
from synthvlm.sample import Caption, CaptionRequest
from tests.tiny_captioners import MAKERS, idefics3, llava, picture, qwen2_vl

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen2_vl(tmp_path_factory.mktemp("qwen"))


def create(**values: Any) -> Any:
    registry = Registry()
    registry.add_plugin("transformers", synthvlm_transformers)
    assert not registry.broken
    return registry.create("captioner", "transformers", {"batch_size": 2, **values})


def request(prompt: str = "What is this?", tokens: int = 8) -> CaptionRequest:
    return CaptionRequest("1", prompt, (picture(),), ("a",), tokens)


def test_registered_and_needs_a_checkpoint() -> None:
    assert discover().get("captioner", "transformers").cls.__name__ == "AnyModel"
    with pytest.raises(OptionError, match="needs the option 'checkpoint'"):
        create()


@pytest.mark.parametrize("family", MAKERS)
def test_any_checkpoint_with_its_own_template(family: str, tmp_path: Path) -> None:
    from transformers import AutoProcessor

    directory = MAKERS[family](tmp_path / family)
    captioner = create(checkpoint=str(directory)).load(["cpu"])
    processor: Any = AutoProcessor.from_pretrained(directory)
    messages = [{"role": "user", "content": [{"type": "image", "image": picture()}, {"type": "text", "text": "What is this?"}]}]
    expected = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
    row = captioner._encode(request())
    assert row.tokens["input_ids"].tolist() == expected["input_ids"].tolist()
    for name, tensor in row.image.items():
        assert tensor.shape == expected[name].shape
        assert (tensor == expected[name]).all()
    assert isinstance(captioner.caption([request()])[0], Caption)


def test_bos_is_written_once(tmp_path: Path) -> None:
    directory = llava(tmp_path, template="<s>USER: <image>\n{{ messages[0]['content'][-1]['text'] }} ASSISTANT:")
    captioner = create(checkpoint=str(directory)).load(["cpu"])
    ids = captioner._encode(request()).tokens["input_ids"][0].tolist()
    assert ids.count(captioner._tokenizer.bos_token_id) == 1
    assert ids[0] == captioner._tokenizer.bos_token_id


def test_system_message_and_template_arguments(qwen: Path) -> None:
    from transformers import AutoProcessor

    from synthvlm.engines.transformers_loading import template_of

    processor: Any = AutoProcessor.from_pretrained(qwen)
    template = template_of(processor, "x")
    text = create(checkpoint=str(qwen), system="Be brief.").render("Hm?", 1, template)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|vision_start|>")
    processor.chat_template = "{{ 'think' if thinking else 'answer' }}: {{ messages[0]['content'][-1]['text'] }}"
    assert create(checkpoint=str(qwen), template='{"thinking": false}').render("Hm?", 1, template) == "answer: Hm?"
    assert create(checkpoint=str(qwen), template='{"thinking": true}').render("Hm?", 1, template) == "think: Hm?"
    served = create(checkpoint="a/b", engine="openai", base_url="http://localhost:1/v1", template='{"thinking": false}')
    assert served.openai_arguments() == {"extra_body": {"chat_template_kwargs": {"thinking": False}}}


def test_processor_arguments_reach_the_image_processor(qwen: Path) -> None:
    small, large = (
        create(checkpoint=str(qwen), processor_arguments={"size": {"shortest_edge": 784, "longest_edge": 784 * tokens}}).load(["cpu"])
        for tokens in (4, 16)
    )
    few, many = (c._encode(CaptionRequest("1", "?", (picture(0, (224, 224)),), ("a",))).image["image_grid_thw"] for c in (small, large))
    assert few.tolist() == [[1, 4, 4]]
    assert many.tolist() == [[1, 8, 8]]


def test_stop_at(qwen: Path) -> None:
    (plain,) = create(checkpoint=str(qwen)).load(["cpu"]).caption([request(tokens=12)])
    stop = plain.text[2:4]
    (stopped,) = create(checkpoint=str(qwen), stop_at=stop).load(["cpu"]).caption([request(tokens=12)])
    assert stopped.text == plain.text.split(stop)[0].strip()
    assert stopped.finish_reason == "stop"


@pytest.mark.parametrize("name", ["template", "processor_arguments"])
def test_json_options_are_read_at_once(name: str) -> None:
    assert create(checkpoint="x", **{name: '{"a": 1}'}) == create(checkpoint="x", **{name: {"a": 1}})
    with pytest.raises(OptionError, match="is not JSON"):
        create(checkpoint="x", **{name: "{"})
    with pytest.raises(OptionError, match="is not a JSON object"):
        create(checkpoint="x", **{name: "[1]"})


def test_a_template_that_knows_no_system_message(tmp_path: Path) -> None:
    directory = idefics3(tmp_path)
    (directory / "chat_template.jinja").write_text(
        "{{ raise_exception('System role not supported') if messages[0]['role'] == 'system' }}ok"
    )
    with pytest.raises(CheckpointError, match="System role not supported"):
        create(checkpoint=str(directory), system="Be brief.").load(["cpu"])
