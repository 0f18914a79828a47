"""SSIMScore with torch, many images at a time: for GPUs. The numbers are those of :mod:`synthvlm.scorers.ssim`.

Scaling is Pillow's, bit for bit: its filters in 22-bit fixed point, along rows and along columns, each pass rounded to 8 bits. Which comes
first depends on sizes and on Pillow's version, so for each pair of sizes it is found out from Pillow itself, once; Pillow scales what has a
rare size. Window sums are exact integers, as on the CPU; so the two differ, if at all, by the rounding of the last fraction.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from synthvlm.scorers.ssim import WINDOW, scale_down_and_back

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

_BITS = 22
"""Fraction bits of Pillow's 8-bit filters."""
_MOST_PIXELS = 8 << 20
"""Pixels at a time; each takes about 150 bytes on the device."""
_FEW = 16
"""Images of a size that Pillow scales, before it pays to find out how."""
_met: Counter[tuple[int, int]] = Counter()
_HALO = WINDOW - 1
_SAMPLES = WINDOW * WINDOW


def scores(images: Sequence[Image], side: int, interpolation: str, device: str) -> list[float]:
    """Return the SSIMScore of each RGB image. Images of one size go together; none may be under 7 pixels on a side."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for place, image in enumerate(images):
        by_size.setdefault(image.size, []).append(place)
    found: dict[int, float] = {}
    for (width, height), places in by_size.items():
        step = max(1, _MOST_PIXELS // (width * height))
        for at in range(0, len(places), step):
            some = places[at : at + step]
            found |= zip(some, _score([images[n] for n in some], side, interpolation, device), strict=True)
    return [found[n] for n in range(len(images))]


def _score(images: Sequence[Image], side: int, interpolation: str, device: str) -> list[float]:
    import numpy as np
    import torch

    size = images[0].size
    small = side * size[0] // min(size), side * size[1] // min(size)
    _met[size] += len(images)
    with torch.inference_mode():
        own = _stack([np.array(image) for image in images]).to(device)
        restored = None
        if _met[size] > _FEW:
            down = scale(own, small, interpolation)
            restored = None if down is None else scale(down, size, interpolation)
        if restored is None:
            restored = _stack([np.array(scale_down_and_back(image, side, interpolation)) for image in images]).to(device)
        return structural_similarity(own, restored).tolist()


def _stack(arrays: Sequence[np.ndarray]) -> torch.Tensor:
    import torch

    return torch.stack([torch.from_numpy(a) for a in arrays])


def scale(images: torch.Tensor, size: tuple[int, int], interpolation: str) -> torch.Tensor | None:
    """Return uint8 images (n, height, width, channels) at another (width, height) as Pillow's ``resize`` gives them, or None if it cannot."""
    order = _order((images.shape[2], images.shape[1]), size, interpolation)
    return None if order is None else _pass(images, size, interpolation, order)


@functools.lru_cache(maxsize=256)
def _order(old: tuple[int, int], new: tuple[int, int], interpolation: str) -> tuple[int, int] | None:
    """Return the dimensions along which Pillow scales from size to size, first and second, or None if it does neither."""
    import numpy as np
    from PIL.Image import Resampling, fromarray

    noise = np.random.default_rng(0).integers(0, 256, (old[1], old[0])).astype(np.uint8)
    expected = np.asarray(fromarray(noise).resize(new, Resampling[interpolation.upper()]))
    for order in ((2, 1), (1, 2)):
        if np.array_equal(_pass(_stack([noise[..., None]]), new, interpolation, order)[0, ..., 0].numpy(), expected):
            return order
    return None


def _pass(images: torch.Tensor, size: tuple[int, int], interpolation: str, order: tuple[int, int]) -> torch.Tensor:
    for dimension in order:
        length = size[2 - dimension]
        if images.shape[dimension] != length:
            images = _along(images, dimension, length, interpolation)
    return images


