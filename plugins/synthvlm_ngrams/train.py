"""Make the tables: ``python -m synthvlm_ngrams.train DICT [OUT]``, where DICT is WordNet 3.0's ``dict`` folder (Debian: wordnet-base). A minute."""

from __future__ import annotations

import collections
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from synthvlm_ngrams.classes import class_of
from synthvlm_ngrams.grammar import Grammar, Vocabulary
from synthvlm_ngrams.model import END, LETTERS, START, STEP, letter_codes

PARTS = ("noun", "verb", "adj", "adv")
"""Files of WordNet, in the order of the bits of :mod:`synthvlm_ngrams.classes`."""
OWN_CLASS = 1500
"""Most frequent words, each a class by itself."""
MADE_UP, SEED = 60_000, 0
DISCOUNT = 0.75
"""Of absolute discounting (Ney, Essen and Kneser, 1994)."""
_NOUNS = {5: "animal", 6: "artifact", 13: "food", 17: "object", 18: "person", 20: "plant"}
"""WordNet's lexicographer files of things that can be seen."""
_VERBS = {29, 34, 35, 36, 38, 39}
"""Of deeds that can be seen: body, consumption, contact, creation, motion, perception."""
_TOKEN = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")

Ids = dict[str, int]


def entries(folder: Path, part: str) -> Iterator[tuple[int, list[str], str]]:
    """Yield (lexicographer file, words, gloss) of WordNet's synsets."""
    for line in (folder / f"data.{part}").read_text(encoding="utf-8").splitlines():
        if not line.startswith("  "):
            head, _, gloss = line.partition("|")
            fields = head.split()
            yield int(fields[1]), [fields[4 + 2 * n].lower() for n in range(int(fields[3], 16))], gloss


def lexicon(folder: Path) -> tuple[Ids, Ids]:
    """Return (lemma → parts of speech, irregular form → parts of speech)."""
    lemmas: Ids = {}
    irregular: Ids = {}
    for bit, part in enumerate(PARTS):
        for line in (folder / f"index.{part}").read_text(encoding="utf-8").splitlines():
            word = line.split(" ", 1)[0]
            if word and "_" not in word:
                lemmas[word] = lemmas.get(word, 0) | 1 << bit
        for line in (folder / f"{part}.exc").read_text(encoding="utf-8").splitlines():
            if "_" not in line:
                form = line.split()[0]
                irregular[form] = irregular.get(form, 0) | 1 << bit
    return lemmas, irregular


def sentences(folder: Path) -> list[list[str]]:
    """Return the words of every gloss and example of two words or more."""
    texts = [piece for part in PARTS for _, _, gloss in entries(folder, part) for piece in re.split(r"[;:]", gloss)]
    found = [_TOKEN.findall(text.lower()) for text in texts]
    return [words for words in found if len(words) > 1]


def vocabulary(folder: Path, counts: collections.Counter[str]) -> Vocabulary:
    """Return words that can be seen and are not rare."""
    nouns: dict[str, set[str]] = collections.defaultdict(set)
    for kind, words, _ in entries(folder, "noun"):
        if kind in _NOUNS:
            nouns[_NOUNS[kind]].update(w for w in words if w.isalpha() and counts[w] >= 4)
    verbs = {w for kind, words, _ in entries(folder, "verb") if kind in _VERBS for w in words if w.isalpha() and counts[w] >= 4}
    adjectives = {w for _, words, _ in entries(folder, "adj") for w in words if w.isalpha() and counts[w] >= 6}
    return Vocabulary({k: sorted(v) for k, v in nouns.items()}, sorted(verbs), sorted(adjectives))


def cost(probability: np.ndarray) -> np.ndarray:
    """Return −log p in steps, as a byte."""
    return np.clip(np.rint(-np.log(probability) / STEP), 0, 255).astype(np.uint8)


