"""The captioner ``captioner-agreement``: a judge of two images made of a captioner that takes one.

It has the captioner describe each image and prefers the one whose descriptions are nearer to the caption. That is weaker than a model that
sees both images, and its verdicts share the captioner's mistakes; but the order of the images cannot sway it.
"""

from __future__ import annotations

import json
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from synthvlm import perspectives, prompts
from synthvlm.answers import ask
from synthvlm.errors import OptionError
from synthvlm.hookspecs import Register, hookimpl
from synthvlm.options import checkpoint, describe, option, runtime
from synthvlm.sample import Caption, CaptionRequest, Failed

if TYPE_CHECKING:
    from PIL.Image import Image

_KEPT = 256
"""Images whose descriptions are kept: a pair is asked about in both orders, one after the other."""
_SAID = 120
"""Characters of a description that go into the reason."""


@dataclass(frozen=True)
class CaptionerAgreement:
    """Judge two images with a captioner that takes one: it describes each, and the nearer to the caption wins (synthvlm judge)."""

    model: str = option("mini-captioner", help="the captioner that describes: see `synthvlm plugins`")
    checkpoint: str | None = checkpoint(None, help="its checkpoint; none: its own default")
    options: dict[str, Any] = option({}, help="its other options, such as {dtype: bfloat16}")
    perspectives: list[str] = option(
        [], help="what it is asked of each image; none: every one that ships if it knows what is right, else detail"
    )
    margin: float = option(0.02, ge=0, le=1, help="nearness, from 0 to 1, by which one must be ahead; less is a tie")
    batch_size: int = runtime(32, ge=1, help="pairs handed over at a time; the captioner has its own batch size")

    max_images: ClassVar[int | None] = 2
    judge_prompt: ClassVar[str] = "{{ caption }}"
    """It is no language model: asked is the caption itself."""
    output_revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Take the captioner's own checkpoint, so that it is fetched before workers start, and its perspectives, by their words."""
        cls = self._captioner
        if self.checkpoint is None:
            defaults = {info.name: info.default for info in describe(cls)}
            found = defaults.get("checkpoint")
            object.__setattr__(self, "checkpoint", found if isinstance(found, str) else None)
        if not self.perspectives:
            every = prompts.names("perspectives") if hasattr(cls, "is_right") else list(perspectives.DEFAULT)
            object.__setattr__(self, "perspectives", every)
        for one in self.questions:
            if one.fields:
                raise OptionError(f"the perspective {one.name!r} quotes {', '.join(one.fields)}", "describing must not know the caption")

    @property
    def _captioner(self) -> type:
        from synthvlm.plugins import discover

        return discover().get("captioner", self.model).cls

    @property
    def questions(self) -> list[perspectives.Perspective]:
        """Return what is asked of each image, as the captioner's family gets it."""
        family = getattr(self._captioner, "family", "") or self.model
        return list(perspectives.resolve(self.perspectives, family).values())

    def load(self, devices: Sequence[str]) -> Agreeing:
        """Load the captioner on ``devices``."""
        from synthvlm.plugins import discover

        given = {"checkpoint": self.checkpoint} if self.checkpoint else {}
        return Agreeing(self, discover().create("captioner", self.model, {**self.options, **given}).load(devices))


class Agreeing:
    """Two images and a caption → the verdict as JSON."""

    def __init__(self, options: CaptionerAgreement, captioner: Any) -> None:
        self.batch_size: int | None = options.batch_size
        self._captioner, self._questions, self._margin = captioner, options.questions, options.margin
        self._is_right: Callable[[str, str, str], bool | None] = getattr(options._captioner, "is_right", lambda *_: None)
        self._told: OrderedDict[str, list[Any]] = OrderedDict()

    def caption(self, batch: Sequence[CaptionRequest]) -> list[Caption | Failed]:
        """Return a verdict per request."""
        pairs = [r for r in batch if len(r.images) == 2]
        self._describe({name: image for r in pairs for name, image in zip(r.image_ids, r.images, strict=True)})
        answers: list[Caption | Failed] = [self._verdict(r) for r in batch]
        while len(self._told) > _KEPT:
            self._told.popitem(last=False)
        return answers

    def close(self) -> None:
        """Let go of the captioner."""
        if close := getattr(self._captioner, "close", None):
            close()

    def _describe(self, images: dict[str, Image]) -> None:
        """Have the captioner describe the images that it has not described yet."""
        new = {name: image for name, image in images.items() if name not in self._told}
        asked = [
            CaptionRequest(name, q.prompt, (image,), (name,), max_new_tokens=q.max_new_tokens, repetition_penalty=q.repetition_penalty)
            for name, image in new.items()
            for q in self._questions
        ]
        answers, each = ask(self._captioner, asked), len(self._questions)
        for n, name in enumerate(new):
            self._told[name] = answers[n * each : (n + 1) * each]

    def _verdict(self, request: CaptionRequest) -> Caption | Failed:
        if len(request.images) != 2:
            return Failed("this judge compares two images", "NotAPair")
        told = [self._told[name] for name in request.image_ids]
        if failed := next((a for answers in told for a in answers if isinstance(a, Failed)), None):
            return failed
        texts = [[a.text if isinstance(a, Caption) else str(a) for a in answers] for answers in told]
        near = [sum(map(self._near, self._questions, said, [request.prompt] * len(said))) / len(said) for said in texts]
        ahead = near[0] - near[1]
        verdict = "tie" if abs(ahead) < self._margin or not ahead else "A" if ahead > 0 else "B"
        said = " / ".join(f"{value:.2f} {' '.join(words[0].split())[:_SAID]!r}" for value, words in zip(near, texts, strict=True))
        return Caption(json.dumps({"reason": f"nearness of A and B: {said}", "verdict": verdict}, ensure_ascii=False), "stop")

    def _near(self, question: perspectives.Perspective, said: str, caption: str) -> float:
        """Return how near a description is to the caption, 0 to 1: 1 if it is known to be right, else by the words that they share (F1)."""
        return 1.0 if self._is_right(question.name, said, caption) else shared_words(said, caption)


def shared_words(one: str, other: str) -> float:
    """Return the F1 of the words that two texts share, each as often as it stands in both."""
    words = [Counter(re.findall(r"\w+", text.casefold())) for text in (one, other)]
    count = sum(words[0].values()) + sum(words[1].values())
    return 2 * sum((words[0] & words[1]).values()) / count if count else 0.0


@hookimpl
def register_captioners(register: Register) -> None:
    """Register ``captioner-agreement``."""
    register("captioner-agreement", CaptionerAgreement)
