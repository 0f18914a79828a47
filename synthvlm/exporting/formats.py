"""The formats of an export: where their files lie, and what they say of an image and its captions."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

IMAGE_TOKEN = "<image>"  # noqa: S105
"""What stands for the image in a conversation, exactly once."""
_MEDIA = ("<image>", "<video>", "<audio>")
"""What trainers take for an image, a video or a sound in any turn, the answer's too, and then fail over one that is not there."""
_SIDES = {"llava": ("from", "value", "human", "gpt"), "llamafactory": ("role", "content", "user", "assistant")}
"""How a format writes a turn: the names of speaker and text, and of who asks and who answers."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """Where a format's files lie."""

    file: str
    """The data file; of a format in shards, the pattern of their names."""
    images: str = ""
    """The folder of the image files, if it has them."""
    array: bool = False
    """The file is one JSON array; otherwise it has a record a line."""


FORMATS = {
    "llava": Layout("llava.json", "images", array=True),
    "jsonl": Layout("pairs.jsonl", "images"),
    # datasets takes splits from names: without a folder train/, an image called COCO_val_1 would make a validation split.
    "imagefolder": Layout("train/metadata.jsonl", "train"),
    "webdataset": Layout("data/train-*.tar"),
    "parquet": Layout("data/train-*.parquet"),
    "llamafactory": Layout("llamafactory.json", "images", array=True),
    "recipe": Layout("recipe.parquet"),
}
FOLDERS = tuple(name for name, layout in FORMATS.items() if layout.images)
"""Formats whose images are files of their own."""
CONVERSATIONS = tuple(_SIDES)
"""Formats of turns, a record for each caption."""


@dataclass(frozen=True)
class Wording:
    """How conversations ask for a caption."""

    variants: Sequence[str]
    """LLaVA's instructions; the id draws one."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Where a caption comes from → the prompt that it answers."""


def records(format: str, row: Row, columns: Sequence[str], wording: Wording) -> Iterator[Row]:
    """Yield what the data file says of an image: a record, or in conversations one for each caption. ``columns`` are its scores."""
    if format in CONVERSATIONS:
        yield from _conversations(format, row, wording)
    elif format == "imagefolder":
        said = facts(row, columns)
        yield {"file_name": row["path"].removeprefix("train/"), **{k: v for k, v in said.items() if k not in ("sha256", "meta")}}
    else:
        said = facts(row, columns)
        yield {"id": said.pop("id"), "image": row["path"], **said}


def facts(row: Row, columns: Sequence[str]) -> Row:
    """Return everything that is known of an image, but for where it lies: id, caption or captions, scores, how it was made, meta."""
    said: Row = {"id": row["record_id"]}
    said |= {"captions": row["captions"], "sources": row["sources"]} if "captions" in row else {"caption": row["caption"]}
    said |= {c: _number(row[c]) for c in columns}
    said |= {k: row[k] for k in ("candidate", "seed", "width", "height") if row.get("seed") is not None}
    return said | {"sha256": row["sha256"]} | ({"meta": json.loads(row["meta"])} if row["meta"] else {})


def _number(value: Any) -> Any:
    """Return a score as JSON has it, which knows neither NaN nor infinities."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _conversations(format: str, row: Row, wording: Wording) -> Iterator[Row]:
    """Yield a conversation for each caption. The id decides the wording, and whether it stands before or after the image."""
    who, what, asker, answerer = _SIDES[format]
    several = "captions" in row
    captions = zip(row["captions"], row["sources"], strict=True) if several else [(row["caption"], "")]
    for n, (caption, source) in enumerate(captions):
        # Of several captions all have their number in the id: a suffix here and there could meet another id.
        id = f"{row['record_id']}-{n}" if several else row["record_id"]
        draw = int.from_bytes(hashlib.sha256((id if several else row["id"]).encode()).digest()[:8], "big")
        asked = neutral(wording.prompts.get(source, "")) or wording.variants[draw % len(wording.variants)]
        before = draw // len(wording.variants) % 2
        turns = [f"{IMAGE_TOKEN}\n{asked}" if before else f"{asked}\n{IMAGE_TOKEN}", neutral(caption)]
        image = {"image": row["path"]} if format == "llava" else {"images": [row["path"]]}
        said = [{who: speaker, what: text} for speaker, text in zip((asker, answerer), turns, strict=True)]
        yield {"id": id, **image, "conversations" if format == "llava" else "messages": said}


def neutral(text: str) -> str:
    """Return a text without what a trainer would take for an image: ``<image>`` becomes ``[image]``."""
    for token in _MEDIA:
        text = text.replace(token, f"[{token[1:-1]}]")
    return text


def is_sound(format: str, found: Row) -> bool:
    """Say whether a record that was read back has the image where its consumer looks for it."""
    if format not in CONVERSATIONS:
        return True
    what = _SIDES[format][1]
    turns = found["conversations" if format == "llava" else "messages"]
    return [sum(turn[what].count(token) for token in _MEDIA) for turn in turns] == [1, 0] and IMAGE_TOKEN in turns[0][what]


def neutralised_sql(several: bool) -> str:
    """Return SQL that counts the images of the table ``plan`` with a caption that :func:`neutral` changes."""
    text = "array_to_string(captions, ' ')" if several else "caption"
    found = " OR ".join(f"contains({text}, '{token}')" for token in _MEDIA)
    return f"count(*) FILTER ({found})"
