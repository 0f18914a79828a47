"""VQAScore: the probability that a captioner, asked whether the image shows the caption, answers Yes.

Lin et al., "Evaluating text-to-visual generation with image-to-text generation" (2024), section 3, with its question. Any captioner
that runs on the transformers engine can be asked; what it answers is not generated, only the probability of the answer's token is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from synthvlm.errors import OptionError
from synthvlm.options import checkpoint, describe, option, runtime
from synthvlm.sample import CaptionRequest, Failed

if TYPE_CHECKING:
    from synthvlm.sample import ScoreRequest

QUESTION = 'Does this figure show "{caption}"? Please answer yes or no.'
"""The question of Lin et al. (2024), section 3."""


@dataclass(frozen=True)
class VQAScore:
    """P("Yes") of a captioner that is asked whether the image shows the caption: -o vqascore.model=llava."""

    model: str = option("qwen2-vl", help="the captioner that is asked: see `synthvlm plugins`; it must run on the transformers engine")
    checkpoint: str | None = checkpoint(None, help="its checkpoint; none: its own default")
    options: dict[str, Any] = option({}, help="its other options, such as {dtype: bfloat16}")
    question: str = option(QUESTION, help="what is asked; {caption} stands for the caption")
    answer: str = option("Yes", help="the answer, one word, whose probability is the score", min_length=1)
    column: str = option("vqascore", help="name of the column", min_length=1)
    batch_size: int = runtime(32, help="pairs handed over at a time; the captioner has its own batch size", ge=1)

    output_revision: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    extra: ClassVar[str] = "transformers"

    def __post_init__(self) -> None:
        """Refuse a question without a caption; take the captioner's own checkpoint, so that it is fetched before workers start."""
        if "{caption}" not in self.question:
            raise OptionError(f"the question does not quote the caption: {self.question!r}", "write {caption} where it is to stand")
        defaults = {info.name: info.default for info in describe(self._captioner)}
        engine = self.options.get("engine", defaults.get("engine", "transformers"))
        if engine != "transformers":
            raise OptionError(
                f"vqascore needs the probability of an answer, which the engine {engine} does not give",
                "choose a captioner that runs on the transformers engine, such as qwen2-vl or llava",
            )
        if self.checkpoint is None:
            object.__setattr__(self, "checkpoint", defaults.get("checkpoint"))

    @property
    def _captioner(self) -> type:
        from synthvlm.plugins import discover

        return discover().get("captioner", self.model).cls

    def needs_conversion(self, directory: str) -> bool:
        """Say whether the captioner wants its checkpoint converted first."""
        return getattr(self._captioner, "needs_conversion", lambda options, path: False)(self._options(directory), directory)

    @property
    def conversion(self) -> Any:
        """Return the captioner's conversion."""
        return getattr(self._captioner, "conversion", None)

    def _options(self, directory: str | None) -> Any:
        from synthvlm.plugins import discover

        given = {"checkpoint": directory} if directory else {}
        return discover().create("captioner", self.model, self.options | given)

    def load(self, devices: Sequence[str]) -> VQAScorer:
        """Load the captioner on ``devices``. Raises OptionError if it cannot tell the probability of an answer."""
        captioner = self._options(self.checkpoint).load(devices)
        if not hasattr(captioner, "probability"):
            raise OptionError(
                f"the captioner {self.model!r} cannot tell the probability of an answer",
                "choose one that runs on the transformers engine, such as qwen2-vl or llava",
            )
        return VQAScorer(self, captioner)


class VQAScorer:
    """Pairs → P("Yes")."""

    def __init__(self, options: VQAScore, captioner: Any) -> None:
        self.batch_size = options.batch_size
        self.columns = (options.column,)
        self._options, self._captioner = options, captioner
        config = getattr(getattr(captioner, "model", None), "config", None)
        card = {
            "metric": f"VQAScore: P({options.answer!r}) as the first token of the answer",
            "question": options.question,
            "captioner": options.model,
            "architecture": getattr(config, "model_type", None),
            "weights": _revision(str(options.checkpoint)),
            "options": dict(options.options),
            "text_policy": "whole",
            "dtype": str(getattr(getattr(captioner, "model", None), "dtype", "")).removeprefix("torch."),
        }
        self.cards: Mapping[str, Mapping[str, Any]] = {options.column: card}

    def score(self, batch: Sequence[ScoreRequest]) -> list[Mapping[str, float] | Failed]:
        """Return the probability in [0, 1] per request; ``Failed`` where image or caption is missing or the model takes no such picture."""
        # Distinct objects only: the worker pads a batch by repeating its last request.
        asked = {id(r): self._request(r) for r in batch if _lack(r) is None}
        found = dict(zip(asked, self._captioner.probability(list(asked.values()), self._options.answer), strict=True))
        results = [_lack(r) or found[id(r)] for r in batch]
        return [r if isinstance(r, Failed) else {self.columns[0]: r} for r in results]

    def _request(self, request: ScoreRequest) -> CaptionRequest:
        assert request.image is not None
        question = self._options.question.replace("{caption}", " ".join((request.caption or "").split()))
        return CaptionRequest(request.id, question, (request.image,), max_new_tokens=1)

    def close(self) -> None:
        """Let go of the captioner."""
        if close := getattr(self._captioner, "close", None):
            close()


def _lack(request: ScoreRequest) -> Failed | None:
    if request.image is None:
        return Failed("there is no image to score", "NoImage")
    if not (request.caption and request.caption.strip()):
        return Failed("there is no caption to score", "NoCaption")
    return None


def _revision(path: str) -> str:
    """Return what a checkpoint is: the commit of a downloaded one, which its folder is named by, or its content."""
    from synthvlm.checkpoints import content_hash

    name = Path(path).name
    return name if re.fullmatch(r"[0-9a-f]{40}", name) else f"content:{content_hash(path)}" if Path(path).exists() else path
