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

from standin import plugin

_OFTEN = """
import sys
from synthvlm import compact, execution, pruning
pruning.PAUSE, pruning.SPARE, execution.Execution.commit_seconds, compact.MAX_TAR = 0.5, 32, 0.5, 4 << 20
from synthvlm.cli import main
main(sys.argv[1:])
"""
"""Commit and prune as often in these few seconds as in the hours of a real run, in files as much smaller."""


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
