"""Judges that cost nothing: they look at mean colours, and ids tell them to misbehave."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image, ImageStat

import synthvlm

COLORS = ("red", "green", "blue")


@dataclass(frozen=True)
class Eye:
    """Prefers the image that has more of the colour that the caption names, or the caption that names the image's colour."""

    batch_size: int = synthvlm.option(4, ge=0, help="0: takes the stream")
    careless: float = synthvlm.option(0.0, ge=0, le=1, help="share of requests that it answers by what it sees first")

    def load(self, devices: Sequence[str]) -> Looking:
        return Looking(self)


@dataclass(frozen=True)
class OneEye(Eye):
    """Takes one image at a time."""

    max_images: ClassVar[int | None] = 1


class Looking:
    """The loaded judge."""

    def __init__(self, options: Eye) -> None:
        self.options, self.batch_size = options, options.batch_size or None

    def caption(self, batch: Any) -> Any:
        return map(self._answer, batch)

    def _answer(self, r: synthvlm.CaptionRequest) -> Any:
        again = "asked this before" in r.prompt
        if "fail" in r.id:
            return synthvlm.Failed("will not look", "Refused")
        if "garble" in r.id or ("mumble" in r.id and not again):
            return "I like both of them, {really}."
        if self._share(r) < self.options.careless:
            return json.dumps({"verdict": "A", "reason": "it came first"})
        assert r.json_schema is not None
        score = self._captions(r) if len(r.images) == 1 else self._images(r)
        verdict = "tie" if abs(score) < 3 else "A" if score > 0 else "B"
        answer = json.dumps({"reason": f"by {abs(score):.0f}", "verdict": verdict})
        return synthvlm.Caption(f"Let me see. {answer}", "stop", 12, 34)

    def _share(self, r: synthvlm.CaptionRequest) -> float:
        return int(hashlib.sha256(r.id.encode()).hexdigest()[:8], 16) / 2**32

    def _images(self, r: synthvlm.CaptionRequest) -> float:
        caption = re.findall(r"===\n(.*)\n===", r.prompt)[0]
        channel = next(n for n, color in enumerate(COLORS) if color in caption)
        first, second = (ImageStat.Stat(image).mean[channel] for image in r.images)
        return first - second

    def _captions(self, r: synthvlm.CaptionRequest) -> float:
        means = ImageStat.Stat(r.images[0]).mean
        color = COLORS[means.index(max(means))]
        first, second = (100.0 * (color in caption) for caption in re.findall(r"===\n(.*)\n===", r.prompt))
        return first - second


@dataclass(frozen=True)
class Teller:
    """A captioner of one image: names its strongest colour."""

    batch_size: int = 4
    slip: bool = synthvlm.option(False, help="names another one")

    max_images: ClassVar[int | None] = 1

    def load(self, devices: Sequence[str]) -> Any:
        return Telling(self)


class Telling:
    """The loaded captioner."""

    def __init__(self, options: Teller) -> None:
        self.options, self.batch_size = options, options.batch_size

    def caption(self, batch: Sequence[synthvlm.CaptionRequest]) -> list[str]:
        return [self._say(r.images[0]) for r in batch]

    def _say(self, image: Image.Image) -> str:
        means = ImageStat.Stat(image).mean
        return f"A {COLORS[(means.index(max(means)) + self.options.slip) % 3]} picture."


@synthvlm.hookimpl
def register_captioners(register: Any) -> None:
    register("eye", Eye)
    register("one-eye", OneEye)
    register("teller", Teller)
