"""The report's pictures: which pairs are shown, and their thumbnails, embedded in the page."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb

from synthvlm import images
from synthvlm.reporting.names import label
from synthvlm.reporting.subjects import Subject
from synthvlm.run import RunDirectory, fetch
from synthvlm.selecting.gather import images_sql
from synthvlm.selecting.rank import number

if TYPE_CHECKING:
    from PIL.Image import Image

_ABREAST = 8
_QUALITIES = (82, 60, 40, 20)
"""Of JPEG; the first that is small enough, or the last."""
_STORED = "(SELECT * FROM scored WHERE stored AND total IS NOT NULL)"
_BEST = f"(SELECT * FROM {_STORED} SEMI JOIN best USING (row, candidate))"

Row = dict[str, Any]


@dataclass(frozen=True)
class Extent:
    """How much is shown of a run, so that a page of several stays under 10 MB."""

    sheet: int = 12
    """Pairs among the best, and among the worst."""
    line: int = 6
    """Pairs above the line, below it, and around the median."""
    rows: int = 6
    """Captions whose candidates are shown side by side."""
    told: int = 8
    """Images that are shown with all their captions."""
    side: int = 256
    """Pixels of a thumbnail's longer side."""

    @classmethod
    def of(cls, runs: int) -> Extent:
        """Return what a page of so many runs can show of each."""
        if runs == 1:
            return cls()
        if runs <= 3:
            return cls(6, 6, 3, 6, 192)
        return cls(6, 3, 2, 3, 128) if runs <= 8 else cls(3, 3, 0, 2, 96)

    @property
    def most_bytes(self) -> int:
        """Return how many bytes a picture may have; a small image that has no more is embedded as it is stored."""
        return int(0.4 * self.side**2)


def gather(subject: Subject, extent: Extent) -> dict[str, Any]:
    """Return what to show: sheets of pairs and rows of candidates; without scores, the first images."""
    db = subject.db
    db.execute(f"CREATE VIEW ids AS SELECT row, id FROM {subject.run.samples_sql()}")
    pairs = db.execute(f"SELECT count(*) FROM {_STORED}").fetchall()[0][0] if subject.scores else 0
    rows: list[tuple[str, int, list[Row]]] = []
    if pairs:
        sheets = _sheets(subject, extent, pairs)
        rows = _rows(subject, extent.rows)
    else:
        first = "SELECT m.*, c.id FROM made m JOIN ids c USING (row) WHERE error IS NULL AND stored ORDER BY row, candidate"
        sheets = [("First images", "", fetch(db, f"{first} LIMIT {extent.sheet}"))] if subject.images else []
    located = locate(subject, [r for _, _, of_sheet in sheets for r in of_sheet] + [r for _, _, of_row in rows for r in of_row])
    shown = [
        {"title": title, "why": why, "pairs": [_pair(subject, r, located, extent) for r in of_sheet]}
        for title, why, of_sheet in sheets
        if of_sheet
    ]
    abreast = [{"why": why, "total": total, "pairs": [_pair(subject, r, located, extent) for r in of_row]} for why, total, of_row in rows]
    return {"sheets": shown, "rows": abreast}


