"""Stable Diffusion 3: the same pixels as diffusers itself, with T5 and without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthvlm.checkpoints import resolve
from synthvlm.errors import CheckpointError, OptionError
from synthvlm.options import build
from synthvlm.plugins import Registry
from synthvlm.sample import GeneratedImage, ImageRequest
from tests.tiny import SIDE, tiny_sd3, tiny_sdxl

CAPTIONS = ["a cat", "a dog on a mat", "", "the red house by a lake at night"]
NO_T5: dict[str, Any] = {"text_encoder_3": None, "tokenizer_3": None}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd3(tmp_path_factory.mktemp("sd3"))


def create(checkpoint: Path, preset: str | None = None, **values: Any) -> Any:
    import synthvlm_sd3

    registry = Registry()
    registry.add_plugin("sd3", synthvlm_sd3)
    assert not registry.broken
    wanted = {"checkpoint": str(checkpoint), "width": SIDE, "height": SIDE, "steps": 4, "batch_size": 4, **values}
    return registry.create("generator", "sd3", wanted, preset)


def requests(captions: Sequence[str]) -> list[ImageRequest]:
    return [ImageRequest(str(i), 0, caption, i) for i, caption in enumerate(captions)]


def arrays(results: Sequence[Any]) -> list[np.ndarray]:
    assert all(isinstance(r, GeneratedImage) for r in results), results
    return [np.asarray(r.image) for r in results]


def seeds(count: int) -> list[Any]:
    import torch

    return [torch.Generator("cpu").manual_seed(i) for i in range(count)]


def direct(checkpoint: Path, **components: Any) -> Any:
    from diffusers import StableDiffusion3Pipeline

    pipeline = StableDiffusion3Pipeline.from_pretrained(checkpoint, **components)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def one_by_one(pipeline: Any, captions: Sequence[str], negative: str | None, length: int = 256) -> dict[str, Any]:
    import torch

    with torch.no_grad():
        encoded = [pipeline.encode_prompt(c, None, None, negative_prompt=negative, max_sequence_length=length) for c in captions]
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    return {name: torch.cat(parts) for name, parts in zip(names, zip(*encoded, strict=True), strict=True)}


CALL: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 7.0, "width": SIDE, "height": SIDE}


@pytest.mark.parametrize("t5", [True, False])
@pytest.mark.parametrize("negative", ["", "a blue dog"])
def test_pixels_are_those_of_diffusers(sd3: Path, t5: bool, negative: str) -> None:
    ours = arrays(create(sd3, negative_prompt=negative, t5=t5).load(["cpu"]).generate(requests(CAPTIONS)))
    pipeline = direct(sd3, **({} if t5 else NO_T5))
    embeds = one_by_one(pipeline, CAPTIONS, negative)
    theirs = pipeline(**embeds, **CALL, generator=seeds(4)).images
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(ours, theirs, strict=True))
    # Captions handed over as text are encoded together, which changes last bits only.
    texts = pipeline(prompt=CAPTIONS, negative_prompt=[negative] * 4, **CALL, generator=seeds(4)).images
    assert max(np.abs(a.astype(int) - np.asarray(b)).max() for a, b in zip(ours, texts, strict=True)) <= 1


def test_max_sequence_length_reaches_t5(sd3: Path) -> None:
    ours = arrays(create(sd3, max_sequence_length=16).load(["cpu"]).generate(requests(CAPTIONS)))
    pipeline = direct(sd3)
    theirs = pipeline(**one_by_one(pipeline, CAPTIONS, "", 16), **CALL, generator=seeds(4)).images
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(ours, theirs, strict=True))


def test_an_image_depends_on_its_own_request_alone(sd3: Path) -> None:
    generator = create(sd3).load(["cpu"])
    alone = arrays(generator.generate(requests(CAPTIONS)))
    others = [ImageRequest("x", 0, "z" * 500, 77), requests(CAPTIONS)[0], ImageRequest("y", 0, "other", 78)]
    mixed = arrays(generator.generate(others))
    assert np.array_equal(mixed[1], alone[0])
    assert not np.array_equal(mixed[2], alone[0])


def test_without_guidance(sd3: Path) -> None:
    ours = arrays(create(sd3, guidance=1.0).load(["cpu"]).generate(requests(CAPTIONS)))
    pipeline = direct(sd3)
    embeds = {k: v for k, v in one_by_one(pipeline, CAPTIONS, "").items() if not k.startswith("negative")}
    theirs = pipeline(**embeds, **CALL | {"guidance_scale": 1.0}, generator=seeds(4)).images
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(ours, theirs, strict=True))


def test_captions_are_encoded_once(sd3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = create(sd3).load(["cpu"])
    encode, calls = generator.pipeline.encode_prompt, []

    def counting(*a: Any, **k: Any) -> Any:
        calls.append(k.get("prompt_embeds") is None)
        return encode(*a, **k)

    monkeypatch.setattr(generator.pipeline, "encode_prompt", counting)
    for seed in (0, 1):
        generator.generate([ImageRequest("a", seed, "a cat", seed)] * 4)
    assert calls.count(True) == 2  # the caption and the empty negative


def test_cut_tokens_are_those_that_t5_does_not_see(sd3: Path, caplog: pytest.LogCaptureFixture) -> None:
    caption = "x" * 200
    t5 = len(direct(sd3).tokenizer_3(caption).input_ids)
    clip = len(direct(sd3).tokenizer(caption).input_ids)
    caplog.clear()

    def cut(**values: Any) -> int:
        return create(sd3, **values).load(["cpu"]).generate(requests([caption, "a cat"]))[0].cut_tokens

    assert cut() == 0
    assert cut(max_sequence_length=100) == t5 - 100
    assert cut(t5=False) == clip - 77
    assert not [r for r in caplog.records if "truncated" in r.getMessage() or "longer than" in r.getMessage()]


def test_a_checkpoint_without_t5(tmp_path: Path) -> None:
    small = tiny_sd3(tmp_path / "small", t5=False)
    with pytest.raises(OptionError, match="no T5 text encoder") as caught:
        create(small).load(["cpu"])
    assert caught.value.hint == "load it with -o t5=false"
    arrays(create(small, t5=False).load(["cpu"]).generate(requests(CAPTIONS)))


def test_another_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not Stable Diffusion 3"):
        create(tiny_sdxl(tmp_path / "sdxl")).load(["cpu"])


def test_an_attention_backend_would_be_ignored(sd3: Path) -> None:
    with pytest.raises(OptionError, match="diffusers would ignore it"):
        create(sd3, attention_backend="native").load(["cpu"])


def test_defaults_presets_and_wrong_options(sd3: Path) -> None:
    from synthvlm_sd3 import SD3

    plain = SD3()
    assert (plain.width, plain.height, plain.steps, plain.guidance, plain.t5, plain.max_sequence_length) == (1024, 1024, 28, 7.0, True, 256)
    authors = build(SD3, {}, "sd3", "authors-code")
    assert (authors.guidance, authors.max_sequence_length) == (10.0, 512)
    for values, complaint in (
        ({"max_sequence_length": 513}, "less than or equal to 512"),
        ({"width": 72}, "multiple of 16"),
        ({"T5": 1}, "t5"),
    ):
        with pytest.raises(OptionError, match=complaint):
            create(sd3, **values)


def test_the_licence_is_told_with_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError
    from synthvlm_sd3 import SD3

    def gated(*_: Any, **__: Any) -> None:
        raise GatedRepoError.__new__(GatedRepoError)  # its constructor wants a response, whose library differs by version

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", gated)
    with pytest.raises(CheckpointError, match="gated") as caught:
        resolve(SD3(checkpoint="stabilityai/no-such-model-in-any-cache"))
    assert caught.value.hint
    assert "https://huggingface.co/stabilityai/stable-diffusion-3-medium" in caught.value.hint
    assert "HF_TOKEN" in caught.value.hint
