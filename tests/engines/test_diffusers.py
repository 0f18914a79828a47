"""The diffusers engine: constant batches, one-line errors for checkpoints, options that are followed or refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthvlm.engines.diffusers import DiffusersOptions, PipelineGenerator, SDXLOptions
from synthvlm.engines.diffusers_loading import read_index, resolve_dtype, single_device
from synthvlm.errors import CheckpointError, OptionError
from synthvlm.options import describe
from synthvlm.sample import Failed, GeneratedImage, ImageRequest
from tests.tiny import SIDE, tiny_flux, tiny_sdxl

# torch 2.13 and numpy 2: the scheduler's np.array(tensor) warns in numpy's name.
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

MINI = Path(__file__).parents[2] / "plugins" / "synthvlm_mini" / "weights" / "generator"


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sdxl(tmp_path_factory.mktemp("checkpoints") / "sdxl")


def request(caption: str, seed: int = 0) -> ImageRequest:
    return ImageRequest(caption, 0, caption, seed)


def options(checkpoint: Path, **values: Any) -> SDXLOptions:
    return SDXLOptions(**{"checkpoint": str(checkpoint), "width": SIDE, "height": SIDE, "steps": 2, "batch_size": 2, **values})


class Echo(PipelineGenerator):
    """Makes a grey image of the seed, and remembers its calls."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(None, DiffusersOptions("x", batch_size=batch_size))
        self.calls: list[list[str]] = []

    def bucket(self, request: ImageRequest) -> int:
        return len(request.caption)

    def pixels(self, batch: Sequence[ImageRequest]) -> tuple[np.ndarray, Sequence[bool]]:
        self.calls.append([r.caption for r in batch])
        values = [np.nan if r.seed == 13 else r.seed / 255 for r in batch]
        return np.stack([np.full((2, 2, 3), value) for value in values]), [r.seed == 14 for r in batch]


def grey(result: GeneratedImage | Failed) -> int:
    assert isinstance(result, GeneratedImage)
    return np.asarray(result.image)[0, 0, 0].item()