def _sheets(subject: Subject, extent: Extent, pairs: int) -> list[tuple[str, str, list[Row]]]:
    """Return the pairs with the highest and lowest Total, those in the middle, and those about the line of the selection."""
    db = subject.db
    some = min(extent.sheet, -(-pairs // 2))  # of a small run, no pair stands among the best and the worst
    best = _first(db, _STORED, "-total", "id, candidate", some)
    worst = _first(db, _STORED, "total", "id DESC, candidate DESC", min(some, pairs - some))
    sheets = [("Highest Total", "", best), ("Lowest Total", "", worst)]
    if pairs > 2 * extent.sheet:
        middle = db.execute(f"SELECT median(total) FROM {_STORED}").fetchall()[0][0]
        near = _first(db, _STORED, f"abs(total - {number(middle)})", "id, candidate", extent.line)
        sheets.insert(1, ("Median Total", f"nearest to {middle:.3f}", sorted(near, key=lambda r: -r["total"])))
    if subject.selection:
        chosen, others = (f"(SELECT * FROM {table} WHERE {'' if yes else 'NOT '}selected)" for table, yes in ((_STORED, 1), (_BEST, 0)))
        above = _first(db, chosen, "total", "id DESC, candidate DESC", extent.line)[::-1]
        sheets.append(("Just above the line", "the last that were selected", above))
        below = _first(db, others, "-total", "id, candidate", extent.line)
        sheets.append(("Just below the line", "the best of their caption, and the first that were not selected", below))
    return sheets


def _first(db: duckdb.DuckDBPyConnection, source: str, key: str, ties: str, count: int) -> list[Row]:
    """Return the ``count`` rows of ``source`` with the least ``key``, ties by ``ties``. Ids are looked up only of rows that may be among them."""
    last = f"(SELECT max(k) FROM (SELECT {key} AS k FROM {source} ORDER BY k LIMIT {count}))"
    return fetch(db, f"SELECT s.*, c.id FROM {source} s JOIN ids c USING (row) WHERE {key} <= {last} ORDER BY {key}, {ties} LIMIT {count}")


def _rows(subject: Subject, most: int) -> list[tuple[str, int, list[Row]]]:
    """Return captions with their candidates, best first: those where they differ most, and some that chance (a hash) picks."""
    db = subject.db
    db.execute(f"CREATE TABLE spreads AS SELECT row, max(total) - min(total) AS spread FROM {_STORED} GROUP BY row HAVING count(*) > 1")
    differ = [r["row"] for r in _first(db, "spreads", "-spread", "id", most // 2)]
    by_hash = fetch(db, f"SELECT row FROM spreads JOIN ids USING (row) ORDER BY md5(id) LIMIT {most}")
    chance = [r["row"] for r in by_hash if r["row"] not in differ]
    picked = [(i, "the candidates differ most") for i in differ] + [(i, "picked by chance") for i in chance[: most - len(differ)]]
    shown = []
    for sample, why in picked:
        rows = fetch(db, f"SELECT s.*, c.id FROM {_STORED} s JOIN ids c USING (row) WHERE row = {sample} ORDER BY total DESC, candidate")
        few = rows if len(rows) <= _ABREAST else [*rows[: _ABREAST // 2], *rows[-_ABREAST // 2 :]]
        shown.append((why, len(rows), few))
    return shown


def locate(subject: Subject, rows: list[Row]) -> dict[tuple[int, int], Row]:
    """Return captions and places of the pixels, by row and candidate."""
    run, numbers = subject.run, ", ".join(str(n) for n in sorted({r["row"] for r in rows}))
    if not rows:
        return {}
    if subject.images is None:
        where = 'image_sha256 AS sha256, NULL AS bytes, NULL AS tar, NULL AS "offset"'
        sql = f"SELECT row, 0 AS candidate, caption, image_uri, {where} FROM {run.samples_sql()} WHERE row IN ({numbers})"
    else:
        columns = ("p.row", "p.candidate", "s.caption", "NULL AS image_uri", "p.sha256", "p.bytes", "p.tar", 'p."offset"')
        found = images_sql(run, subject.images, None, columns)
        if found is None:
            return {}
        sql = f"{found} AND p.stored AND p.row IN ({numbers}) ORDER BY p.key, p.tar"
    return {(r["row"], r["candidate"]): r for r in fetch(subject.db, sql)}


def _pair(subject: Subject, row: Row, located: dict[tuple[int, int], Row], extent: Extent) -> dict[str, Any]:
    place = located.get((row["row"], row["candidate"]), {"caption": "", "tar": None, "image_uri": None})
    names = [*subject.weights, "total"] if "total" in row else []
    source, small = thumbnail(subject.run, place, extent)
    return {
        "id": row["id"],
        "candidate": row["candidate"],
        "caption": place["caption"],
        "image": source,
        "small": small,
        "scores": [(label(c).removesuffix("Score"), row[c]) for c in names],
        "selected": bool(row.get("selected")),
    }


def thumbnail(run: RunDirectory, place: Row, extent: Extent) -> tuple[str | None, bool]:
    """Return an image as a data URL, and whether it is small by itself; None if it cannot be read, or is not the one that was scored."""
    try:
        if place["tar"]:
            data = run.store.read(place["tar"], place["offset"], place["bytes"])
        elif place["image_uri"]:
            data = images.read_image_bytes(place["image_uri"])
        else:  # its part went while the report was made
            return None, False
        return embed(data, extent) if hashlib.sha256(data).hexdigest() == place["sha256"] else (None, False)
    except (OSError, images.ImageError):  # a report on a run is of use although an image of it is damaged
        return None, False


def embed(data: bytes, extent: Extent) -> tuple[str, bool]:
    """Return an image file as a data URL of at most ``extent.side`` pixels a side, and whether it is small by itself. Raises ImageError."""
    image = images.decode(data)
    small = max(image.size) <= extent.side // 2
    kinds = {b"\x89PNG": "image/png", b"RIFF": "image/webp", b"\xff\xd8\xff\xe0": "image/jpeg"}
    kind = kinds.get(data[:4], "image/jpeg")
    if max(image.size) > extent.side or len(data) > extent.most_bytes or data[:4] not in kinds:
        image.thumbnail((extent.side, extent.side))
        data, kind = _jpeg(image, extent.most_bytes), "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(data).decode()}", small


def _jpeg(image: Image, most: int) -> bytes:
    """Return an image as JPEG, of less quality where it would have more than ``most`` bytes."""
    data = b""
    for quality in _QUALITIES:
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality)
        data = out.getvalue()
        if len(data) <= most:
            break
    return data
