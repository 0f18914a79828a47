"""Where the kinds of things are solid: what placing them and telling what covers what need."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from synthvlm_mini.book.outlines import Points
from synthvlm_mini.book.things import drawing

_GRID = 64
_REACH = 1.15
_CELL = 2 * _REACH / _GRID


@dataclass(frozen=True, eq=False)
class Silhouette:
    """A kind of thing as a grid of cells, lengths in halves of its height, centred at 0, 0.

    ``grid`` (64, 64), bool, spans the box from -1.15 to 1.15; ``points`` (n, 2) are the centres of the cells that are solid;
    ``tops`` and ``bottoms`` (64,) are where the columns of the grid begin and end, infinite where they are empty.
    """

    grid: NDArray[np.bool_]
    points: Points
    tops: NDArray[np.floating]
    bottoms: NDArray[np.floating]
    half_width: float
    cell: float = _CELL

    def covers(self, points: Points) -> NDArray[np.bool_]:
        """Return which of the points, (…, 2), lie on the thing."""
        cells = np.floor((points + _REACH) / _CELL).astype(int)
        within = ((cells >= 0) & (cells < _GRID)).all(-1)
        x, y = np.moveaxis(np.clip(cells, 0, _GRID - 1), -1, 0)
        return within & self.grid[y, x]

    def columns(self, x: NDArray[np.floating]) -> NDArray[np.intp]:
        """Return the grid's columns nearest to these x."""
        return np.clip(np.floor((x + _REACH) / _CELL).astype(int), 0, _GRID - 1)


@cache
def silhouette(kind: str) -> Silhouette:
    """Return the silhouette of a kind of thing, facing as it is drawn."""
    fine = 4
    image = Image.new("L", (_GRID * fine, _GRID * fine))
    draw = ImageDraw.Draw(image)
    for part in drawing(kind):
        draw.polygon(((part.points + _REACH) / _CELL * fine).ravel().tolist(), fill=255)
    grid = np.asarray(image.reduce(fine)) > 127
    y, x = np.nonzero(grid)
    filled = grid.any(0)
    tops = np.where(filled, grid.argmax(0) * _CELL - _REACH, np.inf)
    bottoms = np.where(filled, _REACH - grid[::-1].argmax(0) * _CELL, -np.inf)
    corners = np.concatenate([part.points for part in drawing(kind)])
    return Silhouette(grid, (np.stack([x, y], axis=1) + 0.5) * _CELL - _REACH, tops, bottoms, float(np.abs(corners[:, 0]).max()))
