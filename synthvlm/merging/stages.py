"""A run's caption stages → tables for the join: its images in the samples' order, a column for each stage and perspective."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote as percent

import duckdb

from synthvlm.errors import RunError
from synthvlm.exporting.formats import FOLDERS, FORMATS
from synthvlm.merging import join
from synthvlm.merging.join import Column
from synthvlm.run import RunDirectory, Stage, row_key
from synthvlm.sql import quote, quote_path

_CANDIDATES = 1 << 20
"""More than an image has: an image's place is its sample's row and its candidate number in one."""
_PLACE = f"row * {_CANDIDATES} + candidate AS place"


def caption_stages(run: RunDirectory, names: Sequence[str] | None) -> list[Stage]:
    """Return the stages to merge. Raises RunError if one is missing, is no caption stage, or reads other images than the first."""
    there = [s for s in map(run.stage, run.stage_names()) if s.kind == "caption"]
    if not there:
        raise RunError(f"{run.root} has no captions to merge", "make some: synthvlm recaption IMAGES --out RUN")
    known = {s.name: s for s in there}
    for name in names or ():
        if name not in known:
            raise RunError(f"{run.root} has no caption stage {name!r}", f"it has: {', '.join(known)}")
    chosen = [known[n] for n in names] if names else there
    read = {s.reads["image"]: s.name for s in chosen}
    if len(read) > 1:
        told = "; ".join(f"{stage} those of {images}" for images, stage in read.items())
        raise RunError(f"these stages caption different images: {told}", "name stages of one kind of images with --stage")
    return chosen


def load_images(db: duckdb.DuckDBPyConnection, run: RunDirectory, source: str) -> list[str]:
    """Make the table ``images`` (image, caption_0, place) of the images that ``source`` (``samples`` or a stage) has, in order.

    Returns what is to be told.
    """
    told: list[str] = []
    if source == "samples":
        found = f"SELECT row * {_CANDIDATES} AS place, image, caption FROM {run.samples_sql()} WHERE image IS NOT NULL"
    elif format := next((f for f in FOLDERS if run.store.exists(f"exports/{f}/{FORMATS[f].file}")), None):
        found = _exported(db, run, run.stage(source), format)
    else:
        found = _stored(db, run, run.stage(source))
        told.append(
            f"the images of {source} are not exported: they are named by their place in the run (synthvlm export RUN makes files of them)"
        )
    db.execute(f"""CREATE TABLE images AS SELECT {_literal("image")} AS image, {_literal("caption")} AS caption_0, place
        FROM ({found}) ORDER BY place""")
    return told


def _exported(db: duckdb.DuckDBPyConnection, run: RunDirectory, stage: Stage, format: str) -> str:
    """Return SQL for the images of ``stage`` that the export has, by the path of each."""
    listed = quote_path(run.store.url(f"exports/{format}/{format}.sha256"))
    lines = f"read_csv({listed}, delim = '\\t', header = false, quote = '', columns = {{'l': 'VARCHAR'}})"
    db.execute(f"""CREATE TABLE exported AS SELECT l[:64] AS sha256, l[67:] AS path,
        regexp_extract(l, '([^/]+)-([0-9]+)[.][a-z]+$', ['name', 'candidate']) AS file FROM {lines}""")
    return f"""SELECT {_PLACE}, {quote(f"{run.root}/exports/{format}/")} || path AS image, caption FROM {run.table_sql(stage)} g
        JOIN exported e ON e.sha256 = g.sha256 AND e.file.name IN (g.id, md5(g.id)) AND e.file.candidate = g.candidate::VARCHAR
        WHERE g.error IS NULL"""


def _stored(db: duckdb.DuckDBPyConnection, run: RunDirectory, stage: Stage) -> str:
    """Return SQL for the images of ``stage``, by their places in its tars."""
    table = run.table_sql(stage)
    tars = [t for (t,) in db.execute(f"SELECT DISTINCT tar FROM {table} WHERE stored").fetchall()]
    db.execute("CREATE TABLE tars (tar VARCHAR, uri VARCHAR)")
    if tars:
        db.executemany("INSERT INTO tars VALUES (?, ?)", [(t, f"tar:{percent(run.store.path(t), safe='/:')}") for t in tars])
    return f"""SELECT {_PLACE}, uri || '?offset=' || "offset" || '&size=' || bytes || '&name=' || url_encode(id || '-' || candidate) AS image,
        caption FROM {table} JOIN tars USING (tar) WHERE error IS NULL AND stored"""


def stage_columns(db: duckdb.DuckDBPyConnection, run: RunDirectory, stage: Stage, told: list[str]) -> list[Column]:
    """Make a table in the order of ``images`` for each perspective of ``stage``, and return their columns."""
    db.execute(f"""CREATE OR REPLACE TABLE captions AS SELECT {_PLACE}, perspective, {_literal("text")} AS caption_0
        FROM {run.table_sql(stage)} WHERE error IS NULL""")
    columns = []
    (images,) = join.one(db, "SELECT count(*) FROM images")
    (elsewhere,) = join.one(db, "SELECT count(DISTINCT place) FROM captions ANTI JOIN images USING (place)")
    if elsewhere:
        told.append(f"{elsewhere:,} of the images that {stage.name} captioned are not exported: they get no line")
    for number, (name, record) in enumerate(stage.perspectives.items()):
        table = f"stage_{row_key(stage.name)}_{number}"
        counts = join.align(db, table, [f"SELECT place, caption_0 FROM captions WHERE perspective = {quote(name)}"], "place")
        if not counts["records"]:
            told.append(f"{stage.name}/{name} has no caption yet: it gets no position")
            continue
        plugin = stage.plugins[0]
        about = {
            "source": f"{stage.name}/{name}",
            "stage": stage.name,
            "captioner": {k: plugin.get(k) for k in ("name", "version", "options")},
            "perspective": name,
            "prompt": record.get("prompt"),
        }
        columns.append(Column(about["source"], table, about=about, lacking=images - counts["used"]))
    return columns


def _literal(column: str) -> str:
    return f"CASE WHEN {column} IS NOT NULL THEN to_json({column})::VARCHAR END"