def _along(images: torch.Tensor, dimension: int, length: int, interpolation: str) -> torch.Tensor:
    import torch

    old = images.shape[dimension]
    first, weights = _filter(old, length, interpolation)
    shape = [1] * images.dim()
    shape[dimension] = length
    scaled = (*images.shape[:dimension], length, *images.shape[dimension + 1 :])
    total = torch.full(scaled, 1 << (_BITS - 1), dtype=torch.int32, device=images.device)
    starts = torch.tensor(first, device=images.device)
    for tap in range(len(weights[0])):
        weight = torch.tensor([row[tap] for row in weights], dtype=torch.int32, device=images.device).view(shape)
        # Beyond the border a weight is 0, whatever it is multiplied with.
        total += images.index_select(dimension, (starts + tap).clamp_(max=old - 1)).to(torch.int32) * weight
    return (total >> _BITS).clamp_(0, 255).to(torch.uint8)


@functools.lru_cache(maxsize=64)
def _filter(old: int, new: int, interpolation: str) -> tuple[list[int], list[list[int]]]:
    """Return, per output pixel, the first input pixel and the fixed-point weights of those from there on."""
    kernel, support = _KERNELS[interpolation]
    scale = old / new
    stretch = max(scale, 1.0)  # a filter widens with the reduction: antialias
    reach = support * stretch
    taps = math.ceil(reach) * 2 + 1
    first, weights = [], []
    for at in range(new):
        centre = (at + 0.5) * scale
        low, high = max(0, int(centre - reach + 0.5)), min(old, int(centre + reach + 0.5))
        row = [kernel((x - centre + 0.5) * (1.0 / stretch)) for x in range(low, high)]
        whole = 0.0
        for weight in row:  # in order, as Pillow adds them; `sum` would compensate
            whole += weight
        fixed = [weight / whole * (1 << _BITS) for weight in row]
        first.append(low)
        weights.append([int(w - 0.5) if w < 0 else int(w + 0.5) for w in fixed] + [0] * (taps - len(row)))
    return first, weights


def _bilinear(x: float) -> float:
    return max(0.0, 1.0 - abs(x))


def _bicubic(x: float) -> float:
    """Return Keys' cubic convolution kernel with a = -0.5."""
    a, x = -0.5, abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2.0 else 0.0


def _lanczos(x: float) -> float:
    def sinc(x: float) -> float:
        return 1.0 if x == 0.0 else math.sin(x * math.pi) / (x * math.pi)

    return sinc(x) * sinc(x / 3) if -3.0 <= x < 3.0 else 0.0


_KERNELS: dict[str, tuple[Callable[[float], float], float]] = {
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}


def structural_similarity(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the mean structural similarity (float64) of each pair of uint8 images (n, height, width, channels), sides of 7 or more.

    The definition and the arithmetic are those of :func:`synthvlm.scorers.structural_similarity`.
    """
    import torch

    wide_a, wide_b = a.to(torch.int32), b.to(torch.int32)
    sum_a, sum_b = _window_sums(wide_a), _window_sums(wide_b)
    covariance = _window_sums(wide_a * wide_b).mul_(_SAMPLES)
    variances = _window_sums(wide_a.square_().add_(wide_b.square_())).mul_(_SAMPLES)
    del wide_a, wide_b
    product, squares = sum_a * sum_b, sum_a.square_().add_(sum_b.square_())
    covariance.sub_(product)
    variances.sub_(squares)
    c1, c2 = (0.01 * 255) ** 2 * _SAMPLES**2, (0.03 * 255) ** 2 * _SAMPLES * (_SAMPLES - 1)
    numerator = product.float().add_(c1 / 2).mul_(covariance.float().add_(c2 / 2))  # of a quarter of the value
    denominator = squares.float().add_(c1).mul_(variances.float().add_(c2))
    return numerator.div_(denominator).mul_(4).double().mean(dim=(1, 2, 3))


def _window_sums(values: torch.Tensor) -> torch.Tensor:
    """Return the sums over 7 × 7 windows of int32 images (n, height, width, channels)."""
    for dimension in (2, 1):
        n = values.shape[dimension] - _HALO
        pairs = values.narrow(dimension, 0, n + 4) + values.narrow(dimension, 1, n + 4)
        sums = pairs.narrow(dimension, 0, n) + pairs.narrow(dimension, 2, n)
        values = sums.add_(pairs.narrow(dimension, 4, n)).add_(values.narrow(dimension, 6, n))
    return values
