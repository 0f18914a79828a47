"""The formats of an export: where their files lie, what they say of a pair, writing and reading them as streams."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

IMAGE_TOKEN = "<image>"  # noqa: S105
"""What stands for the image in LLaVA's conversations, exactly once each."""
_NEUTRAL = "[image]"

Row = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """Where a format's files lie."""

    file: str
    images: str
    array: bool = False
    """The file is one JSON array; otherwise it has a record a line."""


FORMATS = {
    "llava": Layout("llava.json", "images", array=True),
    "jsonl": Layout("pairs.jsonl", "images"),
    # datasets takes splits from names: without a folder train/, an image called COCO_val_1 would make a validation split.
    "imagefolder": Layout("train/metadata.jsonl", "train"),
}


def record(format: str, row: Row, columns: Sequence[str], wordings: Sequence[str]) -> Row:
    """Return what the data file says of a pair; ``columns`` are its scores."""
    if format == "llava":
        return _llava(row, wordings)
    scores = {c: row[c] if row[c] is None or math.isfinite(row[c]) else None for c in columns}
    facts = {"candidate": row["candidate"], "seed": row["seed"], "width": row["width"], "height": row["height"]}
    if format == "imagefolder":
        return {"file_name": row["path"].removeprefix("train/"), "id": row["record_id"], "caption": row["caption"], **scores, **facts}
    meta = {"meta": json.loads(row["meta"])} if row["meta"] else {}
    return {"id": row["record_id"], "image": row["path"], "caption": row["caption"], **scores, **facts, "sha256": row["sha256"], **meta}


def _llava(row: Row, wordings: Sequence[str]) -> Row:
    """Return a LLaVA record. The id decides the wording, and whether it stands before or after the image."""
    draw = int.from_bytes(hashlib.sha256(row["id"].encode()).digest()[:8], "big")
    wording = wordings[draw % len(wordings)]
    asked = f"{IMAGE_TOKEN}\n{wording}" if draw // len(wordings) % 2 else f"{wording}\n{IMAGE_TOKEN}"
    # LLaVA's training code takes the token for an image in every turn, the answer's too, and fails over one image too many.
    answer = row["caption"].replace(IMAGE_TOKEN, _NEUTRAL)
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
    return {"id": row["record_id"], "image": row["path"], "conversations": turns}


def is_sound(format: str, found: Row) -> bool:
    """Say whether a record that was read back has the image where its consumer looks for it."""
    return format != "llava" or [turn["value"].count(IMAGE_TOKEN) for turn in found["conversations"]] == [1, 0]


def write(file: IO[bytes], layout: Layout, records: Iterable[Row]) -> None:
    """Write the data file, a record a line."""
    before = "[\n" if layout.array else ""
    for item in records:
        file.write((before + json.dumps(item, ensure_ascii=False, allow_nan=False)).encode())
        before = ",\n" if layout.array else "\n"
    file.write(b"\n]\n" if layout.array else b"\n")


def read(file: IO[bytes], layout: Layout) -> Iterator[Any]:
    """Yield the records of a data file. Raises ValueError where it is no JSON."""
    if layout.array:
        import ijson

        try:
            yield from ijson.items(file, "item", use_float=True)
        except ijson.JSONError as error:
            raise ValueError(str(error)) from error
    else:
        yield from map(json.loads, file)
