"""The report's numbers, as JSON-able data. DuckDB counts and bins, so that millions of rows stay where they are."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from synthvlm import cards as cards_of
from synthvlm import parts
from synthvlm.errors import RunError
from synthvlm.reporting.bins import density, histogram
from synthvlm.run import RunDirectory, Stage, fetch
from synthvlm.select import WEIGHTS, scored_sql

LABELS = {"clip": "CLIPScore", "ssim": "SSIMScore", "total": "Total"}
_REMARKS = ("_cut", "_small")
"""Endings of columns that say something about another column's value, and are no score."""
_MOST_NOTES = 12
_LEAST_SECONDS = 10.0
"""Under this, seconds between commits say nothing about throughput."""


@dataclass
class Subject:
    """What a report is about: an image stage, its score stages if there are any, a selection if there is one."""

    run: RunDirectory
    images: Stage
    scores: list[Stage]
    selection: dict[str, Any] | None
    db: duckdb.DuckDBPyConnection

    @property
    def all_columns(self) -> list[str]:
        """Return every column of the score stages."""
        return [c for s in self.scores for c in s.columns]

    @property
    def columns(self) -> list[str]:
        """Return the score columns, those that Total weighs first."""
        scores = [c for c in self.all_columns if not is_remark(c, self.all_columns)]
        return sorted(scores, key=lambda c: (c not in self.weights, scores.index(c)))

    @property
    def weights(self) -> Mapping[str, float]:
        """Return what Total is made of: the selection's weights, else the default ones, else the first score by itself."""
        if self.selection:
            return self.selection["weights"]
        return {c: w for c, w in WEIGHTS.items() if c in self.all_columns} or dict.fromkeys(self.all_columns[:1], 1.0)


def is_remark(column: str, columns: list[str]) -> bool:
    """Say whether ``column`` is a remark on another one, such as ``clip_cut`` on ``clip``, or on ``clip_mean`` and ``clip_min``."""
    stems = [column.removesuffix(ending) for ending in _REMARKS if column.endswith(ending)]
    return any(other == stem or (other != column and other.startswith(f"{stem}_")) for stem in stems for other in columns)


def label(column: str) -> str:
    """Return what the page calls a column."""
    return LABELS.get(column, column)


def open_subject(run: RunDirectory, db: duckdb.DuckDBPyConnection, selection: str, images: str | None) -> Subject:
    """Find what to report on. A selection names its stages; without one, the image stage that has scores, or the first.

    Raises RunError if there is no image stage, or a selection is asked for (other than ``default``) that is not there.
    """
    summary = run.store.read_json(f"selections/{selection}.json")
    if summary is None and selection != "default":
        there = ", ".join(n.removesuffix(".json") for n in run.store.list("selections", ".json"))
        raise RunError(
            f"{run.root} has no selection {selection!r}", f"it has: {there}" if there else "choose pairs first: synthvlm select RUN"
        )
    stages = [run.stage(n) for n in run.stage_names()]
    if summary is not None and images in (None, summary["images"]):
        return Subject(run, run.stage(summary["images"]), [run.stage(n) for n in summary["scores"]], summary, db)
    scored = [s for s in stages if s.kind == "score" and s.reads_pixels and s.columns and parts.list_parts(run.store, s.name)]
    generated = [s.name for s in stages if s.kind == "generate"]
    if not generated:
        raise RunError(f"{run.root} has no images yet", "run: synthvlm generate RUN --model MODEL")
    name = images or next((s.reads["image"] for s in scored), generated[0])
    kept: list[Stage] = []
    for s in scored:  # two stages that score by one measure cannot stand side by side: the first is reported
        if s.reads["image"] == name and not {*s.columns} & {c for k in kept for c in k.columns}:
            kept.append(s)
    return Subject(run, run.stage(name), kept, None, db)


def gather(subject: Subject) -> dict[str, Any]:
    """Return all figures. Makes the tables ``made`` (slim rows of the images) and, if there are scores, ``scored``."""
    run, db, stage = subject.run, subject.db, subject.images
    db.execute(
        f"CREATE TABLE made AS SELECT key, row, id, candidate, cut_tokens, note, stored, error, error_class FROM {run.table_sql(stage)}"
    )
    figures: dict[str, Any] = {
        "run": os.path.basename(run.root.rstrip("/")) or "run",
        "seed": run.seed,
        "sources": [_source(s) for s in run.record.get("sources", [])],
        "samples": run.sample_count(),
        "images": _images(subject),
        "stages": [_stage(subject, s) for s in (stage, *subject.scores)],
        "other_stages": [
            n
            for n in run.stage_names()
            if n not in {stage.name, *(s.name for s in subject.scores)}
            and (run.stage(n).kind == "generate" or (run.stage(n).kind == "score" and run.stage(n).reads_pixels))
        ],
        "notes": _notes(db),
        "curation": _curation(subject),
        "selection": None,
        "scored": None,
    }
    if subject.scores:
        figures["scored"] = _scored(subject)
    if subject.selection and figures["scored"]:
        figures["selection"] = _selection(subject, figures["scored"])
    return clean(figures)


