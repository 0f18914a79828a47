"""The transformers engine on tiny random checkpoints of several families, against transformers alone, one prompt at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from synthvlm.engines import transformers as engine
from synthvlm.engines.captioning import CaptionerOptions
from synthvlm.engines.decoding import json_value
from synthvlm.sample import Caption, CaptionRequest, Failed
from tests.tiny_captioners import MAKERS, picture, set_generation_defaults

PROMPTS = ["describe this image", "describe this image in detail, please", "a cat?"]
SIZES = [(96, 80), (200, 60), (56, 150), (64, 64)]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}


def load(directory: Path, **values: Any) -> Any:
    return CaptionerOptions(**{"checkpoint": str(directory), "batch_size": 4, **values}).load(["cpu"])


def requests(count: int = 6, tokens: int = 16, **values: Any) -> list[CaptionRequest]:
    """Return requests on three pictures of different shapes, two prompts on each."""
    made = []
    for i in range(count):
        seed = i // 2
        image = (picture(seed, SIZES[seed % len(SIZES)]),)
        made.append(CaptionRequest(str(i), PROMPTS[i % len(PROMPTS)], image, (f"picture {seed}",), tokens, **values))
    return made


def alone(captioner: Any, request: CaptionRequest, **arguments: Any) -> str:
    """Return what transformers itself says, on one unpadded prompt, with nothing of ours in between."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    directory = captioner.options.checkpoint
    processor: Any = AutoProcessor.from_pretrained(directory)
    model: Any = AutoModelForImageTextToText.from_pretrained(directory).eval()
    content = [*({"type": "image"} for _ in request.images), {"type": "text", "text": request.prompt}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    images = {"images": [list(request.images)]} if request.images else {}
    inputs = processor(text=[text], return_tensors="pt", **images)
    settings = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": request.max_new_tokens} | arguments
    made = model.generate(**inputs, **settings, temperature=None, top_p=None, top_k=None)[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(made, skip_special_tokens=True).strip()


def texts(results: Sequence[Any]) -> list[str]:
    assert all(isinstance(r, Caption) for r in results), results
    return [r.text for r in results]


@pytest.mark.parametrize("family", MAKERS)
def test_batches_say_what_transformers_says_one_by_one(family: str, checkpoints: dict[str, Path]) -> None:
    captioner, asked = load(checkpoints[family]), requests()
    assert captioner._vision.active
    said = texts(captioner.caption(asked))
    assert said == [alone(captioner, r) for r in asked]
    assert len(set(said)) > 3  # answers hang on picture and prompt, so that the comparison means something


@pytest.mark.parametrize("family", MAKERS)
def test_words_do_not_depend_on_neighbours(family: str, checkpoints: dict[str, Path]) -> None:
    captioner, asked = load(checkpoints[family]), requests(8)
    whole = captioner.caption(asked)
    assert captioner.caption(asked[::-1]) == whole[::-1]
    assert [captioner.caption([r])[0] for r in asked] == whole
    fresh = load(checkpoints[family])  # nothing remembered of other batches
    assert fresh.caption(asked[5:]) == whole[5:]


@pytest.mark.parametrize("family", ["qwen2_vl", "internvl", "idefics3"])
def test_without_sharing_it_is_the_same_in_other_batches(family: str, checkpoints: dict[str, Path]) -> None:
    captioner, asked = load(checkpoints[family]), requests()
    shared, buckets = texts(captioner.caption(asked)), {captioner.bucket(r) for r in asked}
    captioner._vision.remove()
    assert texts(captioner.caption(asked)) == shared
    # Pictures of one batch are then seen together, so they must have as many tiles or patches.
    apart = {captioner.bucket(r) for r in asked}
    assert len({b[-1] for b in buckets}) == 1
    assert len({b[-1] for b in apart}) == len({r.images[0].size for r in asked}) - (family != "qwen2_vl")  # two have as many tiles


def test_a_picture_is_prepared_once_and_seen_once(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    captioner = load(checkpoints["llava"])
    counts = {"prepared": 0, "seen": 0}
    pictures, tower = captioner._encoder._pictures, captioner.model.model.vision_tower
    preprocess = pictures.inner.preprocess

    def counting(*args: Any, **kwargs: Any) -> Any:
        counts["prepared"] += 1
        return preprocess(*args, **kwargs)

    monkeypatch.setattr(pictures.inner, "preprocess", counting)
    tower.register_forward_hook(lambda *_: counts.__setitem__("seen", counts["seen"] + 1))
    asked = requests(6)
    for request in asked:
        captioner.bucket(request)
    assert counts == {"prepared": 3, "seen": 0}
    captioner.caption(asked)
    captioner.caption(asked[:2])
    assert counts == {"prepared": 3, "seen": 3}
    captioner.caption([CaptionRequest("x", "?", asked[0].images, (), 4)])  # of unknown content: nothing can be shared
    assert counts == {"prepared": 4, "seen": 4}  # but within a batch, where it is also the padding


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_a_checkpoint_does_not_bring_its_own_decoding(family: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(checkpoints[family], tmp_path / "copy")
    set_generation_defaults(
        copy, do_sample=True, temperature=9.0, top_k=3, repetition_penalty=3.0, max_new_tokens=2, min_new_tokens=9, no_repeat_ngram_size=1
    )
    assert load(copy).caption(requests()) == load(checkpoints[family]).caption(requests())


def test_repetition_penalty_does_not_count_padding(checkpoints: dict[str, Path]) -> None:
    captioner = load(checkpoints["llava"])
    asked = requests(repetition_penalty=1.3)
    said = texts(captioner.caption(asked))
    assert said == [alone(captioner, r, repetition_penalty=1.3) for r in asked]
    assert said != texts(captioner.caption(requests()))


def test_sampling_is_seeded_by_row(checkpoints: dict[str, Path]) -> None:
    hot = load(checkpoints["llava"], temperature=1.0, top_p=0.9)
    asked = requests()
    said = hot.caption(asked)
    assert said == hot.caption(asked[::-1])[::-1]
    assert texts(said) != texts(load(checkpoints["llava"]).caption(asked))
    other = load(checkpoints["llava"], temperature=1.0, top_p=0.9, seed=1)
    assert texts(other.caption(asked)) != texts(said)
    cold = load(checkpoints["llava"], temperature=1e-4)  # nearly certain: as good as taking the likeliest
    assert texts(cold.caption(asked)) == texts(load(checkpoints["llava"]).caption(asked))


def test_how_an_answer_ended_and_what_it_took(checkpoints: dict[str, Path]) -> None:
    captioner = load(checkpoints["qwen2_vl"])
    (short,) = captioner.caption([CaptionRequest("1", "describe this image", max_new_tokens=24)])
    assert (short.finish_reason, short.tokens) == ("stop", len(captioner._tokenizer(short.text).input_ids) + 1)
    assert short.prompt_tokens == len(captioner._tokenizer(_chatml("describe this image")).input_ids)
    (cut,) = captioner.caption([CaptionRequest("1", "describe this image", max_new_tokens=short.tokens - 1)])
    assert (cut.finish_reason, cut.tokens) == ("length", short.tokens - 1)
    assert short.text.startswith(cut.text)


def _chatml(prompt: str) -> str:
    return f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


def test_an_answer_ends_at_a_stop_string(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    captioner = load(checkpoints["llava"])
    asked = requests()
    plain = captioner.caption(asked)
    stop = plain[0].text[4:6]  # what the first says anyway
    monkeypatch.setattr(CaptionerOptions, "stop", (stop,))
    ended = captioner.caption(asked)
    assert ended[0].text == plain[0].text.split(stop)[0].strip()
    assert ended[0].finish_reason == "stop"
    assert ended[0].tokens < plain[0].tokens
    for before, after in zip(plain, ended, strict=True):
        assert (after == before) == (stop not in before.text)


def test_json_ends_with_its_value(checkpoints: dict[str, Path]) -> None:
    assert json_value('Sure: {"a": [1, "}"]} and') == '{"a": [1, "}"]}'
    assert json_value('{"a": ') is None
    assert json_value("no") is None
    captioner = load(checkpoints["llava"])
    said = captioner.caption(requests(json_schema={"type": "object"}))
    assert texts(said) == texts(captioner.caption(requests()))  # none of these is JSON: they stay as they are
    assert captioner._ended('[1, {"a": 2}] so', True)
    assert not captioner._ended('[1, {"a": 2}', True)


@pytest.mark.parametrize("family", ["qwen2_vl", "internvl", "idefics3", "llava"])
def test_requests_of_no_image_and_of_two(family: str, checkpoints: dict[str, Path]) -> None:
    captioner = load(checkpoints[family])
    asked = [
        CaptionRequest("none", "who are you", max_new_tokens=8),
        CaptionRequest("two", "which is better", (picture(1), picture(2)), ("1", "2"), 8),
        CaptionRequest("swapped", "which is better", (picture(2), picture(1)), ("2", "1"), 8),
        CaptionRequest("one", "a cat?", (picture(1),), ("1",), 8),
    ]
    said = texts(captioner.caption(asked))
    assert said == [alone(captioner, r) for r in asked]
    assert captioner.caption(asked[::-1]) == captioner.caption(asked)[::-1]


def test_a_picture_that_the_processor_cannot_take_fails_alone(checkpoints: dict[str, Path]) -> None:
    captioner = load(checkpoints["qwen2_vl"])
    asked = [*requests(2), CaptionRequest("thin", "?", (picture(0, (1500, 4)),), ("thin",))]
    good, also, thin = captioner.caption(asked)
    assert isinstance(thin, Failed)
    assert thin.error_class == "ProcessorError"
    assert "refuses it" in thin.error
    assert texts([good, also]) == texts(captioner.caption(asked[:2]))
    assert captioner.bucket(asked[2]) is None  # asked ahead of the batch, so it must not raise


def test_running_out_of_memory_is_the_worker_s_to_handle(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    captioner = load(checkpoints["llava"])
    sizes: list[int] = []

    def generate(input_ids: Any, **_: Any) -> Any:
        sizes.append(len(input_ids))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(captioner.model, "generate", generate)
    for size in (4, 2):
        captioner.batch_size = size
        with pytest.raises(torch.OutOfMemoryError):
            captioner.caption(requests(1))
    assert sizes == [4, 2]


def test_padded_length_is_of_the_bucket(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    captioner, lengths = load(checkpoints["qwen2_vl"]), []
    generate = captioner.model.generate
    monkeypatch.setattr(
        captioner.model, "generate", lambda input_ids, **rest: lengths.append(input_ids.shape) or generate(input_ids, **rest)
    )
    asked = requests(6, tokens=2)
    captioner.caption(asked)
    needed = {r.prompt_tokens for r in captioner.caption(asked)}
    assert {rows for rows, _ in lengths} == {4}
    assert {length for _, length in lengths} == {-(-n // engine._STEP) * engine._STEP for n in needed}


def test_half_precision(checkpoints: dict[str, Path]) -> None:
    import torch

    captioner = load(checkpoints["llava"], dtype="bfloat16", attention="eager")
    assert captioner.model.dtype == torch.bfloat16
    assert captioner.model.config._attn_implementation == "eager"
    assert texts(captioner.caption(requests(2, tokens=4)))
    assert load(checkpoints["llava"]).model.dtype == torch.float32
