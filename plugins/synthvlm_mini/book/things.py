"""The kinds of things as drawings: polygons in a box from -1 (top) to 1 (bottom), each with the part that the colour plays in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from synthvlm_mini.book.outlines import Points, arc, band, bow, box, dense, disc, normals, polar, poly, smooth, union

WIDEST = 1.08
"""Half the width of the widest things, in halves of their height: three large ones still fit in a row."""
MIDDLES = {"house": (0.0, 0.42), "tree": (0.0, -0.33), "cloud": (0.0, 0.14), "triangle": (0.0, 0.32)}
"""Where a thing stands that is inside another, if not at 0, 0."""


@dataclass(frozen=True, eq=False)
class Part:
    """A polygon of a thing.

    ``role`` says how its colour comes from the thing's: ``body`` (that colour), ``shade``, ``light`` or ``ink``. ``how``: an
    ``edge`` part belongs to the outline of the thing, a ``thin`` one too but has no room for an inner line (a mast), and a
    ``detail`` lies on other parts; a thing that holds another is drawn without its details.
    """

    role: str
    points: Points
    how: str = "edge"

    @cached_property
    def normals(self) -> Points:
        """The step outwards at every corner."""
        return normals(self.points)

    @cached_property
    def bendable(self) -> Points:
        """The polygon with short edges."""
        return dense(self.points, 0.15)

    @cached_property
    def bendable_normals(self) -> Points:
        """The step outwards at every corner of :attr:`bendable`."""
        return normals(self.bendable)


def _house() -> list[Part]:
    return [
        Part("shade", box(0.42, -0.92, 0.7, -0.2)),
        Part("body", box(-0.82, -0.1, 0.82, 1)),
        Part("shade", poly((-1.08, 0.0), (0, -1), (1.08, 0.0))),
        Part("ink", box(-0.16, 0.4, 0.2, 1), "detail"),
        Part("light", box(-0.64, 0.2, -0.32, 0.56), "detail"),
        Part("light", box(0.36, 0.2, 0.66, 0.56), "detail"),
    ]


def _tree() -> list[Part]:
    crown = polar(lambda a: 0.62 + 0.12 * abs(math.sin(3.5 * a + 0.2)), 0, -0.3, 70)
    return [
        Part("shade", poly((-0.13, 0.1), (0.13, 0.1), (0.15, 0.75), (0.27, 1), (-0.27, 1), (-0.15, 0.75))),
        Part("body", crown),
        Part("shade", band(arc(0.02, -0.28, 0.42, 0.42, 0.06, 0.3), 0.09), "detail"),
        Part("light", band(arc(0, -0.3, 0.42, 0.42, 0.52, 0.72), 0.09), "detail"),
    ]


def _sun() -> list[Part]:
    rays = []
    for k in range(8):
        turn = math.pi * k / 4
        ahead, across = np.array([math.sin(turn), -math.cos(turn)]), np.array([math.cos(turn), math.sin(turn)])
        rays.append(Part("body", np.array([ahead * 0.72 - across * 0.17, ahead, ahead * 0.72 + across * 0.17])))
    return [*rays, Part("body", disc(0, 0, 0.54))]


def _moon() -> list[Part]:
    start, stop = 0.115, 0.885
    outer = arc(0, 0, 1, 1, start, stop, 40)
    x, y = outer[0]
    centre = 0.52
    radius, turn = math.hypot(x - centre, y), math.atan2(y, x - centre) / (2 * math.pi)
    return [Part("body", np.concatenate([outer, arc(centre, 0, radius, radius, 1 - turn, turn, 30)]))]


def _star() -> list[Part]:
    corners = [(r * math.sin(math.pi * k / 5), -r * math.cos(math.pi * k / 5)) for k, r in enumerate((1, 0.43) * 5)]
    return [Part("body", np.array(corners))]


def _cloud() -> list[Part]:
    puffs = union(
        (-0.72, 0.2, 0.38), (-0.28, -0.16, 0.46), (0.3, -0.1, 0.4), (0.76, 0.22, 0.36), (0, 0.16, 0.44), (-0.3, 0.2, 0.38), (0.3, 0.2, 0.38)
    )
    puffs[:, 1] = np.minimum(puffs[:, 1], 0.52)  # flat below
    return [
        Part("body", puffs),
        Part("shade", band(arc(-0.28, -0.02, 0.3, 0.3, 0.56, 0.8), 0.07), "detail"),
        Part("shade", band(arc(0.36, 0.12, 0.3, 0.28, 0.58, 0.86), 0.07), "detail"),
    ]


def _car() -> list[Part]:
    body = smooth(
        *((-1.03, 0.62), (-1.02, 0.1), (-0.9, -0.08), (-0.68, -0.16), (-0.5, -0.8), (-0.34, -0.96), (0.2, -0.98)),
        *((0.4, -0.88), (0.68, -0.2), (0.96, -0.06), (1.03, 0.16), (1.03, 0.62), (0.9, 0.7), (-0.9, 0.7)),
    )
    wheels = [Part("ink", disc(x, 0.66, 0.33)) for x in (-0.56, 0.56)]
    hubs = [Part("light", disc(x, 0.66, 0.13, count=16), "detail") for x in (-0.56, 0.56)]
    return [
        Part("body", body),
        *wheels,
        *hubs,
        Part("light", poly((-0.47, -0.18), (-0.34, -0.74), (-0.04, -0.78), (-0.04, -0.18)), "detail"),
        Part("light", poly((0.1, -0.18), (0.1, -0.78), (0.24, -0.76), (0.5, -0.18)), "detail"),
    ]


def _boat() -> list[Part]:
    return [
        Part("ink", box(-0.1, -1, 0.02, 0.5), "thin"),
        Part("body", poly((0.08, -0.94), (0.36, -0.5), (0.62, 0.02), (0.72, 0.3), (0.08, 0.3))),
        Part("light", poly((-0.16, -0.72), (-0.16, 0.3), (-0.74, 0.3), (-0.44, -0.14))),
        Part("body", poly((-1.08, 0.44), (1.08, 0.44), (0.9, 0.74), (0.66, 1), (-0.66, 1), (-0.9, 0.74))),
        Part("shade", poly((-1.02, 0.56), (1.02, 0.56), (0.95, 0.7), (-0.95, 0.7)), "detail"),
    ]


def _fish() -> list[Part]:
    return [
        Part("shade", smooth((-0.3, -0.4), (-0.1, -0.9), (0.3, -1.0), (0.22, -0.5))),
        Part("shade", smooth((-0.2, 0.4), (0.0, 0.9), (0.34, 1.0), (0.28, 0.5))),
        Part("body", smooth((0.4, 0), (0.74, -0.42), (1.06, -0.72), (0.96, 0), (1.06, 0.72), (0.74, 0.42))),
        Part("body", smooth((-1.08, 0.06), (-0.8, -0.4), (-0.3, -0.68), (0.2, -0.56), (0.66, 0), (0.2, 0.56), (-0.3, 0.68), (-0.8, 0.44))),
        Part("shade", band(arc(-0.78, 0, 0.42, 0.6, -0.13, 0.13), 0.1), "detail"),
        Part("shade", band(arc(-0.36, 0, 0.42, 0.56, -0.12, 0.12), 0.1), "detail"),
        Part("light", disc(-0.68, -0.14, 0.16, count=20), "detail"),
        Part("ink", disc(-0.7, -0.14, 0.09, count=16), "detail"),
    ]


def _cat() -> list[Part]:
    head = smooth(
        *((-0.96, -0.98), (-0.62, -0.72), (-0.34, -0.5), (0, -0.54), (0.34, -0.5), (0.62, -0.72), (0.96, -0.98)),
        *((0.98, -0.4), (1.06, 0.2), (0.86, 0.68), (0.42, 0.96), (0, 1), (-0.42, 0.96), (-0.86, 0.68), (-1.06, 0.2), (-0.98, -0.4)),
    )
    ears = [Part("light", poly((s * 0.86, -0.72), (s * 0.84, -0.32), (s * 0.52, -0.46)), "detail") for s in (-1, 1)]
    eyes = [Part("light", disc(s * 0.42, 0.02, 0.2, 0.22, count=20), "detail") for s in (-1, 1)]
    pupils = [Part("ink", disc(s * 0.42, 0.03, 0.09, 0.19, count=16), "detail") for s in (-1, 1)]
    whiskers = [
        Part("ink", band([(s * 0.4, 0.52 + 0.5 * tilt), (s * 0.92, 0.46 + tilt)], 0.05), "detail") for s in (-1, 1) for tilt in (-0.1, 0.14)
    ]
    nose = Part("ink", poly((-0.15, 0.34), (0.15, 0.34), (0, 0.5)), "detail")
    mouth = [Part("ink", band(arc(s * 0.13, 0.5, 0.14, 0.17, 0.0, 0.5), 0.06), "detail") for s in (-1, 1)]
    return [Part("body", head), *ears, *eyes, *pupils, *whiskers, nose, *mouth]


def _bird() -> list[Part]:
    body = smooth(
        *((-0.5, -0.98), (-0.14, -0.92), (0.06, -0.6), (0.2, -0.3), (0.6, -0.14), (1.06, -0.34), (0.96, 0.06), (0.7, 0.46)),
        *((0.3, 0.7), (-0.2, 0.72), (-0.6, 0.5), (-0.8, 0.1), (-0.82, -0.3), (-0.84, -0.7)),
    )
    legs = [Part("ink", band([(x, 0.6), (x + 0.02, 0.95), (x - 0.24, 0.97)], 0.09), "thin") for x in (-0.2, 0.16)]
    return [
        *legs,
        Part("ink", poly((-0.76, -0.72), (-1.08, -0.48), (-0.78, -0.38))),
        Part("body", body),
        Part("shade", smooth((-0.24, -0.1), (0.1, -0.18), (0.42, 0.0), (0.7, 0.06), (0.4, 0.4), (0.04, 0.44), (-0.2, 0.24)), "detail"),
        Part("light", disc(-0.5, -0.6, 0.14, count=20), "detail"),
        Part("ink", disc(-0.52, -0.6, 0.08, count=14), "detail"),
    ]


def _flower() -> list[Part]:
    petals = polar(lambda t: 0.46 + 0.18 * abs(math.cos(3 * t + math.pi / 2)), 0, -0.36, 72)
    leaves = [Part("shade", smooth((0, 0.86), (s * 0.2, 0.5), (s * 0.66, 0.36), (s * 0.5, 0.72))) for s in (-1, 1)]
    return [
        Part("shade", box(-0.07, 0.1, 0.07, 1), "thin"),
        *leaves,
        Part("body", petals),
        Part("light", disc(0, -0.36, 0.2, count=24), "detail"),
    ]


def _ball() -> list[Part]:
    pole = (-0.22, -0.34)

    def panel(start: float, stop: float) -> Part:
        rim = arc(0, 0, 1, 1, start, stop, 10)
        return Part("light", np.concatenate([bow(pole, tuple(rim[0]), 0.12), rim[1:-1], bow(tuple(rim[-1]), pole, -0.12)[:-1]]), "detail")

    return [
        Part("body", disc(0, 0, 1, count=44)),
        *(panel(k / 3 + 0.03, k / 3 + 0.18) for k in range(3)),
        Part("body", disc(*pole, 0.15, count=20), "detail"),
    ]


def _umbrella() -> list[Part]:
    top = arc(0, 0.16, 1.06, 1.0, 0.5, 1.0, 26)
    scallops = [arc(x, 0.16, 0.265, 0.17, 1.0, 0.5, 9) for x in (0.795, 0.265, -0.265, -0.795)]
    handle = [(0, 0.0), (0, 0.3), (0, 0.55), (0, 0.78), *arc(0.17, 0.78, 0.17, 0.16, 0.5, 0.02, 10)]
    return [
        Part("ink", box(-0.05, -1, 0.05, -0.7), "thin"),
        Part("ink", band(handle, 0.11), "thin"),
        Part("body", np.concatenate([top, *scallops])),
        Part(
            "shade",
            np.concatenate(
                [
                    arc(0, 0.16, 0.53, 1.0, 0.75, 0.5, 12),
                    arc(-0.795, 0.16, 0.265, 0.17, 1.0, 0.5, 7),
                    arc(0, 0.16, 1.06, 1.0, 0.5, 0.75, 12),
                ]
            ),
            "detail",
        ),
        Part(
            "shade",
            np.concatenate([arc(0, 0.16, 0.53, 1.0, 0.75, 1.0, 12), arc(0.265, 0.16, 0.265, 0.17, 1.0, 0.5, 7), [(0, 0.16)]]),
            "detail",
        ),
    ]


_ARM = 0.34
_DRAWINGS = {
    "house": _house,
    "tree": _tree,
    "sun": _sun,
    "moon": _moon,
    "star": _star,
    "cloud": _cloud,
    "car": _car,
    "boat": _boat,
    "fish": _fish,
    "cat": _cat,
    "bird": _bird,
    "flower": _flower,
    "ball": _ball,
    "umbrella": _umbrella,
    "circle": lambda: [Part("body", disc(0, 0, 1, count=44))],
    "square": lambda: [Part("body", box(-0.96, -1, 0.96, 1))],
    "triangle": lambda: [Part("body", poly((0, -1), (WIDEST, 1), (-WIDEST, 1)))],
    "diamond": lambda: [Part("body", poly((0, -1), (0.8, 0), (0, 1), (-0.8, 0)))],
    "cross": lambda: [
        Part(
            "body",
            poly(
                *((-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM)),
                *((_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM)),
            ),
        )
    ],
}


@cache
def drawing(kind: str) -> tuple[Part, ...]:
    """Return the parts of a kind of thing in the order of drawing.

    All are centred at 0, 0 and reach from -1 to 1 in height, but for the cloud: in width it reaches :data:`WIDEST` before that.
    """
    parts = _DRAWINGS[kind]()
    corners = np.concatenate([part.points for part in parts])
    low, high = corners.min(0), corners.max(0)
    scale = float(np.min(np.array([2 * WIDEST, 2]) / (high - low)))
    return tuple(Part(part.role, (part.points - (low + high) / 2) * scale, part.how) for part in parts)
