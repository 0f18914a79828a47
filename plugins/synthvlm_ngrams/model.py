"""The tables, and looking captions up in them by the thousand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from synthvlm.scorers.text import TextScorer
from synthvlm.scorers.words import LATIN, LETTER, Words
from synthvlm_ngrams.classes import class_of

STEP = 1 / 16
"""Nats a step of the stored −log p."""
START, END = "<s>", "</s>"
LETTERS = 28
"""Border of a word, a to z, any other letter."""
LEAST_WORDS = 4
"""Of fewer, word order says nothing."""
PRIOR_WORDS, PRIOR_LETTERS = 3, 12
"""Words and letters of average likelihood that each caption is taken to have beside its own."""
_MARKS = {"à": "a", "á": "a", "â": "a", "ä": "a", "ã": "a", "å": "a", "ç": "c", "è": "e", "é": "e", "ê": "e", "ë": "e", "í": "i", "ï": "i", "ñ": "n",
          "ó": "o", "ô": "o", "ö": "o", "ø": "o", "ú": "u", "ü": "u", "ū": "u", "ō": "o"}  # fmt: skip


def letter_codes() -> np.ndarray:
    """Return the number of each character below U+0250: 1 to 26 for a to z, 27 for other letters, 0 for the rest."""
    codes = np.array([27 if chr(c).isalpha() else 0 for c in range(0x250)], np.int64)
    for n in range(26):
        codes[ord("a") + n] = codes[ord("A") + n] = n + 1
    for marked, plain in _MARKS.items():
        codes[ord(marked)] = codes[ord(plain)]
    return codes


class NgramScorer(TextScorer):
    """Captions → ``word_perplexity`` and ``letter_perplexity``."""

    columns = ("word_perplexity", "letter_perplexity")

    def __init__(self, batch_size: int = 1024) -> None:
        self.batch_size = batch_size
        with (files("synthvlm_ngrams") / "tables.npz").open("rb") as f, np.load(f) as tables:
            self._t: Mapping[str, Any] = {name: tables[name] for name in tables.files}
        names = bytes(self._t["classes"]).decode().split("\n")
        self._ids = {name: n for n, name in enumerate(names)}
        self._lemmas = dict(zip(bytes(self._t["lemmas"]).decode().split("\n"), self._t["parts"].tolist(), strict=True))
        self._irregular = dict(zip(bytes(self._t["irregular"]).decode().split("\n"), self._t["irregular_parts"].tolist(), strict=True))
        self._known: dict[int, int] = {}
        """Hash of a word → class."""
        self._letter = letter_codes()
        metric = "perplexity of word classes by a bundled trigram model (WordNet 3.0 glosses, made-up captions); no neural network"
        of_letters = "perplexity of letters in words by a bundled 4-gram model (WordNet 3.0); no neural network"
        shared = {"model": "synthvlm_ngrams", "revision": bytes(self._t["revision"]).decode(), "language": "en"}
        self.cards = {
            "word_perplexity": {"metric": metric, "prior": f"{PRIOR_WORDS} average words", **shared},
            "letter_perplexity": {"metric": of_letters, "prior": f"{PRIOR_LETTERS} average letters", **shared},
        }

    def measure(self, captions: Sequence[str]) -> Mapping[str, Any]:
        """Return both columns; null where the letters are not Latin, or the words too few."""
        import pyarrow as pa

        text = Words(captions)
        latin = 2 * text.having(LATIN) >= np.maximum(text.having(LETTER), 1)
        words = text.per_caption(text.of)
        columns = {"word_perplexity": (self._of_words(text), LEAST_WORDS), "letter_perplexity": (self._of_letters(text), 1)}
        told = {name: np.where(latin & (words >= least), values, np.nan) for name, (values, least) in columns.items()}
        return {name: pa.array(values, from_pandas=True) for name, values in told.items()}

    def _classes(self, text: Words) -> np.ndarray:
        """Return the class of each word. Each different word is looked at once."""
        hashes, first, inverse = np.unique(text.hashes, return_index=True, return_inverse=True)
        ids = np.zeros(len(hashes), np.int64)
        for n, (known, at) in enumerate(zip(hashes.tolist(), first.tolist(), strict=True)):
            found = self._known.get(known)
            if found is None:
                word = "".join(map(chr, text.small[text.starts[at] : text.ends[at]]))
                found = self._ids.get(word)
                if found is None:
                    found = self._ids.get(class_of(word, self._lemmas, self._irregular), self._ids["? "])
                if len(self._known) < 1 << 20:
                    self._known[known] = found
            ids[n] = found
        return ids[inverse.ravel()]

    def _of_words(self, text: Words) -> np.ndarray:
        """Return the perplexity of each caption's classes, its end included."""
        t, count = self._t, len(self._ids)
        words = text.per_caption(text.of)
        # Each caption as <s> <s> w1 … wn </s>, one after another.
        at = np.concatenate(([0], np.cumsum(words + 3)))
        line = np.full(at[-1], self._ids[START], np.int64)
        line[at[1:] - 1] = self._ids[END]
        line[np.arange(len(text.of)) + 3 * text.of + 2] = self._classes(text)
        a, b, c = line[:-2], line[1:-1], line[2:]
        valid = np.ones(len(line), bool)
        valid[at[:-1]] = valid[at[:-1] + 1] = False
        valid = valid[2:]
        a, b, c = a[valid], b[valid], c[valid]
        last, seen = _find(t["pairs"], b * count + c)
        cost = np.where(seen, t["pair_cost"][last], t["back_one"][b].astype(np.int64) + t["cost"][c])
        triple, whole = _find(t["triples"], (a * count + b) * count + c)
        context, begun = _find(t["contexts"], a * count + b)
        cost = np.where(whole, t["triple_cost"][triple], cost + np.where(begun, t["back_two"][context], 0))
        sums = np.bincount(np.repeat(np.arange(text.count), words + 1), cost * STEP, text.count)
        return np.exp((sums + PRIOR_WORDS * float(t["mean_word"])) / (words + 1 + PRIOR_WORDS))

    def _of_letters(self, text: Words) -> np.ndarray:
        """Return the perplexity of the letters of each caption's words, borders included."""
        codes = np.where(text.small < 0x250, self._letter[np.minimum(text.small, 0x24F)], 27)
        lengths = text.ends - text.starts
        at = np.concatenate(([0], np.cumsum(lengths + 4)))
        line = np.zeros(at[-1], np.int64)
        of = np.repeat(np.arange(len(lengths)), lengths)
        within = np.arange(len(of)) - np.repeat(np.concatenate(([0], np.cumsum(lengths)))[:-1], lengths)
        line[at[of] + 3 + within] = codes[text.starts[of] + within]
        grams = ((line[:-3] * LETTERS + line[1:-2]) * LETTERS + line[2:-1]) * LETTERS + line[3:]
        valid = np.ones(len(line), bool)
        valid[(at[:-1, None] + np.arange(3)).ravel()] = False
        # Numbers, and words without a letter, say nothing.
        word = np.repeat(np.arange(len(lengths)), lengths + 4)
        lettered = np.bincount(word, line > 0, len(lengths)) == lengths
        valid &= lettered[word]
        caption = text.of[word]
        cost = self._t["letters"][grams][valid[3:]] * STEP
        sums = np.bincount(caption[3:][valid[3:]], cost, text.count)
        number = np.bincount(caption[3:][valid[3:]], minlength=text.count)
        return np.exp((sums + PRIOR_LETTERS * float(self._t["mean_letter"])) / (number + PRIOR_LETTERS))


def _find(keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where each wanted key stands among the sorted ones, and whether it does."""
    at = np.minimum(np.searchsorted(keys, wanted.astype(keys.dtype)), len(keys) - 1)
    return at, keys[at] == wanted
