"""The generator ``diffusers``: any text-to-image pipeline that diffusers has a class for, with that pipeline's own settings."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from synthvlm.engines.diffusers import DiffusersOptions, PipelineGenerator
from synthvlm.engines.diffusers_loading import load_pipeline, local_options, read_index, single_device
from synthvlm.errors import CheckpointError, OptionError
from synthvlm.hookspecs import Register, hookimpl
from synthvlm.options import option
from synthvlm.sample import ImageRequest

if TYPE_CHECKING:
    import numpy as np

_OURS = ("prompt", "negative_prompt", "generator", "output_type", "num_images_per_prompt", "latents", "return_dict")
_NOT_DATA = ("self", "kwargs", "embeds", "mask", "image", "callback_on_step_end", "tensor_inputs")
"""Endings of arguments that are no plain values, so not offered for ``call``."""
_UNLIMITED = 1_000_000


@dataclass(frozen=True)
class AnyPipeline(DiffusersOptions):
    """Any text-to-image checkpoint in diffusers' layout: FLUX, Qwen-Image, Stable Diffusion 1.5, PixArt, Sana and more.

    What is not set is left to the pipeline. Captions are handed over as text, and cut where the pipeline cuts them.
    """

    batch_size: int = option(
        1, ge=1, help="images made together. Above 1, pipelines that pad to the longest caption let neighbours change last bits"
    )
    negative_prompt: str = option("", help="what to keep away from. Qwen-Image needs one, if only a space, for guidance to work")
    max_sequence_length: int | None = option(
        None, ge=1, help="tokens of a caption that the text encoder sees, where the pipeline lets one choose"
    )
    call: dict[str, Any] | str = option("{}", help='further arguments of the pipeline\'s call, as JSON: {"true_cfg_scale": 4}')

    def __post_init__(self) -> None:
        """Read ``call``, so that the same arguments are the same identity however they were written."""
        if isinstance(self.call, str):
            try:
                read = json.loads(self.call or "{}")
            except ValueError as error:
                raise OptionError(
                    f"diffusers: option call={self.call!r} is not JSON: {error}", """such as -o call='{"eta": 0.5}'"""
                ) from error
            object.__setattr__(self, "call", read)
        if not isinstance(self.call, dict):
            raise OptionError(f"diffusers: option call={self.call!r} is not a JSON object", """such as -o call='{"eta": 0.5}'""")

    def load(self, devices: Sequence[str]) -> AnyGenerator:
        """Load the pipeline, after checking that it takes what is set."""
        device = single_device(devices)
        options = local_options(self)
        pipeline_class = _text_to_image_class(options.checkpoint)
        accepted = inspect.signature(pipeline_class.__call__).parameters
        arguments = _arguments(options, pipeline_class.__name__, accepted)
        limit = arguments.get("max_sequence_length", getattr(accepted.get("max_sequence_length"), "default", None))
        return AnyGenerator(load_pipeline(pipeline_class, options.checkpoint, options, device), options, arguments, limit)


class AnyGenerator(PipelineGenerator):
    """A pipeline that encodes its captions itself."""

    def __init__(self, pipeline: Any, options: AnyPipeline, arguments: Mapping[str, Any], limit: int | None) -> None:
        super().__init__(pipeline, options)
        self._arguments = arguments
        tokenizers = [t for name, t in pipeline.components.items() if name.startswith("tokenizer") and hasattr(t, "model_max_length")]
        limits = [t.model_max_length if limit is None or "CLIP" in type(t).__name__ else limit for t in tokenizers]
        self._limits = list(zip(tokenizers, limits, strict=True))

    def cut_tokens(self, caption: str) -> int:
        """Return how many of the caption's tokens the text encoder that sees most does not see."""
        if any(limit > _UNLIMITED for _, limit in self._limits):
            return 0
        return min((max(0, len(t(caption, verbose=False).input_ids) - limit) for t, limit in self._limits), default=0)

    def pixels(self, batch: Sequence[ImageRequest]) -> tuple[np.ndarray, Sequence[bool]]:
        """Run the pipeline on the captions as they are."""
        import numpy as np

        arguments = {**self._arguments, "prompt": [r.caption for r in batch], "generator": self.generators(batch), "output_type": "np"}
        if self.options.negative_prompt:
            arguments["negative_prompt"] = [self.options.negative_prompt] * len(batch)
        result = self.pipeline(**arguments)
        # A pipeline with a safety checker blackens what it holds back: no image to train on.
        return np.asarray(result.images), getattr(result, "nsfw_content_detected", None) or [False] * len(batch)


def _text_to_image_class(directory: str) -> Any:
    """Return the class that makes images from text with this checkpoint: its own, or that of the family it belongs to."""
    import diffusers

    index = read_index(directory)
    if index.get("requires_aesthetics_score"):
        raise CheckpointError(
            f"{directory} is an SDXL refiner, which works on another model's latents", f"--model sdxl -o refiner={directory}"
        )
    name = str(index.get("_class_name"))
    found = getattr(diffusers, name.replace("Img2Img", "").replace("Inpaint", ""), None)
    if found is None:
        raise CheckpointError(
            f"{directory} needs {name}, which diffusers {diffusers.__version__} does not have",
            "code that comes with a checkpoint is not run",
        )
    parameters = inspect.signature(found.__call__).parameters
    must = [p for p, v in parameters.items() if v.default is v.empty and v.kind is v.POSITIONAL_OR_KEYWORD and p not in ("self", "prompt")]
    if "prompt" not in parameters or "generator" not in parameters or must:
        raise CheckpointError(f"{directory} is a {name}, which does not make images from text alone", "give a text-to-image checkpoint")
    return found


def _arguments(options: AnyPipeline, name: str, accepted: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Return the arguments of the pipeline's call; raise OptionError for one that it does not take."""
    if (options.width is None) != (options.height is None):
        # Stable Diffusion 1.5, for one, drops the one that is given and uses its own for both.
        raise OptionError("width and height go together", "set both, or neither")
    wanted = options.call_arguments()
    if options.max_sequence_length is not None:
        wanted["max_sequence_length"] = options.max_sequence_length
    # Qwen-Image and its like take guidance_scale for distilled models alone (None by default), and guide by true_cfg_scale.
    scale = accepted.get("guidance_scale")
    if "guidance_scale" in wanted and "true_cfg_scale" in accepted and (scale is None or scale.default is None):
        wanted["true_cfg_scale"] = wanted.pop("guidance_scale")
    extra = options.call if isinstance(options.call, dict) else {}
    taken = [key for key in extra if key in _OURS or key in wanted]
    if taken:
        raise OptionError(f"call cannot set {taken[0]!r}: SynthVLM sets it", "there is an option for it, or it follows from the row")
    asked = {**wanted, **extra, **({"negative_prompt": ""} if options.negative_prompt else {})}
    for key in asked:
        if key not in accepted:
            plain = [p for p in accepted if not p.endswith(_NOT_DATA) and p not in _OURS]
            raise OptionError(f"{name} takes no {key}", f"it takes: {', '.join(plain)}")
    return {**wanted, **extra}


@hookimpl
def register_generators(register: Register) -> None:
    """Register ``diffusers``."""
    register("diffusers", AnyPipeline)
