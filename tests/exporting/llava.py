"""What LLaVA's training does with a data file before its tokenizer: its dataset, its ``plain`` (stage 1) and ``v1`` (stage 2) templates.

Written after what ``llava/train/train.py`` does; it fails where that fails, and returns what the model would be given.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from PIL import Image

TOKEN = "<image>"
ROLES = {"human": "USER", "gpt": "ASSISTANT"}


class Dataset:
    """``--data_path`` and ``--image_folder``: records by number."""

    def __init__(self, data_path: Path, image_folder: Path) -> None:
        self.folder = image_folder
        self.records = json.loads(data_path.read_text("utf-8"))

    def __len__(self) -> int:
        return len(self.records)

    def lengths(self) -> list[int]:
        """Words of each record: positive with an image; the length-grouped sampler refuses a zero."""
        found = []
        for record in self.records:
            words = sum(len(turn["value"].split()) for turn in record["conversations"])
            found.append(words if "image" in record else -words)
        assert all(found)
        return found

    def __getitem__(self, n: int) -> tuple[Image.Image, list[dict[str, str]]]:
        record = self.records[n]
        image = Image.open(self.folder / record["image"]).convert("RGB")
        return image, multimodal(copy.deepcopy(record["conversations"]))


def multimodal(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    """Move the image's token to the front of its turn."""
    for turn in turns:
        if TOKEN in turn["value"]:
            turn["value"] = f"{TOKEN}\n{turn['value'].replace(TOKEN, '').strip()}".strip()
    return turns


def images_seen(text: str) -> int:
    """How many images the tokenizer would put in: a text is split where the token stands."""
    return len(text.split(TOKEN)) - 1


def plain(turns: list[dict[str, str]]) -> str:
    """Stage 1: the image, then the answer; the question is thrown away."""
    assert len(turns) == 2
    assert TOKEN in turns[0]["value"]
    return f"{TOKEN}{turns[1]['value']}\n"


def v1(turns: list[Any]) -> str:
    """Stage 2: turn by turn, human first."""
    speakers = [ROLES[turn["from"]] for turn in turns]
    assert speakers == [("USER", "ASSISTANT")[n % 2] for n in range(len(turns))]
    return " ".join(f"{who}: {turn['value']}" for who, turn in zip(speakers, turns, strict=True))
