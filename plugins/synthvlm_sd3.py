"""The generator ``sd3``: Stable Diffusion 3 and 3.5, with two or three text encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from synthvlm.engines.diffusers import DiffusersOptions, PipelineGenerator
from synthvlm.engines.diffusers_loading import load_pipeline, local_options, require_family, single_device
from synthvlm.engines.prompt_embeds import SD3Prompts
from synthvlm.errors import OptionError
from synthvlm.hookspecs import Register, hookimpl
from synthvlm.options import checkpoint, option
from synthvlm.sample import ImageRequest

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class SD3(DiffusersOptions):
    """Stable Diffusion 3 medium, 1024 pixels square. Its licence must be accepted once, see ``gated_page``.

    The preset ``authors-code`` follows SynthVLM's published script: guidance 10 and 512 tokens for T5.
    """

    checkpoint: str = checkpoint(
        "stabilityai/stable-diffusion-3-medium-diffusers", layout="diffusers", help="pipeline: a local directory or a hub id (gated)"
    )
    # 1024², 28 steps and guidance 7 are the model card's example and the pipeline's own defaults.
    width: int = option(1024, ge=16, multiple_of=16, help="image width in pixels")
    height: int = option(1024, ge=16, multiple_of=16, help="image height in pixels")
    steps: int = option(28, ge=1, help="denoising steps")
    guidance: float = option(7.0, ge=0, help="classifier-free guidance scale; 1 or less: no guidance")
    t5: bool = option(True, help="load the T5 text encoder (9.5 GB in 16 bits); without it captions end at CLIP's 77 tokens")
    max_sequence_length: int = option(256, ge=1, le=512, help="tokens of a caption that T5 sees; what is beyond is cut, and counted")

    gated_page: ClassVar[str] = "https://huggingface.co/stabilityai/stable-diffusion-3-medium"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"authors-code": {"guidance": 10.0, "max_sequence_length": 512}}

    @property
    def unneeded_folders(self) -> tuple[str, ...]:
        """Return the parts of the checkpoint that need not be fetched."""
        return () if self.t5 else ("text_encoder_3", "tokenizer_3")

    def load(self, devices: Sequence[str]) -> SD3Generator:
        """Load the pipeline, without T5 if so told."""
        device = single_device(devices)
        options = local_options(self)
        absent: dict[str, Any] = dict.fromkeys(self.unneeded_folders)
        index = require_family(options.checkpoint, "StableDiffusion3", "Stable Diffusion 3", without=absent)
        if self.t5 and (index.get("text_encoder_3") or [None])[0] is None:
            raise OptionError(f"{options.checkpoint} has no T5 text encoder", "load it with -o t5=false")

        from diffusers import StableDiffusion3Pipeline

        return SD3Generator(load_pipeline(StableDiffusion3Pipeline, options.checkpoint, options, device, **absent), options)


class SD3Generator(PipelineGenerator):
    """Stable Diffusion 3 with captions encoded one by one."""

    def __init__(self, pipeline: Any, options: SD3) -> None:
        super().__init__(pipeline, options)
        self._arguments = options.call_arguments() | {"max_sequence_length": options.max_sequence_length, "output_type": "np"}
        self._prompts = SD3Prompts(pipeline, options.negative_prompt, options.guidance > 1, options.max_sequence_length)

    def cut_tokens(self, caption: str) -> int:
        """Return how many of the caption's tokens T5, or CLIP where T5 is not loaded, does not see."""
        return self._prompts.cut_tokens(caption)

    def pixels(self, batch: Sequence[ImageRequest]) -> tuple[np.ndarray, Sequence[bool]]:
        """Run the pipeline on the captions' embeddings."""
        prompts = self._prompts.arguments([r.caption for r in batch])
        return self.pipeline(**self._arguments, **prompts, generator=self.generators(batch)).images, [False] * len(batch)


@hookimpl
def register_generators(register: Register) -> None:
    """Register ``sd3``."""
    register("sd3", SD3)
