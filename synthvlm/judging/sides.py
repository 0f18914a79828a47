"""The two sets of a comparison, each as a table: one picture (or caption) per caption id, and where its pixels lie.

A set is a run, or images in any of the formats (a list, a folder, tars). Of a run it is

- ``STAGE``: an image stage's first candidates; ``STAGE:best``, ``:worst`` and ``:random`` of each caption's candidates;
- ``best``, ``worst``, ``random``, ``first``: the same of the run's only image stage;
- a selection by its name; ``samples``: the run's own raw images;
- ``STAGE/PERSPECTIVE``: captions, to be compared as captions of one image; ``samples/caption``: the captions that the input had.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from synthvlm.errors import InputError, OptionError, RunError
from synthvlm.formats.images import Found, read_images
from synthvlm.run import RunDirectory, Stage
from synthvlm.selecting.gather import gather, opened
from synthvlm.selecting.rank import Ranking, rank
from synthvlm.sql import quote
from synthvlm.storage import Store

PICKS = ("first", "best", "worst", "random")
PLACE = [("stage", "string"), ("candidate", "int32"), ("sha256", "string"), ("tar", "string"), ("offset", "int64"), ("bytes", "int64")]
"""Where a picture lies: in the part of a run's stage, or (``uri``) in a file."""
SCHEMA = pa.schema([(n, pa.type_for_alias(t)) for n, t in [("id", "string"), ("caption", "string"), ("text", "string"), *PLACE]])
SCHEMA = SCHEMA.append(pa.field("uri", pa.string())).append(pa.field("truth", pa.string()))
"""``text`` is the caption that is judged, where captions are; ``truth`` is what the input says of the pair (``a``, ``b``, ``tie``)."""


@dataclass(frozen=True)
class Side:
    """One of the two sets."""

    source: str
    """A run's folder, or images."""
    what: str | None = None
    """What of the run; None: its images, if it is clear which."""
    is_run: bool = True
    reader: Mapping[str, Any] = field(default_factory=dict)
    """Of images: options of :func:`synthvlm.formats.images.read_images`."""

    @property
    def label(self) -> str:
        """Return a short name, for people."""
        name = os.path.basename(self.source.rstrip("/")) or self.source
        return f"{name}, {self.what}" if self.what else name


def find(text: str, reader: Mapping[str, Any]) -> Side:
    """Return the set that ``text`` names: a run, ``RUN.SELECTION``, or images. Raises InputError if it is none of them."""
    text = text if "://" in text else os.path.abspath(text)
    if Store(text).exists("run.json"):
        return Side(text)
    head, dot, tail = text.rpartition(".")
    if dot and Store(head).exists(f"selections/{tail}.json"):
        return Side(head, tail)
    if "://" not in text and not os.path.exists(text) and not set("*?[{") & set(text):
        raise InputError(
            f"{text} is neither a run nor images", "give a run's folder, RUN.SELECTION, or images: a list, a folder, a pattern"
        )
    return Side(text, is_run=False, reader=reader)


def settle(run: RunDirectory, side: Side) -> Side:
    """Return the side with ``what`` filled in and known to be there. Raises RunError or OptionError."""
    stages = {s.name: s for s in map(run.stage, run.stage_names())}
    makers = [s.name for s in stages.values() if s.kind == "generate"]
    what = side.what
    if what is None or what in PICKS:
        if len(makers) == 1:
            return Side(side.source, f"{makers[0]}:{what or 'first'}")
        if what is None and not makers:
            return Side(side.source, "samples")
        raise RunError(
            f"{run.root} has {len(makers) or 'no'} image stages", f"say which: {_there(run, stages, what or 'first')}; see docs/judging.md"
        )
    name, _, pick = what.partition(":")
    stage, slash, perspective = what.partition("/")
    if name in makers and (pick or "first") in PICKS:
        return Side(side.source, f"{name}:{pick or 'first'}")
    if what in ("samples", "samples/caption") or (slash and perspective in getattr(stages.get(stage), "perspectives", {})):
        return side
    if stages.get(what) and stages[what].kind == "caption" and len(stages[what].perspectives) == 1:
        return Side(side.source, f"{what}/{next(iter(stages[what].perspectives))}")
    if run.store.exists(f"selections/{what}.json"):
        return side
    raise OptionError(f"{run.root} has no images or captions {what!r}", f"there are: {_there(run, stages)}")


def _there(run: RunDirectory, stages: Mapping[str, Stage], pick: str = "") -> str:
    names = [f"{s.name}:{pick}" if pick else s.name for s in stages.values() if s.kind == "generate"]
    names += [f"{s.name}/{p}" for s in stages.values() if s.kind == "caption" for p in s.perspectives]
    selections = [n.removesuffix(".json") for n in run.store.list("selections", ".json")]
    return ", ".join([*names, *selections, "samples"])


def of_captions(side: Side) -> bool:
    """Say whether a settled side is one of captions."""
    return side.is_run and "/" in (side.what or "")


