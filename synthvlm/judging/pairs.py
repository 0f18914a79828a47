"""Draw the pairs of a comparison: two sets joined by caption id, a seeded sample of them, recorded in the run.

Pairs stand in the order of a hash of seed and id: a larger limit adds pairs and keeps those that were there, and so do samples that are
added to a set. What a pair's verdict depends on (pictures by their hash, captions by their text) is what it is known by.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from synthvlm import images
from synthvlm.errors import InputError, OptionError, RunMismatch
from synthvlm.judging import sides
from synthvlm.judging.sides import Side
from synthvlm.run import RunDirectory
from synthvlm.sql import quote

LIMIT = 1000
"""Pairs (the paper's comparison has as many)."""
KINDS = ("images", "captions")
_PLACE = [name for name in sides.SCHEMA.names if name in ("stage", "candidate", "sha256", "tar", "offset", "bytes", "uri")]
TRUTHS = ("a", "b", "tie")


def record(run: RunDirectory, name: str) -> dict[str, Any] | None:
    """Return how a comparison was drawn, or None if there is none of that name."""
    return run.store.read_json(f"comparisons/{name}.json")


def names(run: RunDirectory) -> list[str]:
    """List the comparisons of a run."""
    return [n.removesuffix(".json") for n in run.store.list("comparisons", ".json")]


def draw(
    run: RunDirectory,
    a: Side,
    b: Side,
    *,
    name: str | None = None,
    limit: int | None = None,
    seed: int | None = None,
    join: str = "id",
    truth: str | None = None,
    weights: Mapping[str, float] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write ``comparisons/<name>.parquet`` and ``.json`` into ``run``, and return the latter.

    ``join``: by ``id``, or by ``caption`` where ids differ. ``truth`` names a field of the input that says which is better (a, b, tie),
    where that is known. ``weights`` are those of the total that ``best`` and ``worst`` go by. Raises InputError if nothing matches,
    OptionError for sets that cannot be compared, RunMismatch if the comparison of that name is another.
    """
    runs = [None if not side.is_run else RunDirectory.open(side.source) for side in (a, b)]
    a, b = (side if of is None else sides.settle(of, side) for side, of in zip((a, b), runs, strict=True))
    kind = KINDS[sides.of_captions(a)]
    if sides.of_captions(a) != sides.of_captions(b):
        raise OptionError(
            f"{a.label} and {b.label} cannot be compared: one is images, the other captions",
            "captions are named STAGE/PERSPECTIVE, the input's own samples/caption",
        )
    name = name or _name(a, b)
    have = record(run, name) or {}
    settings = {
        "kind": kind,
        "a": sides.describe(run, a),
        "b": sides.describe(run, b),
        "seed": seed if seed is not None else have.get("seed", run.seed),
        "join": join,
        "truth": truth,
        "weights": dict(weights or {}),
    }
    differing = [k for k, v in settings.items() if have and have[k] != v]
    if differing and not overwrite:
        k = differing[0]
        raise RunMismatch(
            f"comparison {name!r} of {run.root} was drawn with {k}={have[k]!r}, now asked for {settings[k]!r}",
            "keep both: --as NAME makes another comparison; or --overwrite draws this one anew",
        )
    most = int(limit or have.get("limit") or LIMIT)
    tables = [
        sides.raw_table(side, truth) if of is None else sides.table(of, side, settings["seed"], weights, truth)
        for side, of in zip((a, b), runs, strict=True)
    ]
    pairs, counts = _join(tables, kind, join, settings["seed"], most, _roots(run, runs))
    if not counts["joined"]:
        ids = [", ".join(map(repr, t["id"].slice(0, 3).to_pylist())) or "none" for t in tables]
        way_on = f"their ids: {ids[0]} …; {ids[1]} …"
        raise InputError(
            f"{a.label} and {b.label} have no {join} in common", way_on + ("; --join caption joins by caption" if join == "id" else "")
        )
    whole = {"name": name, **settings, "limit": most, "labels": _labels(a, b), "counts": counts}
    with run.store.lock(f"drawing {name}", wait=60):
        _put(run, name, pairs, whole)
    return whole


def _put(run: RunDirectory, name: str, pairs: pa.Table, whole: Mapping[str, Any]) -> None:
    out = io.BytesIO()
    pq.write_table(pairs, out, compression="zstd")
    run.store.put(f"comparisons/{name}.parquet", out.getvalue())
    if record(run, name) != whole:
        run.store.put_json(f"comparisons/{name}.json", whole)


def _join(tables: list[pa.Table], kind: str, join: str, seed: int, limit: int, roots: list[str | None]) -> tuple[pa.Table, dict[str, int]]:
    """Return the pairs, and how many there are at each step."""
    captions = kind == "captions"
    with duckdb.connect() as db:
        db.register("a", tables[0])
        db.register("b", tables[1])
        by = "a.caption = b.caption" if join == "caption" else "a.id = b.id"
        same_image = "a.candidate = b.candidate AND" if captions else ""
        db.execute(f"""CREATE TABLE joined AS SELECT a.id, coalesce(a.caption, b.caption) AS caption,
            coalesce(lower(a.truth), lower(b.truth)) AS truth, a.text AS a_text, b.text AS b_text, {_places("a")}, {_places("b")},
            a.caption IS DISTINCT FROM b.caption AND a.caption IS NOT NULL AND b.caption IS NOT NULL AS other_caption
            FROM a JOIN b ON {same_image} {by} QUALIFY row_number() OVER (PARTITION BY a.id, a.candidate ORDER BY b.id) = 1""")
        unequal = "NOT other_caption AND caption IS NOT NULL AND (a_sha256 IS NULL OR b_sha256 IS NULL OR a_sha256 != b_sha256)"
        if captions:
            unequal = "a_sha256 = b_sha256 AND a_text != b_text"
        order = f"md5(concat_ws(chr(31), {quote(str(seed))}, id, a_candidate))"
        db.execute(f"CREATE TABLE usable AS SELECT * FROM joined WHERE {unequal} ORDER BY {order}, id LIMIT {limit}")
        known = ", ".join(map(quote, TRUTHS))
        pairs = db.sql(f"""SELECT row_number() OVER () - 1 AS row, * EXCLUDE (other_caption, truth),
            CASE WHEN truth IN ({known}) THEN truth END AS truth, {_root(roots[0])} AS a_run, {_root(roots[1])} AS b_run FROM usable""")
        pairs = _hashed(pairs.to_arrow_table(), captions)
        joined = db.execute(f"""SELECT count(*), count(*) FILTER (other_caption), count(*) FILTER (caption IS NULL),
            count(*) FILTER ({unequal}) FROM joined""").fetchall()[0]
    counts = {"a": tables[0].num_rows, "b": tables[1].num_rows, "joined": joined[0], "usable": joined[3], "pairs": pairs.num_rows}
    if not captions:
        counts |= {"other_caption": joined[1], "no_caption": joined[2]}
    return pairs, counts


def _labels(a: Side, b: Side) -> dict[str, str]:
    if a.source == b.source:
        return {"a": str(a.what), "b": str(b.what)}
    return {"a": a.label, "b": b.label} if a.label != b.label else {"a": a.source, "b": b.source}


def _places(side: str) -> str:
    return ", ".join(f'{side}."{c}" AS {side}_{c}' for c in _PLACE)


def _root(root: str | None) -> str:
    return "NULL::VARCHAR" if root is None else quote(root)


def _roots(run: RunDirectory, runs: list[RunDirectory | None]) -> list[str | None]:
    """Return where the sides' runs are; None for ``run`` itself, which may be moved, and for images."""
    return [None if r is None or r.store.path("") == run.store.path("") else r.store.url("") for r in runs]


def _hashed(pairs: pa.Table, captions: bool) -> pa.Table:
    """Return the pairs with the hashes of pictures that no run has read yet; an unreadable picture has none, and its pair says so when judged."""
    for side in "a" if captions else "ab":
        column = f"{side}_sha256"
        digests, uris = pairs[column].to_pylist(), pairs[f"{side}_uri"].to_pylist()
        with ThreadPoolExecutor(8) as pool:
            digests = list(pool.map(lambda d, u: _sha256(u) if d is None and u is not None else d, digests, uris))
        pairs = pairs.set_column(pairs.column_names.index(column), column, pa.array(digests, pa.string()))
    return pairs


def _sha256(uri: str) -> str:
    try:
        return hashlib.sha256(images.read_image_bytes(uri)).hexdigest()
    except images.ImageError as error:
        return f"unreadable: {error.message}"


def _name(a: Side, b: Side) -> str:
    """Return a comparison's default name: what is compared, and from where if that is the same."""
    whats = [re.sub(r":first$", "", side.what or "") for side in (a, b)]
    if a.source != b.source:
        places = [re.sub(r"\.\w+$", "", side.source.rstrip("/")).split("/") for side in (a, b)]
        sources = [place[-1] if places[0][-1] != places[1][-1] else "-".join(place[-2:]) for place in places]
        whats = [f"{s}-{w}" if w and whats[0] == whats[1] else w or s for s, w in zip(sources, whats, strict=True)]
        if whats[0] == whats[1]:
            whats[1] += "-2"
    stages = {side.what.partition(":")[0] for side in (a, b) if side.what and ":" in side.what}
    if a.source == b.source and len(stages) == 1:  # best against worst of one stage
        whats = [re.sub(r"^.*:", "", side.what or "") for side in (a, b)]
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", "-vs-".join(whats)).strip("-")
    return (name if name[:1].isalpha() else f"pairs-{name}")[:40]


def read(run: RunDirectory, name: str) -> list[dict[str, Any]]:
    """Return the pairs of a comparison."""
    return pq.read_table(io.BytesIO(run.store.read(f"comparisons/{name}.parquet"))).to_pylist()
