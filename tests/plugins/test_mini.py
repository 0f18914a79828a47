"""The miniature generator: the SDXL code on small weights, pictures that follow their captions, notes on what it cannot know."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthvlm_mini
from synthvlm_mini import world

from synthvlm.options import as_dict, build
from synthvlm.plugins import discover
from synthvlm.sample import Failed, GeneratedImage, ImageRequest, ScoreRequest

CAPTIONS = (
    "A flat illustration of a large red circle in the middle on a plain white background.",
    "A crayon drawing of a large green triangle on the left on a plain pink background.",
    "A line drawing of a large purple square in the middle on a plain gray background.",
    "A flat illustration of a large yellow star at the bottom on a checkered light blue background.",
    "A flat illustration of a large orange cross to the left of a large black circle on a dotted light green background.",
    "A flat illustration of a large red diamond above a small black triangle on a checkered light green background.",
    "A flat illustration of a small black cross, a large blue diamond and a small red star in a row from left to right on a plain cream background.",
)
DOG = "A dog behind a window"


def requests(captions: Sequence[str] = (*CAPTIONS, DOG)) -> list[ImageRequest]:
    return [ImageRequest(str(i), 0, caption, seed=i) for i, caption in enumerate(captions)]


class Plain:
    """A generator that returns what it is told to."""

    batch_size = 4
    bucket = staticmethod(lambda request: len(request.caption))

    def __init__(self, results: Sequence[Any]) -> None:
        self.results = results

    def generate(self, batch: Sequence[ImageRequest]) -> Iterable[Any]:
        return self.results


def test_notes_are_added_and_nothing_else_is_changed() -> None:
    from PIL import Image

    picture = Image.new("RGB", (2, 2))
    plain = Plain([picture, GeneratedImage(picture, cut_tokens=3), picture, GeneratedImage(picture, 2, "dark"), Failed("no"), Failed("no")])
    captions = ["A red star.", "A red star.", DOG, DOG, DOG, "A red star."]
    noted = list(synthvlm_mini.Noted(plain).generate(requests(captions)))
    assert noted[:2] == plain.results[:2]
    assert noted[2] == GeneratedImage(picture, note="outside the miniature world")
    assert noted[3] == GeneratedImage(picture, 2, "dark; outside the miniature world")
    assert noted[4:] == plain.results[4:]


def test_the_worker_reaches_the_generator_through_the_wrapper() -> None:
    plain = Plain([])
    noted = synthvlm_mini.Noted(plain)
    assert noted.batch_size == 4
    noted.batch_size = 2
    assert plain.batch_size == 2
    assert noted.bucket(requests(["four"])[0]) == 4
    assert getattr(noted, "no_such_thing", None) is None


def test_importing_the_plugin_is_light() -> None:
    heavy = "torch transformers diffusers open_clip skimage duckdb pyarrow pydantic rich fastapi"
    code = f"import sys, synthvlm_mini, synthvlm_mini.world; sys.exit(' '.join(set({heavy!r}.split()) & set(sys.modules)) or None)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""


def test_registered_with_weights_that_ship() -> None:
    found = discover().get("generator", "mini")
    assert found.cls is synthvlm_mini.Mini
    options = as_dict(build(found.cls, {}, "mini"))
    assert {k: options[k] for k in ("width", "height", "steps", "guidance", "batch_size", "dtype")} == {
        "width": 64,
        "height": 64,
        "steps": 20,
        "guidance": 2.0,
        "batch_size": 16,
        "dtype": "float32",
    }
    assert found.cls.recommended["repeat"] == 8
    for name, values in found.cls.recommended["scorers"].items():
        discover().create("scorer", name, values)  # an unknown option would be an error
    weights = sorted(Path(synthvlm_mini.GENERATOR).parent.rglob("*"))
    assert sum(f.stat().st_size for f in weights if f.is_file()) < 40e6
    # A path in a configuration file would be that of the machine where the weights were made.
    configurations = {f.name: f.read_text() for f in weights if f.suffix == ".json" and f.name != "tokenizer.json"}
    assert configurations.keys() >= {"model_index.json", "config.json", "open_clip_config.json"}
    assert not [name for name, text in configurations.items() if '"_name_or_path"' in text or '"/' in text]


@pytest.fixture(scope="module")
def generator() -> Any:
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    return build(synthvlm_mini.Mini, {"batch_size": 8}, "mini").load(["cpu"])


@pytest.fixture(scope="module")
def made(generator: Any) -> list[GeneratedImage]:
    return list(generator.generate(requests()))


def test_it_is_the_code_that_runs_sdxl(generator: Any) -> None:
    from diffusers import StableDiffusionXLPipeline

    from synthvlm.engines.diffusers import SDXLGenerator

    assert type(generator.generator) is SDXLGenerator
    assert type(generator.pipeline) is StableDiffusionXLPipeline


def test_images_with_a_note_where_the_caption_is_outside(made: list[GeneratedImage]) -> None:
    assert [(g.image.size, g.image.mode) for g in made] == [((64, 64), "RGB")] * len(made)
    assert [g.cut_tokens for g in made] == [0] * len(made)
    assert [g.note for g in made] == [None] * len(CAPTIONS) + ["outside the miniature world"]


def test_the_same_request_makes_the_same_pixels(generator: Any, made: list[GeneratedImage]) -> None:
    again = list(generator.generate(requests()[::-1]))[::-1]  # other neighbours
    assert [g.image.tobytes() for g in again] == [g.image.tobytes() for g in made]


def test_images_look_like_the_scenes_that_their_captions_tell(made: list[GeneratedImage]) -> None:
    for caption, result in zip(CAPTIONS, made, strict=False):
        scene = world.parse(caption)
        assert scene is not None
        pixels = np.asarray(result.image, float)
        right = np.abs(pixels - world.render(scene, 64, 0)).mean()
        wrong = min(
            np.abs(pixels - world.render(world.corrupt(scene, random.Random(1), what)[0], 64, 0)).mean()
            for what in ("background", "layout")
        )
        assert right < wrong, caption


def test_the_packaged_clip_prefers_the_right_caption(made: list[GeneratedImage]) -> None:
    pytest.importorskip("open_clip")
    scorer = discover().create("scorer", "clip", synthvlm_mini.Mini.recommended["scorers"]["clip"]).load(["cpu"])

    def scores(captions: Sequence[str]) -> list[float]:
        return [row["clip"] for row in scorer.score([ScoreRequest("1", 0, c, g.image) for c, g in zip(captions, made, strict=False)])]

    right = np.array(scores(CAPTIONS))
    assert right.min() > 0.5
    wins = []
    for what in ("color", "background", "pattern", "style", "layout"):
        corrupted = [world.detail(world.corrupt(world.parse(c), random.Random(i), what)[0]) for i, c in enumerate(CAPTIONS)]  # type: ignore[arg-type]
        wins.append(right > scores(corrupted))
    assert np.mean(wins) > 0.85
