"""What the bookkeeping costs as a run grows: ``python bench/scale.py [--captions 10000,100000,1000000] [--repeat 4]``.

``synthvlm synth`` from captions to an exported recipe, with an image model and a scorer that cost nothing (8×8 pixels). For each size: seconds
of the whole, processor time of parent and workers per candidate, the most memory of the parent and of a worker, files in the run, then the
same command again on the finished run, and ``synthvlm status``. Costs should grow in a line, memory not at all.

``--busy WORKERS``: instead, so many workers whose model sleeps for a second a batch; prints which share of the time they worked, and how long
the tail was, in which some had nothing left to do.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from standin import plugin


def captions_of(folder: Path, count: int) -> Path:
    """Write ``count`` captions as JSON Lines."""
    path = folder / f"captions-{count}.jsonl"
    with path.open("w") as out:
        for n in range(count):
            out.write(json.dumps({"id": f"c{n:08}", "caption": f"a photo of thing {n} beside another thing {n * 31 % 997}"}) + "\n")
    return path


class Memory(threading.Thread):
    """Watches the resident pages of a process and of those below it."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.parent, self.worker = pid, 0, 0

    def run(self) -> None:
        """Look five times a second until the process is gone."""
        while os.path.exists(f"/proc/{self.pid}"):
            for entry in os.listdir("/proc"):
                try:
                    if entry.isdigit():
                        self._look(int(entry))
                except OSError:
                    continue
            time.sleep(0.2)

    def _look(self, pid: int) -> None:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if pid == self.pid or int(fields[1]) == self.pid:
            size = int(fields[21]) * resource.getpagesize()
            if pid == self.pid:
                self.parent = max(self.parent, size)
            else:
                self.worker = max(self.worker, size)


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, float, Memory]:
    """Run a command; return seconds, seconds of processor time (its workers' too), and its memory."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    memory = Memory(process.pid)
    memory.start()
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(said.decode()[-2000:])
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, memory


def grow(folder: Path, sizes: list[int], repeat: int, environment: dict[str, str]) -> None:
    """Print a line for each size."""
    print(
        f"{'captions':>10} {'seconds':>8} {'CPU ms/candidate':>17} {'parent GB':>10} {'worker GB':>10} {'files':>7} {'again, s':>9} {'status, s':>10}"
    )
    for size in sizes:
        run = folder / f"run-{size}"
        base = [sys.executable, "-m", "synthvlm"]
        flags = ["--model", "noise", "-o", "side=8", "--scorer", "chance", "--repeat", str(repeat), "--export", "recipe"]
        synth = [*base, "synth", str(captions_of(folder, size)), "--out", str(run), *flags]
        took, busy, memory = timed(synth, environment)
        files = sum(len(names) for _, _, names in os.walk(run))
        again, _, _ = timed(synth, environment)
        status, _, _ = timed([*base, "status", str(run)], environment)
        print(
            f"{size:10,} {took:8.0f} {busy / size / repeat * 1e3:17.2f} {memory.parent / 1e9:10.2f} {memory.worker / 1e9:10.2f} {files:7,}"
            f" {again:9.1f} {status:10.1f}",
            flush=True,
        )


def busy(folder: Path, workers: int, captions: int, seconds: float, environment: dict[str, str]) -> None:
    """Print how busy workers are whose model sleeps ``seconds`` for a batch of 16."""
    record = folder / "record"
    record.mkdir()
    flags = ["--model", "noise", "-o", "side=8", "-o", f"seconds={seconds}", "-o", f"record={record}", "--workers", str(workers)]
    source = str(captions_of(folder, captions))
    timed([sys.executable, "-m", "synthvlm", "generate", str(folder / "busy"), "--input", source, *flags], environment)
    spans = [[tuple(map(float, x.split())) for x in f.read_text().splitlines()] for f in sorted(record.iterdir())]
    first_idle = min(span[-1][1] for span in spans)
    last = max(span[-1][1] for span in spans)
    shares = []
    for span in spans:
        worked = sum(max(0.0, min(end, first_idle) - start) for start, end in span)
        shares.append(worked / (first_idle - span[0][0]))
    print(f"{workers} workers, {captions:,} captions in batches of 16, {seconds} s each:")
    print(
        f"  at work {min(shares):.1%} to {max(shares):.1%} of the time from a worker's first batch until the first worker had no more to do"
    )
    print(f"  the tail after that: {last - first_idle:.1f} s of {last - min(s[0][0] for s in spans):.0f} s")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", default="10000,100000,1000000")
    parser.add_argument("--repeat", type=int, default=4)
    parser.add_argument("--busy", type=int, metavar="WORKERS")
    parser.add_argument("--seconds", type=float, default=1.0, help="with --busy: for a batch")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        plugin(folder)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in (scratch, os.environ.get("PYTHONPATH")) if p)}
        if given.busy:
            busy(folder, given.busy, int(given.captions.split(",")[0]), given.seconds, environment)
            return
        grow(folder, [int(n) for n in given.captions.split(",")], given.repeat, environment)


if __name__ == "__main__":
    main()
