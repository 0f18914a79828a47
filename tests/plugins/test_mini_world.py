"""The miniature world: scenes, pictures, captions, and that each says the same as the others."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthvlm_mini import world
from synthvlm_mini.world import Scene, Thing

EXAMPLES = Path(__file__).parents[2] / "examples" / "captions.json"
RED_CIRCLE = Thing("circle", "red", "large")
BLUE_STAR = Thing("star", "blue", "small")

unhurried = settings(deadline=None)  # the machine may be busy

things = st.builds(Thing, st.sampled_from(world.SHAPES), st.sampled_from(list(world.COLORS)), st.sampled_from(world.SIZES))


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    chosen = draw(st.lists(things, min_size=1, max_size=3))
    layout = draw(st.sampled_from(world.layouts(len(chosen))))
    rest = (draw(st.sampled_from(list(values))) for values in (world.BACKGROUNDS, world.PATTERNS, world.STYLES))
    return Scene(tuple(chosen), layout, *rest)


# Scenes


def test_scenes_refuse_what_the_world_does_not_have() -> None:
    with pytest.raises(ValueError, match="no shape 'dog'; it has: circle"):
        Thing("dog")
    with pytest.raises(ValueError, match="no layout 'row'; it has: middle"):
        Scene((RED_CIRCLE,), "row")
    with pytest.raises(ValueError, match="at most 3 things"):
        Scene((RED_CIRCLE,) * 4)


def test_samples_repeat_and_cover_the_world() -> None:
    rng = random.Random(1)
    drawn = [world.sample(rng) for _ in range(2000)]
    again = random.Random(1)
    assert drawn == [world.sample(again) for _ in range(2000)]
    assert all(scene.complete for scene in drawn)
    assert {scene.layout for scene in drawn} == {*world.layouts(1), *world.layouts(2)}
    assert {(t.shape, t.color, t.size) for s in drawn for t in s.things} == {
        (shape, color, size) for shape in world.SHAPES for color in world.COLORS for size in world.SIZES
    }
    # One in ten combinations was kept from the weights.
    assert 0.08 < sum(map(world.held_out, drawn)) / len(drawn) < 0.12


@pytest.mark.parametrize(
    ("caption", "held_out"),
    [
        ("A line drawing of a small red circle on the right on a dotted cream background.", True),
        ("A crayon drawing of a small green star on the left on a checkered light blue background.", True),
        ("A flat illustration of a large red circle in the middle on a plain white background.", False),
    ],
)
def test_the_split_is_that_of_the_training_run(caption: str, held_out: bool) -> None:
    scene = world.parse(caption)
    assert scene is not None
    assert world.held_out(scene) is held_out


@unhurried
@given(scenes(), st.integers(0, 2**32))
def test_corrupt_changes_exactly_one_thing(scene: Scene, seed: int) -> None:
    for what in world.corruptions(scene):
        other, changed = world.corrupt(scene, random.Random(seed), what)
        assert changed == what
        assert other.complete
        agreement = world.agree(scene, other)
        wrong = {name for name, value in agreement.items() if value < 1}
        if what == "swap":
            assert sorted(map(repr, other.things)) == sorted(map(repr, scene.things))
            assert wrong <= {"color", "shape", "size"}
            assert wrong
        else:
            assert wrong == {what}
        assert agreement["count"] == 1
        moved = [(a, b) for a, b in zip(scene.things, other.things, strict=True) if a != b]
        assert len(moved) == {"swap": 2, "color": 1, "shape": 1, "size": 1}.get(what, 0)


def test_corrupt_names_what_is_possible() -> None:
    twins = Scene((RED_CIRCLE, RED_CIRCLE), "row", "white", "plain", "flat")
    assert "swap" not in world.corruptions(twins)
    with pytest.raises(ValueError, match="cannot corrupt swap in this scene; possible: color, shape"):
        world.corrupt(twins, random.Random(0), "swap")
    with pytest.raises(ValueError, match="nothing"):
        world.corrupt(Scene(), random.Random(0))
    # A partial scene stays as partial.
    assert world.corrupt(Scene((Thing("star", "red"),)), random.Random(0), "color")[0].known == {"count", "shape", "color"}


def test_agreement_counts_missing_and_surplus_things() -> None:
    truth = Scene((RED_CIRCLE, BLUE_STAR), "row", "white", "plain", "flat")
    assert set(world.agree(truth, truth).values()) == {1.0}
    assert world.agree(truth, Scene((RED_CIRCLE,), "left", "white", "plain", "flat")) == {
        "count": 0.0,
        "layout": 0.0,
        "background": 1.0,
        "pattern": 1.0,
        "style": 1.0,
        "color": 0.5,
        "shape": 0.5,
        "size": 0.5,
    }
    assert world.agree(Scene((RED_CIRCLE,)), truth) == {"count": 0.0, "color": 0.5, "shape": 0.5, "size": 0.5}
    assert set(world.agree(truth, None).values()) == {0.0}
    assert world.agree(Scene(background="pink"), truth) == {"background": 0.0}


# Pictures


@unhurried
@given(scenes(), st.integers(0, 2**32))
def test_pictures_depend_on_scene_and_seed_alone(scene: Scene, seed: int) -> None:
    picture = world.render(scene, 64, seed)
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, world.render(scene, 64, seed))
    assert not np.array_equal(picture, world.render(scene, 64, seed + 1))


@pytest.mark.parametrize("shape", world.SHAPES)
def test_shapes_have_their_area_and_are_antialiased(shape: str) -> None:
    picture = world.render(Scene((Thing(shape, "black", "large"),), "middle", "white", "plain", "flat"), 256, 3).astype(float)
    radius = 0.15 * 1.25
    area = {
        "circle": np.pi,
        "square": 4 * 0.88**2,
        "diamond": 2 * 0.92 * 1.15,
        "triangle": 1.06 * (1.095 + 0.74),
        # Ten triangles round the centre, each of 36 degrees between an outer and an inner vertex.
        "cross": 4 * (2 * 0.34 - 0.34**2),
        "star": 10 * 0.5 * 1.1**2 * 0.45 * np.sin(np.pi / 5),
    }[shape]
    darkness = (picture.max() - picture.mean(2)) / (picture.max() - picture.min())
    assert darkness.mean() == pytest.approx(area * radius**2, rel=0.15)  # the radius varies by 5%
    assert len(np.unique(picture)) > 10  # an aliased picture has two values a channel


def test_patterns_styles_and_sizes_show() -> None:
    def picture(style: str = "flat", pattern: str = "plain", size: str = "large") -> np.ndarray:
        return world.render(Scene((Thing("square", "red", size),), "middle", "white", pattern, style), 64, 0).astype(float)

    corner = (slice(0, 16), slice(0, 16))
    assert picture()[corner].std(axis=(0, 1)).max() < 1
    assert all(picture(pattern=pattern)[corner].std(axis=(0, 1)).min() > 5 for pattern in ("striped", "dotted", "checkered"))
    redness = {style: (picture(style)[..., 0] - picture(style)[..., 2]).mean() for style in world.STYLES}
    assert redness["flat"] > redness["crayon"] > redness["outline"]
    assert (picture()[..., 2] < 128).sum() > 2 * (picture(size="small")[..., 2] < 128).sum()


def test_an_incomplete_scene_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="unknown attributes"):
        world.render(Scene((RED_CIRCLE,), "left"))


# Captions


@unhurried
@given(scenes(), st.integers(0, world.PHRASINGS - 1))
def test_detailed_captions_read_back(scene: Scene, phrasing: int) -> None:
    caption = world.detail(scene, phrasing)
    assert world.parse(caption) == scene
    assert world.parse(caption.upper().replace(" ", "  ").removesuffix(".")) == scene


@unhurried
@given(scenes(), st.integers(0, 2**32))
def test_partial_captions_read_back_as_far_as_they_tell(scene: Scene, seed: int) -> None:
    for caption in (world.medium(scene, random.Random(seed)), world.brief(scene), world.sentence(scene)):
        read = world.parse(caption)
        assert read is not None
        assert {"count", "shape", "color"} <= read.known
        assert set(world.agree(read, scene).values()) == {1.0}
        assert not read.complete


@unhurried
@given(scenes())
def test_every_perspective_stays_in_the_world(scene: Scene) -> None:
    for name, write in world.PERSPECTIVES.items():
        caption = write(scene)
        assert not world.outside(caption), (name, caption)
        words = caption.lower().replace(",", "").replace(".", "").split()
        assert set(words) <= world.vocabulary(), (name, caption)


@unhurried
@given(scenes(), st.sampled_from(["color", "size", "layout", "background", "pattern", "style"]), st.integers(0, 2))
def test_what_is_not_known_is_not_told(scene: Scene, forgotten: str, phrasing: int) -> None:
    partial = scene.without(forgotten)
    assert world.parse(world.detail(partial, phrasing)) == partial


@pytest.mark.parametrize(
    ("perspective", "caption"),
    [
        ("detail", "A crayon drawing of a large red circle to the left of a small blue star on a dotted pink background."),
        ("brief", "A red circle and a blue star."),
        ("sentence", "There is a red circle to the left of a blue star on a pink background."),
        ("nouns", "circle, star, background, dots"),
        ("style", "It is a crayon drawing that uses red and blue."),
        ("background", "The background is pink with dots."),
        ("main", "The main object is a large red circle on the left."),
    ],
)
def test_perspectives(perspective: str, caption: str) -> None:
    scene = Scene((RED_CIRCLE, BLUE_STAR), "row", "pink", "dotted", "crayon")
    assert world.PERSPECTIVES[perspective](scene) == caption


@pytest.mark.parametrize(
    ("caption", "scene"),
    [
        ("An orange star", Scene((Thing("star", "orange"),))),
        ("A red circle to the right of a blue star.", Scene((Thing("star", "blue"), Thing("circle", "red")), "row")),
        ("To the left of a blue star is a red circle.", Scene((Thing("circle", "red"), Thing("star", "blue")), "row")),
        ("A blue star below a red circle", Scene((Thing("circle", "red"), Thing("star", "blue")), "column")),
        ("A star on the right and a circle on the left.", Scene((Thing("circle"), Thing("star")), "row")),
        ("At the top, a star; at the bottom, a cross.", Scene((Thing("star"), Thing("cross")), "column")),
        ("A star above a cross above a circle", Scene((Thing("star"), Thing("cross"), Thing("circle")), "column")),
        ("The circle is red and the square is large.", Scene((Thing("circle", "red"), Thing("square", None, "large")))),
        ("A large, red circle on plain cream", Scene((RED_CIRCLE,), None, "cream", "plain")),
        ("The background is white and dotted.", Scene((), None, "white", "dotted")),
        ("It is a line drawing that uses red, blue and green.", Scene(style="outline")),
    ],
)
def test_natural_phrasings(caption: str, scene: Scene) -> None:
    assert world.parse(caption) == scene


@pytest.mark.parametrize(
    "caption",
    [
        "A dog behind a window",
        "The bus in the image is white and red. The back of the bus features an advertisement.",
        "A red starfish",  # begins as a word that is known
        "A white circle on a pink background.",  # white is for backgrounds
        "A striped circle",
        "A red background",
        "A red blue circle",
        "A circle with white dots",
        "A circle on a pink background. The background is gray.",
        "A circle, a circle, a circle and a circle",
        "A circle above a star to the left of a cross",
        "A circle in a row from left to right",
        "A circle on the left and a star at the top",
        "",
        " . ",
        "A picture",
    ],
)
def test_what_is_outside_the_world(caption: str) -> None:
    assert world.parse(caption) is None
    assert world.outside(caption)


@unhurried
@given(st.text())
def test_any_text_can_be_asked_about(caption: str) -> None:
    assert world.outside(caption) is (world.parse(caption) is None)


# The examples


def test_the_examples_are_in_the_world_and_cover_it() -> None:
    rows = json.loads(EXAMPLES.read_text(encoding="utf-8"))
    assert [set(row) for row in rows] == [{"id", "caption"}] * 64
    assert [row["id"] for row in rows] == list(range(1, 65))
    assert len({row["caption"] for row in rows}) == 64
    read = [world.parse(row["caption"]) for row in rows]
    parsed = [scene for scene in read if scene]
    assert len(parsed) == 64
    assert {len(scene.things) for scene in parsed} == {1, 2, 3}
    assert {scene.background for scene in parsed} >= set(world.BACKGROUNDS)
    assert {scene.pattern for scene in parsed} >= set(world.PATTERNS)
    assert {scene.style for scene in parsed} >= set(world.STYLES)
    assert {thing.shape for scene in parsed for thing in scene.things} == set(world.SHAPES)
    assert {thing.color for scene in parsed for thing in scene.things} >= set(world.COLORS)
    assert {scene.layout for scene in parsed} >= {*world.layouts(1), *world.layouts(2)}
