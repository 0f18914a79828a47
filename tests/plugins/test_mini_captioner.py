"""The miniature captioner: LLaVA's own code, weights that ship, and captions that are right."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from synthvlm_mini import world
from synthvlm_mini.captioner import CAPTIONER, MiniCaptioner

from synthvlm.options import build
from synthvlm.plugins import discover
from synthvlm.sample import Caption, CaptionRequest

PERSPECTIVES = Path(__file__).parents[2] / "prompts" / "perspectives"
COUNT = 100
LEAST = {"detail": 0.85, "brief": 0.88, "nouns": 0.62, "style": 0.75, "background": 0.97, "main": 0.9}
"""Share of held-out scenes of which the packaged weights say exactly what is true, less a little for the draw."""
CONFIG = json.loads((Path(CAPTIONER) / "config.json").read_text())
SIDE = CONFIG["vision_config"]["image_size"]
IMAGE_TOKENS = (SIDE // CONFIG["vision_config"]["patch_size"]) ** 2


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def captioner() -> Any:
    pytest.importorskip("transformers")
    return build(MiniCaptioner, {}, "mini-captioner").load(["cpu"])


def question(perspective: str) -> str:
    return yaml.safe_load((PERSPECTIVES / f"{perspective}.yaml").read_text())["families"]["mini"]


def ask(perspective: str, image: Image.Image, name: str) -> CaptionRequest:
    return CaptionRequest(name, question(perspective), (image,), (name,), 48)


def scenes(count: int, seed: int = 7) -> list[world.Scene]:
    draw, found = random.Random(seed), []
    while len(found) < count:
        scene = world.sample(draw)
        if world.held_out(scene):
            found.append(scene)
    return found


def drawn(scene: world.Scene, seed: int = 0) -> Image.Image:
    return Image.fromarray(world.render(scene, SIDE, seed))


def test_registered_with_weights_that_ship() -> None:
    found = discover().get("captioner", "mini-captioner")
    assert found.cls is MiniCaptioner
    options = build(found.cls, {}, "mini-captioner")
    assert (options.checkpoint, options.engine, options.dtype, options.family) == (CAPTIONER, "transformers", "float32", "mini")
    files = [f for f in Path(CAPTIONER).iterdir() if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 5e6
    # A path in a configuration file would be that of the machine where the weights were made.
    configurations = {f.name: f.read_text() for f in files if f.suffix == ".json" and f.name != "tokenizer.json"}
    assert configurations.keys() >= {"config.json", "processor_config.json", "generation_config.json"}
    assert not [name for name, text in configurations.items() if '"_name_or_path"' in text or '"/' in text]


def test_weights_are_named_as_in_published_checkpoints() -> None:
    """VLLM (as of 0.32) reads no other names."""
    from safetensors import safe_open

    with safe_open(Path(CAPTIONER) / "model.safetensors", "pt") as file:
        names = list(file.keys())
        kinds = {file.get_slice(name).get_dtype() for name in names}
    parts = ("vision_tower.vision_model.", "multi_modal_projector.", "language_model.model.", "language_model.lm_head.")
    assert all(name.startswith(parts) for name in names)
    assert kinds == {"F16"}


def test_it_is_the_code_that_runs_llava(captioner: Any) -> None:
    from transformers import LlavaForConditionalGeneration

    from synthvlm.engines.transformers import TransformersCaptioner

    assert type(captioner) is TransformersCaptioner
    assert type(captioner.model) is LlavaForConditionalGeneration
    assert captioner._vision.active


def test_tokens_of_the_prompt(captioner: Any) -> None:
    tokenizer = captioner._tokenizer
    row = captioner._encode(CaptionRequest("1", question("detail"), (drawn(scenes(1)[0]),), ("a",)))
    image = tokenizer.convert_tokens_to_ids("<image>")
    before, after = (tokenizer(t, add_special_tokens=False).input_ids for t in ("USER: ", f"\n{question('detail')} ASSISTANT:"))
    assert row.tokens["input_ids"][0].tolist() == [tokenizer.bos_token_id, *before, *[image] * IMAGE_TOKENS, *after]
    # The checkpoint's own template, which a server uses, makes the same.
    text = captioner.options.render(question("detail"), 1, None)
    assert captioner._encoder._template(captioner.options.conversation(question("detail"), 1)) == text


@pytest.mark.parametrize("perspective", LEAST)
def test_it_tells_what_is_true_of_scenes_it_never_saw(captioner: Any, perspective: str) -> None:
    truths = scenes(COUNT)
    captions = captioner.caption([ask(perspective, drawn(scene, n), f"scene {n}") for n, scene in enumerate(truths)])
    right = [c.text == world.PERSPECTIVES[perspective](s) for c, s in zip(captions, truths, strict=True)]
    assert sum(right) / COUNT >= LEAST[perspective]
    assert all(isinstance(c, Caption) and c.finish_reason == "stop" for c in captions)


def test_a_sentence_names_what_is_there(captioner: Any) -> None:
    truths = scenes(COUNT)
    captions = captioner.caption([ask("sentence", drawn(scene, n), f"scene {n}") for n, scene in enumerate(truths)])
    named = [all(f"{t.color} {t.shape}" in c.text for t in s.things) for c, s in zip(captions, truths, strict=True)]
    assert sum(named) / COUNT >= 0.85


def test_words_do_not_depend_on_neighbours(captioner: Any) -> None:
    requests = [ask(perspective, drawn(scene), f"{n}") for n, scene in enumerate(scenes(12)) for perspective in LEAST]
    together = captioner.caption(requests)
    shuffled = random.Random(3).sample(range(len(requests)), len(requests))
    assert captioner.caption([requests[i] for i in shuffled]) == [together[i] for i in shuffled]
    assert captioner.caption(requests[:5]) == together[:5]


def test_other_sizes_and_shapes_are_prepared(captioner: Any) -> None:
    scene = scenes(1)[0]
    large = Image.fromarray(world.render(scene, 4 * SIDE, 0))
    wide = Image.new("RGB", (3 * SIDE, SIDE), "white")
    first, second = captioner.caption([ask("detail", large, "large"), ask("background", wide, "wide")])
    assert world.parse(first.text) is not None
    assert second.text.startswith("The background is")
