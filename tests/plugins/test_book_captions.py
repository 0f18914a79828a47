"""The picture book in words: captions tell what is so, reading them back gives what they told, and nothing else is read."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthvlm_mini.book.captions import PERSPECTIVES, PHRASINGS, brief, caption, detail, medium, part, sentence
from synthvlm_mini.book.reading import outside, parse, vocabulary
from synthvlm_mini.book.records import as_dict, from_dict, load
from synthvlm_mini.book.scene import COLORS, KINDS, LAYOUTS, SETTINGS, SIZES, STYLES, TIMES, Scene, Thing, corrupt, corruptions, sample
from synthvlm_mini.book.words import ARRANGEMENTS, CLAUSES, PLACES

HANDWRITTEN = Path(__file__).parents[2] / "plugins" / "synthvlm_mini" / "train" / "handwritten.json"
CAT, HOUSE, BALL, STAR = (Thing(kind) for kind in ("cat", "house", "ball", "star"))
NIGHT_HOUSE = Scene((Thing("cat", "black", "small"), Thing("house", "red", "large")), "inside", "snow", "night", "crayon")

unhurried = settings(deadline=None)  # the machine may be busy


def drawn(count: int, seed: int = 0) -> list[Scene]:
    rng = random.Random(seed)
    return [sample(rng) for _ in range(count)]


# Captions read back


def test_whatever_a_caption_tells_is_read_back() -> None:
    for seed, scene in enumerate(drawn(5000)):
        assert parse(told := caption(scene, random.Random(seed))) == scene, told
        assert parse(told := medium(scene, random.Random(seed))) == part(scene, random.Random(seed)), told


def test_every_detail_brief_and_sentence_is_read_back() -> None:
    for scene in drawn(2000, seed=1):
        for phrasing in range(PHRASINGS):
            assert parse(detail(scene, phrasing)) == scene
        assert parse(brief(scene)) == scene.without("size", "layout", "setting", "style")
        assert parse(sentence(scene)) == scene.without("size", "time", "style")


def test_what_is_not_known_is_not_told() -> None:
    for seed, scene in enumerate(drawn(1000, seed=2)):
        for forgotten in ("color", "size", "layout", "setting", "time", "style"):
            partial = scene.without(forgotten)
            assert parse(detail(partial, seed % PHRASINGS)) == partial
            assert parse(caption(partial, random.Random(seed))) == partial


def test_a_part_is_less_than_the_whole() -> None:
    for seed, scene in enumerate(drawn(1000, seed=3)):
        left = part(scene, random.Random(seed))
        assert left != scene
        assert [thing.kind for thing in left.things] == [thing.kind for thing in scene.things]


def test_every_corruption_can_be_told() -> None:
    for seed, scene in enumerate(drawn(1000, seed=4)):
        for what in corruptions(scene):
            other, _ = corrupt(scene, random.Random(seed), what)
            assert parse(detail(other)) == other
            assert detail(other) != detail(scene)


def test_every_way_to_say_it_is_used_and_read() -> None:
    rng = random.Random(5)
    for (count, layout), templates in [*ARRANGEMENTS.items(), *CLAUSES.items()]:
        kinds = ("house", "cat") if layout != "inside" else ("cat", "house")
        scene = Scene(tuple(Thing(kind) for kind in (*kinds, "ball", "star")[:count]), layout)
        words = {name: thing.kind for name, thing in zip("abcd", scene.things)}
        names = [f"a {word}" for word in words.values()]
        lists = {"all": ", ".join(names), "first": " and ".join(names[:2]), "last": " and ".join(names[2:])}
        for template in templates:
            assert parse(template.format(**{name: f"a {word}" for name, word in words.items()}, **lists)) == scene, template
    written = {caption(scene, rng) for scene in [NIGHT_HOUSE] * 400}
    assert len(written) > 350
    assert all(parse(text) == NIGHT_HOUSE for text in written)


@unhurried
@given(st.integers(0, 2**32), st.sampled_from([str.upper, str.title, str.swapcase]))
def test_case_spaces_and_the_last_stop_do_not_matter(seed: int, case: Callable[[str], str]) -> None:
    rng = random.Random(seed)
    scene = sample(rng)
    text = caption(scene, rng)
    assert parse(case(text).replace(" ", "  ").removesuffix(".")) == scene
    assert parse(f"  {text.replace(' and ', ' & ').replace(', ', ' , ')} \n") == scene


def test_the_vocabulary_covers_all_and_captions_are_short() -> None:
    known, longest = vocabulary(), 0
    for seed, scene in enumerate(drawn(3000, seed=6)):
        rng = random.Random(seed)
        for text in (caption(scene, rng), medium(scene, rng), *(say(scene) for say in PERSPECTIVES.values())):
            assert set(re.findall(r"[a-z]+", text.lower())) <= known, text
            longest = max(longest, len(re.findall(r"\w+|[^\w\s]", text)))
    assert 40 < longest <= 60


# Perspectives


@pytest.mark.parametrize(
    ("perspective", "text"),
    [
        ("detail", "A crayon drawing of a small black cat inside a large red house in the snow at night."),
        ("brief", "A black cat and a red house."),
        ("sentence", "There is a black cat inside a red house in the snow."),
        ("nouns", "cat, house, snow"),
        ("style", "A crayon drawing of a nighttime scene that uses black and red."),
        ("background", "The background is a snowy field at night."),
        ("main", "The main thing is a large red house around the other."),
    ],
)
def test_perspectives(perspective: str, text: str) -> None:
    assert PERSPECTIVES[perspective](NIGHT_HOUSE) == text


def test_perspectives_differ_and_stay_in_the_world() -> None:
    for scene in drawn(2000, seed=7):
        said = {name: say(scene) for name, say in PERSPECTIVES.items()}
        assert len(set(said.values())) == len(said)
        assert not any(map(outside, said.values())), said
        assert not set(re.findall(r"[a-z]+", said["style"].lower())) & {thing.kind for thing in scene.things}


def test_the_main_thing_is_the_first_of_the_largest() -> None:
    three = tuple(Thing(kind, "red", size) for kind, size in (("cat", "medium"), ("ball", "large"), ("star", "large")))
    assert PERSPECTIVES["main"](Scene(three, "row", "room", None, "flat")) == "The main thing is a large red ball in the middle."
    assert PERSPECTIVES["main"](Scene(three[:1], "top", "room", None, "flat")) == "The main thing is a medium-sized red cat at the top."


def test_every_layout_has_places() -> None:
    assert set(PLACES) == {(count, layout) for count, layouts in LAYOUTS.items() for layout in layouts}
    assert all(len(places) == count for (count, _), places in PLACES.items())


# What people write


@pytest.mark.parametrize(
    ("text", "scene"),
    [
        ("A photo of an orange kitten", Scene((Thing("cat", "orange"),))),
        ("a cat to the right of a house", Scene((HOUSE, CAT), "row")),
        ("To the left of the house is a cat.", Scene((CAT, HOUSE), "row")),
        ("A house with a cat on its right", Scene((HOUSE, CAT), "row")),
        ("A house. Behind it there is a cat.", Scene((CAT, HOUSE), "behind")),
        ("A cat at the bottom; a house at the top.", Scene((HOUSE, CAT), "column")),
        ("In the foreground a cat, in the background a house", Scene((HOUSE, CAT), "behind")),
        ("A house and a cat. The house is large, the cat is inside the house.", Scene((CAT, Thing("house", None, "large")), "inside")),
        ("The small ball is above the red ball.", Scene((Thing("ball", None, "small"), Thing("ball", "red")), "column")),
        ("A large red ball & a small one", Scene((Thing("ball", "red", "large"), Thing("ball", None, "small")))),
        ("Two cats above two balls", Scene((CAT, CAT, BALL, BALL), "square")),
        ("Top left a cat, top right a ball, bottom left a star, bottom right a house", Scene((CAT, BALL, STAR, HOUSE), "square")),
        ("Three red balls: a cat", None),
        ("Two balls in a row: a red ball and a small ball", Scene((Thing("ball", "red"), Thing("ball", None, "small")), "row")),
        ("A cat on a house on a city street", Scene((CAT, HOUSE), "on", "street")),
        ("A cat in a house in a room", Scene((CAT, HOUSE), "inside", "room")),
        ("A house with a cat inside indoors", Scene((CAT, HOUSE), "inside", "room")),
        ("A cat on the left side of a street", Scene((CAT,), "left", "street")),
        ("A cat over a ball, with the ocean in the background", Scene((CAT, BALL), "column", "sea")),
        ("Under the night sky in a meadow, a cat", Scene((CAT,), None, "meadow", "night")),
        ("A star in the sky at night", Scene((STAR,), None, "sky")),
        ("It's night in the desert: a cat", Scene((CAT,), None, "desert", "night")),
        ("A crayon-drawn cat in the centre, coloured red", None),
        ("The sea by day", Scene((), None, "sea", "day")),
        ("Pen and ink", Scene(style="outline")),
    ],
)
def test_natural_wordings(text: str, scene: Scene | None) -> None:
    assert parse(text) == scene


@pytest.mark.parametrize(
    "text",
    [
        "A dog behind a window",
        "Two women on a beach",
        "The bus in the image is white and red. The back of the bus features an advertisement.",
        "A redhouse",
        "A white house",
        "A light blue car",
        "A red and blue ball",
        "A large meadow",
        "A cat and a bird on a house",  # one of them, or both?
        "A cat on a house under a cloud",  # two relations
        "A cat inside a bird",
        "A red cat inside a red house",
        "A room at night",
        "A cat in the snow. A ball in the desert.",
        "A cat above a ball, side by side",
        "Two cats and a ball. The cat is red.",  # which?
        "A cat on the left and a ball at the top",
        "A cat at the top left",
        "A cat above",
        "A cat behind the sea",
        "cats",
        "Two cat",
        "Four things: a cat",
        "A cat, a cat, a cat, a cat and a cat",
        "A flat illustration drawn in crayon of a cat",
        "The cat is red. The cat is blue.",
        "A cat, large",
        "A star in the sky",  # by day there is none
        "",
        " . ",
        "A picture",
    ],
)
def test_what_is_outside_the_world(text: str) -> None:
    assert parse(text) is None
    assert outside(text)


@unhurried
@given(st.text() | st.lists(st.sampled_from(sorted(vocabulary())), max_size=12).map(" ".join))
def test_any_text_can_be_asked_about(text: str) -> None:
    assert outside(text) is (parse(text) is None)


# The captions written by hand


def test_handwritten_captions_mean_what_is_written_beside_them() -> None:
    rows = load(HANDWRITTEN)
    assert len({text for text, _ in rows}) == 100
    for text, scene in rows:
        assert parse(text) == scene, text
        assert from_dict(as_dict(scene)) == scene


def test_handwritten_captions_cover_the_world() -> None:
    scenes = [scene for _, scene in load(HANDWRITTEN)]
    things = [thing for scene in scenes for thing in scene.things]
    assert {thing.kind for thing in things} == set(KINDS)
    assert {thing.color for thing in things} >= set(COLORS)
    assert {thing.size for thing in things} >= set(SIZES)
    assert {scene.layout for scene in scenes} >= {layout for layouts in LAYOUTS.values() for layout in layouts}
    assert {scene.setting for scene in scenes} >= set(SETTINGS)
    assert {scene.time for scene in scenes} >= set(TIMES)
    assert {scene.style for scene in scenes} >= set(STYLES)
    assert {len(scene.things) for scene in scenes} == {1, 2, 3, 4}
    assert sum(scene.style is not None for scene in scenes) >= 50


def test_records_leave_out_what_is_unknown() -> None:
    scene = Scene((Thing("cat", "black"), HOUSE), "on", style="flat")
    assert as_dict(scene) == {"things": [{"color": "black", "kind": "cat"}, {"kind": "house"}], "layout": "on", "style": "flat"}
    with pytest.raises(ValueError, match="no kind of thing 'dog'"):
        from_dict({"things": [{"kind": "dog"}]})
