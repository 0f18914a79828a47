"""Whether a caption of a picture of the miniature world is right: by what is true of the picture, as its own caption tells it."""

from __future__ import annotations

from synthvlm_mini.world import COLORS, PERSPECTIVES, agree, parse

_NEEDED = {
    "detail": {"count"},
    "brief": {"count"},
    "sentence": {"count"},
    "nouns": {"count", "pattern"},
    "style": {"style", "color"},
    "background": {"background", "pattern"},
    "main": {"count", "size", "layout"},
}
"""Perspective → what has to be known to judge it."""


def is_right(perspective: str, caption: str, truth: str) -> bool | None:
    """Say whether ``caption`` tells, from ``perspective``, all that ``truth`` tells of it, and nothing else of that.

    None where that cannot be said: for a perspective of the user's own, and where ``truth`` is outside the world or leaves open
    what is asked for.
    """
    scene = parse(truth)
    if scene is None or perspective not in PERSPECTIVES or not _NEEDED[perspective] <= scene.known:
        return None
    wanted = PERSPECTIVES[perspective](scene)
    if perspective == "nouns":  # in any order
        return set(wanted.split(", ")) == set(caption.split(", "))
    if perspective == "style" and _colors(wanted) != _colors(caption):
        return False
    expected = parse(wanted)
    return expected is not None and all(share == 1 for share in agree(expected, parse(caption)).values())


def _colors(text: str) -> set[str]:
    return {word for word in COLORS if word in text}
