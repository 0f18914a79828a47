"""Which captions and images of a run stand in benchmark files; see :mod:`synthvlm.scorers.decontamination` for how that is told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from synthvlm.curating.measuring import measure
from synthvlm.curating.rules import LIMITS
from synthvlm.execution import execute
from synthvlm.preparing import prepare_score
from synthvlm.run import Stage, fetch
from synthvlm.scorers.decontamination import has_images, has_texts
from synthvlm.sql import quote

if TYPE_CHECKING:
    from synthvlm.pipeline import Run

EXAMPLES = 10


def decontaminate(
    run: Run, against: str, *, images: str | None = None, distance: int | None = None, name: str = "default"
) -> dict[str, Any]:
    """Compare the captions, and the images of stage ``images`` (or raw ones: ``samples``), with a benchmark; write and return what was found.

    ``decontamination/<name>.parquet`` has a row per hit: row, id, candidate (None: the caption itself), what, value. ``distance``: bits of 64
    up to which images are the same one.
    """
    most = distance if distance is not None else int(LIMITS["phash_distance"][0] or 1) - 1
    found: list[tuple[str, Stage, str]] = []
    if has_texts(against):
        found.append(("caption", measure(run, "overlap", {"against": against}), f"overlap > {LIMITS['overlap'][1]}"))
    if images and has_images(against):
        stage = measure(run, "phash", {"against": against}) if images == "samples" else _scored(run, images, against)
        found.append(("image", stage, f"phash_distance <= {most}"))
    compared: dict[str, int] = {}
    hits = []
    with run.connect() as db:
        for what, stage, condition in found:
            table = f"(SELECT * FROM {run.table_sql(stage)} WHERE error IS NULL)"
            compared[what] = db.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]
            candidate = "candidate" if stage.reads_pixels else "NULL::INTEGER"
            value = stage.columns[0]
            hits.append(f"""SELECT row, id, {candidate} AS candidate, caption, {quote(what)} AS what, {value}::DOUBLE AS value
                FROM {table} WHERE {condition}""")
        if hits:
            db.execute(f"CREATE TABLE hits AS {' UNION ALL '.join(hits)}")
        else:
            db.execute("CREATE TABLE hits (row BIGINT, id VARCHAR, candidate INTEGER, caption VARCHAR, what VARCHAR, value DOUBLE)")
        counted = dict(db.execute("SELECT what, count(*) FROM hits GROUP BY what").fetchall())
        summary = {
            "name": name,
            "against": against.rstrip("/").rpartition("/")[2],
            "compared": compared,
            "hits": {what: counted.get(what, 0) for what in compared},
            "distance": most,
            "cards": {c: s.cards[c] for _, s, _ in found for c in s.columns},
            "examples": fetch(db, f"SELECT * FROM hits ORDER BY what, row, candidate LIMIT {EXAMPLES}"),
        }
        with run.store.writer(f"decontamination/{name}.parquet") as out:
            pq.write_table(db.sql("SELECT * FROM hits ORDER BY what, row, candidate").to_arrow_table(), out, compression="zstd")
    run.store.put(f"decontamination/{name}.json", (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode())
    return summary


def _scored(run: Run, images: str, against: str) -> Stage:
    execution = run.execution.on_cpus(run.sample_count())
    prepared = prepare_score(run, images, {"phash": {"against": against}}, name=f"{images}.phash", execution=execution)
    execute(run, [prepared], execution)
    return run.stage(prepared.stage.name)
