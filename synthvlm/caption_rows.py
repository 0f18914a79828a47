"""Which captions a stage wants: image × perspective, as SQL, each with the key that it is known by and what making it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from synthvlm.errors import RunError
from synthvlm.perspectives import OWN_FIELDS
from synthvlm.sql import identifier, quote

if TYPE_CHECKING:
    import duckdb

    from synthvlm.run import RunDirectory, Stage


def wanted_sql(run: RunDirectory, stage: Stage, rows: tuple[int, int] | None = None) -> str:
    """Return SQL for the captions that ``stage`` wants.

    A caption consumes its image by its hash, its perspective by digest, and of its sample the fields that the prompt quotes.
    """
    asked = [(n, name, record["digest"]) for n, (name, record) in enumerate(stage.perspectives.items())]
    values = ", ".join(f"({n}, {quote(name)}, {quote(digest)})" for n, name, digest in asked) or "(0, '', '')"
    perspectives = f"(SELECT * FROM (VALUES {values}) v(position, perspective, digest) WHERE {bool(asked)})"
    quoting = {name: record["fields"] for name, record in stage.perspectives.items() if record["fields"]}
    quoted = "''"
    if quoting:
        cases = " ".join(f"WHEN {quote(name)} THEN {_quoted(fields)}" for name, fields in quoting.items())
        quoted = f"CASE perspective {cases} ELSE '' END"
    return f"""(SELECT md5(concat_ws(chr(31), {quote(stage.digest)}, id, sha256, digest, {quoted}, candidate)) AS key, i.* EXCLUDE (chosen),
            p.perspective, p.position FROM {_images(run, stage, rows)} i, {perspectives} p WHERE chosen)"""


def _quoted(fields: list[str]) -> str:
    """Return SQL for the values of a sample's fields, as one text."""
    values = ", ".join(f"{quote(f)}, {f if f in OWN_FIELDS else f'json_extract(meta, {quote(_path(f))})'}" for f in fields)
    return f"json_object({values})::VARCHAR"


def _path(field: str) -> str:
    return f'$."{field}"'


def _images(run: RunDirectory, stage: Stage, rows: tuple[int, int] | None) -> str:
    """Return SQL for the images that the stage reads: those of the input, or those that another stage made."""
    source = stage.reads["image"]
    if source == "samples":
        return f"""(SELECT row, id, 0::INTEGER AS candidate, caption, image, meta, image_uri, image_sha256 AS sha256,
            NULL::BIGINT AS bytes, true AS stored, NULL::VARCHAR AS tar, NULL::BIGINT AS "offset", image_sha256 IS NOT NULL AS chosen
            FROM {run.samples_sql(rows)})"""
    chosen = "true"
    selection = stage.runtime.get("selection")
    if selection:
        record = run.store.read_json(f"selections/{selection}.json")
        if record is None or record["images"] != source:
            raise RunError(
                f"{run.root} has no selection {selection!r} of the images of {source}", "make it first: synthvlm select RUN --as NAME"
            )
        chosen = f"g.key IN (SELECT key FROM {run.read_sql([f'selections/{selection}.parquet'])})"
    return f"""(SELECT g.row, g.id, g.candidate, g.caption, s.image, s.meta, NULL::VARCHAR AS image_uri, g.sha256,
        g.bytes, g.stored, g.tar, g."offset", {chosen} AS chosen FROM {run.table_sql(run.stage(source), rows)} g
        JOIN {run.samples_sql(rows)} s USING (row) WHERE g.error IS NULL)"""


def fields_missing(run: RunDirectory, stage: Stage) -> Mapping[str, list[str]]:
    """Return, by perspective, the fields that its prompt quotes and no sample of the run has."""
    names = sorted({f for record in stage.perspectives.values() for f in record["fields"]})
    if not names:
        return {}
    with run.connect() as db:
        counts = ", ".join(f"count({f if f in OWN_FIELDS else f'json_extract(meta, {quote(_path(f))})'}) AS {identifier(f)}" for f in names)
        found: dict[str, Any] = dict(zip(names, db.execute(f"SELECT {counts} FROM {run.samples_sql()}").fetchall()[0], strict=True))
    lacking = {name: [f for f in record["fields"] if not found[f]] for name, record in stage.perspectives.items()}
    return {name: fields for name, fields in lacking.items() if fields}


def by_perspective(db: duckdb.DuckDBPyConnection, run: RunDirectory, stage: Stage) -> dict[str, dict[str, int]]:
    """Count the captions of each perspective: made, failed, and cut off by the token limit."""
    counted = db.execute(f"""SELECT perspective, count(*) FILTER (error IS NULL), count(*) FILTER (error IS NOT NULL),
        count(*) FILTER (error IS NULL AND finish_reason = 'length') FROM {run.table_sql(stage)} GROUP BY perspective""").fetchall()
    found = {name: {"made": made, "failed": failed, "cut": cut} for name, made, failed, cut in counted}
    return {name: found.get(name, {"made": 0, "failed": 0, "cut": 0}) for name in stage.perspectives}
