"""Other sets to compare with (``--compare``): another run, or a data set of image-caption pairs with the scores that it carries."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import duckdb
import pyarrow as pa

from synthvlm.errors import InputError
from synthvlm.formats import BadRecord, read_captions
from synthvlm.formats.images import is_list, read_images
from synthvlm.reporting.comparison import PairSet
from synthvlm.reporting.sets import measure
from synthvlm.sample import Sample
from synthvlm.selecting.rank import total_sql
from synthvlm.sql import identifier
from synthvlm.storage import Store

_BATCH = 50_000


def is_run(path: str) -> bool:
    """Say whether ``path`` is a run directory."""
    return (os.path.isdir(path) or "://" in path) and Store(path).exists("run.json")


def read(path: str, columns: Sequence[str], weights: Mapping[str, float]) -> tuple[PairSet, list[str]]:
    """Return the set of pairs in a file, folder or tar, and notes on it. Its scores are the fields that are named as ``columns`` are.

    ``CLIPScore``, ``clip_score`` and ``clip`` are one name; a Total that it lacks is made by ``weights``. Such a file says nothing of how
    it was scored, so that its columns have no card. Raises InputError if it holds no pair.
    """
    with duckdb.connect() as db:
        return _read(db, path, columns, weights)


def _read(db: duckdb.DuckDBPyConnection, path: str, columns: Sequence[str], weights: Mapping[str, float]) -> tuple[PairSet, list[str]]:
    name = os.path.basename(path.rstrip("/"))
    wanted = {_plain(c): c for c in columns}
    db.execute(f"CREATE OR REPLACE TABLE compared (row BIGINT{''.join(f', {identifier(c)} DOUBLE' for c in wanted.values())})")
    pairs = rejected = without = 0
    schema = pa.schema([("row", pa.int64()), *((c, pa.float64()) for c in wanted.values())])
    records = _pairs(path)
    while chunk := list(islice(records, _BATCH)):
        rows = []
        for record in chunk:
            if isinstance(record, BadRecord):
                rejected += 1
            elif record.caption is None or not record.image:
                without += 1
            else:
                rows.append({"row": pairs + len(rows)} | _scores(record, wanted))
        pairs += len(rows)
        batch = pa.Table.from_pylist(rows, schema=schema)
        db.register("batch", batch)
        db.execute("INSERT INTO compared SELECT * FROM batch")
        db.unregister("batch")
    if not pairs:
        raise InputError(
            f"{path}: no pair of an image and a caption in it",
            "name a run, or a list with the fields image and caption" if without else "see docs/report.md for what --compare reads",
        )
    found = [c for c in wanted.values() if db.execute(f"SELECT count(*) FROM compared WHERE isfinite({identifier(c)})").fetchall()[0][0]]
    left_out = {"cannot be read": rejected, "no image, or no caption": without}
    notes = [f"{name}: {n:,} of {pairs + rejected + without:,} records left out ({why})" for why, n in left_out.items() if n]
    if "total" in wanted.values() and "total" not in found and weights and all(c in found for c in weights):
        db.execute(f"UPDATE compared SET total = {total_sql(weights)}")
        found.append("total")
    if not found:
        notes.append(
            f"{name} carries no scores. To score it: synthvlm curate {name} --out RUN --scorer clip --scorer ssim, then --compare RUN"
        )
    return PairSet(name, "all pairs", measure(db, "compared", found), {}, found), notes


def _pairs(path: str) -> Iterator[Sample | BadRecord]:
    if is_list(path):
        yield from read_captions(path)
        return
    for found in read_images(path):
        yield found if isinstance(found, BadRecord) else found.sample


def _scores(record: Sample, wanted: dict[str, str]) -> dict[str, float]:
    """Return what a record says of the wanted columns; what is no number is left out."""
    values = {}
    for field, value in record.meta.items():
        column = wanted.get(_plain(field))
        if column is not None and column not in values:
            try:
                number = float(value)
            except (TypeError, ValueError):
                continue
            if math.isfinite(number):
                values[column] = number
    return values


def _plain(name: str) -> str:
    """Return a score's name without what people add to it."""
    return name.lower().replace("-", "_").removesuffix("score").rstrip("_")
