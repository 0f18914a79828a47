"""Images with all that was said of them: some picked by chance, and those of which captioners say the most different things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from synthvlm.reporting.pictures import Extent, thumbnail
from synthvlm.run import RunDirectory, Stage, fetch
from synthvlm.sql import quote


def gather(run: RunDirectory, db: duckdb.DuckDBPyConnection, figures: Mapping[str, Any], extent: Extent) -> dict[str, Any]:
    """Return ``examples`` and ``differing``: name, picture, the original caption, and what each stage said, by perspective.

    ``figures`` are those of :mod:`synthvlm.reporting.captions`, whose table ``said`` is still there.
    """
    stages = [run.stage(s["name"]) for s in figures["stages"]]
    first = stages[0]
    chance = f"""SELECT DISTINCT row, candidate, md5(row || '/' || candidate) AS chance FROM said WHERE stage = {quote(first.name)}
        ORDER BY chance, row, candidate LIMIT {extent.told}"""
    picked = sorted((r["row"], r["candidate"]) for r in fetch(db, chance))
    shown = [_shown(run, db, first, at, [s for s in stages if s.reads == first.reads], extent) for at in picked]
    by_name = {s.name: s for s in stages}
    apart = []
    for d in figures["differing"][: extent.line]:
        image = _image(run, db, by_name[d["stages"][0]], (d["row"], d["candidate"]))
        if image is not None:
            apart.append(d | _named(run, image, extent))
    return {"examples": [s for s in shown if s is not None], "differing": apart}


def _image(run: RunDirectory, db: duckdb.DuckDBPyConnection, stage: Stage, at: tuple[int, int]) -> dict[str, Any] | None:
    """Return the image of a row and candidate as ``stage`` reads it; None if it does no longer."""
    found = fetch(
        db,
        f"""SELECT DISTINCT row, candidate, id, caption, image, image_uri, sha256, tar, "offset", bytes
            FROM {run.wanted_sql(stage, (at[0], at[0] + 1))} WHERE candidate = {at[1]} AND stored""",
    )
    return found[0] if found else None


def _named(run: RunDirectory, image: Mapping[str, Any], extent: Extent) -> dict[str, Any]:
    source, small = thumbnail(run, dict(image), extent)
    name = image["image"] or f"{image['id']}-{image['candidate']}"
    return {"name": name, "caption": image["caption"], "image": source, "small": small}


def _shown(
    run: RunDirectory, db: duckdb.DuckDBPyConnection, first: Stage, at: tuple[int, int], stages: Sequence[Stage], extent: Extent
) -> dict[str, Any] | None:
    image = _image(run, db, first, at)
    if image is None:
        return None
    said: dict[str, dict[str, Any]] = {}
    for stage in stages:
        rows = fetch(
            db,
            f"""SELECT perspective, text, flags, error FROM {run.table_sql(stage, (at[0], at[0] + 1))}
                WHERE candidate = {at[1]} AND sha256 = {quote(image["sha256"])} ORDER BY position""",
        )
        for r in rows:
            said.setdefault(r.pop("perspective"), {})[stage.name] = r
    return _named(run, image, extent) | {
        "stages": [s.name for s in stages],
        "said": [{"perspective": p, "by": [by.get(s.name) for s in stages]} for p, by in said.items()],
    }
