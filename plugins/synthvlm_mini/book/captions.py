"""Write captions of the picture book: all of a scene or a part, in one wording or in many, or one of seven perspectives."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from synthvlm_mini.book.scene import SIZES, Scene, Thing
from synthvlm_mini.book.words import (
    ARRANGEMENTS,
    CLAUSES,
    KIND_WORDS,
    NUMBERS,
    PLACE_PHRASES,
    PLACES,
    SETTING_NOUNS,
    SETTING_PHRASES,
    SIZE_WORDS,
    STYLE_MANNERS,
    STYLE_NOUNS,
    TIME_PHRASES,
    TIME_SENTENCES,
)

PHRASINGS = 3
"""The number of ways in which :func:`detail` can put it."""

NOUNS = {
    "page": "paper",
    "meadow": "meadow",
    "sea": "sea",
    "snow": "snow",
    "desert": "desert",
    "street": "street",
    "room": "room",
    "sky": "night sky",
}
"""Setting → the noun that :func:`nouns` gives it."""

_CANONICAL = 0.4
"""How often the canonical word is taken where there are others; with 1 / (number of words) more by chance."""


def plural(noun: str) -> str:
    """Return the plural of the noun of a thing."""
    return noun if noun == "fish" else f"{noun}es" if noun.endswith("s") else f"{noun}s"


def _pick(words: Sequence[str], rng: random.Random | None) -> str:
    """Choose among words that mean the same: the canonical one if there is no ``rng``."""
    return words[0] if rng is None or rng.random() < _CANONICAL else rng.choice(words)


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _thing(thing: Thing, rng: random.Random | None = None, number: int = 1) -> str:
    adjectives = [_pick(SIZE_WORDS[thing.size], rng)] if thing.size else []
    adjectives += [thing.color] if thing.color else []
    noun = _pick(KIND_WORDS[thing.kind], rng)
    comma = len(adjectives) == 2 and rng is not None and rng.random() < 0.06
    words = _joined((", " if comma else " ").join(adjectives), noun if number == 1 else plural(noun))
    return _article(words) if number == 1 else f"{NUMBERS[number]} {words}"


def _list(things: Iterable[Thing], rng: random.Random | None) -> str:
    """List things in their order; with an ``rng``, equals that stand together may be told as "two …"."""
    if rng is None or rng.random() < 0.2:
        return _listed([_thing(thing, rng) for thing in things])
    groups = [len(list(group)) for _, group in groupby(things)]
    firsts = [thing for thing, _ in groupby(things)]
    return _listed([_thing(thing, rng, number) for thing, number in zip(firsts, groups, strict=True)])


def _fill(template: str, scene: Scene, rng: random.Random | None) -> str:
    values = {name: _thing(thing, rng) for name, thing in zip("abcd", scene.things)}
    lists = {"all": scene.things, "first": scene.things[:2], "last": scene.things[2:]}
    values |= {name: _list(things, rng) for name, things in lists.items() if things}
    return template.format(**values)


def _arrangement(scene: Scene, rng: random.Random | None = None) -> str:
    """Name the things as they stand."""
    return _fill(_pick(ARRANGEMENTS[len(scene.things), scene.layout], rng), scene, rng)


def _clause(scene: Scene, rng: random.Random | None) -> str:
    """Say in a clause with a verb how the things stand."""
    clauses = CLAUSES.get((len(scene.things), scene.layout))
    if rng and clauses and rng.random() < 0.6:
        return _fill(rng.choice(clauses), scene, rng)
    named = _arrangement(scene, rng)
    many = named.startswith(("two ", "three ", "four ")) and not named.startswith("two rows")
    return f"there {'are' if many else 'is'} {named}"


def _where(scene: Scene, rng: random.Random | None = None) -> str:
    """Tell the setting and the time as "in the snow at night"; empty if neither is known."""
    parts = [_pick(SETTING_PHRASES[scene.setting], rng)] if scene.setting else []
    parts += [_pick(TIME_PHRASES[scene.time], rng)] if scene.time else []
    return " ".join(parts)


def detail(scene: Scene, phrasing: int = 0) -> str:
    """Tell all that is known of a scene that has things, in canonical words, in one of three phrasings."""
    things, where = _arrangement(scene), _where(scene)
    style = STYLE_MANNERS[scene.style][0] if scene.style else ""
    if phrasing == 1:
        return _sentence(", ".join(filter(None, (_joined(things, where), style))))
    if phrasing == 2:
        return _sentence(", ".join(filter(None, (where, f"there is {things}", style))))
    return _sentence(_joined(f"a {STYLE_NOUNS[scene.style][0]} of" if scene.style else "", things, where))


def caption(scene: Scene, rng: random.Random) -> str:
    """Tell all that is known of a scene that has things, in one of many natural ways."""
    style = rng.choice(("of", "of", "of", "shows", "last", "last", "first", "label", "own sentence")) if scene.style else "none"
    after_of = style in ("of", "shows")
    if style == "none" and rng.random() < 0.2:
        after_of = True
        opening = rng.choice(("a picture of", "an image of", "a drawing of", "the picture shows"))
    elif after_of:
        noun = _pick(STYLE_NOUNS[str(scene.style)], rng)
        opening = f"{_article(noun)} of" if style == "of" else f"{rng.choice(('this', 'the'))} {noun} shows"
    else:
        opening = ""
    text = _scenery(scene, rng, after_of)
    if not scene.style or after_of:
        return _sentence(_joined(opening, text))
    manner = _pick(STYLE_MANNERS[scene.style], rng)
    noun = _pick(STYLE_NOUNS[scene.style], rng)
    if style == "last":
        return _sentence(f"{text}, {manner}")
    if style == "first":
        return _sentence(f"{manner}, {text}")
    if style == "label":
        return _sentence(f"{noun}: {text}")
    return f"{_sentence(text)} {_sentence(rng.choice((f'it is {_article(noun)}', STYLE_MANNERS[scene.style][0])))}"


def _scenery(scene: Scene, rng: random.Random, after_of: bool) -> str:
    """Tell the things, the setting and the time; as a noun phrase if it is to stand after "a drawing of"."""
    order = rng.choice(("last", "last", "noun") if after_of else ("last", "last", "first", "first", "noun", "time first"))
    if order == "noun" and scene.setting:
        time = _pick(TIME_PHRASES[scene.time], rng) if scene.time else ""
        return f"{_joined(_pick(SETTING_NOUNS[scene.setting], rng), time)} with {_arrangement(scene, rng)}"
    if order == "time first" and scene.time:
        place = _where(replace(scene, time=None), rng)
        if rng.random() < 0.5:
            return f"{_joined(_clause(scene, rng), place)}, and {rng.choice(TIME_SENTENCES[scene.time])}"
        return f"{_pick(TIME_PHRASES[scene.time], rng)}, {_joined(_clause(scene, rng), place)}"
    where = _where(scene, rng)
    plain = after_of or rng.random() < 0.5
    things = _arrangement(scene, rng) if plain else _clause(scene, rng)
    return f"{where}, {things}" if where and order == "first" else _joined(things, where)


def part(scene: Scene, rng: random.Random) -> Scene:
    """Forget something of a scene, as people do when they write: sizes first, the style and the setting often, a colour rarely."""
    chances = {"size": 0.5, "style": 0.5, "setting": 0.35, "time": 0.3, "layout": 0.2, "color": 0.08}
    dropped = [name for name, chance in chances.items() if rng.random() < chance]
    time = scene.time if "setting" in dropped and "time" not in dropped and rng.random() < 0.4 else None
    forgotten = scene.without(*dropped)
    if forgotten == scene:
        forgotten = scene.without("size")
    things = [_partly(thing, rng) for thing in forgotten.things]
    return replace(forgotten, things=tuple(things), time=time or forgotten.time)


def _partly(thing: Thing, rng: random.Random) -> Thing:
    forgotten = {name: None for name, chance in (("color", 0.08), ("size", 0.15)) if rng.random() < chance}
    return replace(thing, **forgotten)


def medium(scene: Scene, rng: random.Random) -> str:
    """Tell a part: that which :func:`part` leaves with the same ``rng``."""
    return caption(part(scene, rng), rng)


def brief(scene: Scene) -> str:
    """Name the things and their colours, no more."""
    return detail(scene.without("size", "layout", "setting", "style"))


def sentence(scene: Scene) -> str:
    """Say in one whole sentence what stands where, in which setting."""
    return _sentence(_joined(f"there is {_arrangement(scene.without('size'))}", _where(scene.without("time"))))


def nouns(scene: Scene) -> str:
    """List the nouns: the kinds of things, each once, then the setting."""
    return ", ".join([*dict.fromkeys(thing.kind for thing in scene.things), NOUNS[str(scene.setting)]])


def style(scene: Scene) -> str:
    """Tell the drawing style, the time and the colours, and name no thing."""
    colors = list(dict.fromkeys(thing.color for thing in scene.things if thing.color))
    time = f"of a {scene.time}time scene" if scene.time else ""
    return _sentence(_joined(f"a {STYLE_NOUNS[str(scene.style)][0]}", time, f"that uses {_listed(colors)}"))


def background(scene: Scene) -> str:
    """Tell the setting and the time."""
    return _sentence(_joined("the background is", SETTING_NOUNS[str(scene.setting)][0], TIME_PHRASES[scene.time][0] if scene.time else ""))


def main(scene: Scene) -> str:
    """Tell the main thing, the first of the largest, with its size, colour and place."""
    ranks = [SIZES.index(str(thing.size)) for thing in scene.things]
    index = ranks.index(max(ranks))
    place = PLACES[len(scene.things), str(scene.layout)][index]
    return _sentence(f"the main thing is {_thing(scene.things[index])} {PLACE_PHRASES[place][0]}")


PERSPECTIVES: Mapping[str, Callable[[Scene], str]] = {
    "detail": detail,
    "brief": brief,
    "sentence": sentence,
    "nouns": nouns,
    "style": style,
    "background": background,
    "main": main,
}
"""Perspective → the right caption of a complete scene."""
