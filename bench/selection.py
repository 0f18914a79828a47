"""Time ``synthvlm select`` on made-up scores: ``python bench/selection.py [--captions 1000000] [--repeat 5] [--keep DIR]``.

The run directory is written as a finished run leaves it (parts merged by ``compact``), without pixels: selection reads none. Each
command is a process of its own; time is from its start to its end, the best of the rounds, memory its peak (resident pages). Processor
time is what matters where the machine has other work: on idle cores it is shared out among them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import pyarrow as pa

from synthvlm import parts
from synthvlm.run import SAMPLES_PER_FILE, RunDirectory, Stage
from synthvlm.samples import SCHEMA
from synthvlm.storage import Store

PART = 40_000
"""Captions a part: what ``compact`` makes of five candidates each."""
SCORES = ["clip", "clip_cut", "ssim", "ssim_small"]
COMMANDS = (
    ("top 10%", []),
    ("normalise rank", ["--normalise", "rank"]),
    ("group by", ["--group-by", "meta.source", "--top", "5000"]),
    ("sweep of 11", ["--sweep", "weight.ssim=0:1:0.1"]),
)


def fabricate(root: Path, captions: int, repeat: int) -> None:
    """Write a run of ``captions`` captions with ``repeat`` scored candidates each."""
    run = RunDirectory.create(root)
    images = run.ensure_stage(Stage("sdxl", "generate", [{"name": "sdxl"}], {"sdxl": {}}, {"caption": "samples"}, 100, repeat))
    reads = {"image": "sdxl", "caption": "samples"}
    scoring = Stage("clip-ssim", "score", [{"name": "clip"}, {"name": "ssim"}], {"clip": {}}, reads, 1000, columns=SCORES)
    scoring = run.ensure_stage(scoring)
    with duckdb.connect() as db:
        for at in range(0, captions, PART):
            end = min(captions, at + PART)
            db.execute(f"""CREATE OR REPLACE TABLE s AS SELECT r AS row, printf('%012d', r * 7919 % 1000000007) AS id,
                printf('a photo of number %d with the thing %d beside the other thing %d in front of a house %d', r, r * 31 % 997, r * 17 % 89, r)
                AS caption, NULL AS image, '{{"source": "' || ['cc3m', 'cc12m', 'sbu', 'coco'][(r % 4 + 1)::INT] || '"}}' AS meta,
                0 AS source, NULL AS image_uri, NULL AS image_sha256 FROM range({at}, {end}) t(r)""")
            for n in range(at, end, SAMPLES_PER_FILE):
                table = (
                    db.sql(f"SELECT * FROM s WHERE row >= {n} AND row < {n + SAMPLES_PER_FILE} ORDER BY row").to_arrow_table().cast(SCHEMA)
                )
                put_samples(run.store, f"samples/{n // SAMPLES_PER_FILE:05d}.parquet", table)
            db.execute(f"""CREATE OR REPLACE TABLE i AS SELECT md5(concat_ws(chr(31), '{images.digest}', id, caption, c)) AS key, row, id, c::INT AS candidate,
                (hash(row, c) % 4294967296)::BIGINT AS seed, 1024 AS width, 1024 AS height, sha256(id || c) AS sha256, 150000 AS bytes, 0 AS cut_tokens,
                NULL AS note, 4 AS batch_size, true AS stored, 'sdxl/000/x.tar' AS tar, row * 5 + c AS "offset", NULL AS error,
                NULL AS error_class, 1 AS tries, caption FROM s, range({repeat}) t(c)""")
            table = db.sql("SELECT * EXCLUDE (caption) FROM i ORDER BY row, candidate").to_arrow_table().cast(parts.IMAGES)
            put_part(run.store, images, at, end, table)
            table = (
                db.sql(f"""SELECT md5(concat_ws(chr(31), '{scoring.digest}', id, caption, sha256, candidate)) AS key, row, id, candidate, sha256,
                0.3 + 0.08 * (hash(row) / 1.8446744073709552e19 - 0.5) + 0.1 * (hash(row, candidate) / 1.8446744073709552e19 - 0.5) AS clip,
                (hash(row) % 50 = 0)::DOUBLE AS clip_cut, 0.6 + 0.39 * (hash(candidate, row) / 1.8446744073709552e19) AS ssim, 0.0 AS ssim_small,
                NULL AS error, NULL AS error_class, 1 AS tries FROM i ORDER BY row, candidate""")
                .to_arrow_table()
                .cast(scoring.schema)
            )
            put_part(run.store, scoring, at, end, table)


def put_samples(store: Store, name: str, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    with store.writer(name) as file:
        pq.write_table(table, file, compression="zstd")


def put_part(store: Store, stage: Stage, at: int, end: int, table: pa.Table) -> None:
    first, last = at // stage.shard_size, (end - 1) // stage.shard_size
    parts.write_table(store, f"{parts.folder(stage.name, first)}/{first:06d}-{last:06d}", table, {"merged": []})


def measure(arguments: list[str]) -> tuple[float, float, float]:
    """Run the command; return seconds, seconds of processor time (of all cores together), and peak memory in GB."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "synthvlm", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    said = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(said)
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6


def main() -> None:
    """Make the run, unless it is there, and time the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", metavar="DIR", help="make the run here, and leave it")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(given.keep or scratch) / f"run-{given.captions}x{given.repeat}"
        if not (root / "run.json").exists():
            fabricate(root, given.captions, given.repeat)
        print(f"{given.captions:,} captions x {given.repeat} candidates, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        for name, flags in COMMANDS:
            found = [measure(["select", str(root), *flags]) for _ in range(given.rounds)]
            seconds, busy, memory = min(f[0] for f in found), min(f[1] for f in found), max(f[2] for f in found)
            print(f"  {name:15} {seconds:6.2f} s, {busy:6.2f} s of processor time, {memory:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