def table(run: RunDirectory, side: Side, seed: int, weights: Mapping[str, float] | None, truth: str | None) -> pa.Table:
    """Return a settled side of ``run`` as a table of SCHEMA. ``truth``: the field of the input that tells it."""
    what = str(side.what)
    if "/" in what:
        stage, _, perspective = what.partition("/")
        sql = _own_captions(run) if stage == "samples" else _captions_sql(run, run.stage(stage), perspective)
        return _read(run, sql, truth)
    if what == "samples":
        return _read(run, f"{_own(run)} WHERE image_sha256 IS NOT NULL", truth)
    name, colon, pick = what.partition(":")
    if not colon:
        record = run.store.read_json(f"selections/{name}.json") or {}
        chosen = f"key IN (SELECT key FROM {run.read_sql([f'selections/{name}.parquet'])})"
        return _read(run, _images_sql(run, run.stage(record["images"]), chosen), truth)
    stage = run.stage(name)
    if pick in ("first", "random"):
        order = "candidate" if pick == "first" else f"md5(concat_ws(chr(31), {quote(str(seed))}, id, candidate))"
        once = f"QUALIFY row_number() OVER (PARTITION BY row ORDER BY {order}) = 1"
        return _read(run, f"SELECT * FROM ({_images_sql(run, stage)}) {once}", truth)
    picked = _ranked(run, stage, "total DESC" if pick == "best" else "total", weights)
    return _read(run, f"SELECT i.* FROM ({_images_sql(run, stage)}) i JOIN picked USING (row, candidate)", truth, picked)


def _images_sql(run: RunDirectory, stage: Stage, where: str = "true") -> str:
    return f"""SELECT row, id, caption, NULL AS text, {quote(stage.name)} AS stage, candidate, sha256, tar, "offset", bytes,
        NULL AS uri FROM {run.table_sql(stage)} WHERE error IS NULL AND stored AND {where}"""


def _own(run: RunDirectory, text: str = "NULL", where: str = "") -> str:
    return f"""SELECT row, id, caption, {text} AS text, NULL AS stage, 0 AS candidate, image_sha256 AS sha256, NULL AS tar, NULL AS "offset",
        NULL AS bytes, image_uri AS uri FROM {run.samples_sql()}{where}"""


def _own_captions(run: RunDirectory) -> str:
    return _own(run, "caption", " WHERE image_sha256 IS NOT NULL AND caption IS NOT NULL")


def _captions_sql(run: RunDirectory, stage: Stage, perspective: str) -> str:
    source = stage.reads["image"]
    images = f"({_own(run)})" if source == "samples" else f"({_images_sql(run, run.stage(source))})"
    told = f"(SELECT row, candidate, text FROM {run.table_sql(stage)} WHERE error IS NULL AND perspective = {quote(perspective)})"
    return f"SELECT i.* EXCLUDE (text), c.text FROM {images} i JOIN {told} c USING (row, candidate)"


def _ranked(run: RunDirectory, stage: Stage, order: str, weights: Mapping[str, float] | None) -> pa.Table:
    """Return row and candidate of each caption's best or worst candidate whose pixels are stored, by Total."""
    from synthvlm.select import default_weights
    from synthvlm.selecting.gather import numbers

    scores = [s for s in map(run.stage, run.stage_names()) if s.kind == "score" and s.reads.get("image") == stage.name]
    if not scores:
        raise RunError(
            f"the images of {stage.name} have no scores to rank them by", f"run: synthvlm score {run.root} --images {stage.name}"
        )
    ranking = Ranking(dict(weights or default_weights(numbers(scores))))
    ranking.check(numbers(scores))
    with opened(run) as (db, _):
        gather(run, db, scores)
        rank(db, ranking)
        once = f"QUALIFY row_number() OVER (PARTITION BY row ORDER BY {order}, candidate) = 1"
        return db.sql(f"SELECT row, candidate FROM scored WHERE stored {once}").to_arrow_table()


def _read(run: RunDirectory, sql: str, truth: str | None, picked: pa.Table | None = None) -> pa.Table:
    with run.connect() as db:
        if picked is not None:
            db.register("picked", picked)
        pointer = quote("/" + (truth or "").replace("~", "~0").replace("/", "~1"))
        told = f"(SELECT row, json_extract_string(meta, {pointer}) AS truth FROM {run.samples_sql()})" if truth else None
        joined = f"({sql}) x LEFT JOIN {told} t USING (row)" if told else f"(SELECT *, NULL AS truth FROM ({sql})) x"
        return db.sql(f"SELECT {', '.join(_quoted(SCHEMA.names))} FROM {joined}").to_arrow_table().cast(SCHEMA)


def _quoted(names: Iterable[str]) -> list[str]:
    return [f'"{n}"' for n in names]


def raw_table(side: Side, truth: str | None) -> pa.Table:
    """Return images that are in no run as a table of SCHEMA; ``sha256`` is still to be filled in. Raises InputError if there is none.

    Ids that are missing are made of the image's name, as a run does.
    """
    rows: dict[str, dict[str, Any]] = {}
    for found in read_images(side.source, **side.reader):
        if isinstance(found, Found):
            sample = found.sample
            name = sample.id if sample.id is not None else hashlib.md5(str(sample.image).encode(), usedforsecurity=False).hexdigest()[:16]
            told = sample.meta.get(truth) if truth else None
            place = next((p for p in found.places if os.path.exists(p)), found.places[0])
            row = {"id": name, "caption": sample.caption, "candidate": 0, "uri": place, "truth": None if told is None else str(told)}
            rows.setdefault(name, row)
    if not rows:
        raise InputError(f"{side.source}: there is no image in it", "give a list with an image per record, a folder, a pattern or tars")
    return pa.Table.from_pylist(list(rows.values()), SCHEMA)


def describe(run: RunDirectory, side: Side) -> dict[str, Any]:
    """Return a side as data, for the record of a comparison in ``run``, which may be moved: its own source is ``.``."""
    own = side.is_run and Store(side.source).root == run.store.root
    return json.loads(json.dumps({**dataclasses.asdict(side), "source": "." if own else side.source}))


def recorded(run: RunDirectory, data: Mapping[str, Any]) -> Side:
    """Return the side that the record of a comparison in ``run`` tells of."""
    return Side(**{**data, "source": run.root if data["source"] == "." else data["source"]})
