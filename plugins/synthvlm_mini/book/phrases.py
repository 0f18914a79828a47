"""What a caption of the picture book can be made of: phrase → kind of token and its value. A word in none of them is outside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

from synthvlm_mini.book import words
from synthvlm_mini.book.captions import plural
from synthvlm_mini.book.scene import COLORS

_SETTINGS = {
    "page": (
        *("page", "paper", "sheet of paper", "sheet of plain paper", "sheet of white paper", "plain background", "white background"),
        *(f"{how} {what}" for how in ("blank", "plain", "empty", "white", "plain white") for what in ("page", "paper", "sheet of paper")),
        *("plain white background", "blank background", "blank sheet", "empty background"),
    ),
    "meadow": ("meadow", "green meadow", "grassy meadow", "grassy field", "green field", "field", "field of grass", "grass", "green grass"),
    "sea": ("sea", "blue sea", "ocean", "blue ocean", "open sea", "open ocean", "water", "open water", "high seas"),
    "snow": (
        *("snow", "white snow", "snowy", "field of snow", "snow field", "snowfield", "snow covered field", "snow covered ground"),
        *(f"snowy {what}" for what in ("field", "landscape", "ground", "meadow")),
    ),
    "desert": ("desert", "sandy desert", "yellow desert"),
    "street": ("street", "city street", "city", "road", "city road", "town", "town street"),
    "room": ("room", "empty room"),
    "sky": (
        *("night sky", "starry sky", "starry night sky", "dark night sky", "sky at night", "nighttime sky"),
        *("sky full of stars", "night sky full of stars"),
    ),
}
_TIMES = {
    "day": ("day", "daytime", "day time", "daylight", "noon", "midday"),
    "night": ("night", "nighttime", "night time", "midnight", "starry night"),
}
_STYLES = {
    "flat": (*(f"flat {what}" for what in ("illustration", "picture", "drawing", "style", "image", "color", "colors")), "drawn flat"),
    "outline": ("outline", "outlines", "line drawing", "line art", "ink", "pen and ink", "simple lines"),
    "crayon": ("crayon", "crayons"),
}
_STYLES["flat"] += tuple(f"simple {phrase}" for phrase in _STYLES["flat"])

_SIDES = ("", " side", " half", " part", " edge", " corner")
_OF_THE_PICTURE = tuple(f" of the {what}" for what in ("picture", "image", "page", "paper", "drawing", "scene", "frame"))
_PLACES = {
    "left": ("on the far left", "at the left", "on the left", "left"),
    "right": ("on the far right", "at the right", "on the right", "right"),
    "top": ("at the top", "at the very top", "near the top", "in the upper", "in the top", "in the top row", "in the upper row", "up high"),
    "bottom": (
        *("at the bottom", "at the very bottom", "near the bottom", "in the lower", "in the bottom", "in the bottom row"),
        *("in the lower row", "down low"),
    ),
    "middle": ("in the middle", "in the center", "at the center", "centered", "middle", "center"),
    **{
        f"{row} {side}": ("", *(f"{at} the " for at in ("at", "in", "on")))
        for row in ("top", "bottom")
        for side in ("left", "right")
    },
    "front": ("in the foreground", "at the front"),
    "back": ("in the background", "at the back"),
    "outside": ("around the other",),
}  # fmt: skip

_ARRANGED = {
    "row": (
        "in a row",
        "from left to right",
        "in a row from left to right",
        "side by side",
        "in a line",
        "lined up",
        "left to right",
        "row of",
    ),
    "column": ("in a column", "from top to bottom", "in a column from top to bottom", "one above the other", "top to bottom", "column of"),
    "square": ("in two rows", "two rows", "in a grid", "in a two by two grid", "arranged in a square", "forming a square"),
    "on": ("one on top of the other", "one on the other"),
    "behind": ("one behind the other",),
    "inside": ("one inside the other",),
}
_ARRANGED["row"] += ("side by side from left to right", "in a line from left to right")
_ARRANGED["column"] += ("one above the other from top to bottom", "stacked in a column")

# "A <phrase> B"; reversed: "B <phrase> A".
_RELATIONS = {
    "row": ("to the left of", "left of", "on the left of", "on the left side of", "at the left of"),
    "row reversed": ("to the right of", "right of", "on the right of", "on the right side of", "at the right of"),
    "column": ("above", "over", "up above", "high above"),
    "column reversed": ("below", "under", "underneath", "beneath"),
    "on": ("on", "on top of", "atop", "upon"),
    "behind": ("behind", "in back of"),
    "behind reversed": ("in front of",),
    "inside": ("in", "inside", "inside of", "within"),
    "inside reversed": ("containing", "contains", "around", "surrounding"),
}
_BARE = {
    "row": ("to the left",),
    "row reversed": ("to the right",),
    "on": ("on top",),
    "behind reversed": ("in front",),
}
_TO_IT = {"row": "left", "row reversed": "right"}

_OTHERS = {
    "article": ("a", "an", "another", "some"),
    "definite": ("the", "this", "that", "its", "these"),
    "and": ("and", ","),
    "stop": (".", ";"),
    "colon": (":",),
    "is": ("is", "are", "which is"),
    "verb": (
        *("sits", "sit", "sitting", "stands", "stand", "standing", "lies", "lie", "lying", "rests", "rest", "resting", "perched"),
        *("floats", "float", "floating", "flies", "fly", "flying", "hangs", "hang", "hanging", "shines", "shining", "parked", "placed"),
        *("shows", "showing", "show", "depicts", "depicting", "features", "featuring", "has", "have", "having", "see", "seen"),
        *("drawn", "done", "made", "colored", "arranged", "partly", "hidden", "half hidden", "peeking out", "directly", "just"),
        *("there", "here", "you can", "you", "we", "i", "who", "which", "it", "only", "simply", "together", "up", "then", "while", "all"),
    ),
    "link": ("of", "with", "as", "at", "by", "during", "against", "across", "out", "next to", "beside", "near", "from", "to", "also"),
    "noun": (
        *("picture", "image", "photo", "photograph", "drawing", "illustration", "sketch", "scene", "view", "background", "setting"),
        *("style", "wax", "simple", "scenery", "landscape"),
    ),
    "things": ("things", "objects", "items", "shapes"),
    "main": ("main thing", "main object"),
    "palette": ("uses", "using"),
}  # fmt: skip


def _all() -> Iterator[tuple[str, str, str]]:
    for kind, nouns in words.KIND_WORDS.items():
        yield from _each("thing", kind, nouns)
        yield from _each("plural", kind, map(plural, nouns))
    for name, table in (("size", words.SIZE_WORDS), ("setting", _SETTINGS), ("time", _TIMES), ("style", _STYLES)):
        for value, phrases in table.items():
            yield from _each(name, value, phrases)
    yield from _each("size", "medium", ("medium sized", "mid sized", "middle sized"))
    yield ("indoors", "room", "indoors")
    yield from (("color", color, color) for color in COLORS)
    yield from (("number", str(number), word) for number, word in words.NUMBERS.items())
    for value, phrases in _PLACES.items():
        if " " in value:
            row, side = value.split()
            rows = {"top": ("top", "upper"), "bottom": ("bottom", "lower")}[row]
            phrases = tuple(f"{at}{row} {side}" for at in phrases for row in rows)
        ends = product(("",) if value in ("front", "back", "outside") else _SIDES, ("", *_OF_THE_PICTURE))
        yield from _each("place", value, (f"{phrase}{side}{of}" for side, of in ends for phrase in phrases))
    for value, phrases in _ARRANGED.items():
        yield from _each("arrangement", value, phrases)
    for value, phrases in _RELATIONS.items():
        yield from _each("relation", value, phrases)
        yield from _each("relation to it", value, (f"{phrase} it" for phrase in phrases))
    for value, phrases in _BARE.items():
        yield from _each("relation", value, phrases)
    for value, side in _TO_IT.items():
        yield from _each("relation to it", value, (f"{at} its {side}" for at in ("to", "on", "at")))
    for kind, phrases in _OTHERS.items():
        yield from _each(kind, "", phrases)


def _each(kind: str, value: str, phrases: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    yield from ((kind, value, phrase.replace("-", " ")) for phrase in phrases)


def _tokens() -> dict[str, tuple[str, str]]:
    tokens: dict[str, tuple[str, str]] = {}
    for kind, value, phrase in _all():
        tokens.setdefault(phrase, (kind, value))
    return tokens


TOKENS = _tokens()
"""Phrase in lower case, without hyphens → (kind, value)."""
