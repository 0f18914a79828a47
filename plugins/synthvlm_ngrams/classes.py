"""Words → classes: the most frequent stand for themselves, the others for their parts of speech and ending, by WordNet's lemmas."""

from __future__ import annotations

from collections.abc import Mapping

NOUN, VERB, ADJECTIVE, ADVERB = 1, 2, 4, 8
_UNKNOWN_ENDINGS = ("ing", "ed", "ly", "s", "er", "ion", "al", "ic", "ous")


def class_of(word: str, lemmas: Mapping[str, int], irregular: Mapping[str, int]) -> str:
    """Return the class of a word in small letters that does not stand for itself.

    ``lemmas``: lemma → the sum of its parts of speech; ``irregular``: irregular form → the same.
    """
    if word[0].isdigit():
        return "#"
    parts = lemmas.get(word, 0)
    if word in irregular:
        return f"irregular {irregular[word] | parts}"
    inflected = _inflected(word, parts, lemmas)
    if inflected:
        return inflected
    if "-" in word:
        return "-ed" if word.endswith("ed") else f"base {parts}" if parts else "-"
    if parts:
        return f"base {parts}"
    if word.endswith(("'s", "’s")):
        return "'s"
    return "? " + next((e for e in _UNKNOWN_ENDINGS if word.endswith(e)), "")


def _inflected(word: str, parts: int, lemmas: Mapping[str, int]) -> str | None:
    """Return the class of a regular form: plural or third person, -ing, -ed, comparative."""
    if word.endswith("s") and not word.endswith("ss"):
        found = _any(lemmas, word[:-1], word[:-2], word[:-3] + "y") & (NOUN | VERB)
        if found:
            return f"s {found} {parts}"
    for ending in ("ing", "ed"):
        if word.endswith(ending):
            stem = word[: -len(ending)]
            doubled = stem[:-1] if len(stem) > 2 and stem[-1] == stem[-2] else ""
            if _any(lemmas, stem, stem + "e", doubled, stem[:-1] + "y" if ending == "ed" else "") & VERB:
                return f"{ending} {parts & (NOUN | ADJECTIVE)}"
    for ending in ("er", "est"):
        stem = word[: -len(ending)]
        if word.endswith(ending) and not parts and _any(lemmas, stem, stem + "e", stem[:-1] + "y", stem[:-1]) & ADJECTIVE:
            return ending
    return None


def _any(lemmas: Mapping[str, int], *words: str) -> int:
    found = 0
    for word in words:
        found |= lemmas.get(word, 0)
    return found
