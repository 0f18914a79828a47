"""Choose captions: what the text scorers measured, limits from the recipe, duplicates over the whole pool; decided in SQL (the paper, section 3.1).

``curation/<name>.parquet`` has a row for each caption: row, id, caption_md5, keep, reason (the first), reasons (all), like_row (of a duplicate the
one that stays) and the values that decided; ``<name>.json`` the limits, the funnel and the cards. Nothing is deleted: an image stage
takes only what its curation keeps, and a caption that was added or edited since is not taken until it is curated.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow.parquet as pq

from synthvlm import parts
from synthvlm.curating import duplicates, rules
from synthvlm.errors import OptionError, RunError
from synthvlm.options import digest
from synthvlm.run import RunDirectory, Stage, fetch, quote
from synthvlm.select import parse_top
from synthvlm.sql import identifier

REVISION = 1
"""Raised when the same values are decided otherwise."""
EXAMPLES = 5
_LONG_ENOUGH = 4
"""Words from which a language can be told, or any where the letters are not Latin."""


@dataclass
class Settings:
    """How to decide."""

    limits: Mapping[str, Any] = field(default_factory=dict)
    """Laid over :data:`synthvlm.curating.rules.LIMITS`."""
    languages: Sequence[str] = ()
    """ISO 639-1 codes; empty: any."""
    duplicates: str = "exact"
    """``off``, ``exact`` or ``near``."""
    similarity: float = rules.SIMILARITY
    pairs: str | float | int | None = None
    """Share or number of pairs to keep, by the score of caption and raw image; None: limits only."""


def curate(run: RunDirectory, stages: Sequence[Stage], settings: Settings, *, name: str = "default", dry: bool = False) -> dict[str, Any]:
    """Decide, write ``curation/<name>.parquet`` and ``.json``, and return the latter; ``dry`` writes nothing.

    ``stages`` measured the captions (of a pair score stage over raw images, the first column ranks). If nothing has changed since the
    last time, that record is returned. Raises RunError if the run has no captions, OptionError for a limit on a column that no stage has.
    """
    wanted = rules.limits(settings.limits)
    columns = [c for s in stages for c in s.columns]
    unknown = [c for c in settings.limits if c not in columns and settings.limits[c] not in (None, "off")]
    if unknown:
        raise OptionError(
            f"no scorer that is asked for measures {unknown[0]!r}", f"measured are: {', '.join(columns)}; others come with --scorer"
        )
    inputs = _inputs(run, stages, settings)
    before = run.store.read_json(f"curation/{name}.json")
    if before and before["inputs"] == inputs and not dry and run.store.exists(f"curation/{name}.parquet"):
        return before
    applied = rules.rules(wanted, columns, settings.languages)
    with tempfile.TemporaryDirectory(prefix="synthvlm-") as scratch, run.connect() as db:
        db.execute(f"SET temp_directory = {quote(scratch)}")
        db.execute("SET preserve_insertion_order = false")
        _measure(run, db, stages, applied)
        captions = db.execute("SELECT count(*) FROM judged").fetchall()[0][0]
        if not captions:
            raise RunError(f"{run.root} has no captions to curate", "read some in: synthvlm curate CAPTIONS --out RUN")
        if settings.duplicates != "off":
            duplicates.mark_exact(db, "judged", "reason IS NULL")
        if settings.duplicates == "near":
            duplicates.mark_near(db, "judged", "reason IS NULL", settings.similarity)
        pairs = [s for s in stages if not s.reads_text]
        if pairs and settings.pairs is not None:
            _keep_pairs(db, pairs[0], settings.pairs)
        order = [*(r.reason for r in applied), "duplicate", "near_duplicate", *(s.columns[0] for s in pairs)]
        summary = {
            "name": name,
            "inputs": inputs,
            "captions": captions,
            "kept": db.execute("SELECT count(*) FROM judged WHERE reason IS NULL").fetchall()[0][0],
            "not_measured": _not_measured(db, stages),
            "funnel": _funnel(db, list(dict.fromkeys(order)), _says(applied, settings, pairs)),
            **({"judge": _judged(db)} if "judge" in columns else {}),
            "limits": {c: list(limit) for c, limit in wanted.items() if c in columns},
            "settings": asdict(settings),
            "stages": [s.name for s in stages],
            "cards": {c: s.cards.get(c, {}) for s in stages for c in s.columns},
        }
        if not dry:
            _write(run, db, name, summary, [r.reason for r in applied if r.reason in columns] + [s.columns[0] for s in pairs])
    return summary


def record(run: RunDirectory, name: str = "default") -> dict[str, Any] | None:
    """Return what ``curation/<name>.json`` says, or None."""
    return run.store.read_json(f"curation/{name}.json")


def _inputs(run: RunDirectory, stages: Sequence[Stage], settings: Settings) -> str:
    """Return a digest of everything that the decision follows from, at the cost of listing files."""
    sources = [{k: v for k, v in s.items() if k != "result"} for s in run.record["sources"]]
    files = {s.name: [p.path for p in parts.list_parts(run.store, s.name)] for s in stages}
    samples = {n: run.store.size(f"samples/{n}") for n in run.store.list("samples", ".parquet")}
    identities = {s.name: [s.digest, s.runtime.get("curation")] for s in stages}
    return digest([REVISION, sources, samples, files, identities, asdict(settings), {c: list(v) for c, v in rules.LIMITS.items()}])


def _measure(run: RunDirectory, db: Any, stages: Sequence[Stage], applied: Sequence[rules.Rule]) -> None:
    """Make the table ``judged``: a row per caption with what was measured, and the reasons against it."""
    columns = [(n, c) for n, s in enumerate(stages) for c in s.columns]
    named = "".join(f", t{n}.{identifier(c)}" for n, c in columns)
    joins = "".join(
        f" LEFT JOIN (SELECT * FROM {run.table_sql(s)} WHERE error IS NULL) t{n} ON t{n}.row = s.row" for n, s in enumerate(stages)
    )
    long_enough = f"words >= {_LONG_ENOUGH} OR latin < 0.5" if {"words", "latin"} <= {c for _, c in columns} else "true"
    reasons = ", ".join(f"CASE WHEN {r.sql} THEN {quote(r.reason)} END" for r in applied) or "NULL::VARCHAR"
    lacking = "".join(f", t{n}.row IS NULL AS {_lacks(n)}" for n in range(len(stages)))
    chosen = f"s.row, s.id, s.caption, md5(s.caption) AS caption_md5{named}{lacking}"
    measured = f"SELECT {chosen} FROM {run.samples_sql()} s{joins} WHERE s.caption IS NOT NULL"
    db.execute(f"""CREATE TABLE judged AS SELECT *, reasons[1] AS reason, NULL::BIGINT AS like_row FROM (
        SELECT * EXCLUDE (long_enough), list_filter([{reasons}], lambda r: r IS NOT NULL)::VARCHAR[] AS reasons
        FROM (SELECT *, {long_enough} AS long_enough FROM ({measured})))""")


def _keep_pairs(db: Any, stage: Stage, share: str | float | int) -> None:
    """Of the captions that are left and have a raw image, drop all but those that go best with it; ties go to the smaller row."""
    column = identifier(stage.columns[0])
    left = f"FROM judged WHERE reason IS NULL AND {column} IS NOT NULL"
    keep = parse_top(share, db.execute(f"SELECT count(*) {left}").fetchall()[0][0])
    db.execute(f"""UPDATE judged SET reason = {quote(stage.columns[0])}, reasons = list_append(reasons, {quote(stage.columns[0])})
        WHERE row IN (SELECT row {left} ORDER BY {column} DESC, row OFFSET {keep})""")


def _says(applied: Sequence[rules.Rule], settings: Settings, pairs: Sequence[Stage]) -> dict[str, str]:
    """Return each reason's limit in words."""
    said = {r.reason: r.says for r in applied}
    said |= {"duplicate": "each text once", "near_duplicate": f"no two alike by {settings.similarity:g} or more"}
    for stage in pairs if settings.pairs is not None else ():
        said[stage.columns[0]] = "; ".join(
            [*([said[stage.columns[0]]] if stage.columns[0] in said else []), f"the top {settings.pairs} of the pairs left"]
        )
    return said


