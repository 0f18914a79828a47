"""Read captions of the miniature world back into scenes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from synthvlm_mini.captions import PATTERN_NOUNS, PLACE_PHRASES
from synthvlm_mini.scene import ARRANGEMENTS, BACKGROUNDS, COLORS, PATTERNS, SHAPES, SIZES, STYLES, Scene, Thing, places

# What a caption can be made of, longest first where one begins another. A word that is none of these is outside the world.
_PHRASES: tuple[tuple[str, str, str | None], ...] = (
    *(("style", phrase, name) for name, phrase in STYLES.items()),
    *(("style", word, name) for word, name in (("flat", "flat"), ("crayon", "crayon"))),
    *(("arrangement", f"{start}{way}", name) for name, start, way in (
        ("row", "in a row ", "from left to right"),
        ("row", "in a row", ""),
        ("row", "", "from left to right"),
        ("column", "in a column ", "from top to bottom"),
        ("column", "in a column", ""),
        ("column", "", "from top to bottom"),
    )),
    *(("relation", phrase, name) for phrase, name in (
        ("to the left of", "row"),
        ("to the right of", "row reversed"),
        ("above", "column"),
        ("below", "column reversed"),
    )),
    *(("place", phrase, name) for name, phrase in PLACE_PHRASES.items()),
    ("background", "background", None),
    *(("backdrop", name, name) for name in BACKGROUNDS),
    *(("pattern", name, name) for name in PATTERNS),
    *(("pattern noun", noun, name) for name, noun in PATTERN_NOUNS.items()),
    *(("size", name, name) for name in SIZES),
    *(("color", name, name) for name in COLORS),
    *(("shape", name, name) for name in SHAPES),
    *(("article", word, None) for word in ("an", "a", "the", "this", "there")),
    *(("is", word, None) for word in ("is", "are")),
    *(("uses", word, None) for word in ("uses", "using")),
    *(("link", word, None) for word in ("with", "of", "on", "in", "as", "that", "it")),
    *(("filler", word, None) for word in ("and", "drawn", "drawing", "illustration", "image", "picture", "photo", "main object")),
    ("comma", ",", None),
    ("stop", ".", None),
    ("stop", ";", None),
)  # fmt: skip
_KINDS = {phrase: (kind, value) for kind, phrase, value in _PHRASES}


def _regex(phrase: str) -> str:
    words = r"\s+".join(re.escape(word) for word in phrase.split())
    return rf"{words}\b" if phrase[-1].isalpha() else words


_TOKEN = re.compile(rf"\s*({'|'.join(_regex(phrase) for _, phrase, _ in _PHRASES)})", re.IGNORECASE)


def vocabulary() -> frozenset[str]:
    """Return the words that captions of the world are made of."""
    return frozenset(word for phrase in _KINDS for word in phrase.split() if word.isalpha())


class _Outside(Exception):
    """The caption tells of something that the world does not have, or cannot be read."""


@dataclass
class _Reader:
    """Reads a caption from left to right. Adjectives wait until the noun or the end of the phrase tells whose they are."""

    things: list[Thing] = field(default_factory=list)
    scene: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)
    order: list[tuple[str, str]] = field(default_factory=list)
    """Things, places, relations and arrangements as they come."""
    subject: str | None = None
    """Whose adjectives follow ``is`` or ``uses``: ``thing``, ``background`` or ``palette``."""
    spoken_of: str | None = None

    def read(self, kind: str, value: str) -> None:
        if kind in ("size", "color", "backdrop", "pattern"):
            if self.subject == "palette":
                return
            self._set(self.waiting, kind, value)
        elif kind == "shape":
            if not self.waiting.keys() <= {"size", "color"}:
                raise _Outside
            self.things.append(Thing(value, self.waiting.pop("color", None), self.waiting.pop("size", None)))
            self.order.append(("thing", value))
            self.subject, self.spoken_of = None, "thing"
        elif kind == "background":
            if not self.waiting.keys() <= {"backdrop", "pattern"}:
                raise _Outside
            self._close()
            self.subject, self.spoken_of = None, "background"
        elif kind == "pattern noun":
            if self.waiting:
                raise _Outside  # "white dots": the world's patterns are of the background's own colour
            self._set(self.scene, "pattern", value)
        elif kind == "comma":
            if self.waiting.keys() & {"backdrop", "pattern"}:
                self._close()
        elif kind != "filler":
            self._close()
            if kind == "is":
                self.subject = self.spoken_of
            elif kind == "uses":
                self.subject = "palette"
            elif kind == "style":
                self._set(self.scene, "style", value)
            elif kind in ("place", "relation", "arrangement"):
                self.order.append((kind, value))
            elif kind == "stop":
                self.subject = self.spoken_of = None

    def _set(self, where: dict[str, str], name: str, value: str) -> None:
        if where.setdefault(name, value) != value:
            raise _Outside

    def _close(self) -> None:
        """Give the waiting adjectives to what they can only belong to."""
        for name, value in self.waiting.items():
            if name in ("backdrop", "pattern"):
                self._set(self.scene, "background" if name == "backdrop" else name, value)
            elif self.subject == "thing" and getattr(self.things[-1], name) is None:
                self.things[-1] = replace(self.things[-1], **{name: value})
            else:
                raise _Outside
        self.waiting.clear()

    def finish(self) -> Scene:
        self._close()
        if len(self.things) > 3:
            raise _Outside
        things, layout = self._laid_out()
        scene = Scene(things, layout, **self.scene)
        if not scene.known:
            raise _Outside
        return scene

    def _laid_out(self) -> tuple[tuple[Thing, ...], str | None]:
        things = tuple(self.things)
        kinds = [kind for kind, _ in self.order]
        told = {kind: [v for k, v in self.order if k == kind] for kind in ("place", "relation", "arrangement")}
        if not any(told.values()):
            return things, None
        if sum(map(bool, told.values())) > 1:
            raise _Outside
        if told["arrangement"]:
            if len(told["arrangement"]) > 1 or len(things) < 2:
                raise _Outside
            return things, told["arrangement"][0]
        if told["relation"]:
            return self._related(things, kinds, told["relation"])
        return self._placed(things, kinds, told["place"])

    def _related(self, things: tuple[Thing, ...], kinds: list[str], relations: list[str]) -> tuple[tuple[Thing, ...], str]:
        """Order things by ``A above B`` (or ``above B is A``)."""
        if len(relations) != len(things) - 1 or len(set(relations)) > 1:
            raise _Outside
        layout, _, turned = relations[0].partition(" ")
        if kinds == ["relation", "thing", "thing"]:
            turned = not turned
        elif kinds != ["thing", *["relation", "thing"] * len(relations)]:
            raise _Outside
        return things[::-1] if turned else things, layout

    def _placed(self, things: tuple[Thing, ...], kinds: list[str], told: list[str]) -> tuple[tuple[Thing, ...], str]:
        """Order things by ``A on the left and B on the right`` (or ``on the left A …``)."""
        count = len(things)
        if kinds not in (["thing", "place"] * count, ["place", "thing"] * count):
            raise _Outside
        if count == 1:
            return things, told[0]
        for layout in ARRANGEMENTS:
            wanted = places(Scene(things, layout))
            if sorted(told) == sorted(wanted):
                return tuple(things[told.index(place)] for place in wanted), layout
        raise _Outside


def parse(caption: str) -> Scene | None:
    """Read a caption: return what it tells of a scene (see ``Scene.known``), or ``None`` if it is outside the world.

    A caption is outside if it has a word that the world does not know, names more than three things, gives a thing or the
    background what only the other can have, or says nothing.
    """
    reader, at, caption = _Reader(), 0, caption.rstrip()
    try:
        while at < len(caption):
            match = _TOKEN.match(caption, at)
            if not match:
                return None
            kind, value = _KINDS[" ".join(match[1].lower().split())]
            reader.read(kind, value or "")
            at = match.end()
        return reader.finish()
    except _Outside:
        return None


def outside(caption: str) -> bool:
    """Return whether a caption tells of what the miniature world does not have."""
    return parse(caption) is None
