"""Compare the speed of SynthVLM's structural similarity with scikit-image's, on one thread each: ``python bench/ssim.py``.

Both score the same pairs, a photograph and itself scaled down to 224 and back, in turn, so that whatever else the machine does
falls on both; medians of 15 rounds. Neither starts threads. The values must agree within 1e-6; their difference is printed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from skimage.data import astronaut
from skimage.metrics import structural_similarity as reference

from synthvlm.scorers.ssim import scale_down_and_back, structural_similarity

ROUNDS = 15
SIDES = (1024, 512)


def seconds(work: Callable[[], object]) -> float:
    """Return how long ``work`` takes, by the wall clock."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(side: int) -> None:
    """Time both on a square image of ``side`` pixels and print a line."""
    image = Image.fromarray(astronaut()).resize((side, side), Image.Resampling.BICUBIC)
    a, b = np.asarray(image), np.asarray(scale_down_and_back(image, 224))
    expected: Any = reference(a, b, channel_axis=2, data_range=255)
    got = structural_similarity(a, b)
    if abs(got - expected) > 1e-6:
        raise SystemExit(f"{side}: {got} differs from scikit-image's {expected}")
    slow, fast, scaling = [], [], []
    for _ in range(ROUNDS):
        slow.append(seconds(lambda: reference(a, b, channel_axis=2, data_range=255)))
        fast.append(seconds(lambda: structural_similarity(a, b)))
        scaling.append(seconds(lambda: scale_down_and_back(image, 224)))
    ratio = statistics.median(s / f for s, f in zip(slow, fast, strict=True))
    whole = statistics.median((s + r) / (f + r) for s, f, r in zip(slow, fast, scaling, strict=True))
    slow_ms, fast_ms, scaling_ms = (1000 * statistics.median(times) for times in (slow, fast, scaling))
    print(
        f"{side} x {side}: scikit-image {slow_ms:6.1f} ms, synthvlm {fast_ms:5.1f} ms, {ratio:4.1f} times as fast"
        f" (scaling down and back takes either {scaling_ms:4.1f} ms more: {whole:4.1f} times); difference {abs(got - expected):.0e}"
    )


if __name__ == "__main__":
    for length in SIDES:
        compare(length)
