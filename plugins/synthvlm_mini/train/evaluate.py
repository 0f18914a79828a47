"""What the models can do, measured against the truth of scenes that none of them saw, through the code that users run.

A checker of its own kind (:mod:`synthvlm_mini.train.checker`) says what generated pictures show; its own accuracy, on renders, stands
beside what it says.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from synthvlm.sample import CaptionRequest, Failed, GeneratedImage, ImageRequest, ScoreRequest
from synthvlm_mini.book import captions, records
from synthvlm_mini.book.scene import ATTRIBUTES, CORRUPTIONS, Scene, agree, corrupt, corruptions, held_out, sample
from synthvlm_mini.questions import QUESTIONS
from synthvlm_mini.train.checker import Checker, load_checker, read_pictures
from synthvlm_mini.train.pictures import PIXELS, paint

SHARE = 0.95
"""Of the bootstrap intervals."""
WEIGHTS = {"clip": 1.0, "ssim": 0.5}
HANDWRITTEN = Path(__file__).parent / "handwritten.json"


def held_out_scenes(count: int, name: str) -> list[Scene]:
    """Return scenes that no model was trained on."""
    rng, found = random.Random(f"evaluation:{name}"), []
    while len(found) < count:
        scene = sample(rng)
        if held_out(scene):
            found.append(scene)
    return found


def _tensor(images: Sequence[Image.Image]) -> torch.Tensor:
    pixels = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def _seen(checker: Checker, images: Sequence[Image.Image]) -> list[Scene | None]:
    found: list[Scene | None] = []
    for at in range(0, len(images), 64):
        found += read_pictures(checker, _tensor(images[at : at + 64]))[1]
    return found


def agreement(truths: Sequence[Scene], others: Sequence[Scene | None]) -> dict[str, float]:
    """Return the mean agreement on every attribute, and ``all``: the share of scenes with every attribute right."""
    each = [agree(truth, other) for truth, other in zip(truths, others, strict=True)]
    result = {}
    for name in ATTRIBUTES:
        known = [a[name] for a in each if name in a]
        if known:
            result[name] = round(float(np.mean(known)), 4)
    return result | {"all": round(float(np.mean([_right(a) for a in each])), 4)}


def _right(agreed: Mapping[str, float]) -> bool:
    return all(value == 1 for value in agreed.values())


def of_checker(checker: Checker, count: int) -> dict[str, float]:
    """Return the checker's agreement with the truth on renders."""
    scenes = held_out_scenes(count, "checker")
    return agreement(scenes, _seen(checker, [Image.fromarray(paint(s, n)[0]) for n, s in enumerate(scenes)]))


def of_clip(scorer: Any, count: int) -> dict[str, Any]:
    """Return, for every kind of error, how often the right caption beats the wrong one, and pairs per second."""
    scenes, rng, result = held_out_scenes(count, "clip"), random.Random("errors"), {}
    for kind in CORRUPTIONS:
        pairs = []
        for number, scene in enumerate(scenes):
            if kind in corruptions(scene):
                wrong, _ = corrupt(scene, rng, kind)
                seed = rng.random()
                words = [captions.caption(s, random.Random(seed)) for s in (scene, wrong)]
                pairs += [ScoreRequest(f"{number}", 0, text, Image.fromarray(paint(scene, number)[0])) for text in words]
        column = scorer.columns[0]
        began = time.perf_counter()
        values = [float(row[column]) for row in _in_batches(scorer.score, pairs, scorer.batch_size)]
        result["pairs_per_second"] = round(len(pairs) / (time.perf_counter() - began), 1)
        result[kind] = round(float(np.mean([a > b for a, b in zip(values[0::2], values[1::2], strict=True)])), 4)
    return result


def _in_batches(call: Callable[[Sequence[Any]], Any], requests: Sequence[Any], size: int) -> Iterator[Any]:
    for at in range(0, len(requests), size):
        some = list(requests[at : at + size])
        yield from list(call([*some, *some[-1:] * (size - len(some))]))[: len(some)]


def draw(generator: Any, texts: Sequence[str], candidates: int = 1) -> list[Image.Image]:
    """Return pictures for captions, ``candidates`` of each, one caption's after another's."""
    rng = random.Random("seeds")
    requests = [ImageRequest(str(n), c, text, rng.getrandbits(32)) for n, text in enumerate(texts) for c in range(candidates)]
    results = []
    for made in _in_batches(generator.generate, requests, generator.batch_size):
        if isinstance(made, Failed):
            raise RuntimeError(made.error)
        results.append(made.image if isinstance(made, GeneratedImage) else made)
    return results


def of_generator(generator: Any, checker: Checker, count: int) -> dict[str, Any]:
    """Return the agreement of pictures with their captions, one seed each: of the grammar, and written by hand."""
    scenes, rng = held_out_scenes(count, "generator"), random.Random("words")
    began = time.perf_counter()
    images = draw(generator, [captions.caption(scene, rng) for scene in scenes])
    seconds = (time.perf_counter() - began) / count
    written = records.load(HANDWRITTEN)
    by_hand = draw(generator, [text for text, _ in written])
    return {
        "grammar": agreement(scenes, _seen(checker, images)),
        "handwritten": agreement([scene for _, scene in written], _seen(checker, by_hand)),
        "seconds_per_image": round(seconds, 3),
    }


