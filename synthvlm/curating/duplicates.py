"""Duplicates over the whole pool: exact ones by normalised text, near ones by MinHash LSH. Of each group the first caption stays.

Near-duplicates are two captions whose word trigrams have a Jaccard similarity of at least the threshold (Broder, "On the resemblance and
containment of documents", 1997). LSH only proposes pairs, by bands of MinHash values; each pair is then compared exactly, so that
nothing is dropped by chance. Bands and captions lie in DuckDB, which spills to the disk; Python holds one chunk at a time and a byte a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from synthvlm.scorers.words import Words, mix

SHINGLE = 3
"""Words; a caption of fewer is one shingle."""
_MOST_VALUES = 128
_MISSED = 0.002
"""At most this share of the pairs at the threshold is not proposed."""
_CHUNK = 20_000
_ROUNDS = 64
_SMALL_BUCKET = 32
"""Captions that are all compared with each other; of larger buckets each is compared with the first, again and again."""
NORMALISED = "trim(regexp_replace(lower(nfc_normalize(caption)), '[\\s\\p{P}]+', ' ', 'g'))"
"""SQL for a caption's text without what exact duplicates may differ in: case, punctuation, white space."""


def mark_exact(db: Any, table: str, fresh: str) -> int:
    """Set ``reason`` to ``duplicate`` for captions of ``table`` that stood before, among rows where ``fresh`` (SQL) holds; return how many."""
    db.execute(f"""CREATE OR REPLACE TEMP TABLE twins AS SELECT row, first FROM (SELECT row, min(row) OVER (PARTITION BY md5({NORMALISED})) AS first
        FROM {table} WHERE {fresh} AND {NORMALISED} != '') WHERE row != first""")
    return _mark(db, table, "duplicate")


def mark_near(db: Any, table: str, fresh: str, threshold: float) -> int:
    """Do the same for near-duplicates: a caption goes if an earlier one that stays is as similar as ``threshold``, or more.

    (In a bucket of many, the kept one may be like one that is like it: there not all are compared with all.)
    """
    bands, width = bands_for(threshold)
    db.execute("CREATE OR REPLACE TEMP TABLE bands (bucket UBIGINT, row BIGINT)")
    for rows, captions in _captions(db, f"SELECT row, caption FROM {table} WHERE {fresh} ORDER BY row"):
        buckets, of = _buckets(Words(captions), bands, width)
        db.register("chunk", pa.table({"bucket": buckets, "row": rows[of]}))
        db.execute("INSERT INTO bands SELECT bucket, row FROM chunk")
        db.unregister("chunk")
    db.execute("""CREATE OR REPLACE TEMP TABLE shared AS SELECT bucket, row, size FROM (SELECT *, count(*) OVER (PARTITION BY bucket) AS size
        FROM bands) WHERE size > 1""")
    db.execute("DROP TABLE bands")
    last = db.execute(f"SELECT coalesce(max(row), 0) FROM {table}").fetchall()[0][0]
    first = np.full(last + 1, -1, np.int64)
    """Of each dropped row the kept one that it is like."""
    for _ in range(_ROUNDS):  # of a large bucket, each caption is compared with the first; then the first leaves it
        db.register("gone", pa.table({"row": np.flatnonzero(first >= 0)}))
        db.execute("""CREATE OR REPLACE TEMP TABLE shared AS SELECT bucket, row, count(*) OVER (PARTITION BY bucket) AS size
            FROM shared ANTI JOIN gone USING (row)""")
        db.unregister("gone")
        heads = f"(SELECT bucket, min(row) AS earlier FROM shared WHERE size > {_SMALL_BUCKET} GROUP BY bucket)"
        if not db.execute(f"SELECT count(*) FROM {heads}").fetchall()[0][0]:
            break
        _drop(
            db,
            table,
            first,
            threshold,
            f"SELECT DISTINCT row AS later, earlier FROM shared JOIN {heads} USING (bucket) WHERE row > earlier",
        )
        db.execute(f"DELETE FROM shared USING {heads} h WHERE shared.bucket = h.bucket AND shared.row = h.earlier")
    pairs = "SELECT DISTINCT b.row AS later, a.row AS earlier FROM shared a JOIN shared b USING (bucket) WHERE a.row < b.row"
    _drop(db, table, first, threshold, f"{pairs} AND a.size <= {_SMALL_BUCKET}")
    first = _roots(first)
    db.register("found", pa.table({"row": np.flatnonzero(first >= 0), "first": first[first >= 0]}))
    db.execute("CREATE OR REPLACE TEMP TABLE twins AS SELECT row, first FROM found")
    db.unregister("found")
    return _mark(db, table, "near_duplicate")


