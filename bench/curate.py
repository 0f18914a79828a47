"""Captions a second that curation measures and decides on, on one core: ``python bench/curate.py [--captions 100000] [--good FILE.tsv]``.

Captions are made up (a scene grammar with many words, a few per cent of them advertisements, file names and doubles), so that near-duplicates are
neither none nor all. Each way is timed whole, from samples that are read in to the written decision, with one worker; a worker's start is
part of it, and is also shown by itself. Against them stand the same rules as one Python loop of compiled regular expressions, and
``datasketch`` for the near-duplicates. ``--good`` measures instead which of a file of good captions (PartiPrompts) are dropped.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

from synthvlm_ngrams.grammar import Grammar, Vocabulary

from synthvlm.pipeline import Run

NOUNS = [
    "dog",
    "cat",
    "horse",
    "boat",
    "river",
    "bridge",
    "house",
    "tower",
    "tree",
    "apple",
    "table",
    "chair",
    "window",
    "street",
    "bus",
    "train",
    "child",
    "woman",
    "man",
    "painter",
    "baker",
    "garden",
    "field",
    "cloud",
    "lamp",
    "book",
]
VERBS = ["hold", "carry", "watch", "paint", "cross", "follow", "build", "wash", "open", "climb", "push", "pull", "draw", "cut", "lift"]
ADJECTIVES = [
    "old",
    "young",
    "small",
    "large",
    "tall",
    "round",
    "quiet",
    "broken",
    "wet",
    "dry",
    "empty",
    "full",
    "narrow",
    "wide",
    "bright",
    "dusty",
]
BAD = [
    "Buy {} now with free shipping and save {}%",
    "IMG_{}{}.jpg",
    "Stock photo of a {} number {}",
    "visit www.{}{}.com for more",
    "{0} {0} {0} {0} {0} {1}",
]


def captions(count: int) -> list[str]:
    rng = random.Random(0)
    grammar = Grammar(Vocabulary({"thing": [f"{n}{s}" for n in NOUNS for s in ("", "man", "maker", "stone")]}, VERBS, ADJECTIVES), seed=0)
    made: list[str] = []
    for n in range(count):
        chance = rng.random()
        if chance < 0.03:
            made.append(rng.choice(BAD).format(rng.choice(NOUNS), n))
        elif chance < 0.05 and made:
            made.append(made[rng.randrange(len(made))].upper().capitalize())
        elif chance < 0.08 and made:
            made.append(made[rng.randrange(len(made))] + f" in {rng.choice(ADJECTIVES)} light")
        else:
            made.append(grammar.caption())
    return made


def run_of(where: Path, texts: list[str]) -> Run:
    (where / "captions.jsonl").write_text("".join(json.dumps({"id": n, "caption": c}) + "\n" for n, c in enumerate(texts)))
    return Run.create(where / "run", where / "captions.jsonl").using(devices=["cpu"], threads=1)


def cpu() -> float:
    """CPU seconds of this process and of its workers so far."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in both)


def timed(run: Run, **settings) -> tuple[float, float]:
    """Return (seconds, CPU seconds) of curating."""
    began, spent = time.perf_counter(), cpu()
    run.curate(**settings)
    return time.perf_counter() - began, cpu() - spent


def plain_loop(texts: list[str]) -> float:
    """Measure the rules as most scripts have them, a Python loop over compiled patterns; repetition is left out."""
    from synthvlm.scorers import wording

    names = ("URLS", "EMAILS", "PHONES", "HANDLES", "MARKUP", "FILENAMES", "ADVERTISEMENT", "ADVERTISEMENT_HINTS", "BOILERPLATE")
    patterns = [
        re.compile(getattr(wording, n).replace(r"[\pL_]", r"[^\W\d]").replace(r"[\pL\d_]", r"\w").replace(r"\pL", r"[^\W\d_]"))
        for n in names
    ]
    some = texts[:2000]
    began = time.process_time()
    for text in some:
        lower = text.lower()
        words = lower.split()
        _ = [len(p.findall(lower)) for p in patterns], len(words), len(set(words)), sum(c.isalpha() for c in lower)
    return len(some) / (time.process_time() - began)


