"""The captioner ``llava``: LLaVA-1.5 (7B, 13B), and models of its class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from synthvlm.engines.captioning import CaptionerOptions, Message, Template
from synthvlm.hookspecs import Register, hookimpl
from synthvlm.options import checkpoint, option

if TYPE_CHECKING:
    from PIL.Image import Image

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""Vicuna's system sentence, with which LLaVA-1.5 was trained (its conversation template ``v1``); llava-hf's chat template leaves it out."""


@dataclass(frozen=True)
class LLaVA(CaptionerOptions):
    """LLaVA-1.5, 7B. The larger one: ``-o checkpoint=llava-hf/llava-1.5-13b-hf``."""

    checkpoint: str = checkpoint("llava-hf/llava-1.5-7b-hf", help="model: a local directory or a hub id (name or name@revision)")
    image_aspect: Literal["pad", "crop"] = option(
        "pad",  # as LLaVA-1.5 was trained and is evaluated (arXiv 2310.03744, section 3.3)
        help="what becomes of pictures that are not square: pad keeps all of them, on the mean colour; crop keeps the middle",
    )

    family: ClassVar[str] = "llava"
    max_images: ClassVar[int | None] = 1
    system: ClassVar[str] = SYSTEM
    """What stands before the conversation; empty: nothing."""
    mean_color: ClassVar[tuple[int, int, int]] = (122, 116, 104)
    """CLIP's mean colour in 8 bits: what padding has after normalisation is zero."""

    def conversation(self, prompt: str, images: int) -> list[Message]:
        """Return the messages: the system sentence, then image and prompt."""
        said = super().conversation(prompt, images)
        return [{"role": "system", "content": [{"type": "text", "text": self.system}]}, *said] if self.system else said

    def render(self, prompt: str, images: int, template: Template) -> str:
        """Return Vicuna's conversation, version 1.1, with the image on a line of its own before the prompt."""
        line = "\n" if images else ""
        return f"{self.system} USER: {'<image>' * images}{line}{prompt} ASSISTANT:".lstrip()

    def prepare(self, image: Image) -> Image:
        """Return the picture in the middle of a square. Cropping is left to the checkpoint's processor, which does it."""
        if self.image_aspect == "crop" or image.width == image.height:
            return image
        from PIL import Image

        side = max(image.size)
        square = Image.new("RGB", (side, side), self.mean_color)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square

    def openai_arguments(self) -> Mapping[str, Any]:
        """Return what has a vLLM server begin the prompt with ``<s>``: llava-hf's chat template leaves that to the tokenizer."""
        return {"extra_body": {"add_special_tokens": True}}


@hookimpl
def register_captioners(register: Register) -> None:
    """Register ``llava``."""
    register("llava", LLaVA)