def _not_measured(db: Any, stages: Sequence[Stage]) -> dict[str, int]:
    """Count, by stage, captions that are kept and that it has not measured: what is not measured drops nothing."""
    counts = {
        s.name: db.execute(f"SELECT count(*) FROM judged WHERE reason IS NULL AND {_lacks(n)}").fetchall()[0][0]
        for n, s in enumerate(stages)
    }
    return {name: n for name, n in counts.items() if n}


def _lacks(stage: int) -> str:
    """Return the name of the column that says whether a stage has no row of a caption."""
    return f"lacks_{stage}"


def _judged(db: Any) -> dict[str, Any]:
    """Count what an LLM was asked, what it said that is no verdict, where its verdicts differ, and its reasons."""
    asked, unparsable, disagree = db.execute(
        "SELECT count(judge_unparsable), coalesce(sum(judge_unparsable), 0)::BIGINT, coalesce(sum(judge_disagrees), 0)::BIGINT FROM judged"
    ).fetchall()[0]
    reasons = db.execute(
        "SELECT judge_reason, count(*) FROM judged WHERE reason = 'judge' GROUP BY judge_reason ORDER BY count(*) DESC, judge_reason"
    )
    return {"asked": asked, "unparsable": unparsable, "disagree": disagree, "reasons": {str(r): n for r, n in reasons.fetchall()}}


