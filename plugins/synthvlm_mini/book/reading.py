"""Read captions of the picture book back into scenes, as far as they tell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from synthvlm_mini.book.phrases import TOKENS
from synthvlm_mini.book.scene import OUTDOORS, Scene, Thing
from synthvlm_mini.book.standing import Event, Outside, layout

_LONGEST = max(len(phrase.split()) for phrase in TOKENS)
# What people write for what the tables have.
_SPELLINGS = (("colour", "color"), ("centre", "center"), ("it's", "it is"), ("there's", "there is"), ("&", " and "), ("-", " "))
_PUNCTUATION = str.maketrans({"!": ".", "(": ",", ")": ",", "–": ",", "—": ",", "’": "'"})
_WORD = re.compile(r"[^\s,.;:]+|[,.;:]")
# Relations whose preposition can also lead to a setting: "on the sea", "in a room", "over a meadow", "under the night sky".
_BEFORE_A_SETTING = ("on", "inside", "inside reversed", "column", "column reversed")
_SIDES = {"row": "left", "row reversed": "right"}


def vocabulary() -> frozenset[str]:
    """Return the words, in lower case and without hyphens, that captions of the world are made of."""
    return frozenset(word for phrase in TOKENS for word in phrase.split() if word.isalpha())


def _tokens(caption: str) -> Iterator[tuple[str, str, str]]:
    """Yield the kind, the value and the phrase of the longest phrases that the caption is made of."""
    text = caption.lower().translate(_PUNCTUATION)
    for written, meant in _SPELLINGS:
        text = text.replace(written, meant)
    words = _WORD.findall(text)
    at = 0
    while at < len(words):
        for length in range(min(_LONGEST, len(words) - at), 0, -1):
            phrase = " ".join(words[at : at + length])
            if phrase in TOKENS:
                yield *TOKENS[phrase], phrase
                at += length
                break
        else:
            raise Outside


@dataclass
class _Reader:
    """Reads a caption from left to right. Adjectives wait until the noun or the end of the phrase tells whose they are."""

    things: list[Thing] = field(default_factory=list)
    scene: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)
    number: int | None = None
    """How many of the next noun there are."""
    total: int | None = None
    """How many things the caption says there are, as in "three things"."""
    sentences: list[list[Event]] = field(default_factory=lambda: [[]])
    kinds: list[str] = field(default_factory=lambda: [""])
    """The kinds of all tokens read."""
    announced: Thing | None = None
    """What every one of them is, as in "three red balls: …"."""
    subject: int | None = None
    """The thing whose adjectives follow "is"."""
    named_before: int = 0
    """The number of things that earlier sentences named."""
    definite: bool = False
    of_the_palette: bool = False
    of_the_main_thing: bool = False

    def read(self, kind: str, value: str, phrase: str) -> None:
        """Take in the next token."""
        if kind in ("size", "color"):
            if not self.of_the_palette:
                self._set(self.waiting, kind, value)
        elif kind in ("thing", "plural") or (phrase == "one" and self.things and (self.waiting or self.kinds[-1] == "article")):
            if phrase == "one":
                value = self.things[-1].kind
            self._name(value, plural=kind == "plural", either=value == "fish")
        elif kind != "and":
            self._close()
            getattr(self, f"_{kind.replace(' ', '_')}", lambda _: None)(value)
        self.kinds.append(kind)

    def _set(self, where: dict[str, str], name: str, value: str) -> None:
        if where.setdefault(name, value) != value:
            raise Outside

    def _close(self) -> None:
        """Give the waiting adjectives to what they can only belong to."""
        if self.waiting:
            if self.subject is None:
                raise Outside
            self._describe(self.subject, self.waiting)
            self.waiting = {}

    def _describe(self, index: int, told: dict[str, str]) -> None:
        known = {name: getattr(self.things[index], name) for name in told}
        if any(value not in (None, told[name]) for name, value in known.items()):
            raise Outside
        self.things[index] = replace(self.things[index], **told)

    def _name(self, kind: str, *, plural: bool, either: bool) -> None:
        """Take in the noun of a thing: one thing, several, or one that was named before."""
        number, told = self.number or 1, self.waiting
        if not either and plural != (number > 1):
            raise Outside
        before = self._meant(kind, told) if self.definite and number == 1 else None
        if before is not None:
            self._describe(before, told)
            self.sentences[-1].append(("T", str(before)))
        else:
            for _ in range(number):
                self.sentences[-1].append(("T", str(len(self.things))))
                self.things.append(Thing(kind, told.get("color"), told.get("size")))
        self.number, self.waiting, self.subject, self.definite = None, {}, None, False

    def _meant(self, kind: str, told: dict[str, str]) -> int | None:
        """Return which thing "the …" means, ``None`` for one not named yet.

        In one sentence "the small ball above the red ball" names two; in the next, "the ball is red" tells more of the same.
        """
        fitting = []
        for index, thing in enumerate(self.things):
            own = {name: getattr(thing, name) for name in told}
            allowed = (None,) if index < self.named_before else ()
            if thing.kind == kind and all(value == told[name] or value in allowed for name, value in own.items()):
                fitting.append(index)
        if len(fitting) > 1:
            raise Outside
        return fitting[0] if fitting else None

    # One method for each kind of token that means something beside closing what waits.

    def _article(self, _: str) -> None:
        self.subject, self.definite = None, False

    def _definite(self, _: str) -> None:
        self.subject, self.definite = None, True

    def _is(self, _: str) -> None:
        event = self.sentences[-1][-1] if self.sentences[-1] else ("", "")
        self.subject = int(event[1]) if event[0] == "T" else None

    def _stop(self, _: str) -> None:
        self.sentences.append([])
        self.named_before = len(self.things)
        self.subject, self.definite, self.of_the_palette = None, False, False

    def _colon(self, _: str) -> None:
        """After "three birds in a row" each of the three may be told by itself."""
        events = [event for event in self.sentences[-1] if event[0] != "T"]
        if len(self.things) > 1 and len(set(self.things)) == 1 and "plural" in self.kinds:
            self.announced, self.total, self.things, self.sentences[-1] = self.things[0], len(self.things), [], events
        self._stop("")

    def _number(self, value: str) -> None:
        if self.number is not None:
            raise Outside
        self.number = int(value)

    def _things(self, _: str) -> None:
        if self.number is None or self.total not in (None, self.number):
            raise Outside
        self.total, self.number = self.number, None

    def _main(self, _: str) -> None:
        self.of_the_main_thing = True

    def _palette(self, _: str) -> None:
        self.of_the_palette = True

    def _style(self, value: str) -> None:
        self._drop_preposition()
        self._set(self.scene, "style", value)

    def _time(self, value: str) -> None:
        self._drop_preposition()
        self._set(self.scene, "time", value)

    def _noun(self, _: str) -> None:
        self._drop_preposition()

    def _setting(self, value: str) -> None:
        side = _SIDES.get(self.sentences[-1][-1][1]) if self.sentences[-1] else None
        if side and self._last() == "relation":
            self.sentences[-1][-1] = ("P", side)  # "on the left side of a street"
        else:
            self._drop_preposition()
        if self.kinds[-1] == "place" and self.sentences[-1][-1:] == [("P", "back")]:
            self.sentences[-1].pop()  # "in the background a meadow"
        self._indoors(value)

    def _indoors(self, value: str) -> None:
        settings = {value, self.scene.get("setting", value)}
        if "sky" in settings and not settings.isdisjoint(OUTDOORS):  # "in a meadow under the night sky"
            self._set(self.scene, "time", "night")
            self.scene["setting"] = next(iter(settings - {"sky"}))
        else:
            self._set(self.scene, "setting", value)

    def _relation(self, value: str) -> None:
        if value == "inside reversed" and not self.sentences[-1]:
            return  # "the picture contains"
        self.sentences[-1].append(("R", value))

    def _relation_to_it(self, value: str) -> None:
        self.sentences[-1].append(("I", value))

    def _place(self, value: str) -> None:
        if value != "back" or self.kinds[-1] != "setting":  # "with a meadow in the background"
            self.sentences[-1].append(("P", value))

    def _arrangement(self, value: str) -> None:
        self.sentences[-1].append(("A", value))

    def _last(self) -> str:
        """Return the kind of the last token that is no article."""
        return next(kind for kind in reversed(self.kinds) if kind not in ("article", "definite"))

    def _drop_preposition(self) -> None:
        """Forget the relation if it was only the preposition of a setting, a style or a time."""
        preposition = self.sentences[-1].pop() if self._last() == "relation" and self.sentences[-1] else None
        if preposition and preposition[1] not in _BEFORE_A_SETTING:
            raise Outside

    def _take_announced(self) -> None:
        """Give what was announced of all things to each, or announce nothing but them."""
        if self.announced is None:
            return
        if not self.things:
            self.things = [self.announced] * (self.total or 0)
            self.sentences[0] = [*(("T", str(i)) for i in range(len(self.things))), *self.sentences[0]]
        told = {name: value for name in ("color", "size") if (value := getattr(self.announced, name))}
        for index, thing in enumerate(self.things):
            if thing.kind != self.announced.kind:
                raise Outside
            self._describe(index, told)

    def finish(self) -> Scene:
        """Return the scene that was told."""
        self._close()
        self._take_announced()
        count = len(self.things)
        if self.number is not None or self.total not in (None, count):
            raise Outside
        try:
            order, found = layout(self.sentences, count)
        except Outside:
            if not self.of_the_main_thing or count != 1:
                raise
            order, found = [0], None  # its place is one among others that are not named
        scene = self.scene
        if scene.get("setting") == "sky" and scene.get("time") == "night":
            scene = {name: value for name, value in scene.items() if name != "time"}
        read = Scene(tuple(self.things[i] for i in order), found, **scene)
        if not read.known:
            raise Outside
        return read


def parse(caption: str) -> Scene | None:
    """Read a caption: return what it tells of a scene (see ``Scene.known``), or ``None`` if it is outside the world.

    A caption is outside if it has a word that the world does not know, names more than four things, tells of what the world
    does not have or leaves unclear how its things stand, or says nothing.
    """
    reader = _Reader()
    try:
        for token in _tokens(caption):
            reader.read(*token)
        return reader.finish()
    except (Outside, ValueError):  # ValueError: a scene that cannot be, such as a cat inside a bird
        return None


def outside(caption: str) -> bool:
    """Return whether a caption tells of what the picture book does not have."""
    return parse(caption) is None