def word_tables(lines: list[np.ndarray], classes: int) -> dict[str, np.ndarray]:
    """Return the interpolated trigram model of lines of class numbers; triples that were seen once are left out."""
    joined = np.concatenate(lines)
    starts = np.cumsum([0, *(len(x) for x in lines[:-1])])
    valid = np.ones(len(joined), bool)
    valid[starts] = valid[starts + 1] = False
    c = joined[2:][valid[2:]]
    b, a = joined[1:-1][valid[2:]], joined[:-2][valid[2:]]
    one = np.bincount(c, minlength=classes)
    p1 = (one + 0.5) / (one.sum() + 0.5 * classes)
    pairs, pair_counts = np.unique(b * classes + c, return_counts=True)
    n1 = np.bincount(pairs // classes, pair_counts, classes)
    kinds = np.bincount(pairs // classes, minlength=classes)
    back_one = np.where(n1 > 0, DISCOUNT * kinds / np.maximum(n1, 1), 1.0)
    p2 = (pair_counts - DISCOUNT) / n1[pairs // classes] + back_one[pairs // classes] * p1[pairs % classes]
    triples, counts = np.unique((a * classes + b) * classes + c, return_counts=True)
    contexts, inverse = np.unique(triples // classes, return_inverse=True)
    n2 = np.bincount(inverse, counts)
    kept = counts > 1
    share = np.where(kept, counts - DISCOUNT, 0.0)
    back_two = 1 - np.bincount(inverse, share) / n2
    lower = p2[np.searchsorted(pairs, triples % (classes * classes))]
    p3 = share / n2[inverse] + back_two[inverse] * lower
    return {
        "cost": cost(p1), "pairs": pairs.astype(np.uint32), "pair_cost": cost(p2), "back_one": cost(np.maximum(back_one, 1e-6)),
        "triples": triples[kept].astype(np.uint32), "triple_cost": cost(p3[kept]), "contexts": contexts.astype(np.uint32), "back_two": cost(np.maximum(back_two, 1e-6)),
        "mean_word": np.array(-np.log(p3).mean()),
    }  # fmt: skip


def letter_tables(counts: collections.Counter[str]) -> dict[str, np.ndarray]:
    """Return the interpolated 4-gram model of letters in words; a word counts by the root of its frequency."""
    known = letter_codes()
    grams = [np.zeros(LETTERS**n) for n in range(5)]
    for word, count in counts.items():
        codes = [int(known[ord(x)]) if ord(x) < len(known) else 27 for x in word]
        if 0 in codes:
            continue
        line = [0, 0, 0, *codes, 0]
        for at in range(3, len(line)):
            for n in range(1, 5):
                number = 0
                for code in line[at - n + 1 : at + 1]:
                    number = number * LETTERS + code
                grams[n][number] += count**0.5
    p = np.full(LETTERS, 1 / LETTERS)
    for n in range(1, 5):
        table = grams[n].reshape(-1, LETTERS)
        total = table.sum(1, keepdims=True)
        taken = np.minimum(table, DISCOUNT)
        left = np.where(total > 0, taken.sum(1, keepdims=True) / np.maximum(total, 1e-9), 1.0)
        lower = np.tile(p.reshape(-1, LETTERS), (LETTERS if n > 1 else 1, 1))
        p = np.where(total > 0, (table - taken) / np.maximum(total, 1e-9), 0.0) + left * lower
    weights = grams[4] / grams[4].sum()
    return {"letters": cost(p.ravel()), "mean_letter": np.array(-(weights * np.log(p.ravel())).sum())}


def main(arguments: list[str]) -> None:
    """Train and write the tables."""
    folder = Path(arguments[0])
    lemmas, irregular = lexicon(folder)
    lines = sentences(folder)
    counts = collections.Counter(w for line in lines for w in line)
    grammar = Grammar(vocabulary(folder, counts), SEED)
    lines += [_TOKEN.findall(grammar.caption()) for _ in range(MADE_UP)]
    own = {w for w, _ in counts.most_common(OWN_CLASS)}
    named = {w: w if w in own else class_of(w, lemmas, irregular) for line in lines for w in line}
    names = sorted({*named.values(), START, END, "? "})
    ids = {name: n for n, name in enumerate(names)}
    coded = [np.array([ids[START], ids[START], *(ids[named[w]] for w in line), ids[END]], np.int64) for line in lines]
    letters = counts + collections.Counter(dict.fromkeys(lemmas, 1))
    tables = word_tables(coded, len(names)) | letter_tables(letters)
    for name, values in (("lemmas", lemmas), ("irregular", irregular)):
        tables[name] = np.frombuffer("\n".join(values).encode(), np.uint8)
        tables["parts" if name == "lemmas" else "irregular_parts"] = np.array(list(values.values()), np.uint8)
    tables["classes"] = np.frombuffer("\n".join(names).encode(), np.uint8)
    digest = hashlib.sha256(b"".join(name.encode() + np.ascontiguousarray(tables[name]).tobytes() for name in sorted(tables))).hexdigest()[
        :16
    ]
    tables["revision"] = np.frombuffer(digest.encode(), np.uint8)
    out = Path(arguments[1]) if len(arguments) > 1 else Path(__file__).with_name("tables.npz")
    np.savez_compressed(out, allow_pickle=False, **tables)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, revision {digest}, {len(names)} classes, {len(tables['triples'])} triples")


if __name__ == "__main__":
    main(sys.argv[1:])
