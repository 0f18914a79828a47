"""Show how much disk a run needs at its peak: ``python bench/disk.py [--captions 2000] [--repeat 4]``.

A stand-in for an image model draws noise (32 KB a JPEG) in no time; the bytes under the run's folder are summed twenty times a second while
``synthvlm synth`` works. ``all`` and ``best`` are ``--store``; ``top N%`` is ``--store top --top N%``, which prunes as it goes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_PLUGIN = '''
import hashlib
from dataclasses import dataclass
from typing import Any
from PIL import Image
import synthvlm

@dataclass(frozen=True)
class Noise:
    """Grey noise."""
    batch_size: int = 16
    def load(self, devices: Any) -> Any:
        return self
    def generate(self, batch: Any) -> Any:
        return [Image.frombytes("L", (176, 176), hashlib.shake_128(str(r.seed).encode()).digest(176 * 176)).convert("RGB") for r in batch]

@dataclass(frozen=True)
class Chance:
    """A number from the image's first pixels."""
    def load(self, devices: Any) -> Any:
        return self
    batch_size = 64
    columns = ("clip",)
    cards = {"clip": {"metric": "none"}}
    def score(self, batch: Any) -> Any:
        return [{"clip": int.from_bytes(hashlib.md5(r.image.crop((0, 0, 8, 8)).tobytes()).digest()[:4]) / 2**32} for r in batch]

@synthvlm.hookimpl
def register_generators(register):
    register("noise", Noise)

@synthvlm.hookimpl
def register_scorers(register):
    register("chance", Chance)
'''
_OFTEN = """
import sys
from synthvlm import compact, execution, pruning
pruning.PAUSE, pruning.SPARE, execution.Execution.commit_seconds, compact.MAX_TAR = 0.5, 32, 0.5, 4 << 20
from synthvlm.cli import main
main(sys.argv[1:])
"""
"""Commit and prune as often in these few seconds as in the hours of a real run, in files as much smaller."""


def plugin(folder: Path) -> None:
    """Write the stand-in as an installed plugin."""
    (folder / "noise_plugin.py").write_text(_PLUGIN)
    info = folder / "noise_plugin-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: noise-plugin\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[synthvlm]\nnoise = noise_plugin\n")


def size(folder: Path) -> int:
    """Return the bytes of the pixels under a folder."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if ".tar" in path.name else 0
        except OSError:
            continue
    return total


def peak(captions: Path, run: Path, repeat: int, flags: list[str], environment: dict[str, str]) -> tuple[int, int, float]:
    """Do a run; return its largest size, its last one, and the seconds that it took."""
    steps = ["--model", "noise", "--scorer", "chance", "--repeat", str(repeat), "--no-curate", "--export", "recipe", *flags]
    command = [sys.executable, "-c", _OFTEN, "synth", str(captions), "--out", str(run), *steps]
    began, most = time.perf_counter(), 0
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None:
        most = max(most, size(run))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(process.stderr.read().decode() if process.stderr else "failed")
    return most, size(run), time.perf_counter() - began


def main() -> None:
    """Do the runs and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=4)
    parser.add_argument("--tops", default="50%,20%,10%,5%,2%")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        plugin(folder)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in (scratch, os.environ.get("PYTHONPATH")) if p)}
        captions = folder / "captions.json"
        captions.write_text(json.dumps([{"id": n, "caption": f"caption {n}"} for n in range(given.captions)]))
        print(f"{given.captions:,} captions x {given.repeat} candidates; pixels on the disk, MB")
        print(f"{'':10} {'peak':>8} {'at the end':>11} {'images at the peak':>20} {'seconds':>8}")
        each = 0.0
        for name in ("all", "best", *given.tops.split(",")):
            flags = ["--store", name, "--top", "2%"] if name in ("all", "best") else ["--store", "top", "--top", name]
            most, last, seconds = peak(captions, folder / f"run-{name.strip('%')}", given.repeat, flags, environment)
            each = each or last / (given.captions * given.repeat)
            label = name if name in ("all", "best") else f"top {name}"
            print(f"{label:10} {most / 1e6:8.1f} {last / 1e6:11.1f} {most / each:20,.0f} {seconds:8.0f}", flush=True)


if __name__ == "__main__":
    main()
