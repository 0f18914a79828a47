"""Marks that people set on pairs: keep, drop, a note. They stand in the run's ``marks.parquet`` and ``select`` honours them.

A pair is marked by its image's key, so a mark acts on just the image that was looked at: where the caption was edited or the image made with
other settings since, it acts no more. ``keep``: the pair is in, whatever its total (a limit still keeps it out), and takes one of the places; its caption's other
candidates stand back. ``drop``: the pair is never in; another candidate of its caption may be.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from synthvlm.errors import OptionError
from synthvlm.run import RunDirectory, Stage
from synthvlm.selecting.gather import images_sql
from synthvlm.selecting.rank import Ranking, best_sql, take_sql

FILE = "marks.parquet"
MARKS = ("keep", "drop")
OWN = "samples"
"""What stands for the stage of the input's own images."""
LONGEST = 2000
"""Characters of a note."""
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("candidate", pa.int32(), nullable=False),
        pa.field("mark", pa.string()),
        pa.field("note", pa.string()),
        pa.field("at", pa.timestamp("us", "UTC"), nullable=False),
    ]
)
"""``key`` is that of the image's row in ``stage``; of the input's own images (stage ``samples``) the SHA-256 of its bytes."""


def load(run: RunDirectory) -> pa.Table:
    """Return the run's marks, by row and candidate; none if nothing was ever marked."""
    try:
        return pq.read_table(io.BytesIO(run.store.read(FILE))).cast(SCHEMA)
    except FileNotFoundError:
        return SCHEMA.empty_table()


def put(run: RunDirectory, changes: Sequence[Mapping[str, Any]], wait: float = 2.0) -> None:
    """Set marks: each of ``changes`` has key, stage, row, id, candidate, and mark (``keep``, ``drop`` or None) or note, or both.

    What is left out stays as it was; a line without mark and note goes. Raises OptionError for another mark or a note that is too long,
    RunLocked if another process holds the run for more than ``wait`` seconds.
    """
    for change in changes:
        if change.get("mark") not in (None, *MARKS):
            raise OptionError(f"a pair cannot be marked {change['mark']!r}", f"there are: {', '.join(MARKS)}")
        if len(change.get("note") or "") > LONGEST:
            raise OptionError(f"the note is {len(change['note']):,} characters long", f"at most {LONGEST:,}")
    with run.store.lock("marking", wait=wait):
        lines = {(r["stage"], r["key"]): r for r in load(run).to_pylist()}
        for change in changes:
            at = (change["stage"], change["key"])
            before = lines.get(at, {"mark": None, "note": None})
            line = {**before, **change, "at": datetime.now(UTC)}
            line["note"] = (line["note"] or "").strip() or None
            lines[at] = line
        kept = sorted((r for r in lines.values() if r["mark"] or r["note"]), key=lambda r: (r["stage"], r["row"], r["candidate"], r["key"]))
        with run.store.writer(FILE) as out:
            pq.write_table(pa.Table.from_pylist(kept, SCHEMA), out, compression="zstd")


def keys(run: RunDirectory, images: Stage, mark: str) -> list[str]:
    """Return the keys of a stage's images that are marked ``keep`` or ``drop``."""
    return [r["key"] for r in load(run).to_pylist() if r["stage"] == images.name and r["mark"] == mark]


def place(run: RunDirectory, db: Any, images: Stage | None, ignore: bool = False) -> dict[str, int]:
    """Make the table ``marked`` (row, candidate, mark, note) of the images that there are now, or an empty one to ``ignore`` marks.

    ``images``: the stage that made them, or None for the input's own. Returns how many marks are ``ignored``, or are
    ``of_other_images``: those of captions or settings that have changed.
    """
    db.execute("CREATE OR REPLACE TABLE marked (row BIGINT, candidate INTEGER, mark VARCHAR, note VARCHAR)")
    lines = [r for r in load(run).to_pylist() if r["stage"] == (images.name if images else OWN)]
    marks = sum(bool(r["mark"]) for r in lines)
    if ignore or not lines:
        return {"ignored": marks} if ignore else {}
    found = _now_sql(run, images, sorted({r["row"] for r in lines}))
    if found is not None:
        db.register("mark_lines", pa.Table.from_pylist(lines, SCHEMA))
        db.execute(f"INSERT INTO marked SELECT DISTINCT i.row, i.candidate, m.mark, m.note FROM ({found}) i JOIN mark_lines m USING (key)")
        db.unregister("mark_lines")
    return {"of_other_images": marks - db.execute("SELECT count(mark) FROM marked").fetchall()[0][0]}


