"""The report's numbers on pairs, as JSON-able data. DuckDB counts and bins, so that millions of rows stay where they are."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import duckdb

from synthvlm import cards as cards_of
from synthvlm.reporting import rows, work
from synthvlm.reporting.bins import density, histogram
from synthvlm.reporting.names import formula
from synthvlm.reporting.sets import measure
from synthvlm.reporting.subjects import Subject
from synthvlm.run import Stage, fetch
from synthvlm.sql import identifier

_MOST_NOTES = 12
_MOST_REPEATED = 5
_RECORD = (
    "name",
    "top",
    "pairs",
    "captions",
    "selected",
    "winners_not_stored",
    "threshold",
    "terms",
    "asked",
    "groups",
    "diversity",
    "marks",
)


def gather(subject: Subject) -> dict[str, Any]:
    """Return all figures. Makes the tables of :mod:`synthvlm.reporting.rows`: ``made`` and, if there are scores, ``scored`` and ``best``."""
    run, db, stage = subject.run, subject.db, subject.images
    if stage is not None:
        rows.make_images(subject)
    scored = _scored(subject) if subject.scores else None
    named = {s.name for s in (stage, *subject.scores) if s is not None}
    figures: dict[str, Any] = {
        "run": subject.name,
        "seed": run.seed,
        "sources": [_source(s) for s in run.record.get("sources", [])],
        "samples": run.sample_count(),
        "images": _images(subject, stage) if stage is not None else None,
        "stages": [_stage(subject, s) for s in (stage, *subject.scores) if s is not None],
        "other_stages": [
            s.name for s in map(run.stage, run.stage_names()) if s.name not in named and (s.kind == "generate" or _of_pairs(s))
        ],
        "notes": _notes(db) if stage is not None else [],
        "curation": _curation(subject),
        "sets": _sets(subject) if scored and scored["pairs"] else {},
        "scored": scored,
        "selection": _selection(subject, scored) if subject.selection and scored else None,
        "lengths": _lengths(subject, scored is not None),
        "tokens_cut": _tokens_cut(db) if stage is not None else None,
        "repeated": _repeated(subject),
    }
    figures["funnel"] = _funnel(subject, figures)
    return clean(figures)


def sets_only(subject: Subject) -> dict[str, Any]:
    """Return ``sets`` alone, for a run that is only compared with."""
    if not subject.scores:
        return {"sets": {}}
    cards_of.check(subject.run, subject.scores)
    rows.make_pairs(subject)
    return clean({"sets": _sets(subject) if subject.db.execute("SELECT count(total) FROM scored").fetchall()[0][0] else {}})


def _of_pairs(stage: Stage) -> bool:
    return stage.kind == "score" and stage.reads_pixels


def _curation(subject: Subject) -> dict[str, Any] | None:
    """Return the funnel of the captions that the pairs are made of, or None if they were taken as they are."""
    name = subject.images.runtime.get("curation") if subject.images else "default"
    record = subject.run.store.read_json(f"curation/{name}.json") if name else None
    if record is None:
        return None
    kept = {k: record[k] for k in ("name", "captions", "kept", "not_measured", "limits", "cards")}
    return kept | {"funnel": [f for f in record["funnel"] if f["holds_of"]]}


def _source(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return a source's facts; of its path the name only, since the page is made to be passed on."""
    result = source.get("result", {})
    return {"name": os.path.basename(source["path"]), **{k: result.get(k, 0) for k in ("read", "rejected", "duplicates")}}


