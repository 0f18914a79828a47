"""What the page of ``synthvlm view`` asks for: its routes, over one catalogue."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from synthvlm import marks
from synthvlm.errors import OptionError, SynthVLMError
from synthvlm.images import ImageError
from synthvlm.run import RunDirectory, fetch
from synthvlm.sql import identifier
from synthvlm.web import detail
from synthvlm.web.catalogue import Catalogue
from synthvlm.web.live import Live
from synthvlm.web.pairs import Pairs, Wish
from synthvlm.web.pictures import Pictures
from synthvlm.web.trial import Settings, Trial

BINS = 48
KEPT = {"cache-control": "private, max-age=86400, immutable"}
"""Of images: their addresses change when they do."""
_Row = Annotated[int, Field(ge=0, lt=1 << 40)]
_Candidate = Annotated[int, Field(ge=0, lt=4096)]


class Place(BaseModel):
    """A pair."""

    model_config = ConfigDict(extra="forbid")
    row: _Row
    candidate: _Candidate


class Marking(BaseModel):
    """What to set: a field that is absent stays as it is."""

    model_config = ConfigDict(extra="forbid")
    pairs: list[Place] = Field(min_length=1, max_length=500)
    mark: str | None = None
    note: str | None = None


class Browser:
    """A run that is looked at: the catalogue, what follows it, and what is asked of it. :meth:`close` ends its thread."""

    def __init__(self, run: RunDirectory, images: str | None = None, selection: str = "default") -> None:
        self.run = run
        self.catalogue = Catalogue(run, images)
        self.trial = Trial(self.catalogue, selection)
        self.pairs = Pairs(self.catalogue, self.trial)
        self.pictures = Pictures(run)
        self.live = Live(self.catalogue)
        self._db = self.catalogue.cursor()

    def start(self) -> None:
        """Begin to read the run."""
        self.live.start()

    def close(self) -> None:
        """Let go of the run."""
        self.live.stop()
        self.catalogue.close()

    def facts(self) -> dict[str, Any]:
        """Return what does not change while a page is open, or seldom."""
        shape, run = self.catalogue.shape, self.run
        return {
            "name": os.path.basename(str(run.root).rstrip("/")) or str(run.root),
            "root": str(run.root),
            "source": shape.source,
            "makes_images": shape.images is not None,
            "captions": [s.name for s in shape.captions],
            "stages": ["waiting", *(["curation"] if shape.images else []), *(s.name for s in shape.stages if s not in shape.texts)],
            "columns": [{"name": c, "metric": self._metric(c)} for c in shape.numbers],
            "trial": self.trial.start(),
        }

    def _metric(self, column: str) -> str | None:
        stage, name = self.catalogue.shape.columns.get(column, (None, ""))
        return str(stage.cards.get(name, {}).get("metric", "")) or None if stage else None

    def histogram(self, column: str) -> dict[str, Any]:
        """Return how a score is distributed. Raises OptionError if there is no such score."""
        if column not in self.catalogue.shape.numbers:
            raise OptionError(f"there is no score {column!r}")
        c = identifier(column)
        with self.trial.lock:
            least, most, count = self._db.execute(f"SELECT min({c}), max({c}), count({c}) FROM pairs").fetchall()[0]
            if not count:
                return {"least": None, "most": None, "counts": []}
            width = (most - least) / BINS or 1.0
            bins = fetch(
                self._db,
                f"SELECT least({BINS - 1}, floor(({c} - {least!r}) / {width!r}))::INT AS bin, count(*) AS n FROM pairs WHERE {c} IS NOT NULL GROUP BY bin",
            )
        counts = [0] * BINS
        for b in bins:
            counts[b["bin"]] = b["n"]
        return {"least": least, "most": most, "counts": counts}

    def picture(self, row: int, candidate: int, small: bool) -> tuple[bytes, str]:
        """Return an image's bytes and media type. Raises ImageError if it is not there."""
        key = place = None
        if self.catalogue.shape.images:
            place = self._place(row, candidate)
            if place is None:
                raise ImageError("its pixels are not stored")
            key = place

        def read() -> bytes:
            return self.pictures.made(*place) if place else self.pictures.given(row)

        try:
            return (self.pictures.thumbnail(key or row, read), "image/webp") if small else self.pictures.whole(read())
        except OSError as error:  # merged into a larger part meanwhile: the catalogue finds it at its next look
            raise ImageError(f"the image cannot be read: {error.strerror or error}") from error

    def _place(self, row: int, candidate: int) -> tuple[str, int, int] | None:
        db = self.catalogue.cursor()
        found = db.execute(
            'SELECT tar, "offset", bytes FROM pairs WHERE row = ? AND candidate = ? AND stored AND tar IS NOT NULL', [row, candidate]
        ).fetchall()
        return found[0] if found else None

    def mark(self, marking: Marking) -> None:
        """Write marks into the run. Raises OptionError, RunLocked, or RunError for a pair without an image."""
        fields = marking.model_fields_set & {"mark", "note"}
        values = {name: getattr(marking, name) for name in fields}
        marks.put(self.run, [detail.marked(self.catalogue, p.row, p.candidate) | values for p in marking.pairs])
        self.trial.read_marks()