def _now_sql(run: RunDirectory, images: Stage | None, rows: Sequence[int]) -> str | None:
    """Return SQL for key, row and candidate of the images that samples ``rows`` have now."""
    within = f"row IN ({', '.join(map(str, rows))})"
    if images is None:
        return f"SELECT image_sha256 AS key, row, 0 AS candidate FROM {run.samples_sql()} WHERE {within}"
    found = images_sql(run, images, None, ["p.key", "p.row", "p.candidate"])
    return None if found is None else f"{found} AND p.{within}"


def honour(run: RunDirectory, db: Any, images: Stage, ranking: Ranking, ignore: bool = False) -> dict[str, int]:
    """Let the marks act on the rankings that ``settle`` made; return how many do, ``keep`` and ``drop``, and what :func:`place` says."""
    placed = place(run, db, images, ignore)
    return act(db, ranking) | placed


def act(db: Any, ranking: Ranking) -> dict[str, int]:
    """Let the table ``marked`` act on the rankings that ``settle`` made; return how many marks do, ``keep`` and ``drop``, and how many
    cannot (``without_score_or_pixels``).

    ``kept``: the pairs that are in, of those that have a total and pixels; their captions leave ``standing``, and so do dropped pairs.
    ``places``: the quotas less what is taken by ``kept``.
    """
    if not db.execute("SELECT count(mark) FROM marked").fetchall()[0][0]:
        db.execute(
            "CREATE OR REPLACE TABLE kept AS SELECT * FROM standing WHERE false; CREATE OR REPLACE TABLE places AS SELECT * FROM quotas"
        )
        return {"keep": 0, "drop": 0}
    marked = "SELECT row, candidate FROM marked WHERE mark = '{}'"
    kept, dropped = marked.format("keep"), marked.format("drop")
    db.execute(f"CREATE OR REPLACE TABLE kept AS SELECT * FROM scored WHERE stored AND {ranking.allows} AND (row, candidate) IN ({kept})")
    touched = "row IN (SELECT row FROM marked WHERE mark IS NOT NULL)"
    allowed = f"SELECT * FROM scored WHERE stored AND {ranking.allows} AND {touched}"
    left = f"{allowed} AND row NOT IN (SELECT row FROM kept) AND (row, candidate) NOT IN ({dropped})"
    db.execute(f"DELETE FROM standing WHERE {touched}")
    db.execute(f"INSERT INTO standing BY NAME SELECT * FROM ({best_sql('total', f'({left})')}) WHERE {ranking.reaches}")
    taken = "SELECT grp, count(*) AS n FROM kept JOIN captions USING (row) GROUP BY grp"
    db.execute(f"""CREATE OR REPLACE TABLE places AS SELECT q.grp, q.captions, greatest(0, q.keep - coalesce(n, 0)) AS keep
        FROM quotas q LEFT JOIN ({taken}) t ON t.grp IS NOT DISTINCT FROM q.grp""")
    acting = db.execute(
        f"SELECT (SELECT count(*) FROM kept), (SELECT count(*) FROM scored WHERE (row, candidate) IN ({dropped}))"
    ).fetchall()[0]
    idle = db.execute("SELECT count(mark) FROM marked").fetchall()[0][0] - sum(acting)
    return {"keep": acting[0], "drop": acting[1]} | ({"without_score_or_pixels": idle} if idle else {})


def chosen_sql(db: Any, turns: str | None = None) -> str:
    """Return SQL for the pairs to select: the kept ones, and the best of the others for the places that are left."""
    others = take_sql(db, "standing", turns=turns, quotas="places")
    return f"SELECT k.*, c.id, c.grp FROM kept k JOIN captions c USING (row) UNION ALL BY NAME SELECT * FROM ({others})"
