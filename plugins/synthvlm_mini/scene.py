"""What there is in the miniature world: one to three things in a row, a column or alone, on a background, in a style."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star")
COLORS = {
    "red": (220, 40, 40),
    "orange": (245, 140, 25),
    "yellow": (245, 215, 40),
    "green": (40, 150, 60),
    "blue": (40, 80, 215),
    "purple": (135, 55, 175),
    "brown": (125, 75, 40),
    "black": (25, 25, 25),
}
SIZES = ("small", "large")
BACKGROUNDS = {
    "white": (250, 250, 250),
    "gray": (185, 185, 190),
    "pink": (250, 190, 205),
    "light blue": (175, 220, 250),
    "light green": (190, 240, 190),
    "cream": (250, 238, 205),
}
PATTERNS = ("plain", "striped", "dotted", "checkered")
STYLES = {"flat": "flat illustration", "outline": "line drawing", "crayon": "crayon drawing"}
PLACES = ("middle", "left", "right", "top", "bottom")
"""Layouts of a single thing."""
ARRANGEMENTS = ("row", "column")
"""Layouts of two or three things."""

ATTRIBUTES = ("count", "layout", "color", "shape", "size", "background", "pattern", "style")
"""What two scenes can agree on, and what a partial scene can know."""
CORRUPTIONS = ("color", "shape", "size", "background", "pattern", "style", "layout", "swap")
"""What :func:`corrupt` can change; ``swap`` exchanges two things."""

_THING_ATTRIBUTES = ("color", "shape", "size")
_WEIGHTS_OF_COUNT = {1: 0.3, 2: 0.4, 3: 0.3}


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing. ``None``: not known, as in a caption that does not tell."""

    shape: str
    color: str | None = None
    size: str | None = None

    def __post_init__(self) -> None:
        """Refuse what the world does not have."""
        _check("shape", self.shape, SHAPES)
        _check("color", self.color, (*COLORS, None))
        _check("size", self.size, (*SIZES, None))


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene, or, with ``None`` and no things, the part of one that a caption tells.

    ``things`` stand from left to right or from top to bottom. ``layout`` is a place (a single thing) or ``row`` or ``column``.
    """

    things: tuple[Thing, ...] = ()
    layout: str | None = None
    background: str | None = None
    pattern: str | None = None
    style: str | None = None

    def __post_init__(self) -> None:
        """Refuse what the world does not have."""
        if len(self.things) > 3:
            raise ValueError(f"a scene has at most 3 things, not {len(self.things)}")
        _check("layout", self.layout, (*layouts(len(self.things)), None))
        _check("background", self.background, (*BACKGROUNDS, None))
        _check("pattern", self.pattern, (*PATTERNS, None))
        _check("style", self.style, (*STYLES, None))

    @property
    def known(self) -> frozenset[str]:
        """Return the names of the attributes that are known, at least of some of the things."""
        own = {name for name in ("layout", "background", "pattern", "style") if getattr(self, name) is not None}
        own |= {name for name in _THING_ATTRIBUTES if any(getattr(thing, name) is not None for thing in self.things)}
        return frozenset(own | {"count"} if self.things else own)

    @property
    def complete(self) -> bool:
        """Return whether nothing is unknown, so that the scene can be drawn."""
        return self.known == set(ATTRIBUTES) and all(thing.color and thing.size for thing in self.things)

    def without(self, *attributes: str) -> Scene:
        """Return the scene with these attributes forgotten (``color``, ``size``, ``layout``, ``background``, ``pattern``, ``style``)."""
        things = self.things
        for name in attributes:
            if name in ("color", "size"):
                things = tuple(replace(thing, **{name: None}) for thing in things)
        return replace(self, things=things, **{name: None for name in attributes if name not in ("color", "size")})


def _check(what: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"the miniature world has no {what} {value!r}; it has: {', '.join(str(a) for a in allowed if a)}")


def layouts(count: int) -> tuple[str, ...]:
    """Return the layouts that ``count`` things can have."""
    return () if count == 0 else PLACES if count == 1 else ARRANGEMENTS


def places(scene: Scene) -> tuple[str, ...]:
    """Return where each thing stands; the layout must be known."""
    count = len(scene.things)
    if scene.layout is None:
        raise ValueError("the scene has no layout")
    if count == 1:
        return (scene.layout,)
    first, last = ("left", "right") if scene.layout == "row" else ("top", "bottom")
    return (first, last) if count == 2 else (first, "middle", last)


def sample(rng: random.Random) -> Scene:
    """Draw a scene as the training pictures of the packaged weights were drawn."""
    count = rng.choices(list(_WEIGHTS_OF_COUNT), list(_WEIGHTS_OF_COUNT.values()))[0]
    things = tuple(Thing(rng.choice(SHAPES), rng.choice(list(COLORS)), rng.choice(SIZES)) for _ in range(count))
    layout = rng.choice(layouts(count))
    return Scene(things, layout, rng.choice(list(BACKGROUNDS)), rng.choice(PATTERNS), rng.choice(list(STYLES)))


def held_out(scene: Scene) -> bool:
    """Return whether the packaged weights never saw this combination of attributes (one in ten, by a hash)."""
    # The spelling of this key is that of the training run: the split hangs on every character of it.
    layout = {"row": "h", "column": "v"}.get(str(scene.layout), scene.layout)
    things = [(thing.size, thing.color, thing.shape) for thing in scene.things]
    key = repr((len(things), layout, things, scene.background, scene.pattern, scene.style))
    return int(hashlib.md5(key.encode(), usedforsecurity=False).hexdigest(), 16) % 10 == 0


def corruptions(scene: Scene) -> tuple[str, ...]:
    """Return what :func:`corrupt` can change in this scene: what is known, and ``swap`` where two things differ."""
    possible = set(scene.known)
    if len(set(scene.things)) > 1:
        possible.add("swap")
    return tuple(what for what in CORRUPTIONS if what in possible)


def corrupt(scene: Scene, rng: random.Random, what: str | None = None) -> tuple[Scene, str]:
    """Change exactly one thing and return the new scene with the name of what was changed.

    Raises ValueError if ``what`` cannot be changed in this scene.
    """
    possible = corruptions(scene)
    if not possible or what not in (None, *possible):
        raise ValueError(f"cannot corrupt {what or 'anything'} in this scene; possible: {', '.join(possible) or 'nothing'}")
    what = what or rng.choice(possible)
    things = list(scene.things)
    if what == "swap":
        i, j = rng.choice([(i, j) for i in range(len(things)) for j in range(i) if things[i] != things[j]])
        things[i], things[j] = things[j], things[i]
        return replace(scene, things=tuple(things)), what
    if what in _THING_ATTRIBUTES:
        index = rng.choice([i for i, thing in enumerate(things) if getattr(thing, what) is not None])
        values = {"color": tuple(COLORS), "shape": SHAPES, "size": SIZES}[what]
        things[index] = replace(things[index], **{what: _other(values, getattr(things[index], what), rng)})
        return replace(scene, things=tuple(things)), what
    values = {"layout": layouts(len(things)), "background": tuple(BACKGROUNDS), "pattern": PATTERNS, "style": tuple(STYLES)}[what]
    return replace(scene, **{what: _other(values, getattr(scene, what), rng)}), what


def _other(values: tuple[str, ...], value: str, rng: random.Random) -> str:
    return rng.choice([v for v in values if v != value])


def agree(truth: Scene, other: Scene | None) -> dict[str, float]:
    """Return, for every attribute that ``truth`` knows, how far ``other`` agrees with it, from 0 to 1.

    Things are compared place by place; a missing or a surplus thing counts against colour, shape and size. ``other`` may be
    ``None``, as :func:`parse` gives for what it cannot read: it agrees on nothing.
    """
    if other is None:
        return {name: 0.0 for name in ATTRIBUTES if name in truth.known}
    same_count = len(truth.things) == len(other.things)
    result = {"count": float(same_count), "layout": float(same_count and truth.layout == other.layout)}
    result |= {name: float(getattr(truth, name) == getattr(other, name)) for name in ("background", "pattern", "style")}
    surplus = max(0, len(other.things) - len(truth.things))
    for name in _THING_ATTRIBUTES:
        told = [i for i, thing in enumerate(truth.things) if getattr(thing, name) is not None]
        right = sum(i < len(other.things) and getattr(truth.things[i], name) == getattr(other.things[i], name) for i in told)
        result[name] = right / max(1, len(told) + surplus)
    return {name: result[name] for name in ATTRIBUTES if name in truth.known}
