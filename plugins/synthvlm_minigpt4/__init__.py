"""The captioner ``minigpt4``: MiniGPT-4 on transformers' own classes, once converted. With Vicuna it is BLIP-2 with another language model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from synthvlm.engines.captioning import CaptionerOptions, Template
from synthvlm.hookspecs import Register, hookimpl
from synthvlm.options import checkpoint
from synthvlm.sample import CaptionRequest, Failed
from synthvlm_minigpt4.conversation import conversation, facts_of
from synthvlm_minigpt4.convert import Conversion

if TYPE_CHECKING:
    from PIL.Image import Image

    from synthvlm.interfaces import Captioner


@dataclass(frozen=True)
class MiniGPT4(CaptionerOptions):
    """MiniGPT-4 (Vicuna 7B and 13B, or Llama 2), put together by ``synthvlm convert minigpt4``."""

    checkpoint: str = checkpoint(cast(Any, dataclasses.MISSING), help="model: a directory that `synthvlm convert minigpt4` made")

    family: ClassVar[str] = "minigpt4"
    engines: ClassVar[tuple[str, ...]] = ("transformers",)
    max_images: ClassVar[int | None] = 1
    stop: ClassVar[tuple[str, ...]] = ("###",)
    conversion: ClassVar[type] = Conversion

    def refusal(self, request: CaptionRequest) -> Failed | None:
        """Refuse a question without an image too: there is no conversation for it."""
        if not request.images:
            return Failed("this model answers questions about an image, and there is none", "NoImage")
        return super().refusal(request)

    def render(self, prompt: str, images: int, template: Template) -> str:
        """Return the authors' conversation."""
        return conversation(prompt, facts_of(self.checkpoint))

    def prepare(self, image: Image) -> Image:
        """Return the picture as a square, squashed, as the authors do with Pillow; their mean and deviation are the processor's."""
        from PIL import Image as Pillow

        side = facts_of(self.checkpoint).side
        return image.convert("RGB").resize((side, side), Pillow.Resampling.BICUBIC)

    def finish(self, model: Any) -> None:
        """Have the model as its authors do, and see each picture once."""
        from synthvlm_minigpt4.modeling import finish

        finish(model)

    def load(self, devices: Sequence[str]) -> Captioner:
        """Load the model; transformers is told of the variant that it does not have."""
        from synthvlm_minigpt4.modeling import register

        facts_of(self.checkpoint)
        register()
        return super().load(devices)


@hookimpl
def register_captioners(register: Register) -> None:
    """Register ``minigpt4``."""
    register("minigpt4", MiniGPT4)