def _curation(subject: Subject) -> dict[str, Any] | None:
    """Return the funnel of the captions that the images were made of, or None if they were taken as they are."""
    name = subject.images.runtime.get("curation")
    record = subject.run.store.read_json(f"curation/{name}.json") if name else None
    if record is None:
        return None
    kept = {k: record[k] for k in ("name", "captions", "kept", "not_measured", "limits", "cards")}
    return kept | {"funnel": [f for f in record["funnel"] if f["holds_of"]]}


def _source(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return a source's facts; of its path the name only, since the page is made to be passed on."""
    result = source.get("result", {})
    return {"name": os.path.basename(source["path"]), **{k: result.get(k, 0) for k in ("read", "rejected", "duplicates")}}


def _images(subject: Subject) -> dict[str, Any]:
    db, run, stage = subject.db, subject.run, subject.images
    wanted = db.execute(f"SELECT count(*) FROM {run.wanted_sql(stage)}").fetchall()[0][0]
    facts = fetch(
        db,
        """SELECT count(*) FILTER (error IS NULL) AS made, count(*) FILTER (error IS NOT NULL) AS failed, count(DISTINCT id) AS captions,
            count(*) FILTER (error IS NULL AND stored) AS stored, count(*) FILTER (cut_tokens > 0) AS cut,
            coalesce(max(cut_tokens), 0) AS most_cut_tokens, avg(cut_tokens) FILTER (cut_tokens > 0) AS mean_cut_tokens FROM made""",
    )[0]
    return {"stage": stage.name, "repeat": stage.repeat, "wanted": wanted, "pending": wanted - facts["made"] - facts["failed"], **facts}


def _notes(db: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    return fetch(
        db, f"SELECT note, count(*) AS images FROM made WHERE note IS NOT NULL GROUP BY note ORDER BY images DESC, note LIMIT {_MOST_NOTES}"
    )


def _stage(subject: Subject, stage: Stage) -> dict[str, Any]:
    """Return a stage's settings (its identity only: other options may hold keys and paths), failures and where it ran."""
    checkpoints = {n: c for p in stage.plugins for n, c in p.get("checkpoints", {}).items()}
    plugins = [{k: p.get(k) for k in ("name", "distribution", "version")} for p in stage.plugins]
    asked = {n: {"asked": without_folders(c.get("asked")), "revision": c.get("revision")} for n, c in checkpoints.items()}
    facts = {"name": stage.name, "kind": stage.kind, "plugins": plugins, "checkpoints": asked, "identity": stage.identity}
    table = "made" if stage is subject.images else subject.run.table_sql(stage)
    reasons = fetch(
        subject.db,
        f"""SELECT error_class AS class, count(*) AS rows, min(error) AS example, error IS NULL AS good FROM {table}
            GROUP BY error_class, good ORDER BY rows DESC, error_class""",
    )
    made = sum(r["rows"] for r in reasons if r["good"])
    failures = [{k: r[k] for k in ("class", "rows", "example")} for r in reasons if not r["good"]]
    facts |= {"made": made, "failed": sum(r["rows"] for r in failures), "failures": failures}
    return facts | {"repeat": stage.repeat, "store": stage.runtime.get("store"), **where(subject.run, stage, made)}


def without_folders(checkpoint: Any) -> str:
    """Return a hub name as it is, and of a local directory its name only."""
    return os.path.basename(str(checkpoint).rstrip("/")) if os.path.isabs(str(checkpoint)) else str(checkpoint)


def where(run: RunDirectory, stage: Stage, rows: int) -> dict[str, Any]:
    """Return devices, versions and, where enough was measured, rows a second of one worker, from what stands beside the parts."""
    devices: dict[str, int] = {}
    versions: dict[str, set[str]] = {}
    seconds = 0.0
    for part in parts.list_parts(run.store, stage.name):
        info = parts.part_info(run.store, part)
        for one in info.get("merged", [info]):
            device = str(one.get("device", "?"))
            devices[device] = devices.get(device, 0) + 1
            seconds += float(one.get("seconds") or 0)
            for name, version in (one.get("versions") or {}).items():
                versions.setdefault(name, set()).add(version)
    rate = rows / seconds if seconds >= _LEAST_SECONDS else None
    return {
        "devices": sorted(devices),
        "versions": {n: sorted(v) for n, v in sorted(versions.items())},
        "seconds": round(seconds, 1),
        "rows_per_second": rate,
    }


def _scored(subject: Subject) -> dict[str, Any]:
    """Make the table ``scored`` and return its figures."""
    db, run, columns = subject.db, subject.run, subject.all_columns
    warnings = cards_of.check(run, subject.scores)
    total = " + ".join(f'{float(w)!r} * "{c}"' for c, w in subject.weights.items())
    named = "".join(f', "{c}"' for c in columns)
    chosen = "(SELECT NULL::VARCHAR AS chosen WHERE false)"
    if subject.selection:
        url = run.store.url(f"selections/{subject.selection['name']}.parquet").replace("'", "''")
        chosen = f"(SELECT key AS chosen FROM read_parquet('{url}'))"
    db.execute(f"""CREATE TABLE scored AS SELECT key, row, id, candidate, stored{named}, {total} AS total, chosen IS NOT NULL AS selected
        FROM {scored_sql(run, subject.scores)} LEFT JOIN {chosen} ON key = chosen""")
    pairs, selected = db.execute("SELECT count(*), count(*) FILTER (selected) FROM scored").fetchall()[0]
    shown = [*subject.columns, "total"]
    remarks = [c for c in columns if c not in subject.columns]
    cards = {c: s.cards.get(c, {}) for s in subject.scores for c in s.columns}
    best = "(SELECT * FROM scored QUALIFY row_number() OVER (PARTITION BY id ORDER BY total DESC, candidate) = 1)"
    return {
        "pairs": pairs,
        "selected": selected,
        "warnings": warnings,
        "columns": subject.columns,
        "weights": dict(subject.weights),
        "formula": formula(subject.weights),
        "sets": {"all candidates": means(db, "scored", shown), "best of each caption": means(db, best, shown)} if pairs else {},
        "cards": {c: cards[c] for c in subject.columns},
        "remarks": [_remark(db, c, cards[c]) for c in remarks] if pairs else [],
        "histograms": {c: histogram(db, c) for c in shown} if pairs else {},
        "density": density(db, list(subject.weights)[:2]) if pairs and len(subject.weights) > 1 else None,
    }


def _remark(db: duckdb.DuckDBPyConnection, column: str, card: Mapping[str, Any]) -> dict[str, Any]:
    counts = f'count(*) FILTER ("{column}" > 0) AS pairs, count(DISTINCT id) FILTER ("{column}" > 0) AS captions, count(DISTINCT id) AS of'
    of_captions = column.endswith("_cut")
    return {"column": column, "metric": card.get("metric", column), "of_captions": of_captions} | fetch(db, f"SELECT {counts} FROM scored")[
        0
    ]


def _selection(subject: Subject, scored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the selection's own record, and whether the run has moved on since."""
    assert subject.selection is not None
    chosen = subject.selection
    stale = chosen["pairs"] != scored["pairs"] or chosen["selected"] != scored["selected"]
    return {
        k: chosen.get(k) for k in ("name", "top", "pairs", "captions", "selected", "winners_not_stored", "threshold", "sets", "terms")
    } | {"stale": stale}


def formula(weights: Mapping[str, float]) -> str:
    """Write Total as people do: ``CLIPScore + 0.5 · SSIMScore``."""
    terms = [f"{'−' if w < 0 else '+'} {'' if abs(w) == 1 else f'{abs(w):g} · '}{label(c)}" for c, w in weights.items()]
    return " ".join(terms).removeprefix("+ ")


def means(db: duckdb.DuckDBPyConnection, table: str, columns: list[str]) -> dict[str, Any]:
    """Return rows, means and standard deviations, named as a selection's ``sets`` are."""
    wanted = ", ".join(f'avg("{c}") AS "{c}", coalesce(stddev_samp("{c}"), 0) AS "{c} sd"' for c in columns)
    return fetch(db, f"SELECT count(*) AS samples, {wanted} FROM {table}")[0]


def clean(data: Any) -> Any:
    """Return JSON-able data without NaN and infinities, which JSON has not."""
    if isinstance(data, Mapping):
        return {str(k): clean(v) for k, v in data.items()}
    if isinstance(data, (list, tuple)):
        return [clean(v) for v in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
