"""SSIMScore with torch, on the CPU device: the numbers of the NumPy path, and Pillow's scaling bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from skimage.metrics import structural_similarity as reference

from synthvlm.sample import Failed, ScoreRequest
from synthvlm.scorers import SSIMScore, ssim, ssim_torch
from tests.scorers.test_ssim import TOLERANCE, photo

METHODS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS, "bilinear": Image.Resampling.BILINEAR}


def pictures() -> list[Image.Image]:
    """Return photographs, flat, noise, black and white, small and odd-sized pictures."""
    noise = np.random.default_rng(0).integers(0, 256, (95, 77, 3)).astype(np.uint8)
    stripes = np.repeat(np.indices((60, 81)).sum(axis=0)[..., None] // 3 % 2 * 255, 3, axis=2).astype(np.uint8)
    return [
        Image.fromarray(data.astronaut()).resize((301, 300)),
        Image.fromarray(data.chelsea()),
        Image.new("RGB", (90, 120), (250, 250, 250)),
        Image.fromarray(noise),
        Image.fromarray(stripes),
        photo(41, 200),
        photo(200, 41),
        photo(300, 33),
    ]


@pytest.mark.parametrize("interpolation", METHODS)
@pytest.mark.parametrize(
    ("old", "new"), [((301, 200), (224, 148)), ((41, 200), (32, 156)), ((32, 156), (41, 200)), ((7, 90), (3, 38)), ((50, 40), (50, 99))]
)
def test_scaling_is_pillows_bit_for_bit(old: tuple[int, int], new: tuple[int, int], interpolation: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, old[1], old[0], 3)).astype(np.uint8)
    got = ssim_torch.scale(torch.from_numpy(pixels), new, interpolation)
    assert got is not None
    for n in range(2):
        assert np.array_equal(got[n].numpy(), np.asarray(Image.fromarray(pixels[n]).resize(new, METHODS[interpolation])))


@pytest.mark.parametrize("few", [0, 99])
@pytest.mark.parametrize("interpolation", METHODS)
def test_scores_are_those_of_the_cpu_path_and_of_scikit_image(interpolation: Any, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssim_torch, "_FEW", few)
    ssim_torch._met.clear()
    batch = [ScoreRequest("", 0, "", image) for image in pictures()]
    here = list(SSIMScore(side=32, interpolation=interpolation).load(["cpu"]).score(batch))
    there = list(SSIMScore(side=32, interpolation=interpolation, backend="torch").load(["cpu"]).score(batch))
    for image, one, other in zip(pictures(), here, there, strict=True):
        assert not isinstance(one, Failed)
        assert not isinstance(other, Failed)
        restored = ssim.scale_down_and_back(image, 32, interpolation)
        expected: Any = reference(np.asarray(image), np.asarray(restored), channel_axis=2, data_range=255)
        assert abs(other["ssim"] - one["ssim"]) < TOLERANCE
        assert abs(other["ssim"] - float(expected)) < TOLERANCE
        assert other["ssim_small"] is False


def test_failures_small_images_and_batches_are_as_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssim_torch, "_MOST_PIXELS", 2 * 80 * 60)
    monkeypatch.setattr(ssim_torch, "_FEW", 2)
    images = [photo(80, 60), None, photo(6, 90), photo(7, 90), *(photo(80, 60).rotate(n) for n in range(4)), photo(90, 61)]
    batch = [ScoreRequest("", 0, "", image) for image in images]
    batch += batch[-1:] * 3
    here, there = (list(SSIMScore(side=16, backend=b).load(["cpu"]).score(batch)) for b in ("numpy", "torch"))
    assert [isinstance(r, Failed) for r in here] == [isinstance(r, Failed) for r in there]
    for one, other in zip(here, there, strict=True):
        if isinstance(one, Failed) or isinstance(other, Failed):
            assert one == other
        else:
            assert other == {"ssim": pytest.approx(one["ssim"], abs=TOLERANCE), "ssim_small": one["ssim_small"]}


def test_the_card_is_the_same_whatever_computes_it() -> None:
    assert SSIMScore(backend="torch").load(["cpu"]).cards == SSIMScore().load(["cpu"]).cards


def test_prepared_results_are_taken_and_torch_prepares_none() -> None:
    request = ScoreRequest("", 0, "", photo(60, 50))
    scorer = SSIMScore(side=20).load(["cpu"])
    ready = ScoreRequest("", 0, "", request.image, scorer.prepare(request))
    assert list(scorer.score([ready, ready])) == list(scorer.score([request])) * 2
    assert SSIMScore(side=20, backend="torch").load(["cpu"]).prepare(request) is None


def test_where_pillow_scales_otherwise_it_does_so_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = [ScoreRequest("", 0, "", photo(60, 50))]
    expected = list(SSIMScore(side=20).load(["cpu"]).score(batch))
    ssim_torch._order.cache_clear()
    monkeypatch.setattr(ssim_torch, "_FEW", 0)
    monkeypatch.setattr(ssim_torch, "_along", lambda images, dimension, length, how: images.narrow(dimension, 0, length))
    assert ssim_torch.scale(torch.zeros(1, 50, 60, 3, dtype=torch.uint8), (24, 20), "bicubic") is None
    (got,) = SSIMScore(side=20, backend="torch").load(["cpu"]).score(batch)
    ssim_torch._order.cache_clear()
    assert got == {"ssim": pytest.approx(expected[0]["ssim"], abs=TOLERANCE), "ssim_small": False}  # type: ignore[index]
