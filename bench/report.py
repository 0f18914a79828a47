"""Time ``synthvlm report`` on made-up runs: ``python bench/report.py [--samples 1000000] [--repeat 4] [--keep DIR]``.

Two runs: captions with scored candidates and a selection (as ``bench/selection.py`` makes them), and images captioned by two captioners from
two perspectives. Both are as a finished run leaves them, but without pixels: the few that a page shows are told as missing. Each report is a
process of its own; time is from its start to its end, memory its peak (resident pages). The limits are 60 s and 2 GB for a million samples.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import duckdb
from selection import PART, fabricate, measure, put_part, put_samples

from synthvlm import parts
from synthvlm.run import SAMPLES_PER_FILE, RunDirectory, Stage
from synthvlm.samples import SCHEMA

CAPTIONERS = ("parrot", "magpie")
PERSPECTIVES = {"detail": 60, "brief": 15}
"""Words of a caption."""


def fabricate_captions(root: Path, images: int) -> None:
    """Write a run of ``images`` images with a caption of each captioner from each perspective; a thousandth has failed."""
    run = RunDirectory.create(root)
    record = {"prompt": "What is to be seen?", "digest": "", "fields": [], "cleaning": {}}
    asked = {name: record | {"digest": name} for name in PERSPECTIVES}
    plugin = {"name": "parrot", "distribution": "bench", "version": "1", "options": {}}
    stages = [
        run.ensure_stage(Stage(name, "caption", [plugin], {name: {}}, {"image": "samples"}, 1000, perspectives=asked))
        for name in CAPTIONERS
    ]
    with duckdb.connect() as db:
        for at in range(0, images, PART):
            end = min(images, at + PART)
            db.execute(f"""CREATE OR REPLACE TABLE s AS SELECT r AS row, printf('%012d', r * 7919 % 1000000007) AS id, NULL AS caption,
                r || '.jpg' AS image, NULL AS meta, 0 AS source, '/nowhere/' || r || '.jpg' AS image_uri, sha256(r::VARCHAR) AS image_sha256
                FROM range({at}, {end}) t(r)""")
            for n in range(at, end, SAMPLES_PER_FILE):
                rows = db.sql(f"SELECT * FROM s WHERE row >= {n} AND row < {n + SAMPLES_PER_FILE} ORDER BY row").to_arrow_table()
                put_samples(run.store, f"samples/{n // SAMPLES_PER_FILE:05d}.parquet", rows.cast(SCHEMA))
            for k, stage in enumerate(stages):
                said = " UNION ALL ".join(_captions(stage, name, words, k) for name, words in PERSPECTIVES.items())
                table = db.sql(f"SELECT * FROM ({said}) ORDER BY row, perspective").to_arrow_table().cast(parts.CAPTIONS)
                put_part(run.store, stage, at, end, table)


def _captions(stage: Stage, perspective: str, words: int, seed: int) -> str:
    text = f"list_aggregate([['red','blue','dog','cat','house','tree','a','the','on','under'][(hash(row, w, {seed} * (w % 3)) % 10 + 1)::INT] FOR w IN range({words})], 'string_agg', ' ')"
    return f"""SELECT md5(concat_ws(chr(31), '{stage.digest}', id, image_sha256, '{perspective}', '', 0)) AS key, row, id, 0 AS candidate,
        '{perspective}' AS perspective, CASE WHEN row % 1000 THEN {text} END AS text, NULL AS raw, 'stop' AS finish_reason, {words} AS tokens,
        20 AS prompt_tokens, CASE WHEN row % 50 = 0 THEN 'trimmed' ELSE '' END AS flags, image_sha256 AS sha256, 8 AS batch_size,
        CASE WHEN row % 1000 = 0 THEN 'out of memory' END AS error, CASE WHEN row % 1000 = 0 THEN 'OutOfMemory' END AS error_class, 1 AS tries FROM s"""


def main() -> None:
    """Make the runs, unless they are there, and time the reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=4)
    parser.add_argument("--keep", metavar="DIR", help="make the runs here, and leave them")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(given.keep or scratch)
        pairs, told = folder / f"run-{given.samples}x{given.repeat}", folder / f"captions-{given.samples}"
        if not (pairs / "run.json").exists():
            fabricate(pairs, given.samples, given.repeat)
            measure(["select", str(pairs)])
        if not (told / "run.json").exists():
            fabricate_captions(told, given.samples)
        print(f"{given.samples:,} samples, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        for name, root in ((f"pairs, {given.repeat} candidates", pairs), ("2 captioners x 2 perspectives", told)):
            seconds, busy, memory = measure(["report", str(root)])
            size = (root / "report" / "report.html").stat().st_size / 1e6
            print(f"  {name:30} {seconds:6.1f} s, {busy:6.1f} s of processor time, {memory:.2f} GB, page of {size:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
