"""The captioner ``qwen2-vl``: Qwen2-VL (2B, 7B, 72B) and Qwen2.5-VL (3B, 7B, 32B, 72B), whose prompt and picture sizes are the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from synthvlm.engines.captioning import CaptionerOptions, Message, Template
from synthvlm.errors import OptionError
from synthvlm.hookspecs import Register, hookimpl
from synthvlm.options import checkpoint, option

if TYPE_CHECKING:
    from PIL.Image import Image

SYSTEM = "You are a helpful assistant."
"""The system message that the checkpoints' own chat template puts first."""
PLACEHOLDER = "<|vision_start|><|image_pad|><|vision_end|>"
FACTOR = 28
"""Pixels on each side that one token stands for: four patches of 14."""
MAX_RATIO = 200
"""Longest to shortest side, beyond which a picture is refused."""


@dataclass(frozen=True)
class Qwen2VL(CaptionerOptions):
    """Qwen2-VL, 7B. Others: ``-o checkpoint=Qwen/Qwen2-VL-2B-Instruct``, ``-o checkpoint=Qwen/Qwen2.5-VL-7B-Instruct``.

    A picture keeps its shape; its size decides how many tokens it takes, one for 28 × 28 pixels.
    """

    checkpoint: str = checkpoint("Qwen/Qwen2-VL-7B-Instruct", help="model: a local directory or a hub id (name or name@revision)")
    # The checkpoints' own limits are 4 and 16384 tokens; the model card proposes 256 to 1280 where speed and memory count.
    min_pixels: int = option(4 * FACTOR**2, ge=FACTOR**2, help="smaller pictures are enlarged to so many pixels; one token is 784")
    max_pixels: int = option(1280 * FACTOR**2, ge=FACTOR**2, help="larger pictures are reduced to so many pixels: 1280 tokens")

    family: ClassVar[str] = "qwen2-vl"

    def __post_init__(self) -> None:
        """Refuse limits that no picture can meet."""
        super().__post_init__()
        if self.min_pixels > self.max_pixels:
            raise OptionError(f"min_pixels={self.min_pixels} is above max_pixels={self.max_pixels}", "set both")

    def conversation(self, prompt: str, images: int) -> list[Message]:
        """Return the messages: the system message, then images and prompt."""
        return [{"role": "system", "content": [{"type": "text", "text": SYSTEM}]}, *super().conversation(prompt, images)]

    def render(self, prompt: str, images: int, template: Template) -> str:
        """Return what the checkpoints' own chat template makes of it."""
        return (
            f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{PLACEHOLDER * images}{prompt}<|im_end|>\n<|im_start|>assistant\n"
        )

    def prepare(self, image: Image) -> Image:
        """Return the picture at the size at which the model sees it, resized as the authors' qwen-vl-utils does (bicubic)."""
        from PIL import Image

        size = size_seen(*image.size, self.min_pixels, self.max_pixels)
        return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)

    def processor_kwargs(self) -> Mapping[str, Any]:
        """Return the limits, so that the processor has nothing left to resize."""
        return {"size": {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels}}


def size_seen(width: int, height: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Return the (width, height) at which a picture is seen: whole tokens, within the limits, nearly its own shape.

    The rule is that of ``qwen_vl_utils.smart_resize``, which a test holds it equal to; that package needs torch, which servers' clients do
    without. Raises ValueError for a picture far too long or too high.
    """
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ValueError(f"a picture of {width} × {height} pixels is too narrow: at most {MAX_RATIO} to 1")
    # Python rounds halves to even, and so does the rule.
    seen = [max(FACTOR, round(side / FACTOR) * FACTOR) for side in (width, height)]
    area = seen[0] * seen[1]
    if area > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        seen = [math.floor(side / shrink / FACTOR) * FACTOR for side in (width, height)]
    elif area < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        seen = [math.ceil(side * grow / FACTOR) * FACTOR for side in (width, height)]
    # Where a long picture is reduced, the short side may come to nothing.
    return max(FACTOR, seen[0]), max(FACTOR, seen[1])


@hookimpl
def register_captioners(register: Register) -> None:
    """Register ``qwen2-vl``."""
    register("qwen2-vl", Qwen2VL)
