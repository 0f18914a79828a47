"""SSIMScore: how much of an image survives being scaled to a CLIP model's input side and back (SynthVLM, section 3.2).

The definition is ``skimage.metrics.structural_similarity(a, b, channel_axis=2, data_range=255)``: the mean over windows and
channels of Wang et al., "Image quality assessment: from error visibility to structural similarity" (2004), equation 13, with a
7×7 uniform window and the sample covariance. :func:`structural_similarity` computes the same from exact integer window sums
with NumPy alone; tests hold it within 1e-6 of scikit-image, and ``bench/ssim.py`` compares the speed. On a GPU the same is done there
(:mod:`synthvlm.scorers.ssim_torch`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from synthvlm.options import option, runtime
from synthvlm.sample import Failed

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from synthvlm.sample import ScoreRequest

WINDOW = 7
"""Side of the uniform window, in pixels; the smallest side that has a score."""

_HALO = WINDOW - 1
_SAMPLES = WINDOW * WINDOW
# Each array of a strip (at most 0.7 MB) stays in a cache while it is worked on; larger ones wait for memory, smaller ones for calls.
_ROWS = 48
_COLUMNS = 1024


@dataclass(frozen=True)
class SSIMScore:
    """SSIMScore: the image is scaled so that its short side is ``side``, back to its own size, and compared."""

    side: int = option(224, help="short side that the image is scaled to, in pixels: the input side of the CLIP model", ge=1)
    interpolation: Literal["bicubic", "lanczos", "bilinear"] = option("bicubic", help="Pillow's filter, with antialias, both ways")
    column: str = option("ssim", help="name of the column; the flag is NAME_small", min_length=1)
    batch_size: int = runtime(32, help="images handed over at a time; they are scored one by one", ge=1)
    threads: int = runtime(0, help="threads, an image each; 0: the worker's own number", ge=0)
    backend: Literal["auto", "numpy", "torch"] = runtime("auto", help="what computes it: torch on a GPU, NumPy on the CPU; same numbers")

    output_revision: ClassVar[int] = 1
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"side": 224, "interpolation": "bicubic"},
        "clip-l336": {"side": 336, "interpolation": "bicubic", "column": "ssim_336"},
    }

    def load(self, devices: Sequence[str]) -> SSIMScorer:
        """Return the scorer: on the first of ``devices`` if that is a GPU, else on the CPU's threads."""
        return SSIMScorer(self, devices[0] if devices else "cpu")


class SSIMScorer:
    """Images → SSIMScore, and whether the image was too small to be scaled down."""

    def __init__(self, options: SSIMScore, device: str = "cpu") -> None:
        self.options = options
        on_gpu = device.partition(":")[0] != "cpu"
        self._torch_device = device if options.backend == "torch" or (options.backend == "auto" and on_gpu) else None
        self.batch_size = options.batch_size
        small = f"{options.column}_small"
        self.columns = (options.column, small)
        card = {
            "metric": "SSIM of the image with itself, scaled down and back (Wang et al. 2004, sample covariance)",
            "side": options.side,
            "resize": "short side to S, long side floor(long * S / short), back to the own size",
            "interpolation": options.interpolation,
            "antialias": "Pillow",
            "window": f"{WINDOW}x{WINDOW} uniform",
            "data_range": 255,
            "channels": "RGB, mean",
            "not_larger_than_side": "1, flagged",
        }
        flag = {"metric": "the image is not larger than S and scores 1 unseen", "type": "flag", "of": options.column, "side": options.side}
        self.cards: Mapping[str, Mapping[str, Any]] = {options.column: card, small: flag}
        threads = threads_to_use(options.threads)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="ssim") if threads > 1 else None

    def prepare(self, request: ScoreRequest) -> Mapping[str, float | bool] | Failed | None:
        """Return the whole result, or None where a GPU is to compute it."""
        return None if self._torch_device else self._score(request.image)

    def score(self, batch: Sequence[ScoreRequest]) -> Iterator[Mapping[str, float | bool] | Failed]:
        """Yield the score in [-1, 1] and the flag per request; ``Failed`` where there is no image or it is under 7 pixels."""
        # Distinct objects only: the worker pads a batch by repeating its last request.
        scored = {id(r.image): r.prepared for r in batch if r.prepared is not None}
        images = {id(r.image): r.image for r in batch if r.prepared is None}
        if self._torch_device:
            results: Iterable[Any] = self._score_there(list(images.values()))
        else:
            results = self._pool.map(self._score, images.values()) if self._pool else map(self._score, images.values())
        scored |= zip(images, results, strict=True)
        for request in batch:
            yield scored[id(request.image)]

    def _score_there(self, images: Sequence[Image | None]) -> list[Mapping[str, float | bool] | Failed]:
        """Score on the torch device."""
        from synthvlm.scorers import ssim_torch

        assert self._torch_device is not None
        results: list[Any] = [self._at_once(image) for image in images]
        rest = [(n, image.convert("RGB")) for n, image in enumerate(images) if image is not None and results[n] is None]
        values = ssim_torch.scores([image for _, image in rest], self.options.side, self.options.interpolation, self._torch_device)
        for (n, _), value in zip(rest, values, strict=True):
            results[n] = dict(zip(self.columns, (value, False), strict=True))
        return results

    def _at_once(self, image: Image | None) -> Mapping[str, float | bool] | Failed | None:
        """Return the result where nothing needs to be computed, else None."""
        if image is None:
            return Failed("there is no image to score", "NoImage")
        if min(image.size) < WINDOW:
            reason = f"the image is {image.width}x{image.height}: under {WINDOW} pixels on a side, SSIM is not defined"
            return Failed(reason, "ImageTooSmall")
        return dict(zip(self.columns, (1.0, True), strict=True)) if min(image.size) <= self.options.side else None

    def _score(self, image: Image | None) -> Mapping[str, float | bool] | Failed:
        import numpy as np

        known = self._at_once(image)
        if image is None or known is not None:
            return known or Failed("there is no image to score", "NoImage")
        image = image.convert("RGB")
        restored = scale_down_and_back(image, self.options.side, self.options.interpolation)
        value = structural_similarity(np.asarray(image), np.asarray(restored))
        return dict(zip(self.columns, (value, False), strict=True))


