"""SSIMScore against scikit-image, the reference, and against the scaling written out with Pillow."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.metrics import structural_similarity as reference

from synthvlm.errors import OptionError
from synthvlm.options import build
from synthvlm.sample import Failed, ScoreRequest
from synthvlm.scorers import SSIMScore, ssim, structural_similarity

TOLERANCE = 1e-6


def expected(a: np.ndarray, b: np.ndarray) -> float:
    value: Any = reference(a, b, channel_axis=2, data_range=255)
    return float(value)


def photo(width: int, height: int) -> Image.Image:
    """Return something between a photograph and noise: smooth shades, edges, and grain."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    shades = np.stack([np.sin(7 * x + 3 * y), np.cos(5 * y), np.sign(np.sin(40 * x * y))], axis=2)
    grain = np.random.default_rng(3).normal(0, 12, (height, width, 3))
    return Image.fromarray(np.clip(127 + 90 * shades + grain, 0, 255).astype(np.uint8))


def scores(scorer: ssim.SSIMScorer, *images: Image.Image | None) -> list[Any]:
    """Return the results for ``images``: dicts, or Failed."""
    return list(scorer.score([request(image) for image in images]))


def request(image: Image.Image | None) -> ScoreRequest:
    return ScoreRequest("a", 0, "a caption", image)


@settings(deadline=None)
@given(
    height=st.integers(7, 40),
    width=st.integers(7, 40),
    channels=st.integers(1, 4),
    levels=st.integers(1, 256),
    seed=st.integers(0, 2**32 - 1),
)
def test_agrees_with_scikit_image_on_small_shapes(height: int, width: int, channels: int, levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = int(rng.integers(0, 257 - levels))
    a, b = (rng.integers(base, base + levels, (height, width, channels)).astype(np.uint8) for _ in range(2))
    assert abs(structural_similarity(a, b) - expected(a, b)) < TOLERANCE


@settings(deadline=None)
@given(rows=st.integers(1, 9), columns=st.integers(1, 9), height=st.integers(7, 30), width=st.integers(7, 30), seed=st.integers(0, 99))
def test_strips_and_tiles_meet_without_a_seam(rows: int, columns: int, height: int, width: int, seed: int) -> None:
    a, b = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3)).astype(np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssim, "_ROWS", rows)
        patch.setattr(ssim, "_COLUMNS", columns)
        assert abs(structural_similarity(a, b) - expected(a, b)) < TOLERANCE


