"""What the items of a file say: which image, which captions; and what is to be told of those that say nothing of use."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import Any

from synthvlm.merging.scan import Number

_ESCAPED = re.compile(r"\\u([0-9a-f]{4})|\\.", re.DOTALL)
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_EXAMPLES = 3
MOST_CAPTIONS = 100
"""Captions that one image may bring along in the original: each is a column."""


class Unusable(Exception):
    """A record that cannot be used; the text says why."""


@dataclass
class Notes:
    """What is to be told of one file: at most a few lines for each kind of trouble, and how many there are."""

    file: str
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    facts: list[str] = field(default_factory=list)

    @property
    def bad(self) -> int:
        """Return how many records could not be used."""
        return sum(self.counts.values())

    def add(self, place: str, reason: str) -> None:
        """Take note of a record that cannot be used, at ``place`` of the file ("line 12")."""
        kind = re.sub(r"0x[0-9a-f]{2}|[0-9][0-9,]*", "…", reason)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        shown = self.examples.setdefault(kind, [])
        if len(shown) < _EXAMPLES:
            shown.append(f"{self.file}, {place}: {reason}; left out")

    def lines(self) -> list[str]:
        """Return what is to be told, a line each."""
        told = []
        for kind, shown in self.examples.items():
            more = self.counts[kind] - len(shown)
            told += shown + ([f"{self.file}: {more:,} more like that"] if more else [])
        return told + self.facts


def literal(text: str) -> str:
    """Return ``text`` as JSON in the one spelling that is used here, DuckDB's: equal texts are equal literals.

    Halves of surrogate pairs, which UTF-8 cannot hold, stay escapes.
    """
    spelled = encode_basestring(text)
    if "\\u" in spelled:
        spelled = _ESCAPED.sub(lambda match: f"\\u{match[1].upper()}" if match[1] else match[0], spelled)
    return spelled if spelled.isascii() else _HALF_PAIR.sub(lambda match: f"\\u{ord(match[0]):04X}", spelled)


def image_of(value: Any) -> str:
    """Return the image that a record names; a number counts as the text that spells it. Raises Unusable."""
    if isinstance(value, str):
        return str(value) if type(value) is Number else value
    raise Unusable("has no image" if value is None else f"the image is {_kind(value)}, not a text")


def caption_of(value: Any) -> str:
    """Return a caption. Raises Unusable."""
    if type(value) is str:
        return value
    raise Unusable("has no caption" if value is None else f"the caption is {_kind(value)}, not a text")


def captions_of(value: Any) -> tuple[list[str], str | None]:
    """Return the captions that an image of the original has, which may be none, one, or a list; and what is wrong with others."""
    if value is None:
        return [], None
    if type(value) is str:
        return [value], None
    if type(value) is not list or (value and type(value[0]) is tuple):
        return [], f"the caption is {_kind(value)}, not a text or a list of texts"
    texts = [v for v in value if type(v) is str]
    if len(texts) > MOST_CAPTIONS:
        return [], f"the image has {len(texts):,} captions, more than {MOST_CAPTIONS}"
    if len(texts) < len(value):
        return texts, f"in the list of captions stands {_kind(next(v for v in value if type(v) is not str))}, not a text"
    return texts, None


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if type(value) is list and value and type(value[0]) is tuple:
        return "an object"  # as the members of one are read
    names = {Number: "a number", bool: "true or false", float: "a number", list: "a list", dict: "an object", str: "a text"}
    return names[type(value)]
