"""From a record, as any of the formats gives it, to a Sample: which field is which, and what makes a record bad."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from synthvlm.errors import InputError
from synthvlm.sample import Sample

CAPTION_NAMES = ("caption", "text", "prompt", "description", "conversations")
"""Where a caption is looked for, in this order, in any letter case. ``conversations`` is LLaVA's: the first answer in it."""

IMAGE_NAMES = ("image", "image_path", "img_path", "img", "path", "file_name", "filename", "filepath", "file", "url", "uri")
"""Where an image is looked for where one is wanted, likewise."""

HALF_PAIR = "\ufdd0"
"""Stands for half of a surrogate pair, which JSON can spell (``\\ud800``) and UTF-8 cannot: a noncharacter, which Unicode sets
aside for such marks inside a program."""

_MOST_LAYOUTS = 256


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that cannot be used, in place of its Sample; the rest of the file goes on.

    ``line`` is that of ``Sample.line``; ``field`` is None where the record as a whole is at fault.
    """

    line: int
    field: str | None
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}{f', {self.field}' if self.field else ''}: {self.reason}"


class _Bad(Exception):
    """A value that cannot be used; the text says why."""


class Fields:
    """Which field of a record is the caption, the id, the image; everything else is ``meta``."""

    def __init__(self, caption: str | None = None, id: str | None = None) -> None:
        self._caption = caption
        self._id = id
        self._layouts: dict[tuple[str, ...], tuple[str | None, str | None, str | None, frozenset[str]]] = {}

    def sample(self, record: Any, line: int) -> Sample | BadRecord:
        """Return the Sample that ``record`` (an object, or a bare caption) makes, or what is wrong with it."""
        if type(record) is str:
            record = {"caption": record} if self._caption is None else {self._caption: record}
        elif type(record) is not dict:
            return BadRecord(line, None, f"is {_kind(record)}, not an object with a caption")
        caption_field, id_field, image_field, used = self._layout(record)
        if caption_field is None:
            return BadRecord(line, self._caption or "caption", f"is missing; the record has {_listed(record)}")
        field = caption_field
        try:
            caption = _caption(record[caption_field])
            sample_id = None
            if id_field is not None:
                field = id_field
                sample_id = _id(record[id_field])
            image = None
            if image_field is not None:
                field = image_field
                image = _image(record[image_field])
        except _Bad as bad:
            return BadRecord(line, field, str(bad))
        meta = {name: value for name, value in record.items() if name not in used} if len(record) > len(used) else {}
        return Sample(sample_id, caption, image, meta, line)

    def check(self, names: Iterable[str], source: str) -> None:
        """Raise InputError unless a table with the columns ``names`` has a caption, the columns asked for, and each of them once."""
        columns = list(names)
        caption, id, image, _ = self._layout(dict.fromkeys(columns))
        there = f"it has the columns {_listed(columns)}"
        if caption is None:
            wanted = f"no column {self._caption!r}" if self._caption else "no column for the captions"
            raise InputError(f"{source} has {wanted}", f"{there}; say which holds the captions with --caption-column")
        if self._id is not None and id is None:
            raise InputError(f"{source} has no column {self._id!r}", f"{there}; say which holds the ids with --id-column")
        for name in (caption, id, image):
            if name is not None and columns.count(name) > 1:
                raise InputError(f"{source} has the column {name!r} {columns.count(name)} times", "rename or drop all but one of them")

    def _layout(self, record: dict[str, Any]) -> tuple[str | None, str | None, str | None, frozenset[str]]:
        # Most files have one set of fields, or a few: find out once for each. The bound is for files that have endlessly many.
        names = tuple(record)
        layout = self._layouts.get(names)
        if layout is None:
            caption = _find(names, (self._caption,) if self._caption else CAPTION_NAMES, exact=self._caption is not None)
            id = _find(names, (self._id,) if self._id else ("id",), exact=self._id is not None)
            image = _find(tuple(n for n in names if n not in (caption, id)), ("image",))
            # A conversation holds more than the caption (the questions), so it stays in the meta as well.
            used = frozenset(name for name in (caption, id, image) if name is not None and name.lower() != "conversations")
            layout = (caption, id, image, used)
            if len(self._layouts) == _MOST_LAYOUTS:
                self._layouts.clear()
            self._layouts[names] = layout
        return layout


class ImageFields:
    """Which field of a record is the image, the caption (if there is one), the id; everything else is ``meta``. Used as Fields is."""

    def __init__(self, image: str | None = None, caption: str | None = None, id: str | None = None) -> None:
        self.image_names = (image,) if image else IMAGE_NAMES
        self.image = image or IMAGE_NAMES[0]
        self.caption = caption or CAPTION_NAMES[0]
        self._asked = {"--image-column": image, "--caption-column": caption, "--id-column": id}
        self._captions = (caption,) if caption else CAPTION_NAMES
        self._ids = (id,) if id else ("id",)
        self._layouts: dict[tuple[str, ...], tuple[str | None, str | None, str | None]] = {}

    def sample(self, record: Any, line: int) -> Sample | BadRecord:
        """Return the Sample that ``record`` (an object, or the bare name of an image) makes, or what is wrong with it."""
        if type(record) is str:
            record = {self.image: record}
        elif type(record) is not dict:
            return BadRecord(line, None, f"is {_kind(record)}, not an object with an image")
        image_field, caption_field, id_field = self._layout(tuple(record))
        if image_field is None:
            return BadRecord(line, self.image, f"is missing; the record has {_listed(record)}")
        field = image_field
        try:
            image = record[image_field]
            image = _image(image.get("path") if isinstance(image, dict) else image)
            if image is None:
                return BadRecord(line, image_field, "is empty")
            sample_id = None
            if id_field is not None:
                field = id_field
                sample_id = _id(record[id_field])
        except _Bad as bad:
            return BadRecord(line, field, str(bad))
        used = {image_field, id_field}
        caption = None
        if caption_field is not None:
            with contextlib.suppress(_Bad):  # what is no caption is kept with the other fields: a list of several, say
                caption = _caption(record[caption_field])
            if caption_field.lower() != "conversations" and (caption is not None or record[caption_field] in (None, "")):
                used.add(caption_field)
        return Sample(sample_id, caption, image, {n: v for n, v in record.items() if n not in used}, line)

    def check(self, names: Iterable[str], source: str) -> None:
        """Raise InputError unless a table with the columns ``names`` has an image, the columns asked for, and each of them once."""
        columns = list(names)
        layout = self._layout(tuple(columns))
        there = f"it has the columns {_listed(columns)}"
        if layout[0] is None:
            wanted = f"no column {self.image!r}" if self._asked["--image-column"] else "no column for the images"
            raise InputError(
                f"{source} has {wanted}", f"{there}; say which holds their paths with --image-column (pictures inside a table are not read)"
            )
        for name, (flag, asked) in zip(layout, self._asked.items(), strict=True):
            if asked and name is None:
                raise InputError(f"{source} has no column {asked!r}", f"{there}; say which with {flag}")
            if name is not None and columns.count(name) > 1:
                raise InputError(f"{source} has the column {name!r} {columns.count(name)} times", "rename or drop all but one of them")

    def _layout(self, names: tuple[str, ...]) -> tuple[str | None, str | None, str | None]:
        if names in self._layouts:
            return self._layouts[names]
        image = _find(names, self.image_names, exact=self._asked["--image-column"] is not None)
        rest = tuple(n for n in names if n != image)
        caption = _find(rest, self._captions, exact=self._asked["--caption-column"] is not None)
        id = _find(tuple(n for n in rest if n != caption), self._ids, exact=self._asked["--id-column"] is not None)
        if len(self._layouts) == _MOST_LAYOUTS:
            self._layouts.clear()
        self._layouts[names] = image, caption, id
        return image, caption, id


def _find(names: tuple[str, ...], wanted: tuple[str, ...], exact: bool = False) -> str | None:
    for want in wanted:
        if want in names:
            return want
        if not exact:
            for name in names:
                if name.lower() == want:
                    return name
    return None


def _text(value: str) -> str:
    if "\0" in value:
        raise _Bad("holds a NUL character")
    if HALF_PAIR in value:
        raise _Bad("holds half of a surrogate pair (such as \\ud800), which is no text")
    return value.strip()


def _caption(value: Any) -> str:
    if type(value) is list:
        value = _first_answer(value)
    if type(value) is not str:
        raise _Bad("is null" if value is None else f"is {_kind(value)}, not a text")
    caption = _text(value)
    if not caption:
        raise _Bad("is empty")
    return caption


def _first_answer(turns: list[Any]) -> Any:
    for turn in turns:
        if not isinstance(turn, dict):
            raise _Bad("is a list, not a text")
        if turn.get("from") == "gpt":
            return turn.get("value")
    raise _Bad('has no turn from "gpt", whose text would be the caption')


def _id(value: Any) -> str | None:
    if type(value) is int:
        return str(value)
    if type(value) is str:
        return _text(value) or None
    if value is None or value != value:  # a NaN: what pandas makes of a missing id among numbers
        return None
    # Pandas turns whole numbers with a gap among them into floats. Beyond 2**53 a float no longer tells neighbours apart.
    if type(value) is float and value.is_integer() and abs(value) <= 2**53:
        return str(int(value))
    raise _Bad(f"is {value if type(value) is float else _kind(value)}; an id is a whole number or a text")


def _image(value: Any) -> str | None:
    if value is None:
        return None
    if type(value) is not str:
        raise _Bad(f"is {_kind(value)}, not a path or URL")
    return _text(value) or None


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object", str: "a text"}
    return names.get(type(value), f"of the type {type(value).__name__}")


def _listed(names: Iterable[str]) -> str:
    shown = [repr(name) if len(name) <= 60 else repr(name[:57] + "…") for name in names]
    more = len(shown) - 20
    return ", ".join(shown[:20]) + (f" and {more} more" if more > 0 else "") or "none"