def of_selection(generator: Any, checker: Checker, scorers: Sequence[Any], count: int, candidates: int = 8) -> dict[str, Any]:
    """Return the share of scenes with everything right: of a random candidate, of the best by each score, of the best there is.

    ``gain`` is that of the best by the total over a random one, with its bootstrap interval over captions.
    """
    scenes, rng = held_out_scenes(count, "selection"), random.Random("selection")
    texts = [captions.caption(scene, rng) for scene in scenes]
    images = draw(generator, texts, candidates)
    asked = [scene for scene in scenes for _ in range(candidates)]
    right = np.array([_right(agree(truth, seen)) for truth, seen in zip(asked, _seen(checker, images), strict=True)])
    pairs = [ScoreRequest(str(n // candidates), n % candidates, texts[n // candidates], image) for n, image in enumerate(images)]
    scores = {s.columns[0]: np.array([r[s.columns[0]] for r in _in_batches(s.score, pairs, s.batch_size)]) for s in scorers}
    scores["total"] = sum((WEIGHTS[name] * values for name, values in scores.items()), np.zeros(len(images)))
    table = right.reshape(count, candidates).astype(float)
    result: dict[str, Any] = {"random": round(float(table.mean()), 4), "possible": round(float(table.max(1).mean()), 4)}
    best = {name: table[np.arange(count), values.reshape(count, candidates).argmax(1)] for name, values in scores.items()}
    result |= {f"best by {name}": round(float(values.mean()), 4) for name, values in best.items()}
    gains = best["total"] - table.mean(1)
    draws = np.random.default_rng(0).integers(count, size=(10_000, count))
    low, high = np.quantile(gains[draws].mean(1), [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return result | {"gain": round(float(gains.mean()), 4), "interval": [round(float(low), 4), round(float(high), 4)], "captions": count}


def of_captioner(captioner: Any, count: int) -> dict[str, Any]:
    """Return the share of answers that are the truth word for word, by perspective, and images per second (an answer each)."""
    scenes = held_out_scenes(count, "captioner")
    images = [Image.fromarray(paint(scene, number)[0]) for number, scene in enumerate(scenes)]
    result: dict[str, Any] = {}
    seconds = 0.0
    for name, question in QUESTIONS.items():
        requests = [CaptionRequest(str(n), question, (image,), (f"{n}",), max_new_tokens=96) for n, image in enumerate(images)]
        began = time.perf_counter()
        answers = list(_in_batches(captioner.caption, requests, captioner.batch_size or len(requests)))
        seconds += time.perf_counter() - began
        texts = [getattr(answer, "text", answer) for answer in answers]
        truths = [captions.PERSPECTIVES[name](scene) for scene in scenes]
        result[name] = round(float(np.mean([a == b for a, b in zip(texts, truths, strict=True)])), 4)
    return result | {"images_per_second": round(count * len(QUESTIONS) / seconds, 1)}


def evaluate(
    checker: Checker,
    *,
    generator: Any = None,
    clip: Any = None,
    ssim: Any = None,
    captioner: Any = None,
    scenes: int = 512,
    selection: int = 128,
) -> dict[str, Any]:
    """Return all figures, of the models that are given; the generator's need the checker alone, the selection's also the scorers."""
    figures: dict[str, Any] = {"scenes": scenes, "checker": of_checker(checker, 2 * scenes)}
    if clip:
        figures["clip"] = of_clip(clip, scenes)
    if captioner:
        figures["captioner"] = of_captioner(captioner, scenes)
    if generator:
        figures["generator"] = of_generator(generator, checker, scenes)
    if generator and clip and ssim:
        figures["selection"] = of_selection(generator, checker, [clip, ssim], selection)
    return figures


def evaluate_folder(folder: Path, *, scenes: int = 512, selection: int = 128) -> dict[str, Any]:
    """Return the figures of whichever models stand in ``folder``, loaded by the plugins' own code."""
    from synthvlm.engines.diffusers import SDXLOptions
    from synthvlm.scorers import ClipScore, SSIMScore
    from synthvlm_mini import Mini
    from synthvlm_mini.captioner import MiniCaptioner

    def there(name: str) -> str | None:
        return str(folder / name) if (folder / name).is_dir() else None

    generator, clip, captioner = there("generator"), there("clip"), there("captioner")
    drawing: SDXLOptions | None = Mini(checkpoint=generator, width=PIXELS, height=PIXELS) if generator else None
    return evaluate(
        load_checker(folder / "checker.safetensors"),
        generator=drawing.load(["cpu"]) if drawing else None,
        clip=ClipScore(checkpoint=clip, prefix="").load(["cpu"]) if clip else None,
        ssim=SSIMScore(side=PIXELS // 2).load(["cpu"]),
        captioner=MiniCaptioner(checkpoint=captioner).load(["cpu"]) if captioner else None,
        scenes=scenes,
        selection=selection,
    )
