"""A miniature world with small models of its own: the whole line in minutes on a laptop, to try things and to test plugins.

``mini`` is a generator of the SDXL class, ``mini-captioner`` a captioner of the LLaVA class, each loaded and run by the very code that
runs its big sisters. What they know is :mod:`synthvlm_mini.world`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import synthvlm
from synthvlm.engines.diffusers import SDXLOptions
from synthvlm.hookspecs import Register
from synthvlm.options import checkpoint, option
from synthvlm_mini.captioner import MiniCaptioner

if TYPE_CHECKING:
    from PIL.Image import Image

    from synthvlm.interfaces import ImageGenerator
    from synthvlm.sample import Failed, GeneratedImage, ImageRequest

OUTSIDE = "outside the miniature world"
"""The note on an image whose caption tells of what the world does not have."""

_WEIGHTS = Path(__file__).resolve().parent / "weights"
GENERATOR = str(_WEIGHTS / "generator")
CLIP = str(_WEIGHTS / "clip")


@dataclass(frozen=True)
class Mini(SDXLOptions):
    """Draw the miniature world that ships with SynthVLM: coloured shapes, 64 pixels, in seconds on a CPU."""

    checkpoint: str = checkpoint(GENERATOR, layout="diffusers", help="pipeline: a local directory or a hub id (name or name@revision)")
    width: int | None = option(64, ge=8, multiple_of=8, help="image width in pixels; the model was trained at 64")
    height: int | None = option(64, ge=8, multiple_of=8, help="image height in pixels; the model was trained at 64")
    steps: int | None = option(20, ge=1, help="denoising steps")
    guidance: float | None = option(2.0, ge=0, help="classifier-free guidance scale; 1 or less: no guidance, and faster")
    guidance_rescale: float = option(0.7, ge=0, le=1, help="temper guidance: fewer clipped colours; no effect without guidance")
    batch_size: int = option(16, ge=1, help="images made together; pixels depend on it in their last bits")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = option("float32", help="precision of weights and noise; auto: see sdxl")

    recommended: ClassVar[Mapping[str, Any]] = {
        "repeat": 8,
        # "A photo depicts" is not of this world, and takes room from the 40 tokens that its CLIP reads.
        "scorers": {"clip": {"checkpoint": CLIP, "prefix": ""}, "ssim": {"side": 32}},
    }

    def load(self, devices: Sequence[str]) -> Noted:  # type: ignore[override]
        """Load the pipeline as SDXL is loaded."""
        return Noted(super().load(devices))


class Noted:
    """A generator, as it is, but for a note on every image whose caption is outside the world."""

    def __init__(self, generator: ImageGenerator) -> None:
        self.generator = generator

    @property
    def batch_size(self) -> int:
        """Return how many images are made together."""
        return self.generator.batch_size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self.generator.batch_size = size

    def __getattr__(self, name: str) -> Any:
        """Return whatever else the generator has, such as ``bucket``."""
        if name == "generator":  # not set yet, as in a copy being made
            raise AttributeError(name)
        return getattr(self.generator, name)

    def generate(self, batch: Sequence[ImageRequest]) -> Iterable[Image | GeneratedImage | Failed]:
        """Yield one result per request, in order."""
        from synthvlm.sample import Failed, GeneratedImage
        from synthvlm_mini.reading import outside

        for request, result in zip(batch, self.generator.generate(batch), strict=True):
            if isinstance(result, Failed) or not outside(request.caption):
                yield result
            elif isinstance(result, GeneratedImage):
                yield dataclasses.replace(result, note="; ".join(filter(None, (result.note, OUTSIDE))))
            else:
                yield GeneratedImage(result, note=OUTSIDE)


@synthvlm.hookimpl
def register_generators(register: Register) -> None:
    """Register the miniature text-to-image model."""
    register("mini", Mini)


@synthvlm.hookimpl
def register_captioners(register: Register) -> None:
    """Register the miniature captioner."""
    register("mini-captioner", MiniCaptioner)
