"""The report's part on captions: how many by model and perspective, what failed and why, some images with all that was said of them."""

from __future__ import annotations

import os
from typing import Any

import duckdb

from synthvlm import images
from synthvlm.errors import PluginError
from synthvlm.plugins import discover
from synthvlm.reporting.pictures import embed
from synthvlm.run import RunDirectory, Stage, fetch
from synthvlm.sql import quote

EXAMPLES = 8
"""Images that are shown with all their captions."""


def gather(run: RunDirectory, db: duckdb.DuckDBPyConnection) -> dict[str, Any] | None:
    """Return the figures and examples, or None if the run captions nothing."""
    stages = [s for s in map(run.stage, run.stage_names()) if s.kind == "caption"]
    if not stages:
        return None
    return {
        "run": os.path.basename(run.root.rstrip("/")) or "run",
        "images": run.sample_count(),
        "stages": [_stage(run, db, s) for s in stages],
        "examples": _examples(run, db, stages),
    }


def _stage(run: RunDirectory, db: duckdb.DuckDBPyConnection, stage: Stage) -> dict[str, Any]:
    tally = run.tally(stage)
    counted = f"""SELECT perspective, count(*) FILTER (list_has_any(string_split(flags, ','), ['trimmed', 'cut'])) AS cut,
        count(*) FILTER (contains(flags, 'retried')) AS retried, avg(length(text)) AS letters, avg(tokens) AS tokens
        FROM {run.table_sql(stage)} WHERE error IS NULL GROUP BY perspective"""
    more = {r.pop("perspective"): r for r in fetch(db, counted)}
    none = {"cut": 0, "retried": 0, "letters": None, "tokens": None}
    judged = _judged(run, db, stage)
    perspectives = [
        {
            "name": name,
            "prompt": stage.perspectives[name]["prompt"],
            **counts,
            **more.get(name, none),
            **judged.get(name, {"judged": 0, "right": 0}),
        }
        for name, counts in tally["perspectives"].items()
    ]
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
        **{k: tally[k] for k in ("wanted", "made", "failed", "failures")},
    }


def _judged(run: RunDirectory, db: duckdb.DuckDBPyConnection, stage: Stage) -> dict[str, dict[str, int]]:
    """Count by perspective the captions that can be judged by the image's own one, and those that are right; empty without a judge."""
    try:
        is_right = getattr(discover().get("captioner", stage.plugins[0]["name"]).cls, "is_right", None)
    except PluginError:  # its plugin is not installed here
        is_right = None
    if is_right is None:
        return {}
    counts = {name: {"judged": 0, "right": 0} for name in stage.perspectives}
    found = db.execute(f"SELECT perspective, text, caption FROM {run.table_sql(stage)} WHERE error IS NULL AND caption IS NOT NULL")
    while rows := found.fetchmany(10_000):
        for perspective, text, truth in rows:
            right = is_right(perspective, text, truth)
            counts[perspective]["judged"] += right is not None
            counts[perspective]["right"] += right is True
    return counts


def _examples(run: RunDirectory, db: duckdb.DuckDBPyConnection, stages: list[Stage]) -> list[dict[str, Any]]:
    """Return some images, picked by chance (a hash), with what each stage said of them from each perspective."""
    first = stages[0]
    picked = fetch(
        db,
        f"""SELECT DISTINCT row, candidate, id, caption, image, image_uri, sha256, tar, "offset", bytes FROM {run.wanted_sql(first)}
            SEMI JOIN (SELECT key FROM {run.table_sql(first)}) USING (key) WHERE stored ORDER BY md5(id), candidate LIMIT {EXAMPLES}""",
    )
    shown = []
    for image in sorted(picked, key=lambda r: (r["row"], r["candidate"])):
        said = [s for stage in stages if stage.reads == first.reads for s in _said(run, db, stage, image)]
        source, small = _picture(run, image)
        shown.append(
            {
                "name": image["image"] or f"{image['id']}-{image['candidate']}",
                "caption": image["caption"],
                "image": source,
                "small": small,
                "said": said,
            }
        )
    return shown


def _said(run: RunDirectory, db: duckdb.DuckDBPyConnection, stage: Stage, image: dict[str, Any]) -> list[dict[str, Any]]:
    rows = (image["row"], image["row"] + 1)
    return [
        {"stage": stage.name, **r}
        for r in fetch(
            db,
            f"""SELECT perspective, text, flags, error FROM {run.table_sql(stage, rows)}
                WHERE candidate = {image["candidate"]} AND sha256 = {quote(image["sha256"])} ORDER BY position""",
        )
    ]


def _picture(run: RunDirectory, image: dict[str, Any]) -> tuple[str | None, bool]:
    """Return an image as a data URL, and whether it is small; None if it cannot be read."""
    try:
        if image["tar"]:
            return embed(run.store.read(image["tar"], image["offset"], image["bytes"]))
        return embed(images.read_image_bytes(image["image_uri"]))
    except (OSError, images.ImageError):  # moved or damaged meanwhile: the captions are of use all the same
        return None, False
