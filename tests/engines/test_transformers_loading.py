"""Loading for the transformers engine: what is wrong with a checkpoint or an option is one line, before anything is captioned."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from synthvlm.engines.captioning import CaptionerOptions
from synthvlm.engines.transformers_loading import end_ids, load_processor, template_of
from synthvlm.errors import CheckpointError, OptionError
from synthvlm.sample import CaptionRequest
from tests.tiny_captioners import llava, picture, set_generation_defaults


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(checkpoint, tmp_path / "copy")


def load(directory: Path, **values: Any) -> Any:
    return CaptionerOptions(**{"checkpoint": str(directory), "batch_size": 2, **values}).load(["cpu"])


def test_missing_weights_are_not_filled_with_random_numbers(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = copy / "model.safetensors"
    weights = load_file(file)
    del weights["language_model.lm_head.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 weights, such as lm_head\.weight"):
        load(copy)


def test_damaged_weights_are_one_line(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"not a safetensors file")
    with pytest.raises(CheckpointError, match="cannot be loaded") as caught:
        load(copy)
    assert "\n" not in caught.value.message


def test_weights_of_another_shape(copy: Path) -> None:
    path = copy / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["intermediate_size"] = 128
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"copy (has weights of another shape|cannot be loaded)"):
        load(copy)


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load(tmp_path)


def test_a_text_model_has_no_processor_for_images(copy: Path) -> None:
    (copy / "processor_config.json").unlink()
    (copy / "config.json").write_text(json.dumps({"model_type": "llama"}))
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "processor_class"}))
    with pytest.raises(CheckpointError, match="no processor for text and images"):
        load(copy)


def test_a_chat_template_that_is_not_there_or_refuses(copy: Path) -> None:
    options = CaptionerOptions(str(copy))
    processor = load_processor(options)
    processor.chat_template = "{{ raise_exception('no system message here') }}"
    with pytest.raises(CheckpointError, match="refuses the conversation: no system message here"):
        template_of(processor, "x")(options.conversation("?", 1))
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match="has no chat template") as caught:
        load(copy)
    assert "chat_template.jinja" in str(caught.value.hint)


def test_end_tokens_are_the_checkpoint_s_and_the_family_s(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = CaptionerOptions(str(copy))
    tokenizer = load_processor(options).tokenizer
    end, unknown = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<unk>")
    assert end_ids(options, tokenizer) == [end]
    set_generation_defaults(copy, eos_token_id=[end, 5])
    assert end_ids(options, tokenizer) == [5, end]
    monkeypatch.setattr(CaptionerOptions, "stop_tokens", ("<unk>",))
    assert end_ids(options, tokenizer) == sorted([5, end, unknown])
    for file in ("generation_config.json", "config.json"):
        (copy / file).write_text("{}")
    monkeypatch.setattr(CaptionerOptions, "stop_tokens", ())
    assert end_ids(options, tokenizer) == [end]  # the tokenizer's, where nothing else is said
    tokenizer.eos_token = None
    with pytest.raises(CheckpointError, match="names no token that ends an answer"):
        end_ids(options, tokenizer)


def test_options_that_cannot_be_followed_are_refused(checkpoint: Path) -> None:
    for quantization in ("int8", "int4"):
        with pytest.raises(OptionError, match="needs a GPU"):
            load(checkpoint, quantization=quantization)
    with pytest.raises(OptionError, match="needs a device"):
        CaptionerOptions(str(checkpoint)).load([])


def test_flash_attention_that_is_not_installed(checkpoint: Path) -> None:
    pytest.importorskip("transformers")
    import importlib.util

    if importlib.util.find_spec("flash_attn"):
        pytest.skip("it is installed")
    with pytest.raises(OptionError, match="cannot be loaded here"):
        load(checkpoint, attention="flash_attention_2")


def test_nothing_is_printed(checkpoint: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    captioner = load(checkpoint)
    captioner.caption([CaptionRequest(str(i), "a cat?", (picture(i),), (str(i),), 4) for i in range(3)])
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_tiny_checkpoints_are_the_same_each_time(checkpoint: Path, tmp_path: Path) -> None:
    again = llava(tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
