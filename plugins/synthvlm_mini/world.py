"""The miniature world, in one place: its scenes, how they are drawn, and the captions that tell of them."""

from __future__ import annotations

from synthvlm_mini.captions import PERSPECTIVES, PHRASINGS, brief, detail, medium, sentence
from synthvlm_mini.reading import outside, parse, vocabulary
from synthvlm_mini.render import render
from synthvlm_mini.scene import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLORS,
    CORRUPTIONS,
    PATTERNS,
    SHAPES,
    SIZES,
    STYLES,
    Scene,
    Thing,
    agree,
    corrupt,
    corruptions,
    held_out,
    layouts,
    places,
    sample,
)

__all__ = [
    "ATTRIBUTES",
    "BACKGROUNDS",
    "COLORS",
    "CORRUPTIONS",
    "PATTERNS",
    "PERSPECTIVES",
    "PHRASINGS",
    "SHAPES",
    "SIZES",
    "STYLES",
    "Scene",
    "Thing",
    "agree",
    "brief",
    "corrupt",
    "corruptions",
    "detail",
    "held_out",
    "layouts",
    "medium",
    "outside",
    "parse",
    "places",
    "render",
    "sample",
    "sentence",
    "vocabulary",
]
