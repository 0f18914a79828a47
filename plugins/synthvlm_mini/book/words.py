"""The words for what there is in the picture book. In every tuple the first is the canonical one, the others mean the same."""

from __future__ import annotations

from synthvlm_mini.book.scene import KINDS

KIND_WORDS: dict[str, tuple[str, ...]] = {kind: (kind,) for kind in KINDS} | {
    "house": ("house", "cottage"),
    "car": ("car", "automobile"),
    "boat": ("boat", "ship", "sailboat"),
    "cat": ("cat", "kitten"),
}
SIZE_WORDS = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium-sized", "medium", "mid-sized"),
    "large": ("large", "big", "huge"),
}
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}

SETTING_NOUNS = {
    "page": ("a blank page", "a sheet of plain paper", "a plain white page"),
    "meadow": ("a meadow", "a grassy field", "a green meadow"),
    "sea": ("the sea", "the ocean", "the open sea"),
    "snow": ("a snowy field", "a snowy landscape", "a field of snow"),
    "desert": ("a desert", "a sandy desert"),
    "street": ("a city street", "a street"),
    "room": ("a room", "an empty room"),
    "sky": ("the night sky", "a starry sky"),
}
SETTING_PHRASES = {
    "page": ("on a blank page", "on plain paper", "on blank paper", "on a plain white page", "on a sheet of paper"),
    "meadow": ("in a meadow", "in a grassy field", "in a green meadow", "on the grass", "in the meadow"),
    "sea": ("on the sea", "on the ocean", "at sea", "on the water", "out on the open sea"),
    "snow": ("in the snow", "in a snowy field", "on snowy ground", "on the snow", "in a snowy landscape"),
    "desert": ("in a desert", "in the desert", "in a sandy desert"),
    "street": ("on a city street", "on a street", "in the street", "in a city street"),
    "room": ("in a room", "indoors", "inside a room", "in an empty room"),
    "sky": ("in the night sky", "in a starry sky", "against the night sky", "against a starry sky", "under the night sky"),
}
TIME_PHRASES = {
    "day": ("by day", "in the daytime", "during the day", "in daylight"),
    "night": ("at night", "by night", "during the night", "at nighttime"),
}
TIME_SENTENCES = {"day": ("it is day", "it is daytime"), "night": ("it is night", "it is nighttime")}

STYLE_NOUNS = {
    "flat": ("flat illustration", "flat picture", "simple flat drawing", "flat drawing"),
    "outline": ("line drawing", "outline drawing", "ink outline", "ink line drawing"),
    "crayon": ("crayon drawing", "wax crayon picture", "crayon picture", "wax crayon drawing"),
}
STYLE_MANNERS = {
    "flat": ("drawn in a flat style", "in a flat style", "as a flat illustration", "drawn flat"),
    "outline": ("drawn in outline", "in ink outline", "as a line drawing", "drawn in ink outlines"),
    "crayon": ("drawn in crayon", "in crayon", "as a crayon drawing", "drawn with wax crayons"),
}

PLACE_PHRASES = {
    "left": ("on the left", "on the left side", "at the left"),
    "right": ("on the right", "on the right side", "at the right"),
    "top": ("at the top", "in the upper part", "near the top"),
    "bottom": ("at the bottom", "in the lower part", "near the bottom"),
    "middle": ("in the middle", "in the center"),
    "top left": ("at the top left", "in the top left corner", "in the upper left corner"),
    "top right": ("at the top right", "in the top right corner", "in the upper right corner"),
    "bottom left": ("at the bottom left", "in the bottom left corner", "in the lower left corner"),
    "bottom right": ("at the bottom right", "in the bottom right corner", "in the lower right corner"),
    "front": ("in the foreground", "at the front"),
    "back": ("in the background", "at the back"),
    "outside": ("around the other",),
}
PLACES = {
    (1, "left"): ("left",),
    (1, "right"): ("right",),
    (1, "top"): ("top",),
    (1, "bottom"): ("bottom",),
    (1, "middle"): ("middle",),
    (2, "row"): ("left", "right"),
    (2, "column"): ("top", "bottom"),
    (2, "on"): ("top", "bottom"),
    (2, "behind"): ("back", "front"),
    (2, "inside"): ("middle", "outside"),
    (3, "row"): ("left", "middle", "right"),
    (3, "column"): ("top", "middle", "bottom"),
    (4, "square"): ("top left", "top right", "bottom left", "bottom right"),
}
"""By number of things and layout, where each thing stands."""

