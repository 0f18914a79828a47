"""Make images again, bit for bit, from what their rows record: caption, seed, model, batch size. Of a run, or of a ``recipe`` export.

An image is kept only if its bytes have the SHA-256 that its row says: other hardware or other library versions may give others.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from synthvlm import parts
from synthvlm.errors import InputError, RunError, RunMismatch
from synthvlm.execution import Execution, remake
from synthvlm.options import digest
from synthvlm.preparing import Prepared, prepare_generate
from synthvlm.run import RunDirectory, Stage, fetch, image_seed, row_key
from synthvlm.samples import ingest
from synthvlm.select import ranked
from synthvlm.selecting.gather import gather, opened
from synthvlm.selecting.rank import settle, take_sql
from synthvlm.sql import identifier, quote
from synthvlm.storage import Store

_SHOWN = 3
_NEEDED = {"id", "candidate", "caption", "seed", "width", "height", "batch_size", "sha256"}


def by_ids(run: RunDirectory, images: Stage, ids: Sequence[str], candidate: int | None = None) -> list[dict[str, Any]]:
    """Return key, row and whether it is stored of the images of samples ``ids``. Raises RunError if there is no image of one."""
    listed = ", ".join(map(quote, ids)) or "''"
    which = "" if candidate is None else f" AND candidate = {candidate}"
    with run.connect() as db:
        found = fetch(db, f"SELECT key, row, id, stored FROM {run.table_sql(images)} WHERE error IS NULL AND id IN ({listed}){which}")
    lacking = sorted(set(ids) - {r["id"] for r in found})
    if lacking:
        raise RunError(
            f"{images.name!r} of {run.root} has no such image of id {lacking[0]!r}"
            + (f" (and {len(lacking) - 1} more)" if lacking[1:] else ""),
            "give ids of captions whose images were made; synthvlm status RUN",
        )
    return found


def of_top(
    run: RunDirectory, scores: Sequence[Stage], images: Stage, top: str | float | int, weights: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Return the same of the images that ``select --top`` would take if all pixels were there."""
    with opened(run) as (db, _):
        gather(run, db, scores)
        settle(run, db, ranked(scores, weights, top))
        db.execute(f"CREATE TABLE wished AS SELECT row, candidate FROM ({take_sql(db, 'best')})")
        return fetch(db, f"SELECT key, row, id, stored FROM {run.table_sql(images)} SEMI JOIN wished USING (row, candidate)")


def of_selection(run: RunDirectory, images: Stage, name: str) -> list[dict[str, Any]]:
    """Return the same of the images of a selection. Raises RunError if there is none of that name."""
    if not run.store.exists(f"selections/{name}.parquet"):
        raise RunError(f"{run.root} has no selection {name!r}", "choose pairs first: synthvlm select RUN")
    with run.connect() as db:
        chosen = f"(SELECT key FROM {run.read_sql([f'selections/{name}.parquet'])})"
        return fetch(db, f"SELECT key, row, id, stored FROM {run.table_sql(images)} SEMI JOIN {chosen} USING (key)")