def _images(subject: Subject, stage: Stage) -> dict[str, Any]:
    wanted = subject.db.execute(f"SELECT count(*) FROM {subject.run.wanted_sql(stage)}").fetchall()[0][0]
    facts = fetch(
        subject.db,
        """SELECT count(*) FILTER (error IS NULL) AS made, count(*) FILTER (error IS NOT NULL) AS failed, count(DISTINCT row) AS captions,
            count(*) FILTER (error IS NULL AND stored) AS stored, count(*) FILTER (cut_tokens > 0) AS cut,
            coalesce(max(cut_tokens), 0) AS most_cut_tokens, avg(cut_tokens) FILTER (cut_tokens > 0) AS mean_cut_tokens,
            count(bytes_hash) - count(DISTINCT bytes_hash) AS repeated FROM made""",
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
    asked = {n: {"asked": work.without_folders(c.get("asked")), "revision": c.get("revision")} for n, c in checkpoints.items()}
    facts = {"name": stage.name, "kind": stage.kind, "plugins": plugins, "checkpoints": asked, "identity": stage.identity}
    counts = rows.tally(subject, stage)
    where = work.where(subject.run, stage, counts["made"])
    return facts | counts | {"repeat": stage.repeat, "store": stage.runtime.get("store"), **where}


def _scored(subject: Subject) -> dict[str, Any]:
    """Make ``scored`` and ``best`` and return their figures."""
    db, columns = subject.db, subject.all_columns
    warnings = cards_of.check(subject.run, subject.scores)
    rows.make_pairs(subject)
    pairs, selected = db.execute("SELECT count(total), count(*) FILTER (selected) FROM scored").fetchall()[0]
    shown = [*subject.columns, "total"]
    cards = subject.cards
    return {
        "pairs": pairs,
        "selected": selected,
        "warnings": warnings,
        "columns": subject.columns,
        "weights": dict(subject.weights),
        "normalise": subject.normalise,
        "formula": formula(subject.weights, subject.normalise),
        "cards": {c: cards[c] for c in subject.columns},
        "remarks": [_remark(db, c, cards[c]) for c in columns if c not in subject.columns] if pairs else [],
        "histograms": {c: histogram(db, c) for c in shown} if pairs else {},
        "density": density(db, list(subject.weights)[:2]) if pairs and len(subject.weights) > 1 else None,
    }


def _sets(subject: Subject) -> dict[str, Any]:
    """Return the sets of the paper's table: all candidates, the best of each caption, the selected ones; or the pairs that were read in."""
    shown = [*subject.columns, "total"]
    every = "(SELECT * FROM scored WHERE total IS NOT NULL)"
    if subject.images is None:
        tables = {"all pairs": every}
        if subject.run.store.exists("curation/default.parquet"):
            kept = subject.run.read_sql(["curation/default.parquet"])
            tables["kept by curation"] = f"(SELECT * FROM {every} SEMI JOIN (SELECT row FROM {kept} WHERE keep) USING (row))"
    else:
        tables = {"all candidates": every, "best of each caption": "best"}
        if subject.selection:
            tables["selected"] = "(SELECT * FROM scored WHERE selected)"
    return {name: measure(subject.db, table, shown) for name, table in tables.items()}


def _remark(db: duckdb.DuckDBPyConnection, column: str, card: Mapping[str, Any]) -> dict[str, Any]:
    holds = f"{identifier(column)} > 0"
    counts = f"count(*) FILTER ({holds}) AS pairs, count(DISTINCT row) FILTER ({holds}) AS captions, count(DISTINCT row) AS of"
    known = {"column": column, "metric": card.get("metric", column), "of_captions": column.endswith("_cut")}
    return known | fetch(db, f"SELECT {counts} FROM scored")[0]


def _selection(subject: Subject, scored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the selection's own record, and whether the run has moved on since."""
    assert subject.selection is not None
    chosen = subject.selection
    stale = chosen["pairs"] != scored["pairs"] or chosen["selected"] != scored["selected"]
    return {k: chosen.get(k) for k in _RECORD} | {"stale": stale}


def _lengths(subject: Subject, scored: bool) -> dict[str, Any]:
    """Return how many words captions have: all of them and, in ``selected``, those of selected pairs."""
    chosen = "row IN (SELECT row FROM scored WHERE selected)" if scored else "false"
    words = r"len(regexp_extract_all(caption, '\S+'))"
    subject.db.execute(f"""CREATE TABLE lengths AS SELECT ({words})::DOUBLE AS words, {chosen} AS selected
        FROM {subject.run.samples_sql()} WHERE caption IS NOT NULL""")
    return histogram(subject.db, "words", "lengths", whole=True)


def _tokens_cut(db: duckdb.DuckDBPyConnection) -> dict[str, Any] | None:
    """Return how many tokens were cut off the captions that were too long, or None if none was."""
    db.execute("CREATE TABLE cut AS SELECT cut_tokens::DOUBLE AS tokens, false AS selected FROM made WHERE cut_tokens > 0")
    found = histogram(db, "tokens", "cut", whole=True)
    return None if found.get("value", 0) is None else found


def _repeated(subject: Subject) -> dict[str, Any]:
    """Return how many captions stand more than once, letter case apart, and the most frequent of them."""
    captions = f"(SELECT lower(trim(caption)) AS caption FROM {subject.run.samples_sql()} WHERE caption IS NOT NULL)"
    db = subject.db
    more = db.execute(f"SELECT count(*) - count(DISTINCT hash(caption)) FROM {captions}").fetchall()[0][0]
    if not more:
        return {"captions": 0, "most": []}
    often = f"SELECT hash(caption) AS h FROM {captions} GROUP BY h HAVING count(*) > 1 ORDER BY count(*) DESC, h LIMIT {_MOST_REPEATED}"
    most = fetch(
        db,
        f"SELECT caption, count(*) AS times FROM {captions} WHERE hash(caption) IN ({often}) GROUP BY caption ORDER BY times DESC, caption",
    )
    return {"captions": more, "most": most}


def _funnel(subject: Subject, figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return how many captions are left after each step of the line."""
    steps = [("read in", figures["samples"])]
    if figures["curation"] and subject.images:
        steps.append(("kept by curation", figures["curation"]["kept"]))
    if subject.images:
        steps.append(("with an image", subject.db.execute("SELECT count(DISTINCT row) FROM made WHERE error IS NULL").fetchall()[0][0]))
    if figures["scored"]:
        steps.append(("with a scored pair", subject.db.execute("SELECT count(*) FROM best").fetchall()[0][0]))
    if figures["curation"] and not subject.images:
        steps.append(("kept by curation", figures["curation"]["kept"]))
    if figures["selection"]:
        steps.append(("selected", figures["scored"]["selected"]))
    return [{"step": step, "captions": n} for step, n in steps]


def clean(data: Any) -> Any:
    """Return JSON-able data without NaN and infinities, which JSON has not."""
    if isinstance(data, Mapping):
        return {str(k): clean(v) for k, v in data.items()}
    if isinstance(data, (list, tuple)):
        return [clean(v) for v in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
