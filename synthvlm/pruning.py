"""Drop the pixels that can no longer be selected: ``synthvlm prune``, and ``--store top``, which does it while images are made.

What stays: the pairs that ``select --top K`` takes, those of every selection that the run has, those marked ``keep``, and images without
a score (they may get one). Rows and scores stay all: a dropped image can be made again (:mod:`synthvlm.regenerating`). A part is rewritten as ``compact``
does it: the new one is committed before the old one goes, and of a row that stands twice the one with pixels counts. So a prune that
is killed has dropped some pixels or none, and never one that it should not.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from synthvlm import cards, compact, marks, parts
from synthvlm.errors import RunError, SynthVLMError
from synthvlm.run import RunDirectory, Stage
from synthvlm.select import ranked
from synthvlm.selecting.gather import gather, image_stage, images_sql, opened
from synthvlm.selecting.rank import parse_top, settle, take_sql

FLOOR = "floor.json"
"""In an image stage with ``--store top``: the total below which no pair can be among the top any more."""
SPARE = 256
"""Images more than twice the top that may lie on the disk before they are pruned."""
PAUSE = 5.0
"""Seconds between counting them."""


def prune(
    run: RunDirectory,
    scores: Sequence[Stage],
    keep_top: str | float | int,
    *,
    weights: Mapping[str, float] | None = None,
    dry: bool = False,
    wait: float = 60.0,
    stopping: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Drop the pixels of all but the best image of each of the ``keep_top`` best captions; return what was kept and dropped.

    A share counts of all captions that the image stage wants, made or not, so that nothing goes that more images could not replace.
    Raises RunError while a stage has still to read them, or if nothing is scored; RunLocked if another process holds the run.
    """
    images = image_stage(run, scores)
    ranking = ranked(scores, weights, "all")
    parse_top(keep_top, 1)
    cards.check(run, scores)
    with run.store.lock(f"pruning {images.name}", wait=wait), opened(run) as (db, _):
        _refuse_while_read(run, images)
        keep = parse_top(keep_top, wanted_captions(run, images))
        gather(run, db, scores)
        if not db.execute("SELECT count(*) FROM gathered").fetchall()[0][0]:
            raise RunError(f"{run.root} has no scored pairs yet", "run: synthvlm score RUN; what is not scored cannot be pruned")
        settle(run, db, ranking)
        db.execute(f"CREATE TABLE kept AS SELECT * FROM ({take_sql(db, 'standing')}) ORDER BY total DESC, id, candidate LIMIT {keep}")
        _mark(run, db, images)
        told = _count(db) | {"stage": images.name, "keep": keep, "weights": dict(ranking.weights)}
        enough = told["kept"] == keep  # with fewer, the next one is among them whatever its total
        told["floor"] = db.execute("SELECT min(total) FROM kept").fetchall()[0][0] if enough else None
        told["freed"] = 0 if dry else _rewrite(run, db, images, stopping)
    return told


def wanted_captions(run: RunDirectory, images: Stage) -> int:
    """Return of how many captions an image stage makes images."""
    with run.connect() as db:
        return db.execute(f"SELECT count(*) FROM {run.curated_sql(images)} WHERE caption IS NOT NULL").fetchall()[0][0]


def _refuse_while_read(run: RunDirectory, images: Stage) -> None:
    for stage in map(run.stage, run.stage_names()):
        if stage.reads_pixels and stage.reads["image"] == images.name:
            left = run.pending_images(stage)
            if left:
                verb = "caption" if stage.kind == "caption" else "score"
                raise RunError(
                    f"stage {stage.name!r} of {run.root} has still to read {left:,} images of {images.name!r}",
                    f"finish it first: synthvlm {verb} RUN; or, if it is not wanted any more, delete {run.store.path(stage.name)}",
                )


def _mark(run: RunDirectory, db: Any, images: Stage) -> None:
    """Make the table ``dropped``: row, candidate, key and bytes of the scored images whose pixels are to go."""
    names = [
        n for n in run.store.list("selections", ".json") if (run.store.read_json(f"selections/{n}") or {}).get("images") == images.name
    ]
    files = [f"selections/{n.removesuffix('.json')}.parquet" for n in names]
    db.execute("CREATE TABLE selected AS SELECT ''::VARCHAR AS key WHERE false")
    for file in files:
        if run.store.exists(file):
            db.execute(f"INSERT INTO selected SELECT key FROM {run.read_sql([file])}")
    if kept := marks.keys(run, images, "keep"):
        db.executemany("INSERT INTO selected VALUES (?)", [(key,) for key in kept])
    found = images_sql(run, images, None, ["p.row", "p.candidate", "p.key", "p.bytes"])
    losers = "SELECT g.row, g.candidate FROM gathered g ANTI JOIN kept k ON k.row = g.row AND k.candidate = g.candidate WHERE g.stored"
    db.execute(f"CREATE TABLE losers AS {losers}")
    db.execute(f"""CREATE TABLE dropped AS SELECT DISTINCT i.* FROM ({found} AND p.stored) i SEMI JOIN losers USING (row, candidate)
        WHERE i.key NOT IN (SELECT key FROM selected)""")