# How things stand: {a} to {d} are the things, {all} lists them, {first} and {last} the upper and the lower two of four.
ARRANGEMENTS: dict[tuple[int, str | None], tuple[str, ...]] = {
    **{(1, place): tuple(f"{{a}} {phrase}" for phrase in PLACE_PHRASES[place]) for place in ("left", "right", "top", "bottom", "middle")},
    (2, "row"): (
        "{a} to the left of {b}",
        "{b} to the right of {a}",
        "{a} on the left and {b} on the right",
        "{b} on the right and {a} on the left",
        "{a} on the left of {b}",
        "{a} with {b} to the right of it",
        "{b} with {a} to its left",
        "{all} side by side from left to right",
        "{all} side by side",
        "{all} in a row",
    ),
    (2, "column"): (
        "{a} above {b}",
        "{b} below {a}",
        "{a} over {b}",
        "{b} under {a}",
        "{a} at the top and {b} at the bottom",
        "{b} at the bottom and {a} at the top",
        "{b} with {a} above it",
        "{a} with {b} below it",
        "{all}, one above the other",
        "{all} in a column from top to bottom",
    ),
    (2, "on"): (
        "{a} on top of {b}",
        "{a} on {b}",
        "{a} sitting on {b}",
        "{a} standing on {b}",
        "{a} standing on top of {b}",
        "{b} with {a} on top",
        "{b} with {a} on top of it",
    ),
    (2, "behind"): (
        "{a} behind {b}",
        "{b} in front of {a}",
        "{a} partly hidden behind {b}",
        "{b} with {a} behind it",
        "{a} with {b} in front of it",
        "{b} standing in front of {a}",
    ),
    (2, "inside"): (
        "{a} inside {b}",
        "{b} containing {a}",
        "{a} in {b}",
        "{b} with {a} inside",
        "{b} with {a} inside it",
    ),
    (3, "row"): (
        "{all} in a row from left to right",
        "{all} in a row",
        "{all} from left to right",
        "{all} side by side",
        "{a} on the left, {b} in the middle and {c} on the right",
        "{a} to the left of {b} to the left of {c}",
    ),
    (3, "column"): (
        "{all} in a column from top to bottom",
        "{all} in a column",
        "{all} from top to bottom",
        "{all} one above the other",
        "{a} at the top, {b} in the middle and {c} at the bottom",
        "{a} above {b} above {c}",
    ),
    (4, "square"): (
        "{first} above {last}",
        "{last} below {first}",
        "two rows: {first} above {last}",
        "{first} in the top row and {last} in the bottom row",
        "{first} at the top, {last} at the bottom",
        "{a} top left, {b} top right, {c} bottom left and {d} bottom right",
        "{all} in two rows",
    ),
    **{(count, None): ("{all}",) for count in (1, 2, 3, 4)},
}
"""By number of things and layout, phrases that name the things."""

CLAUSES: dict[tuple[int, str | None], tuple[str, ...]] = {
    **{
        (1, place): (f"{{a}} is {phrase[0]}", f"{phrase[0]} is {{a}}", f"{phrase[1]} there is {{a}}")
        for place, phrase in ((place, PLACE_PHRASES[place]) for place in ("left", "right", "top", "bottom", "middle"))
    },
    (2, "row"): (
        "{a} is to the left of {b}",
        "{b} stands to the right of {a}",
        "to the left of {b} is {a}",
        "to the right of {a} there is {b}",
        "on the left is {a} and on the right is {b}",
    ),
    (2, "column"): ("{a} is above {b}", "{b} is under {a}", "above {b} is {a}", "below {a} there is {b}"),
    (2, "on"): ("{a} sits on {b}", "{a} stands on {b}", "{a} is on top of {b}", "on top of {b} is {a}", "on {b} sits {a}"),
    (2, "behind"): ("{a} is behind {b}", "{b} stands in front of {a}", "behind {b} is {a}", "in front of {a} there is {b}"),
    (2, "inside"): ("{a} is inside {b}", "{b} contains {a}", "inside {b} is {a}", "in {b} there is {a}"),
    (3, "row"): ("from left to right there are {all}", "{all} stand in a row"),
    (3, "column"): ("from top to bottom there are {all}", "{all} stand in a column"),
    (4, "square"): (
        "{first} stand above {last}",
        "above {last} there are {first}",
        "in the top row there are {first}, in the bottom row {last}",
    ),
}
"""By number of things and layout, clauses with a verb; they never stand after "a drawing of"."""
