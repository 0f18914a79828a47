"""Any text-to-image pipeline: its own class, its own settings, and a plain word where it takes something else."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from synthvlm.errors import CheckpointError, OptionError
from synthvlm.options import as_dict, build
from synthvlm.plugins import Registry
from synthvlm.sample import Failed, GeneratedImage, ImageRequest
from tests.tiny import MAKERS, SIDE

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

CAPTIONS = ["a cat", "a dog on a mat"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("made")

    def make(kind: str) -> Path:
        return root / kind if (root / kind).exists() else MAKERS[kind](str(root / kind))

    return make


def create(checkpoint: Path, **values: Any) -> Any:
    import synthvlm_diffusers

    registry = Registry()
    registry.add_plugin("diffusers", synthvlm_diffusers)
    assert not registry.broken
    return registry.create("generator", "diffusers", {"checkpoint": str(checkpoint), **values})


def requests(captions: Sequence[str]) -> list[ImageRequest]:
    return [ImageRequest(str(i), 0, caption, i) for i, caption in enumerate(captions)]


def arrays(results: Sequence[Any]) -> list[np.ndarray]:
    assert all(isinstance(r, GeneratedImage) for r in results), results
    return [np.asarray(r.image) for r in results]


def direct(checkpoint: Path) -> Any:
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(checkpoint)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "sd15", "flux"])
def test_pixels_are_those_of_the_pipeline(made: Callable[[str], Path], kind: str) -> None:
    import torch

    checkpoint = made(kind)
    generator = create(checkpoint, steps=3, width=SIDE, height=SIDE, batch_size=2).load(["cpu"])
    ours = arrays(generator.generate(requests(CAPTIONS)))
    seeds = [torch.Generator("cpu").manual_seed(i) for i in range(2)]
    theirs = direct(checkpoint)(prompt=CAPTIONS, num_inference_steps=3, width=SIDE, height=SIDE, generator=seeds).images
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(ours, theirs, strict=True))
    again = arrays(generator.generate(requests(CAPTIONS)[::-1]))
    assert np.array_equal(again[1], ours[0])


def test_what_is_not_set_is_the_pipelines_own(made: Callable[[str], Path]) -> None:
    generator = create(made("sd15"), steps=2).load(["cpu"])
    assert generator.batch_size == 1
    (image,) = arrays(generator.generate(requests(["a cat"])))
    assert image.shape == (SIDE, SIDE, 3)
    assert generator.pipeline.guidance_scale == inspect.signature(type(generator.pipeline).__call__).parameters["guidance_scale"].default


def test_settings_reach_the_call(made: Callable[[str], Path]) -> None:
    checkpoint = made("sd15")

    def image(**values: Any) -> np.ndarray:
        return arrays(create(checkpoint, steps=3, **values).load(["cpu"]).generate(requests(["a cat"])))[0]

    plain = image()
    for values in ({"guidance": 3}, {"negative_prompt": "a dog"}, {"call": '{"guidance_rescale": 0.7}'}, {"call": {"eta": 0.5}}):
        assert not np.array_equal(image(**values), plain), values
    assert image(width=48, height=32).shape == (32, 48, 3)


def test_call_is_one_identity_however_written() -> None:
    text, data = create(Path("x"), call='{"eta": 0.5}'), create(Path("x"), call={"eta": 0.5})
    assert as_dict(text, ["identity"]) == as_dict(data, ["identity"])
    assert build(type(text), as_dict(text), "diffusers") == text
    for wrong in ("{", "[1]", "3"):
        with pytest.raises(OptionError, match="call="):
            create(Path("x"), call=wrong)


def test_what_the_pipeline_does_not_take_is_refused(made: Callable[[str], Path]) -> None:
    for values, complaint in (
        ({"max_sequence_length": 64}, "StableDiffusionPipeline takes no max_sequence_length"),
        ({"call": '{"etas": 1}'}, "takes no etas"),
        ({"width": 48}, "width and height go together"),
        ({"call": '{"generator": 1}'}, "call cannot set 'generator'"),
        ({"steps": 3, "call": '{"num_inference_steps": 4}'}, "call cannot set 'num_inference_steps'"),
    ):
        with pytest.raises(OptionError, match=complaint):
            create(made("sd15"), **values).load(["cpu"])
    with pytest.raises(OptionError) as caught:
        create(made("sd15"), call='{"etas": 1}').load(["cpu"])
    assert caught.value.hint
    assert "eta," in caught.value.hint


def test_guidance_goes_where_the_pipeline_guides() -> None:
    from diffusers import FluxPipeline, QwenImagePipeline
    from synthvlm_diffusers import _arguments

    options = create(Path("x"), guidance=4, max_sequence_length=128)
    qwen = _arguments(options, "QwenImagePipeline", inspect.signature(QwenImagePipeline.__call__).parameters)
    assert qwen == {"true_cfg_scale": 4.0, "max_sequence_length": 128}
    flux = _arguments(options, "FluxPipeline", inspect.signature(FluxPipeline.__call__).parameters)
    assert flux == {"guidance_scale": 4.0, "max_sequence_length": 128}


def test_cut_tokens(made: Callable[[str], Path]) -> None:
    caption = "x" * 200

    def cut(kind: str, **values: Any) -> int:
        generator = create(made(kind), steps=1, width=SIDE, height=SIDE, **values).load(["cpu"])
        return generator.generate(requests([caption]))[0].cut_tokens

    assert cut("sd15") == len(direct(made("sd15")).tokenizer(caption).input_ids) - 77
    assert cut("flux") == 0  # T5 sees 512
    assert cut("flux", max_sequence_length=150) == len(direct(made("flux")).tokenizer_2(caption).input_ids) - 150


def test_an_attention_backend_where_it_works(made: Callable[[str], Path]) -> None:
    checkpoint = made("flux")
    create(checkpoint, attention_backend="native").load(["cpu"])
    with pytest.raises(OptionError, match="must be one of"):
        create(checkpoint, attention_backend="no-such-kernel").load(["cpu"])


def test_an_image_held_back_is_a_failure(made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    generator = create(made("sd15"), steps=1, batch_size=2).load(["cpu"])
    call = type(generator.pipeline).__call__

    def checked(self: Any, *a: Any, **k: Any) -> Any:
        return SimpleNamespace(images=call(self, *a, **k).images, nsfw_content_detected=[False, True])

    monkeypatch.setattr(type(generator.pipeline), "__call__", checked)
    good, bad = generator.generate(requests(CAPTIONS))
    assert isinstance(good, GeneratedImage)
    assert isinstance(bad, Failed)
    assert bad.error_class == "SafetyChecker"


def test_checkpoints_that_make_no_images_from_text(made: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="needs the option 'checkpoint'"):
        build(type(create(Path("x"))), {}, "diffusers")
    with pytest.raises(CheckpointError, match="is an SDXL refiner") as caught:
        create(made("sdxl-refiner")).load(["cpu"])
    assert caught.value.hint
    assert "-o refiner=" in caught.value.hint
    copy = shutil.copytree(made("sd15"), tmp_path / "copy")
    for name, complaint in (("MyOwnPipeline", "does not have"), ("StableVideoDiffusionPipeline", "does not make images from text alone")):
        index = json.loads((copy / "model_index.json").read_text()) | {"_class_name": name}
        (copy / "model_index.json").write_text(json.dumps(index))
        with pytest.raises(CheckpointError, match=complaint):
            create(copy).load(["cpu"])
