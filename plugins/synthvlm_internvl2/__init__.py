"""The captioner ``internvl2``: OpenGVLab's InternVL2 on transformers' own class (once converted), or on vLLM."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from synthvlm.engines.captioning import CaptionerOptions, Message, Template
from synthvlm.hookspecs import Register, hookimpl
from synthvlm.options import checkpoint, option
from synthvlm_internvl2.conversation import END, IMAGE, SYSTEM, conversation
from synthvlm_internvl2.convert import ORIGINAL, Conversion


@dataclass(frozen=True)
class InternVL2(CaptionerOptions):
    """InternVL2 8B, 2B or 1B; a published checkpoint is converted once, as ``synthvlm convert internvl2`` does."""

    checkpoint: str = checkpoint(
        "OpenGVLab/InternVL2-8B", help="model: a hub id (name or name@revision) or a local directory, as published or converted"
    )
    max_patches: int = option(
        6, ge=1, le=40, help="most tiles of 448 pixels that an image is cut into, beside the whole of it; the model's own is 12"
    )

    family: ClassVar[str] = "internvl2"
    stop_tokens: ClassVar[tuple[str, ...]] = (END,)
    conversion: ClassVar[type] = Conversion

    def needs_conversion(self, directory: str) -> bool:
        """Say whether the checkpoint must be converted first: as published, its own code runs on no present transformers."""
        return published(directory) and not (self.engine == "vllm" and self.trust_remote_code)

    def conversation(self, prompt: str, images: int) -> list[Message]:
        """Return the messages with the system text that the model was trained with, whatever a server's template has for it."""
        return [{"role": "system", "content": [{"type": "text", "text": SYSTEM}]}, *super().conversation(prompt, images)]

    def render(self, prompt: str, images: int, template: Template) -> str:
        """Return the conversation that the model was trained with; the tokenizer puts ``<s>`` before it where the model has one."""
        return conversation(prompt, images, "<image>" if published(self.checkpoint) else IMAGE)

    def processor_kwargs(self) -> Mapping[str, Any]:
        """Return how many tiles to make, by the name that the checkpoint's processor has for it."""
        if published(self.checkpoint):
            return {"max_dynamic_patch": self.max_patches}
        return {"crop_to_patches": True, "max_patches": self.max_patches}


def published(name: str) -> bool:
    """Say whether ``name`` is InternVL2 in the published layout: by its configuration, or of what is not here by OpenGVLab's names."""
    config = Path(name) / "config.json"
    try:
        return ORIGINAL in (json.loads(config.read_text(encoding="utf-8")).get("architectures") or ())
    except (OSError, ValueError, AttributeError):
        return re.fullmatch(r"OpenGVLab/InternVL2-\w+(@\w+)?", name) is not None


@hookimpl
def register_captioners(register: Register) -> None:
    """Register ``internvl2``."""
    register("internvl2", InternVL2)
