"""Image safety: the probability that an image is unsafe, by an image-classification model of the user's choice.

No such model ships with SynthVLM, since what is unsafe is for the publisher to say: ``-o nsfw.checkpoint=`` names one (any checkpoint that
transformers' ``AutoModelForImageClassification`` loads). The column carries a limit on its card: images above it are measured and kept, and
left out of exports (``--within nsfw=..0.3`` sets another one).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from synthvlm.errors import CheckpointError, OptionError
from synthvlm.options import checkpoint, option, runtime
from synthvlm.sample import Failed

if TYPE_CHECKING:
    from PIL.Image import Image

    from synthvlm.sample import ScoreRequest

UNSAFE = ("nsfw", "unsafe", "porn", "pornography", "hentai", "sexy", "sexual", "explicit", "nude", "nudity", "gore", "violence", "violent")
"""Labels that are taken for unsafe ones where none are named; letter case, ``_`` and ``-`` do not count."""
_CHUNK = {"cpu": 4}
"""Images per pass through the model, always as many (the last ones padded), so that no score depends on its neighbours."""
_CHUNK_DEVICE = 32


@dataclass(frozen=True)
class ImageSafety:
    """The probability that an image is unsafe, by an image-classification checkpoint."""

    checkpoint: str = checkpoint(
        cast(Any, dataclasses.MISSING), help="image-classification model: a local directory or a hub id (name or name@revision)"
    )
    unsafe: list[str] = option(
        [], help="the model's labels that are unsafe; none: those that say so, such as nsfw, porn, hentai, sexy, gore"
    )
    most: float = option(0.5, help="images above it are left out of exports", ge=0, le=1)
    column: str = option("nsfw", help="name of the column", min_length=1)
    dtype: Literal["float32", "bfloat16", "float16"] = option("float32", help="arithmetic of the model")
    batch_size: int = runtime(32, help="images handed over at a time; it changes no score", ge=1)

    output_revision: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    extra: ClassVar[str] = "transformers"

    def load(self, devices: Sequence[str]) -> SafetyScorer:
        """Load the model on the first of ``devices``. Raises CheckpointError, or OptionError for a label that it does not have."""
        directory = Path(self.checkpoint)
        if not directory.is_dir():  # used without a run, which would have resolved it
            from synthvlm.checkpoints import resolve

            directory = Path(resolve(self)[0].checkpoint)
        return SafetyScorer(self, directory, devices[0] if devices else "cpu")


class SafetyScorer:
    """A loaded model: images → the probability of its unsafe labels (their sum, or of labels that do not exclude each other the largest)."""

    def __init__(self, options: ImageSafety, directory: Path, device: str) -> None:
        import torch

        from synthvlm.checkpoints import content_hash

        self.batch_size = options.batch_size
        self.columns = (options.column,)
        self._column, self._device = options.column, device
        self._chunk = _CHUNK.get(device.partition(":")[0], _CHUNK_DEVICE)
        self._dtype: torch.dtype = getattr(torch, options.dtype)
        model, self._processor = _open_directory(directory, self._dtype)
        self._model = model.to(device).eval()
        labels: dict[int, str] = {int(n): str(name) for n, name in model.config.id2label.items()}
        self._unsafe = unsafe_labels(labels, options.unsafe)
        self._exclusive = model.config.problem_type != "multi_label_classification"
        self.cards: Mapping[str, Mapping[str, Any]] = {
            options.column: {
                "metric": "probability that the image is unsafe",
                "model": type(model).__name__,
                "weights": f"content:{content_hash(str(directory))}",
                "labels": list(labels.values()),
                "unsafe": [labels[n] for n in self._unsafe],
                "of several unsafe labels": "the sum" if self._exclusive else "the largest",
                "dtype": options.dtype,
                "limit": [None, options.most],
            }
        }

    def score(self, batch: Sequence[ScoreRequest]) -> Iterator[Mapping[str, float] | Failed]:
        """Yield {column: probability} per request; ``Failed`` where there is no image or the model gives no number."""
        distinct = {id(r.image): r.image for r in batch if r.image is not None}  # the worker pads a batch by repeating its last request
        found = dict(zip(distinct, self._probabilities(list(distinct.values())), strict=True))
        for request in batch:
            value = found.get(id(request.image))
            if value is None:
                yield Failed("there is no image to score", "NoImage")
            elif not math.isfinite(value):
                yield Failed("the model returned no finite number", "NotFinite")
            else:
                yield {self._column: value}

    def _probabilities(self, images: Sequence[Image]) -> list[float]:
        import torch

        values: list[float] = []
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            for at in range(0, len(images), self._chunk):
                some = list(images[at : at + self._chunk])
                padded = some + some[-1:] * (self._chunk - len(some))
                pixels = torch.cat([self._processor(images=image, return_tensors="pt")["pixel_values"] for image in padded])
                logits = self._model(pixel_values=pixels.to(self._device, self._dtype)).logits[: len(some)].double().cpu()
                chances = logits.softmax(-1) if self._exclusive else logits.sigmoid()
                unsafe = chances[:, self._unsafe]
                values += (unsafe.sum(-1).clamp(max=1) if self._exclusive else unsafe.max(-1).values).tolist()
        return values


def unsafe_labels(labels: Mapping[int, str], named: Sequence[str]) -> list[int]:
    """Return the numbers of the unsafe labels: those that are named, or those that say so. Raises OptionError if there are none."""
    there = f"its labels: {', '.join(labels.values())}"
    known = {_plain(name): n for n, name in labels.items()}
    for name in named:
        if _plain(name) not in known:
            raise OptionError(f"nsfw: the model has no label {name!r}", there)
    found = sorted(known[_plain(name)] for name in named) or sorted(n for name, n in known.items() if name in UNSAFE)
    if not found:
        raise OptionError("nsfw: no label of the model says that it is an unsafe one", f"""name them: -o nsfw.unsafe='["…"]'; {there}""")
    return found


def _plain(label: str) -> str:
    return label.strip().lower().replace("_", " ").replace("-", " ")


def _open_directory(directory: Path, dtype: Any) -> tuple[Any, Any]:
    """Return a checkpoint's model and image processor."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    way_on = "give an image-classification checkpoint of transformers: -o nsfw.checkpoint=DIR"
    try:
        model: Any = AutoModelForImageClassification.from_pretrained(directory, dtype=dtype, local_files_only=True)
        processor: Any = AutoImageProcessor.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # whatever transformers and torch raise means the same to the user
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"the classifier in {directory} cannot be loaded: {reason}", way_on) from error
    return model, processor
