"""The plain rules of a caption, all in one pass and without a model: counts, shares, addresses, wording, repetition.

They only measure; which value is too high is for a recipe's curation to say (:mod:`synthvlm.curating.rules`).
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions at import, where a type checker does not see them.
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from synthvlm.options import option, runtime

if TYPE_CHECKING:
    import numpy as np

    from synthvlm.sample import ScoreRequest

COLUMNS: Mapping[str, str] = {
    "words": "words; of writing without spaces between words, characters",
    "characters": "characters",
    "clip_tokens": "tokens of CLIP's vocabulary, estimated: a word of n letters as 1 + (n - 1) // 8, any other sign as one, and two for the ends",
    "letters": "letters among the characters that are no spaces, as a share",
    "digits": "digits among them",
    "symbols": "signs among them that are neither letters, digits nor punctuation",
    "capitals": "capitals among the letters, as a share; 0 in captions of fewer than 4 words",
    "latin": "Latin letters among the letters, as a share",
    "urls": "web addresses",
    "emails": "e-mail addresses",
    "phones": "telephone numbers",
    "handles": "@names and #tags",
    "markup": "HTML, Markdown, code, and text in a wrong encoding",
    "filenames": "file names, and names that cameras and sites give",
    "advertising": "advertising wording: what only advertisements say counts 1, what they often say 0.5",
    "boilerplate": "wording of stock sites, credits, buttons, error messages, assistants",
    "blocked": "words and phrases of the blocklist",
    "repeated_words": "words that stood before, as a share, of captions of 6 words or more",
    "repeated_trigrams": "runs of three words that stood before, as a share, of captions of 8 words or more",
    "word_run": "longest run of one word",
    "character_run": "longest run of one character",
}
"""Column → what it holds."""
_FEW_WORDS, _SOME_WORDS = 6, 8


class TextScorer:
    """What text scorers share: ``score`` by ``measure``."""

    columns: Sequence[str] = ()
    cards: Mapping[str, Mapping[str, Any]] = {}
    batch_size = 1024

    def measure(self, captions: Sequence[str]) -> Mapping[str, Any]:
        """Return whole columns: column → a list, NumPy or Arrow array with a value per caption."""
        raise NotImplementedError

    def score(self, batch: Sequence[ScoreRequest]) -> Iterable[Mapping[str, Any]]:
        """Return a mapping per request."""
        columns = self.measure([request.caption or "" for request in batch])
        return [{name: values[n] for name, values in columns.items()} for n in range(len(batch))]


@dataclass(frozen=True)
class TextRules:
    """The plain rules: lengths, kinds of characters, addresses, advertising, boilerplate, repetition, blocklist. No model."""

    blocklist: list[str] = option([], help="words and phrases to look for, whole and in any case; added to the explicit ones")
    explicit: bool = option(True, help="look for the explicit words and phrases that SynthVLM brings, too")
    batch_size: int = runtime(1024, help="captions at a time, where they are not measured by the thousand", ge=1)

    output_revision: ClassVar[int] = 1
    reads: ClassVar[str] = "text"

    def load(self, devices: Sequence[str]) -> PlainRules:
        """Return the rules; ``devices`` are not used."""
        return PlainRules(self)


class PlainRules(TextScorer):
    """Captions → the columns of COLUMNS."""

    columns = tuple(COLUMNS)

    def __init__(self, options: TextRules) -> None:
        from synthvlm.scorers import wording

        self.batch_size = options.batch_size
        self.cards = {name: {"metric": text, "library": "none"} for name, text in COLUMNS.items()}
        blocked = [*(wording.EXPLICIT if options.explicit else ()), *(w.strip().lower() for w in options.blocklist)]
        self.cards["blocked"] |= {"words": len(blocked)}
        self._counted = {
            "urls": wording.URLS,
            "emails": wording.EMAILS,
            "phones": wording.PHONES,
            "handles": wording.HANDLES,
            "markup": wording.MARKUP,
            "filenames": wording.FILENAMES,
            "advertising": wording.ADVERTISEMENT,
            "boilerplate": wording.BOILERPLATE,
            "blocked": _blocklist([b for b in blocked if b]),
        }
        self._hints = wording.ADVERTISEMENT_HINTS

    def measure(self, captions: Sequence[str]) -> Mapping[str, Any]:
        """Return every column, as NumPy arrays."""
        import pyarrow as pa

        found = self._shape(captions)
        lower = pa.array([c.lower() for c in captions], pa.string())
        for name, pattern in self._counted.items():
            found[name] = count_matches(lower, pattern)
        found["advertising"] = found["advertising"] + 0.5 * count_matches(lower, self._hints)
        return found

    @staticmethod
    def _shape(captions: Sequence[str]) -> dict[str, Any]:
        """Return what characters and words tell."""
        import numpy as np

        from synthvlm.scorers import words as w

        text = w.Words(captions)
        words, letters, spaces = text.per_caption(text.of), text.having(w.LETTER), text.having(w.SPACE)
        solid = np.maximum(text.lengths - spaces, 1)
        some = np.maximum(letters, 1)
        of_trigrams = text.ngrams(3)
        trigrams = text.per_caption(of_trigrams[1])
        lengths = text.ends - text.starts
        visible = (text.kinds & w.SPACE) == 0
        signs = text.total(visible & ((text.kinds & (w.LETTER | w.DIGIT)) == 0))
        return {
            "words": words,
            "characters": text.lengths,
            "clip_tokens": 2 + signs + np.bincount(text.of, 1 + (lengths - 1) // 8, text.count),
            "letters": letters / solid,
            "digits": text.having(w.DIGIT) / solid,
            "symbols": text.total(visible & ((text.kinds & (w.LETTER | w.DIGIT | w.PUNCTUATION)) == 0)) / solid,
            "capitals": np.where(words >= 4, text.having(w.UPPER) / some, 0.0),
            "latin": text.having(w.LATIN) / some,
            "repeated_words": _repeated(words, text.distinct(text.hashes, text.of), _FEW_WORDS, words),
            "repeated_trigrams": _repeated(trigrams, text.distinct(*of_trigrams), _SOME_WORDS, words),
            "word_run": text.longest_run(text.hashes, text.of),
            "character_run": text.longest_run(text.small[visible], text.rows[visible]),
        }


def _repeated(count: np.ndarray, distinct: np.ndarray, least: int, words: np.ndarray) -> np.ndarray:
    """Return the share of things that stood before, of captions of ``least`` words or more; 0 of shorter ones."""
    import numpy as np

    return np.where((words >= least) & (count > 0), 1 - distinct / np.maximum(count, 1), 0.0)


def _blocklist(phrases: Sequence[str]) -> str:
    """Return a pattern for whole words, a plural's s included; one that ends in a letter outside ASCII needs no border, which RE2 does not know there."""
    import re

    return "|".join(
        (r"\b" if p[0].isascii() and p[0].isalnum() else "")
        + re.escape(p).replace("\\ ", r"\s+")
        + (r"s?\b" if p[-1].isascii() and p[-1].isalnum() else "")
        for p in phrases
    )


def count_matches(texts: Any, pattern: str) -> np.ndarray:
    """Return how often a pattern matches in each text. Most have none, which is quickly seen; only the others are counted."""
    import numpy as np
    import pyarrow.compute as pc

    counts = np.zeros(len(texts), np.int64)
    if pattern:
        some = np.flatnonzero(pc.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False))
        counts[some] = pc.count_substring_regex(texts.take(some), pattern).to_numpy(zero_copy_only=False)
    return counts
