"""Models for the tests: they cost nothing, and captions tell them to misbehave."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageStat

import synthvlm


class OutOfMemoryError(RuntimeError):
    """Named as torch's own is."""


def _obey(caption: str, marks: str) -> Any:
    """Do what a caption says: ``raise``, ``fail``, ``die``, ``die-once``, ``exit``, ``print``."""
    if "raise" in caption:
        raise ValueError(f"cannot draw {caption!r}")
    if "fail" in caption:
        return synthvlm.Failed("will not draw this", "Refused")
    if "die-once" in caption:
        mark = Path(marks) / "died"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    elif "die" in caption:
        os.kill(os.getpid(), signal.SIGKILL)
    if "print" in caption:
        print("a plugin that prints")
    return None


@dataclass(frozen=True)
class Cheap:
    """Flat colours with a gradient; every batch takes ``seconds``."""

    size: int = 16
    batch_size: int = synthvlm.option(4, ge=1)
    seconds: float = synthvlm.runtime(0.0)
    marks: str = synthvlm.runtime("/nonexistent", help="folder for what must be remembered across deaths")
    memory: int = synthvlm.runtime(1_000_000, help="largest batch that fits")

    def load(self, devices: Sequence[str]) -> Any:
        return Drawing(self)


class Drawing:
    """The loaded model."""

    def __init__(self, options: Cheap) -> None:
        self.options, self.batch_size = options, options.batch_size

    def generate(self, batch: Sequence[synthvlm.ImageRequest]) -> list[Any]:
        o = self.options
        assert len(batch) == self.batch_size, "the worker pads"
        if len(batch) > o.memory:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        time.sleep(o.seconds)
        out = []
        for r in batch:
            bad = _obey(r.caption, o.marks)
            base = Image.linear_gradient("L").resize((o.size, o.size))
            image = Image.merge("RGB", [base.point(lambda v, s=s: (v + s) % 256) for s in r.seed.to_bytes(4, "big")[:3]])
            out.append(
                bad or synthvlm.GeneratedImage(image, cut_tokens=len(r.caption) // 50, note="long" if len(r.caption) > 100 else None)
            )
        return out


@dataclass(frozen=True)
class Brightness:
    """Mean brightness and a number from the caption."""

    seconds: float = synthvlm.runtime(0.0)
    scale: float = 1.0

    def load(self, devices: Sequence[str]) -> Any:
        return Measuring(self)


class Measuring:
    """The loaded scorer."""

    columns = ("clip", "ssim")
    cards = {"clip": {"metric": "mean of the pixels"}, "ssim": {"metric": "mean of the first channel"}}

    def __init__(self, options: Brightness) -> None:
        self.options, self.batch_size = options, 8

    def score(self, batch: Sequence[synthvlm.ScoreRequest]) -> list[Any]:
        time.sleep(self.options.seconds)
        out = []
        for r in batch:
            assert r.image is not None and r.caption is not None
            if "unscorable" in r.caption:
                out.append(synthvlm.Failed("no score for this", "Refused"))
                continue
            if "scoring breaks" in r.caption:
                raise ValueError(f"cannot score {r.caption!r}")
            if "no number" in r.caption and r.candidate == 0:
                out.append({"clip": float("nan"), "ssim": 0.5})
                continue
            mean = ImageStat.Stat(r.image).mean
            out.append({"clip": self.options.scale * sum(mean) / 765, "ssim": mean[0] / 255})
        return out


@dataclass(frozen=True)
class Parrot:
    """Says the colours of the image and how it was asked; ids and prompts tell it to misbehave."""

    batch_size: int = synthvlm.option(4, ge=0, help="0: takes the stream")
    voice: str = "plain"
    seconds: float = synthvlm.runtime(0.0)
    marks: str = synthvlm.runtime("/nonexistent", help="folder for what must be remembered across deaths")
    memory: int = synthvlm.runtime(1_000_000, help="largest batch that fits")
    temperature: float = 0.0

    presets = {"loud": {"voice": "LOUD"}}
    family = "parrot"

    def load(self, devices: Sequence[str]) -> Any:
        return Talking(self, devices)


class Talking:
    """The loaded captioner."""

    def __init__(self, options: Parrot, devices: Sequence[str]) -> None:
        self.options, self.devices, self.batch_size = options, devices, options.batch_size or None

    def bucket(self, request: synthvlm.CaptionRequest) -> Any:
        return request.max_new_tokens, request.repetition_penalty

    def caption(self, batch: Iterable[synthvlm.CaptionRequest]) -> Any:
        if self.batch_size is None:
            return self._stream(iter(batch))
        requests = list(batch)
        assert len(requests) == self.batch_size, "the worker pads"
        assert len({self.bucket(r) for r in requests}) == 1, "a batch is of one bucket"
        if len(requests) > self.options.memory:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        time.sleep(self.options.seconds)
        return [self._say(r) for r in requests]

    def _stream(self, requests: Iterator[synthvlm.CaptionRequest]) -> Iterator[Any]:
        """Keep a few requests in flight, and answer in order."""
        flying: list[Any] = []
        more = True
        while more or flying:
            while more and len(flying) < 5:
                request = next(requests, None)
                more = request is not None
                flying += [request] if more else []
            if flying:
                time.sleep(self.options.seconds)
                yield self._say(flying.pop(0))

    def _say(self, r: synthvlm.CaptionRequest) -> Any:
        assert len(r.images) == len(r.image_ids) == 1
        told = f"{r.id} {r.prompt}"
        if bad := _obey(told, self.options.marks):
            return bad
        text = f"A picture of {' '.join(f'{v:.0f}' for v in ImageStat.Stat(r.images[0]).mean)}, {r.images[0].width} wide, said {self.options.voice}."
        if "refuse" in told:
            return "I'm sorry, but I can't help with that."
        if "parrot" in told and r.repetition_penalty == 1.0:
            return "parrot " * 20
        if "cut off" in told:
            tail = " And more of it" if r.max_new_tokens < 500 else " And more of it there is."
            return synthvlm.Caption(text + tail, "length" if r.max_new_tokens < 500 else "stop", r.max_new_tokens, 7)
        if "chatter" in told:
            return synthvlm.Caption(f'Sure! Here is a caption for the image: "{text}"', "stop", 30, 7)
        if "nouns" in r.prompt:
            return synthvlm.Caption("picture, colour, picture", "stop", 5, 7)
        return synthvlm.Caption(f"{text} Asked: {r.prompt}", "stop", len(text), 7)


@synthvlm.hookimpl
def register_generators(register: Any) -> None:
    """Register the model."""
    register("cheap", Cheap)


@synthvlm.hookimpl
def register_captioners(register: Any) -> None:
    """Register the captioner, under two names."""
    register("parrot", Parrot)
    register("parrot2", Parrot)


@synthvlm.hookimpl
def register_scorers(register: Any) -> None:
    """Register the scorer."""
    register("brightness", Brightness)
