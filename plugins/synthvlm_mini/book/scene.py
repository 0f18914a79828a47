"""What there is in the picture book: one to four things, how they stand, in a setting, by day or night, in a drawing style."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace

SHAPES = ("circle", "square", "triangle", "diamond", "cross")
KINDS = (
    *("house", "tree", "sun", "moon", "star", "cloud", "car", "boat", "fish", "cat", "bird", "flower", "ball", "umbrella"),
    *SHAPES,
)
COLORS = {
    "red": (214, 45, 45),
    "orange": (242, 140, 30),
    "yellow": (247, 214, 55),
    "green": (58, 158, 72),
    "blue": (45, 90, 214),
    "purple": (140, 66, 184),
    "pink": (244, 146, 184),
    "brown": (132, 84, 48),
    "black": (34, 34, 38),
}
SIZES = ("small", "medium", "large")
SETTINGS = ("page", "meadow", "sea", "snow", "desert", "street", "room", "sky")
"""``page`` is blank paper, ``sky`` the night sky."""
TIMES = ("day", "night")
OUTDOORS = ("meadow", "sea", "snow", "desert", "street")
"""The settings that have a time; a page and a room have none, and the night sky needs none."""
STYLES = ("flat", "outline", "crayon")

LAYOUTS: dict[int, tuple[str, ...]] = {
    0: (),
    1: ("middle", "left", "right", "top", "bottom"),
    2: ("row", "column", "on", "behind", "inside"),
    3: ("row", "column"),
    4: ("square",),
}
"""By number of things. In a row they stand from left to right, in a column from top to bottom, in a square as one reads."""
CONTAINERS = ("house", "tree", "cloud", "circle", "square", "triangle", "diamond")
"""What another thing can be inside of; it is large then, and the other small."""

ATTRIBUTES = ("count", "layout", "color", "kind", "size", "setting", "style")
"""What two scenes can agree on, and what a partial scene can know. The time counts as part of the setting."""
CORRUPTIONS = ("color", "kind", "size", "setting", "style", "layout", "swap")
"""What :func:`corrupt` can change; ``swap`` exchanges two things."""

_OF_A_THING = ("color", "kind", "size")
_WEIGHTS_OF_COUNT = {1: 0.25, 2: 0.4, 3: 0.2, 4: 0.15}


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing. ``None``: not known, as in a caption that does not tell."""

    kind: str
    color: str | None = None
    size: str | None = None

    def __post_init__(self) -> None:
        """Refuse what the world does not have."""
        _check("kind of thing", self.kind, KINDS)
        _check("color", self.color, (*COLORS, None))
        _check("size", self.size, (*SIZES, None))


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene, or, with ``None`` and no things, the part of one that a caption tells.

    The order of ``things`` is that of the layout; with ``on``, ``behind`` and ``inside`` the first is on, behind or inside the second.
    """

    things: tuple[Thing, ...] = ()
    layout: str | None = None
    setting: str | None = None
    time: str | None = None
    style: str | None = None

    def __post_init__(self) -> None:
        """Refuse what the world does not have."""
        if len(self.things) not in LAYOUTS:
            raise ValueError(f"a scene has at most {max(LAYOUTS)} things, not {len(self.things)}")
        _check("layout", self.layout, (*LAYOUTS[len(self.things)], None))
        _check("setting", self.setting, (*SETTINGS, None))
        _check("time", self.time, (*TIMES, None))
        _check("style", self.style, (*STYLES, None))
        if self.time and self.setting is not None and self.setting not in OUTDOORS:
            raise ValueError(f"{self.setting} has neither day nor night")
        if self.layout == "inside":
            inner, outer = self.things
            if outer.kind not in CONTAINERS:
                raise ValueError(f"nothing is inside a {outer.kind} in this world; it can be inside: {', '.join(CONTAINERS)}")
            if inner.size not in (None, "small") or outer.size not in (None, "large"):
                raise ValueError("what is inside is small, and what it is in is large")
        if self.layout in ("inside", "behind"):
            first, second = self.things
            if first.color is not None and first.color == second.color:
                raise ValueError(f"two things of one color would run together: {first.kind} {self.layout} {second.kind}")

    @property
    def known(self) -> frozenset[str]:
        """Return the names of the attributes that are known, at least of some of the things."""
        own = {name for name in ("layout", "setting", "style") if getattr(self, name) is not None}
        own |= {"setting"} if self.time else set()
        own |= {name for name in _OF_A_THING if any(getattr(thing, name) is not None for thing in self.things)}
        return frozenset(own | {"count"} if self.things else own)

    @property
    def complete(self) -> bool:
        """Return whether nothing is unknown, so that the scene can be drawn."""
        told = self.setting is not None and (self.setting not in OUTDOORS or self.time is not None)
        return told and self.known == set(ATTRIBUTES) and all(thing.color and thing.size for thing in self.things)

    def without(self, *names: str) -> Scene:
        """Return the scene with these forgotten: ``color``, ``size``, ``layout``, ``setting``, ``time``, ``style``."""
        things = self.things
        for name in names:
            if name in ("color", "size"):
                things = tuple(replace(thing, **{name: None}) for thing in things)
        own = {name: None for name in names if name not in ("color", "size")}
        return replace(self, things=things, **own | ({"time": None} if "setting" in own else {}))


def _check(what: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"the miniature world has no {what} {value!r}; it has: {', '.join(str(a) for a in allowed if a)}")


def sample(rng: random.Random) -> Scene:
    """Draw a scene as the training pictures are drawn."""
    while True:
        count = rng.choices(list(_WEIGHTS_OF_COUNT), list(_WEIGHTS_OF_COUNT.values()))[0]
        things = [Thing(rng.choice(KINDS), rng.choice(list(COLORS)), rng.choice(SIZES)) for _ in range(count)]
        layout = rng.choice(LAYOUTS[count])
        if layout == "inside":
            things = [replace(things[0], size="small"), Thing(rng.choice(CONTAINERS), things[1].color, "large")]
        setting = rng.choice(SETTINGS)
        time = rng.choice(TIMES) if setting in OUTDOORS else None
        try:
            return Scene(tuple(things), layout, setting, time, rng.choice(STYLES))
        except ValueError:  # two of one color, one before the other
            continue


def held_out(scene: Scene) -> bool:
    """Return whether no model that ships ever saw this combination of attributes (one in ten, by a hash)."""
    things = [(thing.size, thing.color, thing.kind) for thing in scene.things]
    key = repr((things, scene.layout, scene.setting, scene.time, scene.style))
    return int(hashlib.md5(key.encode(), usedforsecurity=False).hexdigest(), 16) % 10 == 0


def corruptions(scene: Scene) -> tuple[str, ...]:
    """Return what :func:`corrupt` can change in this scene: what is known, and ``swap`` where two things differ."""
    return tuple(what for what in CORRUPTIONS if next(_corrupted(scene, what), None))


def corrupt(scene: Scene, rng: random.Random, what: str | None = None) -> tuple[Scene, str]:
    """Change exactly one thing and return the new scene with the name of what was changed.

    Raises ValueError if ``what`` cannot be changed in this scene.
    """
    possible = corruptions(scene)
    if not possible or what not in (None, *possible):
        raise ValueError(f"cannot corrupt {what or 'anything'} in this scene; possible: {', '.join(possible) or 'nothing'}")
    what = what or rng.choice(possible)
    return rng.choice(list(_corrupted(scene, what))), what


def _corrupted(scene: Scene, what: str):
    """Yield every scene that differs from ``scene`` in just one ``what``."""
    things = scene.things
    for changed in _changes(scene, what):
        try:
            other = replace(scene, **changed)
        except ValueError:
            continue
        if other != scene and (what != "swap" or other.things != things):
            yield other


def _changes(scene: Scene, what: str):
    things = scene.things
    if what == "swap":
        for i in range(len(things)):
            for j in range(i):
                swapped = list(things)
                swapped[i], swapped[j] = things[j], things[i]
                yield {"things": tuple(swapped)}
    elif what in _OF_A_THING:
        values = {"color": tuple(COLORS), "kind": KINDS, "size": SIZES}[what]
        for i, thing in enumerate(things):
            if getattr(thing, what) is not None:
                for value in values:
                    yield {"things": (*things[:i], replace(thing, **{what: value}), *things[i + 1 :])}
    elif what == "setting":
        if scene.setting is not None:
            for setting in SETTINGS:
                if setting == scene.setting:
                    continue
                for time in (TIMES if scene.time or not _timed(scene) else (None,)) if setting in OUTDOORS else (None,):
                    yield {"setting": setting, "time": time}
        if scene.time is not None:
            yield {"time": _other(scene.time)}
    elif what == "layout" and scene.layout is not None:
        for layout in LAYOUTS[len(things)]:
            yield {"layout": layout}
    elif what == "style" and scene.style is not None:
        for style in STYLES:
            yield {"style": style}


def _timed(scene: Scene) -> bool:
    return scene.setting in OUTDOORS


def _other(time: str) -> str:
    return TIMES[1 - TIMES.index(time)]


def agree(truth: Scene, other: Scene | None) -> dict[str, float]:
    """Return, for every attribute that ``truth`` knows, how far ``other`` agrees with it, from 0 to 1.

    Things are compared place by place; a missing or a surplus thing counts against colour, kind and size. ``other`` may be
    ``None``, as :func:`parse` gives for what it cannot read: it agrees on nothing.
    """
    if other is None:
        return {name: 0.0 for name in ATTRIBUTES if name in truth.known}
    same_count = len(truth.things) == len(other.things)
    result = {"count": float(same_count), "layout": float(same_count and truth.layout == other.layout)}
    told = [name for name in ("setting", "time") if getattr(truth, name) is not None]
    result["setting"] = float(all(getattr(truth, name) == getattr(other, name) for name in told))
    result["style"] = float(truth.style == other.style)
    surplus = max(0, len(other.things) - len(truth.things))
    for name in _OF_A_THING:
        known = [i for i, thing in enumerate(truth.things) if getattr(thing, name) is not None]
        right = sum(i < len(other.things) and getattr(truth.things[i], name) == getattr(other.things[i], name) for i in known)
        result[name] = right / max(1, len(known) + surplus)
    return {name: result[name] for name in ATTRIBUTES if name in truth.known}