def regenerate(
    run: RunDirectory, images: Stage, rows: Sequence[Mapping[str, Any]], execution: Execution, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Make the images of ``rows`` (key, row, stored) again that are not stored; return how many were ``made`` and were ``there``.

    ``options`` are laid over the recorded ones, where a checkpoint now lies elsewhere. Raises RunMismatch if the model is no longer
    the one that made them, RunError if an image came out otherwise (it is not stored then).
    """
    missing = [r for r in rows if not r["stored"]]
    told = {"stage": images.name, "asked": len(rows), "there": len(rows) - len(missing), "made": 0}
    if not missing:
        return told
    prepared = _prepare(run, images, execution, options or {})
    failures = remake(run, prepared, missing, execution)
    different = [f for f in failures if f["class"] == "Different"]
    told["made"] = len(missing) - len(failures)
    if different:
        shown = ", ".join(repr(f["id"]) for f in different[:_SHOWN])
        raise RunError(
            f"{len(different):,} of {len(missing):,} images came out with other bytes than the run records, and were not stored ({shown})",
            _made_with(run, images),
        )
    if failures:
        raise RunError(
            f"{len(failures):,} of {len(missing):,} images could not be made again: {failures[0]['id']}: {failures[0]['error']}",
            f"the log has more: {run.store.path('logs')}",
        )
    return told


def _prepare(run: RunDirectory, images: Stage, execution: Execution, options: Mapping[str, Any]) -> Prepared:
    """Settle the stage as it stands, its model resolved. Raises RunMismatch if that is another."""
    plugin, image = images.plugins[0], images.identity["image"]
    return prepare_generate(
        run,
        plugin["name"],
        options={**plugin["options"], **options},
        repeat=images.repeat,
        image_format=image["format"],
        quality=image["quality"] or 95,
        keep_best_by=images.runtime.get("keep_best_by"),
        keep_top=images.runtime.get("keep_top"),
        curation=images.runtime.get("curation"),
        name=images.name,
        execution=execution,
    )


def _made_with(run: RunDirectory, images: Stage) -> str:
    """Say what the images were made with, as far as it may decide their last bits."""
    found = []
    for part in parts.list_parts(run.store, images.name):
        info = parts.part_info(run.store, part)
        for leaf in info.get("merged") or [info]:
            versions = leaf.get("versions", {})
            said = ", ".join(f"{n} {versions[n]}" for n in ("torch", "diffusers", "PIL") if n in versions)
            found.append(f"{leaf.get('device')}, {leaf.get('threads')} threads" + (f", {said}" if said else ""))
    return f"use the hardware and versions that they were made with: {'; '.join(dict.fromkeys(found)) or 'not recorded'}"


# -- from a recipe export ----------------------------------------------------------------------------------------------


def from_recipe(
    folder: str | os.PathLike[str], run: RunDirectory, execution: Execution, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Make the run that a ``recipe`` export describes, its images (bit for bit) and its selection; return what was done, resumably.

    Raises InputError if ``folder`` holds no such export, RunMismatch if the model at hand is another than the one that it names.
    """
    store, said = open_recipe(folder)
    with run.connect() as db:
        if not store.is_local:
            db.register_filesystem(store.fs)
        recipe = f"read_parquet({quote(store.url('recipe.parquet'))})"
        names = {r["column_name"] for r in fetch(db, f"DESCRIBE SELECT * FROM {recipe}")}
        if not names >= _NEEDED:
            raise InputError(
                f"{store.path('recipe.parquet')} lacks the column {min(_NEEDED - names)!r}", "export it again with this version"
            )
        db.execute(f"CREATE TABLE recipe AS SELECT * FROM {recipe}")
        _captions(run, db)
        repeat = db.execute("SELECT max(candidate) + 1 FROM recipe").fetchall()[0][0]
        prepared = _prepare_recipe(run, said, repeat, execution, options or {})
        images = prepared.stage
        _rows_without_pixels(run, db, images, said)
        listed = "SELECT g.key, g.row, g.id, g.stored FROM {} g SEMI JOIN recipe r ON r.id = g.id AND r.candidate = g.candidate"
        try:
            return regenerate(run, images, fetch(db, listed.format(run.table_sql(images))), execution, options)
        finally:  # of those that came out the same, if not all did
            _selection(run, db, images, said, [c for c in said["cards"] if c in names])


def open_recipe(folder: str | os.PathLike[str]) -> tuple[Store, dict[str, Any]]:
    """Return the store and the record of a ``recipe`` export. Raises InputError if it is none."""
    store = Store(folder)
    said = store.read_json("recipe.json")
    if said is None or not store.exists("recipe.parquet"):
        raise InputError(f"{os.fspath(folder)} holds no recipe export", "make one with: synthvlm export RUN --format recipe")
    if said["format"] > 1:
        raise InputError(f"{os.fspath(folder)} was written by a newer SynthVLM", "upgrade: pip install -U synthvlm")
    return store, said


def _captions(run: RunDirectory, db: Any) -> None:
    """Read the recipe's captions into the run."""
    rows = db.execute("SELECT DISTINCT id, caption FROM recipe ORDER BY id").fetchall()
    run.store.put("captions.jsonl", "".join(json.dumps({"id": i, "caption": c}, ensure_ascii=False) + "\n" for i, c in rows).encode())
    ingest(run, run.store.url("captions.jsonl"))


def _prepare_recipe(run: RunDirectory, said: Mapping[str, Any], repeat: int, execution: Execution, options: Mapping[str, Any]) -> Prepared:
    generator, image = said["generator"], said["image"]
    execution.threads = execution.threads or said.get("threads")
    prepared = prepare_generate(
        run,
        generator["name"],
        options={**generator["options"], **options},
        repeat=repeat,
        image_format=image["format"],
        quality=image["quality"] or 95,
        curation=None,
        execution=execution,
    )
    if prepared.stage.digest != digest(said["identity"]):
        name = generator["name"]
        here, there = prepared.stage.identity[name], said["identity"][name]
        field = next((f for f in sorted({*here, *there}) if here.get(f) != there.get(f)), "image")
        raise RunMismatch(
            f"the recipe's images were made with {name}.{field}={there.get(field)!r}, and here it is {here.get(field)!r}",
            "give the recorded one, such as -o checkpoint=DIR, or install the version of the plugin that the recipe names",
        )
    return prepared


def _rows_without_pixels(run: RunDirectory, db: Any, images: Stage, said: Mapping[str, Any]) -> None:
    """Commit the recipe's images as rows whose pixels are not stored; those that stand already are left."""
    # The captions were read in the order of ids; a row number is the run's own.
    samples = (
        f"SELECT s.row, r.* FROM recipe r JOIN {run.samples_sql()} s ON s.id = r.id AND s.caption = r.caption ORDER BY s.row, r.candidate"
    )
    have = run.parts_sql(images, columns="key")
    present = {k for (k,) in db.execute(f"SELECT key FROM {have}").fetchall()} if have else set()
    finished: dict[int, list[dict[str, Any]]] = {}
    for r in fetch(db, samples):
        if r["seed"] != image_seed(said["run_seed"], r["id"], r["candidate"]):
            raise InputError(
                f"the recipe's seed of {r['id']!r}, candidate {r['candidate']}, does not follow from its run seed", "export it again"
            )
        key = row_key(images.digest, r["id"], r["caption"], r["candidate"])
        if key not in present:
            row = {c: r[c] for c in ("row", "id", "candidate", "seed", "width", "height", "sha256", "batch_size")}
            finished.setdefault(r["row"] // images.shard_size, []).append(row | {"key": key, "stored": False, "tries": 1})
    versions = {n: v if isinstance(v, str) else ", ".join(v) for n, v in said.get("versions", {}).items()}
    for shard, rows in finished.items():
        parts.commit(run.store, images.name, shard, images.schema, rows, info={"versions": versions})


def _selection(run: RunDirectory, db: Any, images: Stage, said: Mapping[str, Any], columns: Sequence[str]) -> None:
    """Write the recipe's selection into the run, of the images that are stored."""
    import pyarrow.parquet as pq

    name = said["selection"]["name"]
    values = "".join(f", r.{identifier(c)}" for c in [*columns, "total"])
    facts = ", ".join(f"g.{c}" for c in ("seed", "width", "height", "sha256", "bytes", "cut_tokens", "note", "batch_size"))
    made = f"(SELECT * FROM {run.table_sql(images)} WHERE stored)"
    table = db.sql(f"""SELECT g.key, g.row, g.id, g.candidate, g.caption, {facts}{values} FROM {made} g
        JOIN recipe r USING (id, candidate) ORDER BY r.total DESC, g.id, g.candidate""").to_arrow_table()
    with run.store.writer(f"selections/{name}.parquet") as out:
        pq.write_table(table, out, compression="zstd")
    summary = {
        **said["selection"],
        "selected": table.num_rows,
        "images": images.name,
        "scores": [],
        "cards": said["cards"],
        "of_recipe": True,
    }
    run.store.put_json(f"selections/{name}.json", summary)
