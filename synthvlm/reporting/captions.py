"""The report's part on captions: how many by model and perspective, what failed and why, how long they are, where captioners differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb

from synthvlm.errors import PluginError
from synthvlm.plugins import discover
from synthvlm.reporting import work
from synthvlm.reporting.bins import histograms_by
from synthvlm.reporting.differing import Differing
from synthvlm.reporting.rows import ranges
from synthvlm.reporting.subjects import run_name
from synthvlm.run import RunDirectory, Stage, fetch, steadily
from synthvlm.sql import quote

_MOST_REPEATED = 5


def gather(run: RunDirectory, db: duckdb.DuckDBPyConnection) -> dict[str, Any] | None:
    """Return the figures, or None if the run captions nothing.

    Makes ``said``, a slim row for each caption (stage, perspective, words …, without its text), a range of samples at a time.
    """
    stages = [s for s in map(run.stage, run.stage_names()) if s.kind == "caption"]
    if not stages:
        return None
    db.execute("""CREATE TABLE said (stage VARCHAR, row BIGINT, candidate INTEGER, perspective VARCHAR, words DOUBLE, letters INTEGER,
        tokens INTEGER, cut BOOLEAN, retried BOOLEAN, text_hash UBIGINT, error VARCHAR, error_class VARCHAR)""")
    judges = {s.name: judge for s in stages if (judge := _judge(s)) is not None}
    judged = {(s.name, p): {"judged": 0, "right": 0} for s in stages for p in s.perspectives}
    wanted = dict.fromkeys((s.name for s in stages), 0)
    differing = Differing(stages)
    per_sample = max(len(s.perspectives) * (run.stage(s.reads["image"]).repeat if s.reads_pixels else 1) for s in stages)
    for rows in ranges(run, per_sample * len(stages)):
        for n, s in enumerate(stages):
            steadily(lambda n=n, s=s, rows=rows: _read(run, db, n, s, rows))
            wanted[s.name] += _wanted(run, db, n, s, rows)
            db.execute(_slim(n, s))
            if s.name in judges:
                _judge_rows(db, n, s, judges[s.name], judged)
        differing.add(db)
    for n in range(len(stages)):
        db.execute(f"DROP TABLE IF EXISTS told_{n}")
    return {
        "run": run_name(run),
        "samples": run.sample_count(),
        "images": db.execute("SELECT count(*) FROM (SELECT DISTINCT row, candidate FROM said)").fetchall()[0][0],
        "stages": [_stage(run, db, s, wanted[s.name], judged) for s in stages],
        "lengths": histograms_by(db, "words", "said", ("stage", "perspective")),
        "repeated": _repeated(run, db, stages),
        "agreement": differing.agreement(),
        "differing": differing.most,
    }


def _read(run: RunDirectory, db: duckdb.DuckDBPyConnection, n: int, stage: Stage, rows: tuple[int, int]) -> None:
    """Make ``told_n``, the captions of a stage in a range of samples."""
    db.execute(f"""CREATE OR REPLACE TEMP TABLE told_{n} AS SELECT key, row, id, candidate, sha256, perspective, text, flags, tokens, error, error_class,
        caption FROM {run.table_sql(stage, rows)}""")


def _wanted(run: RunDirectory, db: duckdb.DuckDBPyConnection, n: int, stage: Stage, rows: tuple[int, int]) -> int:
    """Count what is wanted and can be made, or was: the pixels of a made image may be gone."""
    there = f"stored OR key IN (SELECT key FROM told_{n})"
    return db.execute(f"SELECT count(*) FILTER ({there}) FROM {run.wanted_sql(stage, rows)}").fetchall()[0][0]


def _slim(n: int, stage: Stage) -> str:
    words = r"len(regexp_extract_all(text, '\S+'))::DOUBLE"
    flags = "list_has_any(string_split(flags, ','), ['trimmed', 'cut']), contains(flags, 'retried')"
    return f"""INSERT INTO said SELECT {quote(stage.name)}, row, candidate, perspective, {words}, length(text), tokens, {flags},
        hash(text), error, error_class FROM told_{n}"""


def _stage(
    run: RunDirectory, db: duckdb.DuckDBPyConnection, stage: Stage, wanted: int, judged: dict[tuple[str, str], dict[str, int]]
) -> dict[str, Any]:
    own = f"FROM said WHERE stage = {quote(stage.name)}"
    counted = f"""SELECT perspective, count(*) FILTER (error IS NULL) AS made, count(*) FILTER (error IS NOT NULL) AS failed,
        count(*) FILTER (cut AND error IS NULL) AS cut, count(*) FILTER (retried AND error IS NULL) AS retried,
        avg(letters) FILTER (error IS NULL) AS letters, avg(words) FILTER (error IS NULL) AS words,
        median(words) FILTER (error IS NULL) AS median_words, avg(tokens) FILTER (error IS NULL) AS tokens {own} GROUP BY perspective"""
    found = {r.pop("perspective"): r for r in fetch(db, counted)}
    none = {"made": 0, "failed": 0, "cut": 0, "retried": 0, "letters": None, "words": None, "median_words": None, "tokens": None}
    perspectives = [
        {"name": name, "prompt": record["prompt"], **found.get(name, none), **judged[stage.name, name]}
        for name, record in stage.perspectives.items()
    ]
    by_reason = f"""SELECT error_class AS class, count(*) AS rows, min(error) AS example {own} AND error IS NOT NULL
        GROUP BY error_class ORDER BY rows DESC, error_class"""
    made = sum(p["made"] for p in perspectives)
    plugin = stage.plugins[0]
    return {
        "name": stage.name,
        "model": plugin["name"],
        "origin": f"{plugin['distribution']} {plugin['version']}",
        "identity": stage.identity,
        "reads": stage.reads["image"],
        "perspectives": perspectives,
        "judged": sum(p["judged"] for p in perspectives),
        "right": sum(p["right"] for p in perspectives),
        "wanted": wanted,
        "made": made,
        "failed": sum(p["failed"] for p in perspectives),
        "failures": fetch(db, by_reason),
        **work.where(run, stage, made),
    }


def _repeated(run: RunDirectory, db: duckdb.DuckDBPyConnection, stages: Sequence[Stage]) -> dict[str, Any]:
    """Return how many captions of one perspective stand with several images, word for word, and the most frequent of them."""
    grouped = """SELECT stage, perspective, text_hash, count(*) AS images, min(row) AS row, min(candidate) AS candidate FROM said
        WHERE error IS NULL GROUP BY stage, perspective, text_hash HAVING count(*) > 1"""
    captions = db.execute(f"SELECT coalesce(sum(images), 0)::BIGINT FROM ({grouped})").fetchall()[0][0]
    most = fetch(db, f"{grouped} ORDER BY images DESC, stage, perspective, text_hash LIMIT {_MOST_REPEATED}")
    by_name = {s.name: s for s in stages}
    for r in most:
        table = run.table_sql(by_name[r["stage"]], (r["row"], r["row"] + 1))
        texts = f"SELECT text FROM {table} WHERE perspective = {quote(r['perspective'])} AND hash(text) = {r.pop('text_hash')}"
        r["text"] = db.execute(f"{texts} ORDER BY candidate LIMIT 1").fetchall()[0][0]
        del r["row"], r["candidate"]
    return {"captions": captions, "most": most}


def _judge(stage: Stage) -> Any:
    """Return what tells of the captioner's captions whether they are right, by the image's own one; None if nothing does."""
    try:
        return getattr(discover().get("captioner", stage.plugins[0]["name"]).cls, "is_right", None)
    except PluginError:  # its plugin is not installed here
        return None


def _judge_rows(db: duckdb.DuckDBPyConnection, n: int, stage: Stage, is_right: Any, judged: dict[tuple[str, str], dict[str, int]]) -> None:
    """Count by perspective the captions that can be judged by the image's own one, and those that are right."""
    found = db.execute(f"SELECT perspective, text, caption FROM told_{n} WHERE error IS NULL AND caption IS NOT NULL")
    while rows := found.fetchmany(10_000):
        for perspective, text, truth in rows:
            right = is_right(perspective, text, truth)
            counts = judged[stage.name, perspective]
            counts["judged"] += right is not None
            counts["right"] += right is True