def scale_down_and_back(image: Image, side: int, interpolation: str = "bicubic") -> Image:
    """Scale ``image`` so that its short side is ``side`` pixels, then back to its own size.

    The long side is floor(long · side / short), at least ``side``: the rule of torchvision's ``Resize``, which CLIP's own
    preprocessing uses. Pillow's filters widen with the reduction, that is, they antialias.
    """
    from PIL.Image import Resampling

    short = min(image.size)
    width, height = (side * length // short for length in image.size)
    method = Resampling[interpolation.upper()]
    return image.resize((width, height), method).resize(image.size, method)


def threads_to_use(asked: int) -> int:
    """Return how many threads a scorer may use for images: ``asked``, or if that is 0 what the worker has been given.

    A worker knows its share of the machine's cores by ``OMP_NUM_THREADS``; without that, one.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return asked or (int(given) if given.isdecimal() and int(given) else 1)


def structural_similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean structural similarity of two images, as scikit-image defines it, about an order of magnitude faster.

    ``a`` and ``b``: uint8 arrays of one shape, (height, width, channels), each side at least 7 pixels. The value lies in
    [-1, 1] and is exactly 1 for equal images. One thread; it holds the interpreter's lock only between array operations.
    Raises ValueError for other shapes or types.
    """
    import numpy as np

    if a.shape != b.shape or a.ndim != 3 or a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(
            f"expected two uint8 arrays (height, width, channels) of one shape, not {a.dtype} {a.shape} and {b.dtype} {b.shape}"
        )
    height, width, channels = a.shape
    if min(height, width) < WINDOW:
        raise ValueError(f"an image of {width}x{height} is smaller than the {WINDOW}x{WINDOW} window")
    windows_down, windows_across = height - _HALO, width - _HALO
    total = 0.0
    for left in range(0, windows_across, _COLUMNS):
        right = min(left + _COLUMNS, windows_across) + _HALO
        total += _similarity_sum(a[:, left:right], b[:, left:right])
    return total / (windows_down * windows_across * channels)


def _similarity_sum(a: np.ndarray, b: np.ndarray) -> float:
    """Return the sum of the similarities of all windows of two uint8 images (height, width, channels).

    Strips of rows are laid out flat, channels interleaved: one pixel to the right is ``channels`` elements on, one row down is
    ``row`` elements on, so the same shifted additions sum along both directions. The last six pixels of a row start windows
    that wrap into the next row: they are computed like the rest and left out of the sum.
    """
    import numpy as np

    height, width, channels = a.shape
    row, wrap = width * channels, _HALO * channels
    rows = min(_ROWS, height - _HALO)
    # Zeros after the last pixel keep the wrapping windows of the last row windows of pixels too, so no denominator is ever 0.
    length = (rows + _HALO) * row
    pixels = [np.zeros(length + wrap, np.int16) for _ in range(2)]
    wide = [np.zeros(length + wrap, np.int32) for _ in range(3)]
    pairs = {np.dtype(kind): np.empty(length + wrap, kind) for kind in (np.int16, np.int32)}
    kinds = (np.int16, np.int16, np.int32, np.int32)  # sums of a, of b, of a·b, of a² + b²: each fits, so nothing is rounded yet
    across = [np.empty(length, kind) for kind in kinds]
    windows = [np.empty(rows * row, kind) for kind in kinds]
    reals = [np.empty(rows * row, np.float32) for _ in range(3)]

    total = 0.0
    for top in range(0, height - _HALO, rows):
        count = min(rows, height - _HALO - top)  # rows of windows in this strip
        kept = _HALO if top else 0  # rows that the strip before has summed across
        first, last = kept * row, (count + _HALO) * row
        for flat, image in zip(pixels, (a, b), strict=True):
            np.copyto(flat[: last - first].reshape(-1, width, channels), image[top + kept : top + count + _HALO])
        read = slice(0, last - first + wrap)
        products = _products(pixels[0][read], pixels[1][read], *(w[read] for w in wide))
        for values, summed, window in zip((pixels[0], pixels[1], *products), across, windows, strict=True):
            summed[:first] = summed[length - first :]
            _slide(values, channels, pairs[values.dtype], summed[first:last])
            _slide(summed, row, pairs[values.dtype], window[: count * row])
        strip = slice(0, count * row)
        similarity = _similarity([w[strip] for w in windows], [w[strip] for w in wide], [r[strip] for r in reals])
        # In float64: a float32 sum of many equal terms would drift by more than the tolerance allows.
        total += float(np.add.reduce(similarity.reshape(count, row)[:, : row - wrap], axis=None, dtype=np.float64))
    return total


def _products(a: np.ndarray, b: np.ndarray, wide_a: np.ndarray, wide_b: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a·b and a² + b² as int32, written to ``out`` and ``wide_a``. Widening first is faster than NumPy's casting products."""
    import numpy as np

    np.copyto(wide_a, a)
    np.copyto(wide_b, b)
    np.multiply(wide_a, wide_b, out=out)
    np.multiply(wide_a, wide_a, out=wide_a)
    np.multiply(wide_b, wide_b, out=wide_b)
    np.add(wide_a, wide_b, out=wide_a)
    return out, wide_a


def _slide(values: np.ndarray, step: int, pairs: np.ndarray, out: np.ndarray) -> None:
    """Write to ``out`` the sums of seven values, ``step`` elements apart: four additions each instead of six."""
    import numpy as np

    n = out.size
    pairs = pairs[: n + 4 * step]
    np.add(values[: n + 4 * step], values[step : n + 5 * step], out=pairs)
    np.add(pairs[:n], pairs[2 * step : n + 2 * step], out=out)
    np.add(out, pairs[4 * step :], out=out)
    np.add(out, values[6 * step : n + 6 * step], out=out)


def _similarity(sums: Sequence[np.ndarray], wide: Sequence[np.ndarray], reals: Sequence[np.ndarray]) -> np.ndarray:
    """Return Wang et al. (2004), equation 13, per window, from its ``sums`` of a, b, a·b and a² + b²; overwrites all arguments.

    With N values a window, the means are sums / N and the sample covariances (N·sum_ab - sum_a·sum_b) / (N (N - 1)), so N²
    and N (N - 1) cancel out of the fraction. The differences are taken in integers, where they are exact: in float32 the
    variance of a flat window would be rounding noise of the same order as the constant that guards it.
    """
    import numpy as np

    c1 = np.float32((0.01 * 255) ** 2 * _SAMPLES**2)
    c2 = np.float32((0.03 * 255) ** 2 * _SAMPLES * (_SAMPLES - 1))
    half = np.float32(0.5)
    sum_a, sum_b, sum_ab, sum_squares = sums
    product, squares = _products(sum_a, sum_b, *wide)
    for moment, square in ((sum_ab, product), (sum_squares, squares)):
        np.multiply(moment, _SAMPLES, out=moment)
        np.subtract(moment, square, out=moment)

    numerator, denominator, factor = reals  # of a quarter of the value
    np.add(_to_float(product, numerator), c1 * half, out=numerator)
    np.add(_to_float(sum_ab, factor), c2 * half, out=factor)
    np.multiply(numerator, factor, out=numerator)
    np.add(_to_float(squares, denominator), c1, out=denominator)
    np.add(_to_float(sum_squares, factor), c2, out=factor)
    np.multiply(denominator, factor, out=denominator)
    np.divide(numerator, denominator, out=numerator)
    return np.multiply(numerator, np.float32(4), out=numerator)


def _to_float(integers: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Write ``integers`` to the float32 array ``out`` and return it."""
    import numpy as np

    np.copyto(out, integers)
    return out
