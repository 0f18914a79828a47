"""The picture book's pictures: what is drawn, where, and that nothing moves but what should."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from synthvlm_mini.book.compose import RADII, Composition, compose, layout_boxes, masks
from synthvlm_mini.book.render import draw, render
from synthvlm_mini.book.scene import COLORS, CONTAINERS, KINDS, LAYOUTS, OUTDOORS, SETTINGS, SIZES, STYLES, TIMES, Scene, Thing, sample
from synthvlm_mini.book.silhouettes import silhouette
from synthvlm_mini.book.things import WIDEST, drawing


def alone(kind: str = "car", color: str = "red", size: str = "large", style: str = "flat", setting: str = "page", **rest: str) -> Scene:
    return Scene((Thing(kind, color, size),), rest.get("layout", "middle"), setting, rest.get("time"), style)


def pair(first: Thing, second: Thing, layout: str) -> Scene:
    return Scene((first, second), layout, "page", None, "flat")


def composed(scene: Scene, seed: int = 0) -> Composition:
    return compose(scene, np.random.default_rng(seed))


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(one.astype(int) - other.astype(int)).max(axis=2)


# Pictures


def test_a_picture_repeats_by_its_seed_and_changes_with_it():
    rng = random.Random(3)
    for scene in (sample(rng) for _ in range(30)):
        one = render(scene, seed=5)
        assert one.shape == (128, 128, 3) and one.dtype == np.uint8
        assert (one == render(scene, seed=5)).all()
        assert (one == render(scene, seed=np.random.default_rng(5))).all()
        assert (one == draw(composed(scene, 5))).all()
        assert difference(one, render(scene, seed=6)).max() > 20


def test_a_scene_with_unknown_attributes_is_refused():
    with pytest.raises(ValueError, match="cannot be drawn"):
        render(alone().without("color"))


@pytest.mark.parametrize("size", [32, 64, 96, 256])
def test_pictures_of_other_sizes_show_the_same(size):
    # Means over a coarse grid hardly depend on the size; the crayon's grain does.
    for style, setting in itertools.product(("flat", "outline"), SETTINGS):
        scene = alone(style=style, setting=setting, **({"time": "day"} if setting in OUTDOORS else {}))
        large, other = (render(scene, n).reshape(8, n // 8, 8, n // 8, 3).mean((1, 3)) for n in (128, size))
        assert np.abs(large - other).max() < 30


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_shows_in_every_color_size_and_style(kind):
    for color, size, style in itertools.product(COLORS, SIZES, STYLES):
        for setting, time in (("page", None), ("meadow", "night"), ("sky", None)):
            rest = {"time": time} if time else {}
            scene = alone(kind, color, size, style, setting, **rest)
            other = alone(kind, "blue" if color != "blue" else "red", size, style, setting, **rest)
            changed = difference(render(scene), render(other)) > 25
            covered = masks(composed(scene))[0].sum() / 256
            # Another colour shows in much of the thing, or in its lines.
            assert changed.mean() > (0.12 if style == "outline" else 0.5) * covered


def test_the_color_is_the_thing_s_own():
    for kind, color in itertools.product(KINDS, COLORS):
        scene = alone(kind, color, "large", "flat")
        inside = masks(composed(scene), 128)[0] > 0.99
        pixels = render(scene)[inside].astype(int)
        nearest = np.abs(pixels[:, None] - np.array(list(COLORS.values()))).sum(2).argmin(1)
        own = (nearest == list(COLORS).index(color)).mean()
        assert own > 0.4 and own == max((nearest == i).mean() for i in range(len(COLORS))), (kind, color)


def test_settings_times_and_styles_differ_everywhere():
    looks = {}
    for setting, time, style in itertools.product(SETTINGS, TIMES, STYLES):
        if time == "day" or setting in OUTDOORS:
            scene = alone("diamond", "red", "small", style, setting, **({"time": time} if setting in OUTDOORS else {}))
            looks[setting, time, style] = render(scene)
    for one, other in itertools.combinations(looks, 2):
        assert difference(looks[one], looks[other]).mean() > 2, (one, other)
    for setting, style in itertools.product(OUTDOORS, STYLES):
        assert looks[setting, "day", style][:30].mean() > looks[setting, "night", style][:30].mean() + 60


# Where things are


def test_things_span_their_box():
    for kind in KINDS:
        corners = np.concatenate([part.points for part in drawing(kind)])
        low, high = corners.min(0), corners.max(0)
        assert low == pytest.approx(-high, abs=1e-9)
        assert high[0] <= WIDEST + 1e-9 and high[1] <= 1 + 1e-9
        assert high[1] > 0.985 or kind == "cloud"
        assert np.abs(silhouette(kind).points.mean(0)).max() < 0.4
    # No two kinds are alike, not even the right way round in the mirror.
    for one, other in itertools.combinations(KINDS, 2):
        a, b = silhouette(one).grid, silhouette(other).grid
        if {one, other} != {"ball", "circle"}:
            assert all((a & c).sum() / (a | c).sum() < 0.9 for c in (b, b[:, ::-1]))
    assert len(drawing("ball")) > len(drawing("circle"))


def test_everything_is_in_the_picture_and_stands_as_the_layout_says():
    rng = random.Random(11)
    for seed in range(3000):
        scene = sample(rng)
        places = composed(scene, seed).placements
        for p in places:
            assert p.half_width <= p.x <= 1 - p.half_width and p.radius <= p.y <= 1 - p.radius
        assert layout_boxes(scene, seed) == [(p.x, p.y, p.radius) for p in places]
        x, y = [p.x for p in places], [p.y for p in places]
        if scene.layout == "row":
            assert all(b.x - a.x > a.half_width + b.half_width for a, b in itertools.pairwise(places))
            assert max(y) - min(y) < 0.09
        elif scene.layout == "column":
            assert all(b.y - a.y > a.radius + b.radius for a, b in itertools.pairwise(places))
            assert max(x) - min(x) < 0.09
        elif scene.layout == "square":
            assert max(x[0], x[2]) < 0.5 < min(x[1], x[3]) and max(y[0], y[1]) < 0.5 < min(y[2], y[3])
        elif scene.layout in ("left", "right", "top", "bottom"):
            axis, sign = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}[str(scene.layout)]
            offset = [x[0] - 0.5, y[0] - 0.5]
            assert sign * offset[axis] > 0.13 > 0.05 > abs(offset[1 - axis])


def test_sizes_stay_apart():
    for count in LAYOUTS:
        if count:
            small, medium, large = RADII[count]
            assert small * 1.04 < medium * 0.96 and medium * 1.04 < large * 0.96
    for seed in range(30):
        for size, radius in zip(SIZES, RADII[1], strict=True):
            assert layout_boxes(alone(size=size), seed)[0][2] == pytest.approx(radius, rel=0.041)


@pytest.mark.parametrize("layout", ["on", "behind"])
def test_relations_hold_for_all_kinds_and_sizes(layout):
    for seed, (one, other) in enumerate(itertools.product(KINDS, KINDS)):
        sizes = SIZES[seed % 3], SIZES[seed // 3 % 3]
        first, second = composed(pair(Thing(one, "red", sizes[0]), Thing(other, "blue", sizes[1]), layout), seed).placements
        hidden, hiding = second.covers(first.points).mean(), first.covers(second.points).mean()
        if layout == "behind":
            assert hidden < 0.45 and max(hidden, hiding) > 0.15
            assert first.y <= second.y and abs(first.x - second.x) > 0.02
        else:
            # They touch: a little further down they overlap, and as they are they hardly do.
            assert hidden < 0.08 and abs(first.x - second.x) < 0.02
            assert second.covers(replace(first, y=first.y + 0.012).points).any(), (one, other)
            assert second.y - first.y > 0.1


def test_what_is_inside_is_well_within():
    for seed, (inner, outer) in enumerate(itertools.product(KINDS, CONTAINERS)):
        composition = composed(pair(Thing(inner, "red", "small"), Thing(outer, "blue", "large"), "inside"), seed)
        first, second = composition.placements
        assert second.covers(replace(first, radius=first.radius * 1.15).points).all(), (inner, outer)
        assert composition.order == (1, 0) and second.bare and not first.bare


def test_masks_tell_what_is_visible():
    rng = random.Random(2)
    for seed in range(200):
        composition = composed(sample(rng), seed)
        shares = masks(composition)
        assert shares.shape == (len(composition.placements), 16, 16) and shares.dtype == np.float32
        assert shares.min() >= 0 and shares.max() <= 1
        if composition.scene.layout not in ("on", "behind", "inside"):
            for share, place in zip(shares, composition.placements, strict=True):
                solid = silhouette(place.kind).grid.mean() * (2.3 * place.radius) ** 2
                assert share.sum() / 256 == pytest.approx(solid, rel=0.15)
    first, second = masks(composed(pair(Thing("circle", "red", "large"), Thing("circle", "blue", "large"), "behind")))
    assert 0.55 < first.sum() / second.sum() < 0.8
    composition = composed(pair(Thing("circle", "red", "small"), Thing("square", "blue", "large"), "inside"))
    inner, outer = masks(composition)
    row, column = int(composition.placements[0].y * 16), int(composition.placements[0].x * 16)
    assert outer[row, column] == 0 and inner[row, column] == pytest.approx(1, abs=0.1)
    assert outer.sum() > 3 * inner.sum()


# One attribute changes alone


@pytest.mark.parametrize("setting", ["page", "street"])
@pytest.mark.parametrize("style", ["flat", "outline"])
def test_another_thing_or_color_changes_pixels_only_there(style, setting):
    time = "day" if setting in OUTDOORS else None
    things = Thing("tree", "red", "large"), Thing("fish", "blue", "medium")
    scene = Scene(things, "row", setting, time, style)
    right = masks(composed(scene))[1]
    near = np.kron(np.max([np.roll(right, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)], axis=0) > 0, np.ones((8, 8))) > 0
    for other in (replace(things[1], color="yellow"), replace(things[1], kind="square"), replace(things[1], size="small")):
        changed = difference(render(scene), render(replace(scene, things=(things[0], other)))) > 8
        assert changed[near].any() and not changed[~near].any()


def test_another_setting_or_style_leaves_things_in_place():
    scene = alone("star", "red", "medium", setting="meadow", time="night")
    inner = masks(composed(scene), 128)[0] > 0.99
    for other in (replace(scene, setting="sea"), replace(scene, setting="street", time="night")):
        assert layout_boxes(scene, 0) == layout_boxes(other, 0)
        changed = difference(render(scene), render(other))
        assert changed[inner].mean() < 6 < changed[~inner].mean()
    for style in STYLES[1:]:
        assert layout_boxes(scene, 0) == layout_boxes(replace(scene, style=style), 0)
