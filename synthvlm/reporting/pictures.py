"""The report's pictures: which pairs are shown, and their thumbnails, embedded in the page."""

from __future__ import annotations

import base64
import hashlib
import io
from typing import Any

from synthvlm import images
from synthvlm.reporting.figures import Subject, label
from synthvlm.run import fetch

SHEET = 12
"""Pairs on a contact sheet."""
ROWS = 6
"""Captions whose candidates are shown side by side."""
_ABREAST = 8
_SIDE = 256
_QUALITY = 82
_AS_IS = 24 << 10
"""Bytes up to which a small image is embedded as it is stored."""

Row = dict[str, Any]


def gather(subject: Subject) -> dict[str, Any]:
    """Return what to show: sheets of best and worst pairs and rows of candidates; without scores, the first images."""
    db = subject.db
    pairs = db.execute("SELECT count(*) FROM scored WHERE stored").fetchall()[0][0] if subject.scores else 0
    sheets: list[tuple[str, list[Row]]]
    rows: list[tuple[str, int, list[Row]]] = []
    if pairs:
        kept = "SELECT * FROM scored WHERE stored ORDER BY total"
        some = min(SHEET, -(-pairs // 2))  # of a small run, no pair stands among the best and the worst
        best = fetch(db, f"{kept} DESC, id, candidate LIMIT {some}")
        worst = fetch(db, f"{kept}, id DESC, candidate DESC LIMIT {min(some, pairs - some)}")
        sheets = [("Highest Total", best), ("Lowest Total", worst)]
        rows = _rows(subject)
    else:
        first = fetch(db, f"SELECT key, row, id, candidate FROM made WHERE error IS NULL AND stored ORDER BY row, candidate LIMIT {SHEET}")
        sheets = [("First images", first)]
    located = _locate(subject, [r for _, of_sheet in sheets for r in of_sheet] + [r for _, _, of_row in rows for r in of_row])
    shown = [{"title": title, "pairs": [_pair(subject, r, located) for r in of_sheet]} for title, of_sheet in sheets if of_sheet]
    abreast = [{"why": why, "total": total, "pairs": [_pair(subject, r, located) for r in of_row]} for why, total, of_row in rows]
    return {"sheets": shown, "rows": abreast}


def _rows(subject: Subject) -> list[tuple[str, int, list[Row]]]:
    """Return captions with their candidates, best first: those where they differ most, and some that chance (a hash) picks."""
    db = subject.db
    spread = "SELECT id, max(total) - min(total) AS spread, count(*) AS n FROM scored WHERE stored GROUP BY id HAVING count(*) > 1"
    most = [r["id"] for r in fetch(db, f"SELECT id FROM ({spread}) ORDER BY spread DESC, id LIMIT {ROWS // 2}")]
    chance = [r["id"] for r in fetch(db, f"SELECT id FROM ({spread}) ORDER BY md5(id) LIMIT {ROWS}") if r["id"] not in most]
    picked = [(i, "the candidates differ most") for i in most] + [(i, "picked by chance") for i in chance[: ROWS - len(most)]]
    shown = []
    for sample, why in picked:
        rows = fetch_one_sample(subject, sample)
        few = rows if len(rows) <= _ABREAST else [*rows[: _ABREAST // 2], *rows[-_ABREAST // 2 :]]
        shown.append((why, len(rows), few))
    return shown


def fetch_one_sample(subject: Subject, sample: str) -> list[Row]:
    """Return the stored candidates of a caption, best first."""
    cursor = subject.db.execute("SELECT * FROM scored WHERE stored AND id = ? ORDER BY total DESC, candidate", [sample])
    names = [d[0] for d in cursor.description or []]
    return [dict(zip(names, values, strict=True)) for values in cursor.fetchall()]


def _locate(subject: Subject, rows: list[Row]) -> dict[str, Row]:
    """Return captions and places of the pixels, by key. The rows are known to be wanted, so the parts are asked directly."""
    run, present = subject.run, subject.run.parts_sql(subject.images)
    if not rows or present is None:
        return {}
    keys = ", ".join(f"'{k}'" for k in sorted({r["key"] for r in rows}))  # they are hex digits
    numbers = ", ".join(str(n) for n in sorted({r["row"] for r in rows}))
    captions = {r["row"]: r["caption"] for r in fetch(subject.db, f"SELECT row, caption FROM {run.samples_sql()} WHERE row IN ({numbers})")}
    columns = 'key, row, sha256, bytes, tar, "offset"'
    found = fetch(subject.db, f"SELECT {columns} FROM {present} WHERE key IN ({keys}) AND stored AND error IS NULL ORDER BY key, tar")
    return {r["key"]: r | {"caption": captions[r["row"]]} for r in found}


def _pair(subject: Subject, row: Row, located: dict[str, Row]) -> dict[str, Any]:
    place = located.get(row["key"], {"caption": "", "tar": None})
    names = [*subject.weights, "total"] if "total" in row else []
    source, small = thumbnail(subject, place)
    return {
        "id": row["id"],
        "candidate": row["candidate"],
        "caption": place["caption"],
        "image": source,
        "small": small,
        "scores": [(label(c).removesuffix("Score"), row[c]) for c in names],
        "selected": bool(row.get("selected")),
    }


def thumbnail(subject: Subject, place: Row) -> tuple[str | None, bool]:
    """Return an image as a data URL of at most 256 pixels a side, and whether it is small by itself; None if it cannot be read."""
    if place["tar"] is None:  # its part went while the report was made
        return None, False
    try:
        data = subject.run.store.read(place["tar"], place["offset"], place["bytes"])
        return embed(data) if hashlib.sha256(data).hexdigest() == place["sha256"] else (None, False)
    except (OSError, images.ImageError):  # a report on a run is of use although an image of it is damaged
        return None, False


def embed(data: bytes) -> tuple[str, bool]:
    """Return an image file as a data URL of at most 256 pixels a side, and whether it is small by itself. Raises ImageError."""
    image = images.decode(data)
    small = max(image.size) <= _SIDE // 2
    kinds = {b"\x89PNG": "image/png", b"RIFF": "image/webp", b"\xff\xd8\xff\xe0": "image/jpeg"}
    kind = kinds.get(data[:4], "image/jpeg")
    if max(image.size) > _SIDE or len(data) > _AS_IS or data[:4] not in kinds:
        image.thumbnail((_SIDE, _SIDE))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=_QUALITY)
        data, kind = out.getvalue(), "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(data).decode()}", small