def _count(db: Any) -> dict[str, Any]:
    dropped, size = db.execute("SELECT count(*), coalesce(sum(bytes), 0)::BIGINT FROM dropped").fetchall()[0]
    losers = db.execute("SELECT count(*) FROM losers").fetchall()[0][0]
    kept = db.execute("SELECT count(*) FROM kept").fetchall()[0][0]
    return {"kept": kept, "kept_for_selections": losers - dropped, "dropped": dropped, "bytes": size}


def _rewrite(run: RunDirectory, db: Any, images: Stage, stopping: Callable[[], bool]) -> int:
    """Rewrite the parts that hold pixels to drop; return by how many bytes the stage shrank."""
    run.store.sweep(images.name)
    freed = 0
    found = parts.list_parts(run.store, images.name)
    whole = [p for p in found if parts.damage(run.store, p) is None]
    for group in compact.groups(run, whole, 1):
        if stopping():
            break
        rows = min(p.first for p in group) * images.shard_size, (max(p.last for p in group) + 1) * images.shard_size
        keys = db.sql(f"SELECT key FROM dropped WHERE row >= {rows[0]} AND row < {rows[1]}").to_arrow_table()["key"].combine_chunks()
        if len(keys) and _has_pixels(run, group, keys):
            before = _size(run, group)
            with contextlib.suppress(*compact.DAMAGE):  # for `status --verify` and the next step to find and mend
                new = compact.merge(run, images, group, without_pixels=keys)
                freed += before - _size(run, new)
    if len(whole) == len(found):
        compact.drop_orphans(run, images)
    return freed


def _has_pixels(run: RunDirectory, group: Sequence[parts.Part], keys: Any) -> bool:
    """Say whether a part of ``group`` holds the pixels of one of ``keys``."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    for part in group:
        with run.store.fs.open(run.store.path(part.path), "rb") as f:
            table = pq.read_table(f, columns=["key", "tar"])
        if pc.any(pc.and_(pc.is_valid(table["tar"]), pc.is_in(table["key"], keys))).as_py():  # pyright: ignore[reportAttributeAccessIssue]
            return True
    return False


def _size(run: RunDirectory, group: Sequence[parts.Part]) -> int:
    """Return the bytes of parts and their pixels."""
    return sum((run.store.size(p.path) or 0) + int(parts.part_info(run.store, p).get("tar_bytes", 0)) for p in group)


class AsItGoes:
    """Prunes beside an execution with ``--store top``, whenever about twice as many images are stored as are to stay.

    From then on a worker stores nothing below the lowest total that stayed (:func:`floor`), so that the disk grows with the top and
    not with the candidates. The floor holds for one execution alone: an edited caption may take one of the top away.
    """

    def __init__(self, run: RunDirectory, images: Stage, scoring: Stage, warn: Callable[[str], None]) -> None:
        self._run, self._images, self._scoring, self._warn = run, images, scoring.name, warn
        self._keep = parse_top(images.runtime["keep_top"], wanted_captions(run, images))
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._looked = 0.0
        run.store.remove(f"{images.name}/{FLOOR}")

    def look(self) -> None:
        """Have a look, in the background, unless one is on its way or not long ago."""
        if (self._thread is None or not self._thread.is_alive()) and time.monotonic() - self._looked > PAUSE:
            self._looked = time.monotonic()
            self._thread = threading.Thread(target=self._prune_if_many, name="prune", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End what is under way; it leaves the run as good as it was."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(3)
        self._run.store.remove(f"{self._images.name}/{FLOOR}")

    def finish(self) -> None:
        """Prune once more, when everything is made."""
        self._stop.clear()
        try:
            self._prune(600)
        except SynthVLMError as error:
            self._warn(f"more pixels stay than --store top asks for: {error.message}")
        self._run.store.remove(f"{self._images.name}/{FLOOR}")

    def _prune_if_many(self) -> None:
        # Whatever is in the way now (a stage that is behind, a part that is just being merged) may not be later.
        with contextlib.suppress(Exception):
            if self._stored() >= 2 * self._keep + SPARE:
                self._prune(0)

    def _stored(self) -> int:
        present = self._run.parts_sql(self._images, columns="stored")
        with self._run.connect(1) as db:
            return db.execute(f"SELECT count(*) FROM {present} WHERE stored").fetchall()[0][0] if present else 0

    def _prune(self, wait: float) -> None:
        weights = self._images.runtime["keep_best_by"] or None
        scores = [self._run.stage(self._scoring)]
        told = prune(self._run, scores, self._images.runtime["keep_top"], weights=weights, wait=wait, stopping=self._stop.is_set)
        if told["floor"] is not None and not self._stop.is_set():
            record = {"total": told["floor"], "weights": told["weights"]}
            self._run.store.put_json(f"{self._images.name}/{FLOOR}", record)


def floor(run: RunDirectory, images: Stage, weights: Mapping[str, float]) -> float | None:
    """Return the total below which an image need not be stored, or None if that is not known."""
    if images.runtime.get("store") != "top":
        return None
    record = run.store.read_json(f"{images.name}/{FLOOR}")
    return record["total"] if record and record["weights"] == dict(weights) else None