def test_importing_brings_no_heavy_library() -> None:
    code = (
        "import sys, synthvlm.engines.diffusers, synthvlm_sdxl, synthvlm_sd3, synthvlm_diffusers;"
        "print(sorted({'torch', 'diffusers', 'transformers', 'numpy', 'PIL', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_call_is_a_whole_batch_of_one_bucket() -> None:
    echo = Echo(2)
    captions = ["a", "bbb", "b", "c", "ddd", "eee"]
    assert [grey(r) for r in echo.generate([request(c, i) for i, c in enumerate(captions)])] == [0, 1, 2, 3, 4, 5]
    assert echo.calls == [["a", "b"], ["c", "c"], ["bbb", "ddd"], ["eee", "eee"]]


def test_a_lowered_batch_size_is_followed() -> None:
    echo = Echo(4)
    echo.batch_size = 1
    echo.generate([request("a"), request("b")])
    assert echo.calls == [["a"], ["b"]]


def test_a_bad_image_fails_its_own_row_only() -> None:
    first, nan, withheld, last = Echo(4).generate([request("a", 1), request("b", 13), request("c", 14), request("d", 2)])
    assert (grey(first), grey(last)) == (1, 2)
    assert isinstance(nan, Failed)
    assert nan.error_class == "NaNImage"
    assert "NaN" in nan.error
    assert isinstance(withheld, Failed)
    assert withheld.error_class == "SafetyChecker"


def test_what_changes_pixels_is_identity() -> None:
    roles = {info.name: info.role for info in describe(SDXLOptions)}
    assert {name for name, role in roles.items() if role == "runtime"} == {"offload"}
    assert {name for name, role in roles.items() if role == "checkpoint"} == {"checkpoint", "refiner", "vae"}
    assert all(info.help for info in describe(SDXLOptions))


def test_auto_precision_on_the_cpu_is_full() -> None:
    import torch

    assert resolve_dtype("auto", "cpu") == torch.float32
    assert resolve_dtype("bfloat16", "cpu") == torch.bfloat16


def test_one_device_only() -> None:
    assert single_device(["cuda:1"]) == "cuda:1"
    with pytest.raises(OptionError, match="cuda:0, cuda:1"):
        single_device(["cuda:0", "cuda:1"])


def test_a_file_is_no_pipeline(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="is not a pipeline directory") as caught:
        read_index(str(file))
    assert caught.value.hint
    assert "from_single_file" in caught.value.hint


def test_a_directory_without_index_points_to_one_inside(sdxl: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no model_index\.json"):
        read_index(str(tmp_path))
    with pytest.raises(CheckpointError) as caught:
        read_index(str(sdxl.parent))
    assert caught.value.hint == f"there is one in {sdxl}"


def test_an_unreadable_index(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_index(str(tmp_path))


def test_an_incomplete_pipeline_names_what_it_lacks(sdxl: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(sdxl, tmp_path / "copy")
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="unet has no weights"):
        options(copy).load(["cpu"])
    shutil.rmtree(copy / "unet")
    with pytest.raises(CheckpointError, match="it has no unet folder"):
        read_index(str(copy))


def test_damaged_weights_are_one_line(sdxl: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(sdxl, tmp_path / "copy")
    (copy / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"not a safetensors file")
    with pytest.raises(CheckpointError, match="cannot be loaded") as caught:
        options(copy).load(["cpu"])
    assert "\n" not in caught.value.message


def test_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(CheckpointError, match="is a FluxPipeline, not SDXL"):
        options(tmp_path).load(["cpu"])


def test_options_that_cannot_be_followed_are_refused(sdxl: Path) -> None:
    with pytest.raises(OptionError, match="diffusers would ignore it"):
        options(sdxl, attention_backend="native").load(["cpu"])
    with pytest.raises(OptionError, match="needs a GPU"):
        options(sdxl, quantization="bitsandbytes_4bit").load(["cpu"])
    with pytest.raises(CheckpointError, match="no weights of the variant fp16"):
        options(sdxl, variant="fp16").load(["cpu"])


def test_vae_and_offload_options(sdxl: Path) -> None:
    generator = options(sdxl, vae_tiling=True, vae_slicing=True, offload="model").load(["cpu"])
    assert generator.pipeline.vae.use_tiling
    assert generator.pipeline.vae.use_slicing
    assert isinstance(generator.generate([request("a")])[0], GeneratedImage)


def test_compile_takes_what_the_model_offers(sdxl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import SD3Transformer2DModel, UNet2DConditionModel

    compiled: list[str] = []
    monkeypatch.setattr(UNet2DConditionModel, "compile_repeated_blocks", lambda _: compiled.append("blocks"))
    options(sdxl, compile=True).load(["cpu"])
    assert compiled == ["blocks"]
    assert not getattr(SD3Transformer2DModel, "_repeated_blocks", None)  # so that it is compiled whole


def test_nothing_is_printed(sdxl: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    generator = options(sdxl).load(["cpu"])
    generator.generate([request("a cat " * 200), request("b")])
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_tiny_checkpoints_are_the_same_each_time(tmp_path: Path) -> None:
    first, second = tiny_flux(tmp_path / "1"), tiny_flux(tmp_path / "2")
    for file in sorted(p.relative_to(first) for p in first.rglob("*.safetensors")):
        assert (first / file).read_bytes() == (second / file).read_bytes()


@pytest.mark.skipif(not (MINI / "model_index.json").is_file(), reason="the miniature generator is not here")
def test_the_miniature_generator_is_of_the_sdxl_class() -> None:
    caption = "A flat illustration of a large red circle on the left on a plain white background."
    generator = options(MINI, steps=10, guidance=2.0, guidance_rescale=0.7).load(["cpu"])
    (result,) = generator.generate([request(caption)])
    assert isinstance(result, GeneratedImage)
    assert result.image.size == (SIDE, SIDE)
    pixels = np.asarray(result.image).astype(int)
    red, green = pixels[16:48, :32, 0].mean(), pixels[16:48, :32, 1].mean()
    assert red > green + 20
    assert pixels[:8].mean() > 200
    # Its text encoder holds 40 tokens: longer captions take further windows.
    assert generator.bucket(request(caption)) == (1,)
    assert generator.bucket(request(caption * 3)) != (1,)
