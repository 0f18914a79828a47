"""Write captions of the miniature world: detailed, brief, or of one perspective."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from synthvlm_mini.scene import STYLES, Scene, Thing, places

PHRASINGS = 3
"""The number of ways in which :func:`detail` can put it."""

PLACE_PHRASES = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "middle": "in the middle",
}
PATTERN_NOUNS = {"striped": "stripes", "dotted": "dots", "checkered": "checks"}


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _thing(thing: Thing) -> str:
    return _article(" ".join(word for word in (thing.size, thing.color, thing.shape) if word))


def _arrangement(scene: Scene) -> str:
    things = [_thing(thing) for thing in scene.things]
    if scene.layout is None:
        return _listed(things)
    if len(things) == 1:
        return f"{things[0]} {PLACE_PHRASES[scene.layout]}"
    if len(things) == 2:
        return f"{things[0]} {'to the left of' if scene.layout == 'row' else 'above'} {things[1]}"
    return f"{_listed(things)} in a {'row from left to right' if scene.layout == 'row' else 'column from top to bottom'}"


def _background(scene: Scene) -> str | None:
    words = [word for word in (scene.pattern, scene.background) if word]
    return _article(" ".join([*words, "background"])) if words else None


def detail(scene: Scene, phrasing: int = 0) -> str:
    """Tell all that is known of a scene that has things, in one of three phrasings."""
    things, behind = _arrangement(scene), _background(scene)
    style = STYLES[scene.style] if scene.style else None
    if phrasing == 1 and style:
        return f"{_capital(things)}, drawn as {_article(style)}{f' with {behind}' if behind else ''}."
    if phrasing == 2 and style and behind:
        return f"There is {behind} with {things} in this {style}."
    subject = f"A {style} of {things}" if style else _capital(things)
    return f"{subject}{f' on {behind}' if behind else ''}."


def medium(scene: Scene, rng: random.Random) -> str:
    """Tell a part: the things, and sometimes the background or the style."""
    kind = rng.random()
    if rng.random() < 0.5:
        scene = scene.without("size")
    if kind < 0.35:
        return detail(scene.without("background", "pattern", "style"))
    if kind < 0.7:
        return detail(scene.without("style", *(() if rng.random() < 0.5 else ("pattern",))))
    return detail(scene.without("background", "pattern"))


def brief(scene: Scene) -> str:
    """Name the things and their colours, no more."""
    return detail(scene.without("size", "layout", "background", "pattern", "style"))


def sentence(scene: Scene) -> str:
    """Say in one whole sentence what stands where, and on which background."""
    behind = _background(scene.without("pattern"))
    return f"There is {_arrangement(scene.without('size'))}{f' on {behind}' if behind else ''}."


def nouns(scene: Scene) -> str:
    """List the nouns, each once."""
    words = [*dict.fromkeys(thing.shape for thing in scene.things), "background"]
    return ", ".join([*words, PATTERN_NOUNS[scene.pattern]] if scene.pattern in PATTERN_NOUNS else words)


def style(scene: Scene) -> str:
    """Tell the style and the things' colours."""
    colors = list(dict.fromkeys(thing.color for thing in scene.things if thing.color))
    return f"It is {_article(STYLES[str(scene.style)])}{f' that uses {_listed(colors)}' if colors else ''}."


def background(scene: Scene) -> str:
    """Tell the background."""
    if scene.pattern in PATTERN_NOUNS:
        return f"The background is {scene.background} with {PATTERN_NOUNS[scene.pattern]}."
    return f"The background is {'plain ' if scene.pattern else ''}{scene.background}."


def main(scene: Scene) -> str:
    """Tell the main thing: the first large one, or else the first."""
    index = next((i for i, thing in enumerate(scene.things) if thing.size == "large"), 0)
    return f"The main object is {_thing(scene.things[index])} {PLACE_PHRASES[places(scene)[index]]}."


PERSPECTIVES: Mapping[str, Callable[[Scene], str]] = {
    "detail": detail,
    "brief": brief,
    "sentence": sentence,
    "nouns": nouns,
    "style": style,
    "background": background,
    "main": main,
}
"""Perspective → the right caption of a scene."""