def by_datasketch(texts: list[str]) -> float | None:
    """Near-duplicates as datasketch's own example finds them; captions a second."""
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError:
        return None
    some = texts[:5000]
    began = time.process_time()
    index = MinHashLSH(threshold=0.8, num_perm=128)
    for n, text in enumerate(some):
        words = text.lower().split()
        sketch = MinHash(num_perm=128)
        sketch.update_batch([" ".join(words[k : k + 3]).encode() for k in range(max(1, len(words) - 2))])
        if not index.query(sketch):
            index.insert(n, sketch)
    return len(some) / (time.process_time() - began)


def speed(count: int) -> None:
    texts = captions(count)
    print(
        f"{count:,} captions, {sum(map(len, texts)) / count:.0f} characters each; {platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; one worker, one thread"
    )
    ways = {
        "plain rules": {"scorers": {"text": {}}},
        "rules, language, ngrams, near-duplicates": {"scorers": {"text": {}, "language": {}, "ngrams": {}}, "duplicates": "near"},
    }
    print(f"{'':48} {'seconds':>9} {'CPU':>7} {'captions per CPU second':>24} {'less the start':>15}")
    with tempfile.TemporaryDirectory(prefix="synthvlm-bench-") as scratch:
        seconds, start = timed(_empty(Path(scratch)), scorers={"text": {}})
        print(f"{'a worker starts, for one caption':48} {seconds:9.1f} {start:7.1f}")
        for n, (name, settings) in enumerate(ways.items()):
            where = Path(scratch) / str(n)
            where.mkdir()
            run = run_of(where, texts)
            seconds, spent = timed(run, **settings)
            less = max(spent - len(settings["scorers"]) * start, 1e-3)
            print(
                f"{name:48} {seconds:9.1f} {spent:7.1f} {count / spent:24,.0f} {count / less:15,.0f}   {run.results['curate']['kept']:,} kept"
            )
            for what, more in (("  again", {}), ("  again with another limit", {"limits": {"words": [3, None]}})):
                seconds, spent = timed(run, **settings, **more)
                print(f"{what:48} {seconds:9.1f} {spent:7.1f}")
    print(f"{'a Python loop over compiled patterns':48} {plain_loop(texts):42,.0f}")
    sketched = by_datasketch(texts)
    print(f"{'near-duplicates alone, by datasketch':48} " + (f"{sketched:42,.0f}" if sketched else "not installed"))


def _empty(scratch: Path) -> Run:
    where = scratch / "one"
    where.mkdir()
    return run_of(where, ["A dog on the grass."])


def good(path: str) -> None:
    with open(path, encoding="utf-8", newline="") as lines:
        reader = csv.reader(lines, delimiter="\t")
        next(reader)
        texts = [row[0] for row in reader]
    with tempfile.TemporaryDirectory(prefix="synthvlm-bench-") as scratch:
        run = run_of(Path(scratch), texts).curate({"text": {}, "language": {}, "ngrams": {}}, languages=["en"])
        summary = run.results["curate"]
    single = sum(len(t.split()) == 1 for t in texts)
    by_words = next(f["dropped"] for f in summary["funnel"] if f["reason"] == "words")
    dropped = summary["captions"] - summary["kept"]
    for f in summary["funnel"]:
        if f["dropped"]:
            print(f"{f['dropped']:5,} by {f['reason']} ({f['limit']})", *(f"      {e['caption']}" for e in f["examples"]), sep="\n")
    print(
        f"{len(texts):,} captions, {single} of one word; {dropped} dropped, {dropped - by_words} of them not for their number of words: {(dropped - by_words) / (len(texts) - single):.2%}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=100_000)
    parser.add_argument("--good", metavar="FILE.tsv")
    arguments = parser.parse_args()
    sys.exit(good(arguments.good) if arguments.good else speed(arguments.captions))
