"""Captions as arrays of characters and words, for thousands at a time: what the text scorers count on.

A word is a run of letters, digits and what joins them (``t-shirt``, ``dog's``). Writing without spaces between words (Han, kana, Thai,
Lao, Khmer, Burmese) counts a word a character. Words are known by a 64-bit hash of their letters in small case, equal on every machine.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LETTER, DIGIT, UPPER, SPACE, LATIN, UNSPACED, PUNCTUATION = (1 << n for n in range(7))
_PUNCTUATION = ".,;:!?'\"()-–—‘’“”„«»…/&%¿¡、。，！？：；「」『』《》（）·"
"""What sentences are pointed with; other signs are symbols."""
_JOINERS = "'’-‑_"
_UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF))
_BASE = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
_MIX = np.uint64(0xBF58476D1CE4E5B9)


class _Table(NamedTuple):
    kinds: np.ndarray
    """Flags of each character of the basic plane."""
    small: np.ndarray
    """Its small letter."""
    joins: np.ndarray
    """Whether it may stand within a word."""


@functools.cache
def _table() -> _Table:
    """Return what there is to know of each character below U+10000 (computed in some 50 ms)."""
    kinds = np.zeros(1 << 16, np.uint8)
    small = np.arange(1 << 16, dtype=np.uint32)
    for code in range(1 << 16):
        character = chr(code)
        category = unicodedata.category(character)
        if category[0] in "LM":
            kinds[code] = LETTER
            if category in ("Lu", "Lt"):
                kinds[code] |= UPPER
                lower = character.lower()
                if len(lower) == 1:
                    small[code] = ord(lower)
        elif category[0] == "N":
            kinds[code] = DIGIT
        elif category[0] == "Z" or character.isspace():
            kinds[code] = SPACE
    kinds[[c for c in range(0x250) if kinds[c] & LETTER]] |= LATIN
    kinds[0x1E00:0x1F00][(kinds[0x1E00:0x1F00] & LETTER) > 0] |= LATIN
    for first, last in _UNSPACED:
        span = kinds[first : last + 1]
        span[(span & LETTER) > 0] |= UNSPACED
    kinds[[ord(c) for c in _PUNCTUATION]] |= PUNCTUATION
    joins = (kinds & (LETTER | DIGIT)) > 0
    joins &= (kinds & UNSPACED) == 0
    joins[[ord(c) for c in _JOINERS]] = True
    return _Table(kinds, small, joins)


def mix(values: np.ndarray) -> np.ndarray:
    """Return 64-bit hashes with their bits well spread (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * _MIX
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class Words:
    """Some captions: their characters and words, each with the number of the caption that it stands in."""

    def __init__(self, captions: Sequence[str]) -> None:
        table = _table()
        self.count = len(captions)
        self.lengths = np.fromiter(map(len, captions), np.int64, self.count)
        self._edges = np.concatenate(([0], np.cumsum(self.lengths)))
        self.codes = np.frombuffer("".join(captions).encode("utf-32-le", "surrogatepass"), np.uint32)
        """Code points of all captions, one after another."""
        basic = np.minimum(self.codes, 0xFFFF)
        beyond = self.codes > 0xFFFF
        self.kinds = table.kinds[basic]
        self.kinds[beyond] = np.where((self.codes[beyond] >= 0x20000) & (self.codes[beyond] < 0x40000), LETTER | UNSPACED, 0)
        self.small = np.where(beyond, self.codes, table.small[basic])
        """The same in small letters."""
        self.rows = np.repeat(np.arange(self.count), self.lengths)
        """Caption of each character."""
        self._find_words(table.joins[basic] & ~beyond)

    def _find_words(self, joins: np.ndarray) -> None:
        core = (self.kinds & (LETTER | DIGIT)) > 0
        alone = (self.kinds & UNSPACED) > 0
        joins = joins & ~alone
        first = np.zeros(len(self.codes), bool)
        first[self._edges[:-1][self.lengths > 0]] = True
        runs = np.cumsum(joins & ~(np.concatenate(([False], joins[:-1])) & ~first))
        # Of a run of joining characters the word is what lies between its first and last letter or digit: not 'quoted' or dogs'.
        cores = np.flatnonzero(joins & core)
        new = runs[cores][1:] != runs[cores][:-1]
        begins = cores[np.concatenate(([True], new))] if len(cores) else cores
        ends = cores[np.concatenate((new, [True]))] + 1 if len(cores) else cores
        singles = np.flatnonzero(alone)
        starts = np.concatenate((begins, singles))
        order = np.argsort(starts, kind="stable")
        self.starts = starts[order]
        """Where each word begins among the characters."""
        self.ends = np.concatenate((ends, singles + 1))[order]
        self.of = self.rows[self.starts] if len(self.starts) else np.zeros(0, np.int64)
        """Caption of each word."""

    @functools.cached_property
    def hashes(self) -> np.ndarray:
        """Return each word's hash, of its characters in small letters."""
        n = len(self.small)
        powers = np.cumprod(np.concatenate(([np.uint64(1)], np.full(max(n - 1, 0), _BASE))), dtype=np.uint64)[:n]
        inverse = np.cumprod(np.concatenate(([np.uint64(1)], np.full(max(n - 1, 0), _INVERSE))), dtype=np.uint64)[:n]
        values = mix(self.small.astype(np.uint64) + np.uint64(1))
        sums = np.concatenate(([np.uint64(0)], np.cumsum(values * powers, dtype=np.uint64)))
        return mix((sums[self.ends] - sums[self.starts]) * inverse[self.starts]) if len(self.starts) else np.zeros(0, np.uint64)

    def per_caption(self, of: np.ndarray) -> np.ndarray:
        """Return how many of the things whose captions are ``of`` each caption has."""
        return np.bincount(of, minlength=self.count)

    def having(self, flags: int) -> np.ndarray:
        """Return per caption how many characters have any of ``flags``."""
        return self.total((self.kinds & flags) > 0)

    def total(self, values: np.ndarray) -> np.ndarray:
        """Return per caption the sum over its characters."""
        sums = np.concatenate(([0], np.cumsum(values)))
        return sums[self._edges[1:]] - sums[self._edges[:-1]]

    def ngrams(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (hash, caption) of every run of ``n`` words."""
        if len(self.hashes) < n:
            return np.zeros(0, np.uint64), np.zeros(0, np.int64)
        length = len(self.hashes) - n + 1
        whole = self.of[:length] == self.of[n - 1 :]
        value = np.zeros(length, np.uint64)
        for k in range(n):
            value = mix(value * _BASE + self.hashes[k : k + length])
        return value[whole], self.of[:length][whole]

    def distinct(self, values: np.ndarray, of: np.ndarray) -> np.ndarray:
        """Return per caption how many different ``values`` it has."""
        marked = mix(values + of.astype(np.uint64) * _BASE)
        order = np.argsort(marked, kind="stable")
        fresh = np.ones(len(marked), bool)
        fresh[1:] = marked[order][1:] != marked[order][:-1]
        return self.per_caption(of[order][fresh])

    def longest_run(self, values: np.ndarray, of: np.ndarray) -> np.ndarray:
        """Return per caption the length of its longest run of equal neighbours; 0 if it has none of them."""
        longest = np.zeros(self.count, np.int64)
        if len(values):
            new = np.concatenate(([True], (values[1:] != values[:-1]) | (of[1:] != of[:-1])))
            starts = np.flatnonzero(new)
            np.maximum.at(longest, of[starts], np.diff(np.append(starts, len(values))))
        return longest