def _roots(first: np.ndarray) -> np.ndarray:
    """Return of each dropped row the kept one, where the one that it is like was dropped in its turn."""
    root = first.copy()
    dropped = np.flatnonzero(first >= 0)
    while len(dropped):
        further = first[root[dropped]]
        dropped, further = dropped[further >= 0], further[further >= 0]
        root[dropped] = further
    return root


def bands_for(threshold: float) -> tuple[int, int]:
    """Return (bands, MinHash values a band): the widest bands that still propose nearly every pair at the threshold."""
    for width in range(16, 0, -1):
        bands = _MOST_VALUES // width
        if (1 - threshold**width) ** bands <= _MISSED:
            return bands, width
    return _MOST_VALUES, 1


def similarity(one: list[str], other: list[str]) -> np.ndarray:
    """Return the Jaccard similarity of the captions of each pair."""
    a, b = _shingles(Words(one)), _shingles(Words(other))
    count = len(one)
    sizes = [_distinct(values, of, count) for values, of in (a, b, (np.concatenate((a[0], b[0])), np.concatenate((a[1], b[1]))))]
    return (sizes[0] + sizes[1] - sizes[2]) / np.maximum(sizes[2], 1)


def _distinct(values: np.ndarray, of: np.ndarray, count: int) -> np.ndarray:
    pairs = np.unique(np.stack((of.astype(np.uint64), values), axis=1), axis=0) if len(values) else np.zeros((0, 2), np.uint64)
    return np.bincount(pairs[:, 0].astype(np.int64), minlength=count)


def _shingles(text: Words) -> tuple[np.ndarray, np.ndarray]:
    """Return (hash, caption) of every run of three words; of shorter captions, of the whole."""
    values, of = text.ngrams(SHINGLE)
    count = text.per_caption(text.of)
    two, two_of = text.ngrams(2)
    pairs, ones = count[two_of] == 2, count[text.of] == 1
    return np.concatenate((values, two[pairs], text.hashes[ones])), np.concatenate((of, two_of[pairs], text.of[ones]))


def _buckets(text: Words, bands: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (bucket, caption) for each band of each caption that has words."""
    values, of = _shingles(text)
    order = np.argsort(of, kind="stable")
    values, of = values[order], of[order]
    starts = np.flatnonzero(np.concatenate(([True], of[1:] != of[:-1]))) if len(of) else np.zeros(0, np.int64)
    if not len(starts):
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    buckets = []
    for band in range(bands):
        bucket = np.full(len(starts), band, np.uint64)
        for k in range(width):
            salt = mix(np.array([band * width + k + 1], np.uint64))
            bucket = mix(bucket ^ np.minimum.reduceat(mix(values ^ salt), starts))
        buckets.append(bucket)
    return np.concatenate(buckets), np.tile(of[starts], bands)


def _drop(db: Any, table: str, first: np.ndarray, threshold: float, pairs: str) -> None:
    """Compare the proposed pairs, in order of the later row, and note the rows that an earlier kept one is like."""
    sql = f"""SELECT p.later, p.earlier, a.caption, b.caption FROM ({pairs}) p JOIN {table} a ON a.row = p.later JOIN {table} b ON b.row = p.earlier
        ORDER BY p.later, p.earlier"""
    reader = db.sql(sql).to_arrow_reader(_CHUNK)
    for batch in reader:
        later, earlier = (batch.column(n).to_numpy() for n in (0, 1))
        alike = similarity(batch.column(2).to_pylist(), batch.column(3).to_pylist()) >= threshold
        for row, before in zip(later[alike].tolist(), earlier[alike].tolist(), strict=True):
            if first[before] < 0 and first[row] < 0:
                first[row] = before


def _captions(db: Any, sql: str) -> Iterator[tuple[np.ndarray, list[str]]]:
    # A cursor of its own: the connection goes on being written to.
    for batch in db.cursor().sql(sql).to_arrow_reader(_CHUNK):
        yield batch.column(0).to_numpy(), batch.column(1).to_pylist()


def _mark(db: Any, table: str, reason: str) -> int:
    db.execute(f"""UPDATE {table} t SET reason = '{reason}', reasons = list_append(reasons, '{reason}'), like_row = w.first
        FROM twins w WHERE t.row = w.row""")
    count = db.execute("SELECT count(*) FROM twins").fetchall()[0][0]
    db.execute("DROP TABLE twins")
    return count
