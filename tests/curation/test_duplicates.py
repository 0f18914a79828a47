"""Duplicates over the pool, against brute force."""

from __future__ import annotations

import json
import random

import numpy as np
import pyarrow.parquet as pq
import pytest

from synthvlm.curating import duplicates
from synthvlm.pipeline import Run

WORDS = [
    "a",
    "the",
    "red",
    "blue",
    "green",
    "small",
    "large",
    "dog",
    "cat",
    "horse",
    "bird",
    "car",
    "house",
    "tree",
    "river",
    "bridge",
    "on",
    "in",
    "under",
    "over",
    "with",
    "and",
    "near",
    "behind",
    "runs",
    "stands",
    "sleeps",
]


def shingles(caption):
    """Return a caption's word trigrams, the plain way."""
    words = "".join(c if c.isalnum() else " " for c in caption.lower()).split()
    return {tuple(words[n : n + 3]) for n in range(len(words) - 2)} or {tuple(words)}


def brute_force(captions, threshold):
    """Return the captions that an earlier kept one is like, by comparing all with all."""
    kept, dropped = [], set()
    for n, caption in enumerate(captions):
        mine = shingles(caption)
        if any(len(mine & theirs) / len(mine | theirs) >= threshold for _, theirs in kept):
            dropped.add(n)
        else:
            kept.append((n, mine))
    return dropped


def pool(seed, families=60, size=5):
    """Return captions in families that differ by a few words, mixed."""
    rng = random.Random(seed)
    captions = []
    for _ in range(families):
        base = [rng.choice(WORDS) for _ in range(rng.randint(4, 30))]
        for _ in range(size):
            copy = list(base)
            for _ in range(rng.choice((0, 1, 1, 2, 6))):
                copy[rng.randrange(len(copy))] = rng.choice(WORDS)
            captions.append(" ".join(copy) + rng.choice(("", " today", ".")))
    rng.shuffle(captions)
    return list(dict.fromkeys(captions))


def curate(where, captions, **settings):
    where.mkdir(exist_ok=True)
    (where / "captions.json").write_text(json.dumps([{"id": n, "caption": c} for n, c in enumerate(captions)]))
    limits = dict.fromkeys(("words", "capitals", "repeated_words", "repeated_trigrams", "word_run"), "off")
    run = Run.create(where / "run", where / "captions.json").curate(limits=limits, **settings)
    return run, pq.read_table(where / "run/curation/default.parquet").to_pylist()


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_near_duplicates_are_those_of_brute_force(tmp_path, threshold):
    captions = pool(seed=int(threshold * 10))
    _, rows = curate(tmp_path, captions, duplicates="near", similarity=threshold)
    exact = {r["row"] for r in rows if r["reason"] == "duplicate"}
    expected = brute_force(captions, threshold)
    found = {r["row"] for r in rows if not r["keep"]}
    assert exact <= expected and len(expected) > 20
    assert found == expected
    for r in rows:
        if r["reason"] == "near_duplicate":
            a, b = shingles(captions[r["row"]]), shingles(captions[r["like_row"]])
            assert len(a & b) / len(a | b) >= threshold and r["like_row"] < r["row"]
            assert rows[r["like_row"]]["keep"]


def test_a_family_too_large_to_compare_with_itself_leaves_its_first(tmp_path):
    base = " ".join(f"{w}{n}" for n in range(20) for w in ("alpha", "beta"))
    family = [f"{base} tail{n}" for n in range(300)]
    others = [f"quite another caption number {n} about {n * 7} things in room {n * 13}" for n in range(50)]
    _, rows = curate(tmp_path, [*others, *family], duplicates="near")
    assert [r["row"] for r in rows if r["keep"]] == list(range(51))
    assert {r["like_row"] for r in rows if not r["keep"]} == {50}


def test_exact_duplicates_do_not_mind_case_punctuation_and_spaces(tmp_path):
    captions = [
        "A dog, on the grass.",
        "a dog on  the grass",
        "A DOG ON THE GRASS!",
        "A dog on the grass and a cat.",
        "Ein Fluß",
        "ein fluß",
        "一只狗。",
        "一只狗",
    ]
    _, rows = curate(tmp_path, captions)
    assert [r["row"] for r in rows if r["keep"]] == [0, 3, 4, 6]
    assert [r["like_row"] for r in rows if not r["keep"]] == [0, 0, 4, 6]


def test_the_first_that_is_kept_stands_for_its_double(tmp_path):
    captions = ["a dog on the grass www.site.com", "a dog on the grass", "a dog on the grass!"]
    _, rows = curate(tmp_path, captions)
    assert [(r["keep"], r["reason"]) for r in rows] == [(False, "urls"), (True, None), (False, "duplicate")]


def test_captions_that_differ_in_a_word_are_not_near_duplicates(tmp_path):
    captions = [
        f"A {size} {colour} {shape} on the left."
        for size in ("small", "large")
        for colour in ("red", "blue")
        for shape in ("circle", "star")
    ]
    _, rows = curate(tmp_path, captions, duplicates="near")
    assert all(r["keep"] for r in rows)


def test_similarity_is_that_of_jaccard():
    one = ["a b c d e", "a b c d e", "a b", "x", "", "a b c a b c"]
    other = ["a b c d e", "a b c d f", "a b", "y", "", "a b c"]
    expected = [1, 2 / 4, 1, 0, 0, 1 / 3]
    assert np.allclose(duplicates.similarity(one, other), expected)


def test_bands_propose_nearly_every_pair_at_the_threshold():
    for threshold in (0.3, 0.5, 0.7, 0.8, 0.9, 1.0):
        bands, width = duplicates.bands_for(threshold)
        assert bands * width <= 128
        assert (1 - threshold**width) ** bands <= 0.01
