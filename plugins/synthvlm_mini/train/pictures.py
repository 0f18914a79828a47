"""The training pictures: drawn once, kept as plain arrays, read by memory map.

A picture has its truth beside it, as class numbers, and a grid that tells which thing each patch shows. The first half of the scenes
comes in pairs: picture ``2i + 1`` differs from ``2i`` in exactly one thing, and in nothing else that chance decides.
"""

from __future__ import annotations

import os
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from synthvlm_mini.book.compose import compose, masks
from synthvlm_mini.book.render import draw
from synthvlm_mini.book.scene import CORRUPTIONS, Scene, corrupt, corruptions, held_out, sample
from synthvlm_mini.train.truth import HEADS, labels, scene_of

PIXELS, CELLS = 128, 16
TRAINING = 64_000
_CHUNK = 500


@dataclass
class Batch:
    """Pictures (B, 3, 128, 128) from -1 to 1, their labels (B, heads), thing numbers by cell (B, 16, 16), their scenes.

    ``asked``: what a generated picture was asked to show; its scene is what a checker saw in it.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    cells: torch.Tensor
    scenes: list[Scene]
    asked: list[Scene]

    def grid(self, size: int) -> torch.Tensor:
        """Return thing numbers (B, size, size), 0 for none; a coarser cell shows the last thing in it."""
        step = CELLS // size
        return self.cells.view(len(self.cells), size, step, size, step).amax((2, 4))


def paint(scene: Scene, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a picture and which thing each of its 16 × 16 cells shows: 0 none (less than a quarter), else 1 + its number."""
    composition = compose(scene, np.random.default_rng(seed))
    shares = masks(composition, CELLS)
    shown = np.where(shares.max(0) >= 0.25, 1 + shares.argmax(0), 0)
    return draw(composition, PIXELS), shown.astype(np.uint8)


def _chunk(number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int8]]:
    rng = random.Random(f"pictures:{number}")
    scenes: list[tuple[Scene, int]] = []
    while len(scenes) < _CHUNK:
        scene, seed = sample(rng), rng.getrandbits(40)
        if held_out(scene):
            continue
        scenes.append((scene, seed))
        if number % 2 == 0:  # every other chunk is of pairs, every kind of error as often as another
            possible = corruptions(scene)
            other, _ = corrupt(scene, rng, rng.choice([what for what in (*CORRUPTIONS, "kind", "swap") if what in possible]))
            if held_out(other):
                scenes.pop()
            else:
                scenes.append((other, seed))
    painted = [paint(scene, seed) for scene, seed in scenes]
    truth = np.array([labels(scene) for scene, _ in scenes], np.int8)
    return np.stack([p for p, _ in painted]), np.stack([c for _, c in painted]), truth


def draw_training_pictures(folder: Path, count: int, processes: int | None = None) -> None:
    """Draw ``count`` pictures into ``folder``; none of them is a held-out scene."""
    folder.mkdir(parents=True, exist_ok=True)
    chunks = max(2, count // _CHUNK)
    shapes = {"pixels": ((PIXELS, PIXELS, 3), np.uint8), "cells": ((CELLS, CELLS), np.uint8), "labels": ((len(HEADS),), np.int8)}
    arrays = {
        name: np.lib.format.open_memmap(folder / f"{name}.tmp.npy", "w+", dtype, (chunks * _CHUNK, *shape))
        for name, (shape, dtype) in shapes.items()
    }
    with ProcessPoolExecutor(processes) as pool:
        for number, results in enumerate(pool.map(_chunk, range(chunks))):
            for array, result in zip(arrays.values(), results, strict=True):
                array[number * _CHUNK : (number + 1) * _CHUNK] = result
            print(f"pictures: {(number + 1) * _CHUNK} of {chunks * _CHUNK}", flush=True)
    for name, array in arrays.items():
        array.flush()
        os.replace(folder / f"{name}.tmp.npy", folder / f"{name}.npy")  # labels last: a folder that has them is whole


class Pictures:
    """Pictures on disk: the training set in ``out/pictures``, or generated ones in a folder of their own."""

    def __init__(self, out: Path, folder: str = "pictures", count: int = TRAINING) -> None:
        where = out / folder
        if not (where / "labels.npy").exists():
            if folder != "pictures":
                raise FileNotFoundError(where)
            draw_training_pictures(where, count)
        self.pixels, self.cells = (np.load(where / f"{name}.npy", mmap_mode="r") for name in ("pixels", "cells"))
        self.labels = np.load(where / "labels.npy")
        asked = where / "asked.npy"
        self.asked = np.load(asked) if asked.exists() else self.labels

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.labels)

    def take(self, numbers: list[int], device: torch.device) -> Batch:
        """Return the pictures of these numbers."""
        order = np.argsort(numbers)  # the disk likes one direction
        pixels = np.empty((len(numbers), PIXELS, PIXELS, 3), np.uint8)
        for at in order:
            pixels[at] = self.pixels[numbers[at]]
        truth = self.labels[numbers].astype(np.int64)
        return Batch(
            torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1),
            torch.from_numpy(truth).to(device),
            torch.from_numpy(self.cells[sorted(numbers)][np.argsort(order)]).to(device),
            [_scene(row) for row in truth],
            [_scene(row) for row in self.asked[numbers]],
        )

    def batch(self, rng: random.Random, size: int, device: torch.device) -> Batch:
        """Return ``size`` pictures by chance."""
        return self.take([rng.randrange(len(self)) for _ in range(size)], device)

    def pairs(self, rng: random.Random, size: int, device: torch.device) -> Batch:
        """Return ``size`` pairs, each a scene and one that differs in one thing: twice as many pictures."""
        chunks = -(-(len(self) // _CHUNK) // 2)
        firsts = [2 * rng.randrange(chunks) * _CHUNK + 2 * rng.randrange(_CHUNK // 2) for _ in range(size)]
        return self.take([n + k for n in firsts for k in (0, 1)], device)


def _scene(row: NDArray[np.integer]) -> Scene:
    scene = scene_of([int(v) for v in row])
    assert scene is not None
    return scene
