"""The generator's own pictures, with what the checker sees in them: where a picture is not what was asked, CLIP learns to tell."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synthvlm_mini.book import captions
from synthvlm_mini.book.scene import held_out, sample
from synthvlm_mini.train.checker import Checker, load_checker, read_pictures
from synthvlm_mini.train.clip import train_clip
from synthvlm_mini.train.evaluate import draw
from synthvlm_mini.train.export import export_all
from synthvlm_mini.train.pictures import CELLS, PIXELS, Pictures
from synthvlm_mini.train.truth import HEADS, labels

COUNT = 8_000
_CHUNK = 200


def learn_from_mistakes(out: Path, device: torch.device, scale: float = 1.0) -> Any:
    """Have the trained generator draw, the trained checker look, and CLIP train on with what it should have told apart."""
    from synthvlm_mini import Mini

    count = max(16, int(COUNT * min(1.0, scale)))
    folder = out / "mistakes"
    if not (folder / "labels.npy").exists():
        list(export_all(out, out / "so-far"))
        generator = Mini(checkpoint=str(out / "so-far" / "generator"), width=PIXELS, height=PIXELS)
        name = "cuda:0" if device.type == "cuda" else "cpu"
        collect_mistakes(folder, generator.load([name]), load_checker(out / "so-far" / "checker.safetensors"), count)
    pictures = Pictures(out, "mistakes")
    if not len(pictures):
        print("mistakes: no picture shows a possible scene yet; there is nothing to learn from", flush=True)
        return None
    return train_clip(out, device, scale, pictures)


def collect_mistakes(folder: Path, generator: Any, checker: Checker, count: int) -> None:
    """Draw some ``count`` captions of scenes that are not held out, and keep picture, what it shows, and what was asked."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(-(-count // _CHUNK)):
        path = folder / f"{number:04d}.npz"
        if path.exists():
            continue
        rng = random.Random(f"mistakes:{number}")
        scenes = [scene for scene in (sample(rng) for _ in range(min(count, _CHUNK))) if not held_out(scene)]
        images = np.stack([np.asarray(image) for image in draw(generator, [captions.caption(s, rng) for s in scenes])])
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        _rows, seen = read_pictures(checker, pixels)
        kept = [n for n, scene in enumerate(seen) if scene is not None]
        shown = np.array([labels(seen[n]) for n in kept], np.int8).reshape(-1, len(HEADS))  # type: ignore[arg-type]
        asked = np.array([labels(scenes[n]) for n in kept], np.int8).reshape(-1, len(HEADS))
        with open(path.with_suffix(".tmp"), "wb") as file:
            np.savez(file, pixels=images[kept], labels=shown, asked=asked)
        os.replace(path.with_suffix(".tmp"), path)
        wrong = int((shown != asked).any(1).sum())
        print(f"mistakes: {min(count, (number + 1) * _CHUNK)} of {count}; {wrong} of {len(kept)} scenes are not what was asked", flush=True)
    _join(folder)


def _join(folder: Path) -> None:
    parts = [np.load(path) for path in sorted(folder.glob("*.npz"))]
    for name in ("pixels", "asked", "labels"):  # labels last: a folder that has them is whole
        np.save(folder / f"{name}.npy", np.concatenate([part[name] for part in parts]))
        if name == "pixels":
            total = sum(len(part["labels"]) for part in parts)
            np.save(folder / "cells.npy", np.zeros((total, CELLS, CELLS), np.uint8))
    for path in folder.glob("*.npz"):
        path.unlink()
