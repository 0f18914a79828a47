"""Cut a caption into its sentences, by punctuation alone: no model, any language that ends sentences with marks."""

from __future__ import annotations

import re

_ABBREVIATIONS = (
    "approx|dr|e\\.g|etc|fig|i\\.e|jr|mr|mrs|ms|mt|no|nr|prof|sr|st|vs|z\\.b|ca|bzw|bspw"  # followed by a capital as often as not
)
_END = re.compile(
    r"(?<=[.!?…])(?P<quote>[\"'”’»)\]]*)\s+(?=[\"'“‘«(\[¿¡]*[^\W_a-zß-öø-ÿа-яα-ω])"  # a mark, space, and no small letter: a new sentence
    r"|(?<=[。！？])(?P<bracket>[」』”’）]*)\s*"  # Han and kana need no space
    r"|(?<=[।؟۔])\s+"
    r"|\s*\n\s*"
)
_ABBREVIATED = re.compile(rf"(?:^|[\s(])(?:(?i:{_ABBREVIATIONS})|[A-Z])\.$")


def split_sentences(text: str) -> list[str]:
    """Return the sentences of ``text``, in order, without space around them; one that has none is its own only sentence.

    Nothing is lost but space. An abbreviation or an initial ends no sentence.
    """
    sentences: list[str] = []
    start = 0
    for end in _END.finditer(text):
        closing = len(end["quote"] or end["bracket"] or "")
        piece = text[start : end.start() + closing].strip()
        if not piece or ("\n" not in end[0] and _ABBREVIATED.search(piece)):
            continue
        sentences.append(piece)
        start = end.end()
    rest = text[start:].strip()
    return [*sentences, rest] if rest or not sentences else sentences
