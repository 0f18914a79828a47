"""SDXL: the same pixels as diffusers itself, whole captions, and the refiner done right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthvlm.engines.prompt_embeds import ChunkedPrompts
from synthvlm.errors import OptionError
from synthvlm.options import build
from synthvlm.plugins import Registry
from synthvlm.sample import GeneratedImage, ImageRequest
from tests.tiny import SIDE, tiny_sdxl, tiny_sdxl_refiner

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

CAPTIONS = ["a cat", "a dog (large) on a mat + rain", "", "the red house by a lake at night"]
LONG = "a dog and a cat sit on a mat near the red house by a lake, and then the rain begins to fall on the roof and on the trees behind"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sdxl(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def refiner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sdxl_refiner(tmp_path_factory.mktemp("refiner"))


def create(checkpoint: Path, preset: str | None = None, **values: Any) -> Any:
    import synthvlm_sdxl

    registry = Registry()
    registry.add_plugin("sdxl", synthvlm_sdxl)
    assert not registry.broken
    wanted = {"checkpoint": str(checkpoint), "width": SIDE, "height": SIDE, "steps": 4, "batch_size": 4, **values}
    return registry.create("generator", "sdxl", wanted, preset)


def load(checkpoint: Path, **values: Any) -> Any:
    return create(checkpoint, **values).load(["cpu"])


def requests(captions: Sequence[str], first_seed: int = 0) -> list[ImageRequest]:
    return [ImageRequest(str(i), 0, caption, first_seed + i) for i, caption in enumerate(captions)]


def arrays(results: Sequence[Any]) -> list[np.ndarray]:
    assert all(isinstance(r, GeneratedImage) for r in results), results
    return [np.asarray(r.image) for r in results]


def seeds(count: int) -> list[Any]:
    import torch

    return [torch.Generator("cpu").manual_seed(i) for i in range(count)]


def direct(checkpoint: Path, **arguments: Any) -> Any:
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(checkpoint, add_watermarker=False, **arguments)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def one_by_one(pipeline: Any, captions: Sequence[str], negative: str | None) -> dict[str, Any]:
    import torch

    with torch.no_grad():
        encoded = [pipeline.encode_prompt(caption, negative_prompt=negative) for caption in captions]
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    return {name: torch.cat(parts) for name, parts in zip(names, zip(*encoded, strict=True), strict=True)}


CALL: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 5.0, "width": SIDE, "height": SIDE}


@pytest.mark.parametrize("negative", ["", "a blue dog"])
def test_pixels_are_those_of_diffusers(base: Path, negative: str) -> None:
    ours = arrays(load(base, negative_prompt=negative).generate(requests(CAPTIONS)))
    pipeline = direct(base)
    embeds = one_by_one(pipeline, CAPTIONS, negative or None)
    theirs = [np.asarray(i) for i in pipeline(**embeds, **CALL, generator=seeds(4)).images]
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    # Captions handed over as text are encoded together, which changes last bits only.
    texts = pipeline(prompt=CAPTIONS, negative_prompt=[negative] * 4 if negative else None, **CALL, generator=seeds(4)).images
    assert max(np.abs(a.astype(int) - np.asarray(b)).max() for a, b in zip(ours, texts, strict=True)) <= 1


def test_without_guidance(base: Path) -> None:
    ours = arrays(load(base, guidance=1.0, negative_prompt="unused").generate(requests(CAPTIONS)))
    pipeline = direct(base)
    embeds = {k: v for k, v in one_by_one(pipeline, CAPTIONS, None).items() if not k.startswith("negative")}
    theirs = pipeline(**embeds, **CALL | {"guidance_scale": 1.0}, generator=seeds(4)).images
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(ours, theirs, strict=True))


def test_an_image_depends_on_its_own_request_alone(base: Path) -> None:
    generator = load(base)
    alone = arrays(generator.generate(requests(CAPTIONS)))
    other = [ImageRequest("x", 0, "other words", 77), requests(CAPTIONS)[1], ImageRequest("y", 0, LONG * 2, 78), requests(CAPTIONS)[0]]
    mixed = arrays(generator.generate(other))
    assert np.array_equal(mixed[1], alone[1])
    assert np.array_equal(mixed[3], alone[0])
    assert not np.array_equal(mixed[0], alone[0])
    # A caption of several windows does not either, in whatever company.
    fresh = load(base)
    assert np.array_equal(arrays(fresh.generate([other[2]]))[0], mixed[2])
    # Candidates of a caption differ by their seeds.
    first, second = arrays(generator.generate([ImageRequest("a", 0, "a cat", 1), ImageRequest("a", 1, "a cat", 2)]))
    assert not np.array_equal(first, second)


def test_captions_are_encoded_once_and_whole(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    pipeline = direct(base)
    prompts = ChunkedPrompts(pipeline, "", True, max_chunks=4)
    for caption in CAPTIONS:
        standard, negative, pooled, negative_pooled = pipeline.encode_prompt(caption)
        ours = prompts.arguments([caption])
        assert torch.equal(ours["prompt_embeds"], standard)
        assert torch.equal(ours["pooled_prompt_embeds"], pooled)
        assert torch.equal(ours["negative_prompt_embeds"], negative)
        assert torch.equal(ours["negative_pooled_prompt_embeds"], negative_pooled)
    forward, calls = type(pipeline.text_encoder_2).forward, []

    def counting(self: Any, *a: Any, **k: Any) -> Any:
        calls.append(1)
        return forward(self, *a, **k)

    monkeypatch.setattr(type(pipeline.text_encoder_2), "forward", counting)
    prompts.arguments(["a new caption"] * 4)
    prompts.arguments(["a new caption"] * 4)
    assert len(calls) == 1


def test_long_captions_count_to_the_end(base: Path) -> None:
    import torch

    pipeline = direct(base)
    prompts = ChunkedPrompts(pipeline, "", True, max_chunks=4)
    assert prompts.chunks(LONG) == 2
    assert prompts.cut_tokens(LONG) == 0
    standard, _, pooled, _ = pipeline.encode_prompt(LONG)  # cut at 77 tokens
    whole = prompts.encode(LONG)
    assert whole.tokens.shape[1] == 2 * 77
    assert torch.equal(whole.tokens[:, :77], standard)
    assert torch.equal(whole.pooled, pooled)
    other = prompts.encode(LONG[:-1] + "x")
    assert torch.equal(other.tokens[:, :77], whole.tokens[:, :77])
    assert not torch.equal(other.tokens[:, 77:], whole.tokens[:, 77:])
    # compel would read these as weights; here they are words like others.
    assert not torch.equal(prompts.encode("a (cat)").tokens, prompts.encode("a cat").tokens)


def test_the_negative_is_as_long_as_the_caption(base: Path) -> None:
    import torch

    pipeline = direct(base)
    zeros = ChunkedPrompts(pipeline, "", True, 4).arguments([LONG])
    assert zeros["negative_prompt_embeds"].shape == zeros["prompt_embeds"].shape
    assert not zeros["negative_prompt_embeds"].any()
    blue = ChunkedPrompts(pipeline, "blue", True, 4).arguments([LONG])["negative_prompt_embeds"]
    standard, empty = pipeline.encode_prompt("blue")[0], pipeline.encode_prompt("")[0]
    assert torch.equal(blue, torch.cat([standard, empty], dim=1))


def test_what_is_beyond_the_last_window_is_counted(base: Path) -> None:
    tokens = len(direct(base).tokenizer(LONG, add_special_tokens=False).input_ids)
    generator = load(base, max_chunks=1)
    short, cut = generator.generate(requests(["a cat", LONG]))
    assert (short.cut_tokens, cut.cut_tokens) == (0, tokens - 75)
    assert generator.bucket(requests([LONG])[0]) == (1,)


@pytest.mark.parametrize("negative", ["", "a blue dog"])
def test_the_refiner_goes_on_where_the_base_stops(base: Path, refiner: Path, negative: str) -> None:
    from diffusers import StableDiffusionXLImg2ImgPipeline

    steps: dict[str, int] = {}
    generator = load(base, refiner=str(refiner), steps=10, negative_prompt=negative)
    ours = arrays(generator.generate(requests(CAPTIONS)))
    steps["base"], steps["refiner"] = generator.pipeline.num_timesteps, generator.refiner.num_timesteps
    assert steps == {"base": 8, "refiner": 2}

    pipeline = direct(base)
    second = StableDiffusionXLImg2ImgPipeline.from_pretrained(refiner, add_watermarker=False)
    second.set_progress_bar_config(disable=True)
    generators = seeds(4)
    common: dict[str, Any] = {"num_inference_steps": 10, "guidance_scale": 5.0, "generator": generators}
    embeds = one_by_one(pipeline, CAPTIONS, negative or None)
    latents = pipeline(**embeds, **common, width=SIDE, height=SIDE, denoising_end=0.8, output_type="latent").images
    theirs = second(**one_by_one(second, CAPTIONS, negative or None), **common, image=latents, denoising_start=0.8).images
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(ours, theirs, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(ours, arrays(load(base, steps=10).generate(requests(CAPTIONS))), strict=True))


def test_the_refiner_sees_whole_captions_too(base: Path, refiner: Path) -> None:
    generator = load(base, refiner=str(refiner), steps=5)
    assert generator.bucket(requests([LONG])[0]) == (2, 2)
    assert len(arrays(generator.generate(requests([LONG, "a cat"])))) == 2


def test_another_vae(base: Path, refiner: Path, tmp_path: Path) -> None:
    other = tiny_sdxl(tmp_path / "other", scaling_factor=0.5)
    plain = arrays(load(base).generate(requests(CAPTIONS)))
    by_folder = arrays(load(base, vae=str(other / "vae")).generate(requests(CAPTIONS)))
    by_pipeline = arrays(load(base, vae=str(other)).generate(requests(CAPTIONS)))
    assert np.array_equal(by_folder, by_pipeline)
    assert not np.array_equal(plain, by_folder)
    # With a refiner, it is the refiner that decodes.
    assert load(base, vae=str(other), refiner=str(refiner)).refiner.vae.config.scaling_factor == 0.5


def test_float16_decodes_in_float32_without_a_word(base: Path, recwarn: pytest.WarningsRecorder) -> None:
    generator = load(base, dtype="float16", batch_size=1, steps=2)
    assert generator.pipeline.vae.config.force_upcast  # as in SDXL, whose VAE overflows in float16
    arrays(generator.generate(requests(["a cat"])))
    assert not [w for w in recwarn if "upcast_vae" in str(w.message)]


def test_no_watermark(base: Path, refiner: Path) -> None:
    generator = load(base, refiner=str(refiner))
    assert generator.pipeline.watermark is None
    assert generator.refiner.watermark is None


def test_defaults_and_presets(base: Path) -> None:
    from synthvlm_sdxl import SDXL

    plain = SDXL()
    assert (plain.width, plain.height, plain.steps, plain.guidance, plain.refiner) == (1024, 1024, 30, 5.0, None)
    assert build(SDXL, {}, "sdxl", "paper").steps == 60
    authors = build(SDXL, {}, "sdxl", "authors-code")
    assert (authors.guidance, authors.refiner_split) == (20.0, 0.8)
    assert authors.refiner == "stabilityai/stable-diffusion-xl-refiner-1.0"
    assert create(base, preset="authors-code", guidance=7).guidance == 7


def test_wrong_options_are_named(base: Path) -> None:
    with pytest.raises(OptionError, match="did you mean 'steps'"):
        create(base, step=3)
    with pytest.raises(OptionError, match="multiple of 8"):
        create(base, width=1001)
    with pytest.raises(OptionError, match="dtype"):
        create(base, dtype="int8")
