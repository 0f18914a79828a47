"""Compare ``synthvlm merge`` with merging as recaptioning scripts do it, on made-up captions.

    python bench/merge.py [--images 1000000] [--sources 6] [--rounds 3] [--forms lines index] [--shuffled]

The scripts' way: every source into a dict (``json.load`` for an index object {image: caption}; a ``json.loads`` a line for JSON
Lines), a loop over the original, written with jsonlines. Each side is a process of its own; time is from its start to its end, memory
its peak (resident pages). Rounds alternate, since machines are noisy; the figure is the median of the rounds' ratios, which other
work on the machine distorts, as ours uses two processors: so the processor time is told as well. Both must write
the same bytes. A thousandth of the images lacks a caption; ``--shuffled`` puts every source into another order than the original's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_SCRIPT = """
import json, sys
import jsonlines
original, out, *sources = sys.argv[1:]
indexes = []
for source in sources:
    if source.endswith(".jsonl"):
        with jsonlines.open(source) as lines:
            indexes.append({line["image"]: line["caption"] for line in lines})
    else:
        with open(source) as file:
            indexes.append(json.load(file))
with jsonlines.open(original) as lines, jsonlines.open(out, "w") as merged:
    for line in lines:
        image = line["image"]
        merged.write({"image": image, "caption": [line["caption"], *(index[image] for index in indexes if image in index)]})
"""
_OURS = "from synthvlm.cli import main; main()"
_TEXT = """a the of in on with and two three small large old young red blue green white black wooden bright man woman child dog cat horse
bird car bus train street table window tree field river mountain sky shirt hat standing sitting walking holding looking near behind beside
sunlight shadow background foreground left right"""
_RARE = ["café", '"STOP"', "naïve"]
"""Words that JSON may spell in several ways."""
_LACKING = 997
"""One in so many images lacks a caption of a source."""


def captions(seed: int, count: int) -> Iterator[str]:
    """Yield captions of 5 to 60 words, 190 characters on average."""
    draw = random.Random(seed)
    text = " ".join(draw.choices([*_TEXT.split() * 20, *_RARE], k=200_000))
    for _ in range(count):
        at = draw.randrange(len(text) - 400)
        yield text[at : at + draw.randrange(25, 360)]


def images(count: int, source: int, shuffled: bool) -> Iterator[int]:
    """Yield the numbers of the images that a source has a caption of, in its order."""
    step = 1
    if shuffled:  # a number that shares no divisor with the count visits each once
        step = next(s for s in range(int(count * 0.618) + source, 2 * count) if math.gcd(s, count) == 1)
    return (n for n in (i * step % count for i in range(count)) if (n + source) % _LACKING)


def make(folder: Path, form: str, count: int, sources: int, shuffled: bool) -> list[str]:
    """Write the original and the sources; return their paths."""
    paths = [folder / "original.jsonl"]
    with paths[0].open("w") as file:
        for n, caption in enumerate(captions(0, count)):
            file.write(json.dumps({"image": name(n), "caption": caption}) + "\n")
    for source in range(1, sources + 1):
        paths.append(folder / f"captioner{chr(96 + source)}.{'jsonl' if form == 'lines' else 'json'}")
        pairs = zip(images(count, source, shuffled), captions(source, count), strict=False)
        with paths[-1].open("w") as file:
            if form == "lines":
                file.writelines(json.dumps({"image": name(n), "caption": caption}) + "\n" for n, caption in pairs)
            else:
                file.write("{")
                for at, (n, caption) in enumerate(pairs):
                    file.write(f"{', ' if at else ''}{json.dumps(name(n))}: {json.dumps(caption)}")
                file.write("}")
    return [str(p) for p in paths]


def name(n: int) -> str:
    return f"train2017/{n // 10_000:05d}/{n:012d}.jpg"


def measure(command: list[str]) -> tuple[float, float, float]:
    """Run a command; return the seconds that it took, those of processors that it used, and its peak of memory in GB."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[:3]} ended with {process.returncode}")
    return took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compare(form: str, folder: Path, a: argparse.Namespace) -> None:
    """Time both on one form of data, and print."""
    print(f"{form}: making {a.images:,} images × {a.sources} sources", flush=True)
    original, *sources = make(folder, form, a.images, a.sources, a.shuffled)
    size = sum(os.stat(path).st_size for path in (original, *sources)) / 1e9
    theirs, ours = folder / "theirs.jsonl", folder / "ours.jsonl"
    rounds = []
    for n in range(a.rounds):
        script = measure([sys.executable, "-c", _SCRIPT, original, str(theirs), *sources])
        merge = measure([sys.executable, "-c", _OURS, "merge", original, *sources, "--separate", "--out", str(ours)])
        if digest(theirs) != digest(ours):
            raise SystemExit(f"{form}: the outputs differ: {theirs} and {ours}")
        rounds.append((script, merge))
        told = [
            f"{side} {s:.1f} s ({cpu:.1f} s of processor), {gb:.2f} GB" for side, (s, cpu, gb) in (("script", script), ("synthvlm", merge))
        ]
        print(f"  round {n + 1}: {'; '.join(told)}", flush=True)
    ratio, work = (statistics.median(s[k] / m[k] for s, m in rounds) for k in (0, 1))
    peaks = [max(side[2] for side in sides) for sides in zip(*rounds, strict=True)]
    print(
        f"{form}, {a.images:,} images × {a.sources} sources ({size:.2f} GB): equal outputs; synthvlm is {ratio:.1f} times as fast, and takes"
        f" {1 / work:.0%} of the processor time (medians of {a.rounds}); peaks: script {peaks[0]:.2f} GB, synthvlm {peaks[1]:.2f} GB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--sources", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--forms", nargs="+", choices=["lines", "index"], default=["lines", "index"])
    parser.add_argument("--shuffled", action="store_true")
    parser.add_argument("--folder", help="where the data goes, about 5 GB at full size [the system's temporary folder]")
    a = parser.parse_args()
    for form in a.forms:
        with tempfile.TemporaryDirectory(dir=a.folder) as folder:
            compare(form, Path(folder), a)


if __name__ == "__main__":
    main()
