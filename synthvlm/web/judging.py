"""The page on which people judge pairs, ``synthvlm judge RUN --judge human``.

Nothing that the browser gets tells the sets apart: pictures are named by their place, both come as PNG of one size in pixels and in bytes,
and which one is on the left was drawn by person and pair.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from typing import Any, Literal

from fastapi import APIRouter, Response
from PIL import Image
from pydantic import BaseModel

from synthvlm import images
from synthvlm.errors import InputError
from synthvlm.judging.pictures import Pictures
from synthvlm.judging.votes import Ballot, Voter
from synthvlm.run import RunDirectory
from synthvlm.sample import Failed
from synthvlm.web.app import Page, create_app
from synthvlm.web.serve import new_token, serve

SIDES = (384, 1024)
"""Least and most pixels of the longer side as shown."""
_KEPT = 12
"""Pairs whose pictures are kept: the one that is seen, some before it, and the one to come."""


class Vote(BaseModel, extra="forbid"):
    """What the page sends."""

    annotator: str
    pair: int
    choice: Literal["left", "right", "tie", "skip"]
    seconds: float | None = None


def serve_votes(
    run: RunDirectory, comparison: dict[str, Any], annotator: str | None = None, port: int = 0, tell: Callable[[str], None] = print
) -> None:
    """Serve the page until Ctrl-C. ``annotator``: whose votes; else the page asks. Raises OptionError for a name or port that cannot be."""
    ballot, token = Ballot(run, comparison), new_token()
    if annotator:
        ballot.voter(annotator)
    try:
        serve(create_app(run, [page(ballot, annotator)], token), token, port=port, page="judge", tell=tell)
    except KeyboardInterrupt:
        pass  # the way it ends
    finally:
        ballot.merge()


def page(ballot: Ballot, annotator: str | None = None) -> Page:
    """Return the page with what it asks for."""
    return Page("judge", "judge.html", routes(ballot, annotator))


def routes(ballot: Ballot, annotator: str | None = None) -> APIRouter:
    """Return what the page asks for: who votes, how far they are, a pair's texts and pictures; and take votes."""
    router = APIRouter(prefix="/api/judge")
    pictures = Pictures(ballot.run)

    @functools.lru_cache(maxsize=_KEPT)
    def shown(person: str, row: int) -> tuple[bytes, ...]:
        pair = ballot.pair(ballot.voter(person), row)
        return as_shown([_decoded(pictures, pair, side) for side in _order(ballot, pair)])

    @router.get("")
    def start() -> dict[str, Any]:
        return {"annotator": annotator, "kind": ballot.comparison["kind"]}

    @router.get("/votes")
    def votes(person: str) -> dict[str, Any]:
        return _progress(ballot.voter(person))

    @router.post("/votes")
    def vote(given: Vote) -> dict[str, Any]:
        return _progress(ballot.vote(given.annotator, given.pair, given.choice, given.seconds))

    @router.get("/pairs/{row}")
    def texts(row: int, person: str) -> dict[str, Any]:
        pair = ballot.pair(ballot.voter(person), row)
        if ballot.comparison["kind"] == "captions":
            told = [pair["a_text"], pair["b_text"]]
            return {"caption": None, "texts": told[::-1] if pair["flipped"] else told}
        return {"caption": pair["caption"], "texts": None}

    @router.get("/pairs/{row}/{place}.png")
    def picture(row: int, place: Literal["left", "right", "only"], person: str) -> Response:
        found = shown(person, row)
        if (place == "only") != (len(found) == 1):
            raise InputError(f"this pair has no picture {place!r}")
        return Response(found[place == "right"], media_type="image/png", headers={"cache-control": "private, max-age=3600"})

    return router


def _progress(voter: Voter) -> dict[str, Any]:
    return {"pairs": len(voter.pairs), "votes": {row: choice for row, (choice, _) in voter.votes.items()}, "next": voter.next}


def _order(ballot: Ballot, pair: dict[str, Any]) -> str:
    if ballot.comparison["kind"] == "captions":
        return "a"
    return "ba" if pair["flipped"] else "ab"


def _decoded(pictures: Pictures, pair: dict[str, Any], side: str) -> Image.Image:
    """Return a picture of a pair. Raises InputError, which does not tell where it lies, if it cannot be had."""
    data = pictures.read(pair, side)
    try:
        if isinstance(data, Failed):
            raise InputError(data.error)
        return images.decode(data)
    except InputError as error:
        raise InputError("a picture of this pair cannot be read", "skip it; the same command again looks for it anew") from error


def as_shown(found: Sequence[Image.Image]) -> tuple[bytes, ...]:
    """Return pictures as PNG files of one size in pixels (scaled to one longer side, on a transparent ground) and in bytes."""
    longer = min(SIDES[1], max(SIDES[0], *(max(image.size) for image in found)))
    scaled = []
    for image in found:
        scale = longer / max(image.size)
        scaled.append(image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS))
    canvas = max(image.width for image in scaled), max(image.height for image in scaled)
    files = []
    for image in scaled:
        ground = Image.new("RGBA", canvas)
        ground.paste(image, ((canvas[0] - image.width) // 2, (canvas[1] - image.height) // 2))
        out = io.BytesIO()
        ground.save(out, "PNG", compress_level=1)
        files.append(out.getvalue())
    size = max(map(len, files))
    return tuple(data + bytes(size - len(data)) for data in files)  # readers stop at PNG's end mark