def routes(browser: Browser) -> APIRouter:
    """Return the page's routes."""
    router = APIRouter()

    @router.get("/api/run")
    def run() -> dict[str, Any]:
        return browser.facts()

    @router.get("/api/live")
    def live() -> dict[str, Any]:
        return browser.live.tell()

    @router.get("/api/pairs")
    def pairs(
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=200)] = 48,
        sort: str = "row",
        down: bool = False,
        q: Annotated[str, Query(max_length=200)] = "",
        stage: str = "",
        reason: str = "",
        mark: str = "",
        within: str = "",
        r: Annotated[list[str] | None, Query(max_length=20)] = None,
        w: Annotated[list[str] | None, Query(max_length=20)] = None,
        top: str | None = None,
        threshold: float | None = None,
    ) -> dict[str, Any]:
        weights = _weights(w or [])
        with browser.trial.lock:
            browser.trial.read_selection()
            if top:
                browser.trial.settle(Settings(weights, top, threshold))
            return browser.pairs.page(Wish(sort, down, q.strip(), stage, reason, mark, within, _ranges(r or []), weights), offset, limit)

    @router.get("/api/pairs/{row}/{candidate}")
    def pair(row: _Row, candidate: _Candidate, w: Annotated[list[str] | None, Query(max_length=20)] = None) -> dict[str, Any]:
        told = detail.detail(browser.catalogue, row, candidate)
        count = browser.catalogue.shape.images.repeat if browser.catalogue.shape.images else 1
        line = browser.pairs.lines([(row, candidate)], _weights(w or []))
        others = browser.pairs.lines([(row, c) for c in range(count) if c != candidate], _weights(w or []))
        return told | {"line": line[0] if line else None, "others": others}

    @router.get("/api/trial")
    def trial(w: Annotated[list[str], Query(max_length=20)], top: str, threshold: float | None = None) -> dict[str, Any]:
        return browser.trial.settle(Settings(_weights(w), top, threshold))

    @router.get("/api/histogram")
    def histogram(column: str) -> dict[str, Any]:
        return browser.histogram(column)

    @router.post("/api/marks")
    def mark(marking: Marking) -> dict[str, Any]:
        browser.mark(marking)
        return {"pairs": browser.pairs.lines([(p.row, p.candidate) for p in marking.pairs])}

    @router.get("/images/{row}/{candidate}")
    def image(row: _Row, candidate: _Candidate) -> Response:
        return _picture(browser, row, candidate, small=False)

    @router.get("/thumbs/{row}/{candidate}")
    def thumb(row: _Row, candidate: _Candidate) -> Response:
        return _picture(browser, row, candidate, small=True)

    return router


def _picture(browser: Browser, row: int, candidate: int, small: bool) -> Response:
    try:
        data, media = browser.picture(row, candidate, small)
    except (ImageError, SynthVLMError) as error:
        return JSONResponse({"error": error.message, "hint": error.hint}, 404)
    return Response(data, media_type=media, headers=KEPT)


def _weights(pairs: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Return (score, weight) from ``score:weight``. Raises OptionError."""
    return tuple((name, value) for name, value in (_numbered(p) for p in pairs) if value is not None)


def _ranges(texts: Sequence[str]) -> tuple[tuple[str, float | None, float | None], ...]:
    """Return (score, least, most) from ``score:least:most``, either of which may be empty. Raises OptionError."""
    found = []
    for text in texts:
        head, most = _numbered(text)
        name, least = _numbered(head)
        found.append((name, least, most))
    return tuple(found)


def _numbered(text: str) -> tuple[str, float | None]:
    head, colon, number = text.rpartition(":")
    try:
        if colon and (not number or math.isfinite(float(number))):
            return head, float(number) if number else None
    except ValueError:
        pass
    raise OptionError(f"{text!r} is not NAME:NUMBER")
