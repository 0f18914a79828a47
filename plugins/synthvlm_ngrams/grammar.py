"""Captions that make no sense and are good English: a small grammar, for the word order of captions, which a dictionary does not have."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray", "grey", "golden", "silver", "dark", "light", "bright")  # fmt: skip
MATERIALS = (
    "wooden",
    "metal",
    "glass",
    "plastic",
    "stone",
    "brick",
    "leather",
    "concrete",
    "marble",
    "paper",
    "gold",
    "silver",
    "porcelain",
)
NUMBERS = ("two", "three", "four", "five", "six", "seven", "several", "many", "some", "a few", "a couple of", "a group of", "a pair of", "dozens of", "hundreds of")  # fmt: skip
PLACES = ("on", "in", "in front of", "behind", "next to", "near", "under", "beside", "above", "below", "with", "at", "by", "to the left of", "to the right of",
          "on top of", "inside", "over", "along", "across", "around", "through", "surrounded by", "against")  # fmt: skip
DOING = ("sitting", "standing", "lying", "walking", "running", "looking", "riding", "holding", "wearing", "playing", "flying", "eating", "made of", "filled with",
         "covered in", "covered with", "painted on")  # fmt: skip
KINDS = ("a photo of", "a photograph of", "a close-up of", "a close-up photo of", "an oil painting of", "a painting of", "a watercolor of", "a drawing of", "a sketch of",
         "a cartoon of", "a portrait of", "a picture of", "an illustration of", "a view of", "an aerial view of", "a black and white photo of", "a statue of",
         "a sculpture of", "a poster of", "a 3d rendering of", "the silhouette of", "a high resolution photo of")  # fmt: skip
SCENES = ("at night", "at sunset", "in the morning", "during the day", "in the background", "in the foreground", "on a sunny day", "in the rain", "in the snow",
          "under a blue sky", "in the distance", "on a white background", "with mountains in the background", "in the middle of the street", "on the beach",
          "in a forest", "in a city", "in the park", "in the kitchen", "on the moon", "in the sky", "on the wall", "on the ground", "on the table", "from above",
          "seen from behind")  # fmt: skip


@dataclass(frozen=True)
class Vocabulary:
    """What captions are made up of."""

    nouns: Mapping[str, Sequence[str]]
    """Kind of thing (animal, food …) → nouns."""
    verbs: Sequence[str]
    adjectives: Sequence[str]


class Grammar:
    """Makes captions up."""

    def __init__(self, vocabulary: Vocabulary, seed: int) -> None:
        self._v, self._rng = vocabulary, random.Random(seed)
        self._kinds = sorted(vocabulary.nouns)

    def caption(self) -> str:
        """Return a caption in small letters, without a full stop."""
        rng = self._rng
        many = rng.random() < 0.3
        subject, choice = self._thing(many), rng.random()
        if choice < 0.35:
            text = f"{subject} {self._deed()}"
        elif choice < 0.55:
            rest = rng.choice((self._deed, self._place, lambda: f"{self._quality()} and {self._quality()}"))()
            text = f"{subject} {'are' if many else 'is'} {rest}"
        elif choice < 0.75:
            text = f"{subject} {self._place()}"
        elif choice < 0.85:
            text = f"there {'are' if many else 'is'} {subject} {self._place()}"
        elif choice < 0.93:
            relative = ("that are", "who are") if many else ("that is", "who is", "which is")
            text = f"{subject} {rng.choice(relative)} {self._deed()}"
        else:
            text = f"{subject} and {self._thing()}" + (f" {self._deed()}" if rng.random() < 0.6 else "")
        text = f"{rng.choice(KINDS)} {text}" if rng.random() < 0.2 else text
        text += f" {rng.choice(SCENES)}" if rng.random() < 0.4 else ""
        text += f" and {self._thing()} {self._place()}" if rng.random() < 0.12 else ""
        return text + (f" {self._place()}" if rng.random() < 0.1 else "")

    def _noun(self) -> str:
        return self._rng.choice(self._v.nouns[self._rng.choice(self._kinds)])

    def _quality(self) -> str:
        choice = self._rng.random()
        return self._rng.choice(COLOURS if choice < 0.45 else MATERIALS if choice < 0.55 else self._v.adjectives)

    def _thing(self, many: bool | None = None) -> str:
        rng = self._rng
        many = rng.random() < 0.25 if many is None else many
        words = [self._quality() for _ in range(rng.choice((0, 0, 1, 1, 2)))]
        words += [self._noun()] if rng.random() < 0.15 else []
        noun = self._noun()
        text = " ".join([*words, plural(noun) if many else noun])
        if many:
            return f"{rng.choice(NUMBERS)} {text}" if rng.random() < 0.7 else rng.choice((f"the {text}", text))
        return with_article(text) if rng.random() < 0.7 else f"the {text}"

    def _place(self) -> str:
        if self._rng.random() < 0.04:
            return f"between a {self._noun()} and {with_article(self._noun())}"
        return f"{self._rng.choice(PLACES)} {self._thing()}"

    def _deed(self) -> str:
        verb, choice = participle(self._rng.choice(self._v.verbs)), self._rng.random()
        if choice < 0.8:
            return verb if choice >= 0.6 else f"{verb} {self._place() if choice < 0.3 else self._thing()}"
        return f"{self._rng.choice(DOING)} {self._thing()}"


def with_article(words: str) -> str:
    """Return words after *a* or *an*."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plural(noun: str) -> str:
    """Return a noun's regular plural."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else f"{noun}s"


def participle(verb: str) -> str:
    """Return a verb's regular present participle."""
    if verb.endswith("ie"):
        return f"{verb[:-2]}ying"
    if verb.endswith("e") and not verb.endswith("ee"):
        return f"{verb[:-1]}ing"
    short = 2 < len(verb) < 5 and verb[-1] in "bdgmnprt" and verb[-2] in "aeiou" and verb[-3] not in "aeiou"
    return f"{verb}{verb[-1]}ing" if short else f"{verb}ing"
