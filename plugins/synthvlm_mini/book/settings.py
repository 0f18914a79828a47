"""The settings of scenes: what is drawn before the things, as polygons in shares of the picture's side, in muted colours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from synthvlm_mini.book.outlines import Points, band, box, disc, poly

Color = tuple[float, float, float]

NIGHT_SKY: Color = (40, 50, 100)
_SKIES: dict[str, Color] = {
    "meadow": (202, 228, 246),
    "sea": (224, 236, 244),
    "snow": (192, 207, 226),
    "desert": (250, 238, 212),
    "street": (216, 226, 236),
    "room": (240, 229, 212),
    "sky": (30, 40, 90),
    "page": (251, 249, 243),
}


@dataclass(frozen=True, slots=True)
class Mark:
    """A polygon of a setting, with its colour by day, and by night if that is not its darkened one.

    ``how`` a line drawing shows it: an ``area`` is outlined, a ``spot`` is filled, and a ``tone`` is filled faintly.
    """

    points: Points
    color: Color
    how: str = "area"
    night: Color | None = None


def dark(setting: str, time: str | None) -> bool:
    """Return whether things stand before a dark ground."""
    return time == "night" or setting == "sky"


def paint(setting: str, time: str | None, rng: np.random.Generator) -> tuple[Color, list[Mark]]:
    """Return the colour of all that lies behind, and the marks on it in the order of drawing."""
    sky, marks = _SKIES[setting], _PAINTERS[setting](rng)
    tint = rng.uniform(-3, 3, 3)
    if time == "night":
        sky = NIGHT_SKY
        marks = [Mark(mark.points, mark.night or _at_night(mark.color), mark.how) for mark in marks]
    return _moved(sky, tint), [Mark(mark.points, _moved(mark.color, tint), mark.how) for mark in marks]


def _at_night(color: Color) -> Color:
    r, g, b = color
    return 0.46 * r, 0.46 * g, 0.42 * b + 40


def _moved(color: Color, step: np.ndarray) -> Color:
    r, g, b = (float(min(max(c + d, 0), 255)) for c, d in zip(color, step, strict=True))
    return r, g, b


def _ground(rng: np.random.Generator, y: float, height: float, waves: float) -> Points:
    """Return hills from about y down to the bottom."""
    x = np.linspace(-0.05, 1.05, 24)
    phase = rng.uniform(0, 1, 2)
    top = y + height * (np.sin(2 * math.pi * (waves * x + phase[0])) + 0.4 * np.sin(2 * math.pi * (2.3 * waves * x + phase[1])))
    return np.concatenate([np.stack([x, top], 1), [(1.05, 1.1), (-0.05, 1.1)]])


def _page(rng: np.random.Generator) -> list[Mark]:
    return []


def _meadow(rng: np.random.Generator) -> list[Mark]:
    marks = [
        Mark(_ground(rng, 0.56, 0.03, 1.1), (190, 217, 168), night=(72, 108, 92)),
        Mark(_ground(rng, 0.68, 0.025, 0.8), (163, 203, 136), night=(58, 94, 76)),
    ]
    tuft = poly((-0.03, 0.01), (-0.036, -0.03), (-0.014, -0.006), (0.0, -0.05), (0.014, -0.006), (0.036, -0.03), (0.03, 0.01))
    for x, y, grow in zip(
        (np.arange(12) + rng.uniform(0, 1, 12)) / 12, rng.uniform(0.74, 0.98, 12), rng.uniform(0.7, 1.1, 12), strict=True
    ):
        marks.append(Mark(tuft * grow + (x, y), (118, 170, 98), "spot"))
    return marks


def _sea(rng: np.random.Generator) -> list[Mark]:
    marks = []
    rows = ((0.56, (150, 192, 216)), (0.68, (136, 181, 210)), (0.81, (121, 168, 202)), (0.93, (108, 157, 195)))
    for y, color in rows:
        x = np.linspace(-0.05, 1.05, 61)
        top = y + rng.uniform(-0.01, 0.01) - 0.026 * np.abs(np.sin(math.pi * (x * 6 + rng.uniform(0, 1))))
        marks.append(Mark(np.concatenate([np.stack([x, top], 1), [(1.05, 1.1), (-0.05, 1.1)]]), color))
    return marks


def _snow(rng: np.random.Generator) -> list[Mark]:
    marks = [Mark(_ground(rng, 0.6, 0.045, 0.9), (232, 239, 248)), Mark(_ground(rng, 0.74, 0.035, 0.7), (250, 252, 255))]
    columns, rows = np.meshgrid(np.arange(6), np.arange(6))
    x, y = (columns.ravel() + rng.uniform(0.1, 0.9, 36)) / 6, (rows.ravel() + rng.uniform(0.1, 0.9, 36)) / 6
    for cx, cy, r in zip(x, y, rng.uniform(0.008, 0.014, 36), strict=True):
        marks.append(Mark(disc(cx, cy, r, count=10), (255, 255, 255) if cy < 0.62 else (206, 219, 236), "spot", (196, 204, 228)))
    return marks


def _desert(rng: np.random.Generator) -> list[Mark]:
    def dune(y: float, height: float, waves: float) -> Points:
        x = np.linspace(-0.05, 1.05, 45)
        rise = (waves * x + rng.uniform(0, 1)) % 1
        crest = np.where(rise < 0.7, 0.5 - 0.5 * np.cos(math.pi * rise / 0.7), ((1 - rise) / 0.3) ** 1.4)
        return np.concatenate([np.stack([x, y - height * crest], 1), [(1.05, 1.1), (-0.05, 1.1)]])

    marks = [Mark(dune(0.66, 0.12, 1.4), (240, 218, 172)), Mark(dune(0.8, 0.1, 1.0), (231, 204, 152))]
    stems = (
        ([(0, 0), (0, -0.1), (0, -0.22)], 0.05),
        ([(0, -0.08), (0.07, -0.08), (0.075, -0.17)], 0.03),
        ([(0, -0.11), (-0.06, -0.11), (-0.065, -0.19)], 0.03),
    )
    for x, y, grow in ((rng.uniform(0.05, 0.14), 0.76, 1.0), (rng.uniform(0.84, 0.93), 0.7, 0.75)):
        foot = np.array((x, y))
        marks += [Mark(band(np.array(stem) * grow, width * grow) + foot, (196, 205, 160), "spot") for stem, width in stems]
    marks.append(Mark(dune(0.95, 0.07, 1.2), (222, 191, 137)))
    return marks


def _street(rng: np.random.Generator) -> list[Mark]:
    marks, left, count = [], -0.03, 6
    widths, tones = rng.uniform(0.8, 1.2, count) * 1.1 / count, rng.uniform(-10, 10, count)
    for width, tone, top in zip(widths, tones, rng.uniform(0.12, 0.42, count).tolist(), strict=True):
        right = left + width
        marks.append(Mark(box(left, top, right, 0.7), (188 + tone, 192 + tone, 200 + tone)))
        pane, lit = (214 + tone, 218 + tone, 226 + tone), (150, 146, 138)
        for k in range(math.ceil((0.555 - top) / 0.085)):
            y = top + 0.045 + 0.085 * k
            marks.append(Mark(box(left + 0.025, y, right - 0.025, y + 0.035), pane, "tone", lit))
        left = right
    marks += [Mark(box(-0.05, 0.68, 1.05, 0.75), (214, 212, 206)), Mark(box(-0.05, 0.75, 1.05, 1.1), (156, 158, 165))]
    start = rng.uniform(-0.2, 0)
    marks += [Mark(box(start + k * 0.24, 0.87, start + k * 0.24 + 0.13, 0.895), (236, 236, 226), "spot") for k in range(6)]
    return marks


def _room(rng: np.random.Generator) -> list[Mark]:
    shift = rng.uniform(0, 0.1)
    marks = [Mark(box(shift + k * 0.14, -0.05, shift + k * 0.14 + 0.05, 0.72), (233, 220, 200), "tone") for k in range(-1, 8)]
    x, y = (0.6 if rng.uniform() < 0.5 else 0.12) + rng.uniform(-0.02, 0.02), 0.1
    marks += [
        Mark(box(x, y, x + 0.28, y + 0.34), (250, 247, 240)),
        Mark(box(x + 0.025, y + 0.025, x + 0.127, y + 0.315), (218, 231, 238)),
        Mark(box(x + 0.153, y + 0.025, x + 0.255, y + 0.315), (218, 231, 238)),
        Mark(box(x - 0.03, y + 0.34, x + 0.31, y + 0.365), (250, 247, 240)),
    ]
    for side in (x - 0.05, x + 0.33):
        inner = 0.06 if side < x else -0.06
        marks.append(
            Mark(
                poly(
                    (side, y - 0.04),
                    (side + inner * 1.6, y - 0.04),
                    (side + inner, y + 0.2),
                    (side + inner * 0.6, y + 0.42),
                    (side, y + 0.42),
                ),
                (226, 206, 196),
            )
        )
    marks += [Mark(box(-0.05, 0.72, 1.05, 1.1), (208, 182, 150)), Mark(box(-0.05, 0.7, 1.05, 0.735), (250, 246, 238))]
    for k in range(-1, 8):
        marks.append(
            Mark(band([(0.5 + (k - 3.5 + shift) * 0.16, 0.735), (0.5 + (k - 3.5 + shift) * 0.3, 1.05)], 0.008), (186, 158, 126), "spot")
        )
    return marks


def _sky(rng: np.random.Generator) -> list[Mark]:
    columns, rows = np.meshgrid(np.arange(7), np.arange(7))
    x, y = (columns.ravel() + rng.uniform(0, 1, 49)) / 7, (rows.ravel() + rng.uniform(0, 1, 49)) / 7
    return [Mark(disc(cx, cy, r, count=6), (226, 228, 236), "spot") for cx, cy, r in zip(x, y, rng.uniform(0.004, 0.009, 49), strict=True)]


_PAINTERS = {
    "page": _page,
    "meadow": _meadow,
    "sea": _sea,
    "snow": _snow,
    "desert": _desert,
    "street": _street,
    "room": _room,
    "sky": _sky,
}