@pytest.mark.parametrize("shape", [(7, 7), (7, 300), (300, 7), (55, 1031), (109, 61), (255, 257), (640, 481)])
@pytest.mark.parametrize("kind", ["photo", "noise", "flat with grain", "black and white", "checkers"])
def test_agrees_with_scikit_image_on_kinds_of_image(kind: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    height, width = shape
    if kind == "photo":
        image = photo(width, height)
        a, b = np.asarray(image), np.asarray(ssim.scale_down_and_back(image, max(1, min(shape) // 3)))
    elif kind == "noise":
        a, b = rng.integers(0, 256, (2, height, width, 3)).astype(np.uint8)
    elif kind == "flat with grain":  # where the variances are small differences of large numbers
        a = np.full((height, width, 3), 250, np.uint8)
        b = (a + rng.integers(-2, 3, a.shape)).astype(np.uint8)
    elif kind == "black and white":
        a, b = np.zeros((height, width, 3), np.uint8), np.full((height, width, 3), 255, np.uint8)
    else:
        a = np.repeat((np.indices(shape).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
        b = 255 - a
    assert abs(structural_similarity(a, b) - expected(a, b)) < TOLERANCE


@pytest.mark.parametrize("value", [0, 1, 128, 255])
def test_equal_images_score_exactly_one(value: int) -> None:
    flat = np.full((50, 70, 3), value, np.uint8)
    assert structural_similarity(flat, flat.copy()) == 1.0
    picture = np.asarray(photo(70, 50))
    assert structural_similarity(picture, picture.copy()) == 1.0


def test_views_in_any_memory_order_are_read_right() -> None:
    a, b = np.random.default_rng(0).integers(0, 256, (2, 60, 80, 3)).astype(np.uint8)
    turned, other = a[::-2, ::3].transpose(1, 0, 2), b[::-2, ::3].transpose(1, 0, 2)
    assert structural_similarity(turned, other) == structural_similarity(turned.copy(), other.copy())


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.zeros((6, 20, 3), np.uint8), np.zeros((6, 20, 3), np.uint8)),
        (np.zeros((9, 9, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)),
        (np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.uint8)),
        (np.zeros((9, 9, 3)), np.zeros((9, 9, 3))),
    ],
)
def test_refuses_what_it_cannot_compare(a: np.ndarray, b: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"window|uint8"):
        structural_similarity(a, b)


@pytest.mark.parametrize("interpolation", ["bicubic", "lanczos", "bilinear"])
@pytest.mark.parametrize("size", [(320, 240), (225, 400), (251, 251)])
def test_score_is_the_written_out_recipe(interpolation: str, size: tuple[int, int]) -> None:
    image = photo(*size)
    # Short side to 224, long side rounded down, back to the own size, with Pillow's antialias.
    filters = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS, "bilinear": Image.Resampling.BILINEAR}
    width, height = size
    scaled = (224, int(224 * height / width)) if width < height else (int(224 * width / height), 224)
    restored = image.resize(scaled, filters[interpolation]).resize(size, filters[interpolation])
    scorer = build(SSIMScore, {"interpolation": interpolation}, "ssim").load(["cpu"])
    (result,) = scores(scorer, image)
    assert result["ssim"] == pytest.approx(expected(np.asarray(image), np.asarray(restored)), abs=TOLERANCE)
    assert result["ssim_small"] is False


def test_image_not_larger_than_the_side_scores_one_and_is_flagged() -> None:
    scorer = SSIMScore(side=64).load(["cpu"])
    exact, smaller, larger = scores(scorer, photo(64, 64), photo(500, 30), photo(65, 80))
    assert exact == smaller == {"ssim": 1.0, "ssim_small": True}
    assert larger["ssim"] < 1
    assert larger["ssim_small"] is False


def test_images_without_a_window_fail_alone() -> None:
    scorer = SSIMScore(side=16).load(["cpu"])
    tiny, smallest, missing, good = scores(scorer, photo(6, 90), photo(7, 90), None, photo(40, 40))
    assert isinstance(tiny, Failed)
    assert "6x90" in tiny.error
    assert tiny.error_class == "ImageTooSmall"
    assert isinstance(missing, Failed)
    assert missing.error_class == "NoImage"
    assert smallest == {"ssim": 1.0, "ssim_small": True}
    assert 0 < good["ssim"] < 1


def test_threads_and_neighbours_change_nothing() -> None:
    batch = [request(photo(70 + n, 60 + 3 * n)) for n in range(8)]
    alone = [next(iter(SSIMScore(side=32).load(["cpu"]).score([r]))) for r in batch]
    assert list(SSIMScore(side=32, threads=3).load(["cpu"]).score(batch)) == alone
    padded = batch + batch[-1:] * 3
    assert list(SSIMScore(side=32).load(["cpu"]).score(padded)) == alone + alone[-1:] * 3


def test_worker_share_of_cores_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert ssim.threads_to_use(0) == 3
    assert ssim.threads_to_use(2) == 2
    for nothing in ("", "0", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", nothing)
        assert ssim.threads_to_use(0) == 1


def test_other_modes_are_scored_as_rgb() -> None:
    grey = photo(50, 40).convert("L")
    first, second = scores(SSIMScore(side=20).load(["cpu"]), grey, grey.convert("RGB"))
    assert first == second


def test_card_tells_the_definition_and_columns_follow_the_name() -> None:
    scorer = build(SSIMScore, {}, "ssim", preset="clip-l336").load(["cpu"])
    assert tuple(scorer.columns) == tuple(scorer.cards) == ("ssim_336", "ssim_336_small")
    card = json.loads(json.dumps(scorer.cards))["ssim_336"]
    assert (card["side"], card["interpolation"], card["window"], card["data_range"]) == (336, "bicubic", "7x7 uniform", 255)
    assert card != SSIMScore(side=224).load(["cpu"]).cards["ssim"]


@pytest.mark.parametrize("values", [{"side": "0"}, {"interpolation": "nearest"}, {"column": ""}, {"threads": -1}])
def test_wrong_options_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        build(SSIMScore, values, "ssim")