def _funnel(db: Any, order: Sequence[str], says: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return, reason by reason in order, how many captions it is the first reason of, how many it holds of, what is left, and examples."""
    first = dict(db.execute("SELECT reason, count(*) FROM judged WHERE reason IS NOT NULL GROUP BY reason").fetchall())
    every = dict(db.execute("SELECT r, count(*) FROM (SELECT unnest(reasons) AS r FROM judged) GROUP BY r").fetchall())
    examples: dict[str, list[dict[str, Any]]] = {}
    picked = f"""SELECT d.reason, d.id, d.caption, k.caption AS kept FROM (SELECT * FROM judged WHERE reason IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY reason ORDER BY md5(id)) <= {EXAMPLES}) d LEFT JOIN judged k ON k.row = d.like_row ORDER BY md5(d.id)"""
    for row in fetch(db, picked):
        examples.setdefault(row.pop("reason"), []).append({k: v for k, v in row.items() if v is not None})
    left = db.execute("SELECT count(*) FROM judged").fetchall()[0][0]
    funnel = []
    for reason in order:
        left -= first.get(reason, 0)
        told = {
            "reason": reason,
            "limit": says.get(reason, ""),
            "dropped": first.get(reason, 0),
            "holds_of": every.get(reason, 0),
            "left": left,
        }
        funnel.append(told | {"examples": examples.get(reason, [])})
    return funnel


def _write(run: RunDirectory, db: Any, name: str, summary: Mapping[str, Any], columns: Sequence[str]) -> None:
    values = "".join(f", {identifier(c)}" for c in dict.fromkeys(columns))
    with run.store.lock(f"curating {name}", wait=60):
        rows = db.sql(
            f"SELECT row, id, caption_md5, reason IS NULL AS keep, reason, reasons, like_row{values} FROM judged ORDER BY row"
        ).to_arrow_reader(50_000)
        with run.store.writer(f"curation/{name}.parquet") as out, pq.ParquetWriter(out, rows.schema, compression="zstd") as writer:
            for batch in rows:
                writer.write_batch(batch)
        text = json.dumps(_plain(summary), indent=2, ensure_ascii=False)
        run.store.put(f"curation/{name}.json", (text + "\n").encode())


def _plain(data: Any) -> Any:
    """Return JSON-able data: JSON has neither tuples nor infinities."""
    if isinstance(data, Mapping):
        return {str(k): _plain(v) for k, v in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(v) for v in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
