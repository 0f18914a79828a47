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
    if not pairs:
        first = fetch(db, f"SELECT key, id, candidate FROM made WHERE NOT failed AND stored ORDER BY row, candidate LIMIT {SHEET}")
        return {"sheets": _sheets(subject, [("First images", first)]), "rows": []}
    kept = "SELECT * FROM scored WHERE stored ORDER BY total"
    some = min(SHEET, -(-pairs // 2))  # of a small run, no pair stands among the best and the worst
    best = fetch(db, f"{kept} DESC, id, candidate LIMIT {some}")
    worst = fetch(db, f"{kept}, id DESC, candidate DESC LIMIT {min(some, pairs - some)}")
    return {"sheets": _sheets(subject, [("Highest Total", best), ("Lowest Total", worst)]), "rows": _rows(subject)}


def _sheets(subject: Subject, sheets: list[tuple[str, list[Row]]]) -> list[dict[str, Any]]:
    located = _locate(subject, [row["key"] for _, rows in sheets for row in rows])
    return [{"title": title, "pairs": [_pair(subject, row, located) for row in rows]} for title, rows in sheets if rows]


def _rows(subject: Subject) -> list[dict[str, Any]]:
    """Return captions with all their candidates, best first: where they differ most, and some that chance (a hash) picks."""
    db = subject.db
    spread = "SELECT id, max(total) - min(total) AS spread, count(*) AS n FROM scored WHERE stored GROUP BY id HAVING count(*) > 1"
    most = [r["id"] for r in fetch(db, f"SELECT id FROM ({spread}) ORDER BY spread DESC, id LIMIT {ROWS // 2}")]
    chance = [r["id"] for r in fetch(db, f"SELECT id FROM ({spread}) ORDER BY md5(id) LIMIT {ROWS}") if r["id"] not in most]
    picked = [(i, "the candidates differ most") for i in most] + [(i, "picked by chance") for i in chance[: ROWS - len(most)]]
    shown = []
    for sample, why in picked:
        rows = fetch_one_sample(subject, sample)
        total = len(rows)
        if total > _ABREAST:
            rows = [*rows[: _ABREAST // 2], *rows[-_ABREAST // 2 :]]
        shown.append((why, total, rows))
    located = _locate(subject, [row["key"] for _, _, rows in shown for row in rows])
    result = []
    for why, total, rows in shown:
        pairs = [_pair(subject, row, located) for row in rows]
        result.append({"caption": pairs[0]["caption"], "id": rows[0]["id"], "why": why, "total": total, "pairs": pairs})
    return result


def fetch_one_sample(subject: Subject, sample: str) -> list[Row]:
    """Return the stored candidates of a caption, best first."""
    cursor = subject.db.execute("SELECT * FROM scored WHERE stored AND id = ? ORDER BY total DESC, candidate", [sample])
    names = [d[0] for d in cursor.description or []]
    return [dict(zip(names, values, strict=True)) for values in cursor.fetchall()]


def _locate(subject: Subject, keys: list[str]) -> dict[str, Row]:
    """Return captions and places of the pixels, by key."""
    wanted = ", ".join(f"'{k}'" for k in sorted(set(keys))) or "''"  # keys are hex digits
    table = subject.run.table_sql(subject.images)
    columns = 'key, caption, seed, width, height, sha256, bytes, tar, "offset"'
    return {r["key"]: r for r in fetch(subject.db, f"SELECT {columns} FROM {table} WHERE key IN ({wanted})")}


def _pair(subject: Subject, row: Row, located: dict[str, Row]) -> dict[str, Any]:
    place = located[row["key"]]
    names = [*subject.weights, "total"] if "total" in row else []
    source, small = thumbnail(subject, place)
    return {
        "id": row["id"],
        "candidate": row["candidate"],
        "caption": place["caption"],
        "seed": place["seed"],
        "size": f"{place['width']} × {place['height']}",
        "image": source,
        "small": small,
        "scores": [(label(c).removesuffix("Score"), row[c]) for c in names],
        "selected": bool(row.get("selected")),
    }


def thumbnail(subject: Subject, place: Row) -> tuple[str | None, bool]:
    """Return an image as a data URL of at most 256 pixels a side, and whether it is small by itself; None if it cannot be read."""
    try:
        data = subject.run.store.read(place["tar"], place["offset"], place["bytes"])
        if hashlib.sha256(data).hexdigest() != place["sha256"]:
            return None, False
        image = images.decode(data)
    except (OSError, images.ImageError):  # a report on a run is of use although an image of it is damaged
        return None, False
    small = max(image.size) <= _SIDE // 2
    kind = "image/png" if data[:4] == b"\x89PNG" else "image/webp" if data[:4] == b"RIFF" else "image/jpeg"
    if max(image.size) > _SIDE or len(data) > _AS_IS:
        image.thumbnail((_SIDE, _SIDE))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=_QUALITY)
        data, kind = out.getvalue(), "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(data).decode()}", small
