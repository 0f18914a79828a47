"""Pairs of pictures of the miniature world of which it is known which one is right."""

from __future__ import annotations

import json
import random
from pathlib import Path

from PIL import Image
from synthvlm_mini import world


def known_pairs(folder: Path, count: int, seed: int = 0, size: int = 64) -> tuple[Path, Path]:
    """Write two data sets: of each caption the right picture and one with a single thing wrong, in either set; ``better`` tells in which."""
    draw = random.Random(seed)
    lists: dict[str, list[dict[str, str]]] = {"a": [], "b": []}
    for n in range(count):
        scene = world.sample(draw)
        wrong, what = world.corrupt(scene, draw)
        better = draw.choice("ab")
        for side, records in lists.items():
            (folder / side).mkdir(parents=True, exist_ok=True)
            pixels = world.render(scene if side == better else wrong, size, draw.randrange(1 << 30))
            Image.fromarray(pixels).save(folder / side / f"{n}.png")
            caption = world.detail(scene, n % world.PHRASINGS)
            records.append({"id": str(n), "caption": caption, "image": f"{n}.png", "better": better, "wrong": what})
    for side, records in lists.items():
        (folder / side / "list.json").write_text(json.dumps(records))
    return folder / "a" / "list.json", folder / "b" / "list.json"
