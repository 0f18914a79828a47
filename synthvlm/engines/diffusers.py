"""Run diffusers pipelines as image generators: batches of constant size, a seed per image, captions encoded one by one."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from synthvlm.engines.diffusers_loading import (
    DiffusersOptions,
    load_pipeline,
    loading,
    local_options,
    require_family,
    resolve_dtype,
    single_device,
)
from synthvlm.engines.prompt_embeds import ChunkedPrompts
from synthvlm.options import checkpoint, option
from synthvlm.sample import Failed, GeneratedImage, ImageRequest

if TYPE_CHECKING:
    import numpy as np

__all__ = ["DiffusersOptions", "PipelineGenerator", "SDXLGenerator", "SDXLOptions", "load_sdxl"]


class PipelineGenerator:
    """A pipeline as an image generator. A subclass says how captions reach the pipeline.

    Every call of the pipeline has exactly ``batch_size`` images, since pixels depend on the batch size in their last bits.
    """

    def __init__(self, pipeline: Any, options: DiffusersOptions) -> None:
        self.pipeline, self.options = pipeline, options
        self.batch_size = options.batch_size

    def bucket(self, request: ImageRequest) -> Hashable:
        """Return what the requests of one call must share."""
        return 0

    def generate(self, batch: Sequence[ImageRequest]) -> list[GeneratedImage | Failed]:
        """Make one image per request, in order. Requests of different buckets, and incomplete batches, are padded by repetition."""
        groups: dict[Hashable, list[int]] = {}
        for place, request in enumerate(batch):
            groups.setdefault(self.bucket(request), []).append(place)
        results: dict[int, GeneratedImage | Failed] = {}
        for places in groups.values():
            for start in range(0, len(places), self.batch_size):
                here = places[start : start + self.batch_size]
                padded = [*here, *here[-1:] * (self.batch_size - len(here))]
                made = self._call([batch[i] for i in padded])
                results.update(zip(here, made, strict=False))  # the padding's images are dropped
        return [results[place] for place in range(len(batch))]

    def pixels(self, batch: Sequence[ImageRequest]) -> tuple[np.ndarray, Sequence[bool]]:
        """Return the images as floats in 0..1 (batch, height, width, 3), and which of them the model held back."""
        raise NotImplementedError

    def cut_tokens(self, caption: str) -> int:
        """Return how many of the caption's tokens the model does not see."""
        return 0

    def generators(self, batch: Sequence[ImageRequest]) -> list[Any]:
        """Return a random generator per request. They live on the CPU: the same seed gives the same noise on every device."""
        import torch

        return [torch.Generator("cpu").manual_seed(request.seed) for request in batch]

    def _call(self, batch: Sequence[ImageRequest]) -> list[GeneratedImage | Failed]:
        pixels, withheld = self.pixels(batch)
        return [self._result(request, image, held) for request, image, held in zip(batch, pixels, withheld, strict=True)]

    def _result(self, request: ImageRequest, pixels: np.ndarray, withheld: bool) -> GeneratedImage | Failed:
        import numpy as np
        from PIL import Image

        if withheld:
            return Failed("the pipeline's safety checker held the image back", "SafetyChecker")
        if not np.isfinite(pixels).all():
            return Failed(
                f"the pixels are NaN (dtype {self.options.dtype}): use dtype=bfloat16 or float32, or a VAE made for float16", "NaNImage"
            )
        # Exactly as diffusers turns floats into 8 bits.
        image = Image.fromarray((pixels * 255).round().astype("uint8"))
        return GeneratedImage(image, cut_tokens=self.cut_tokens(request.caption))


@dataclass(frozen=True)
class SDXLOptions(DiffusersOptions):
    """What a pipeline of the SDXL class can be told. Subclass it to give a model of that class its own defaults."""

    negative_prompt: str = option("", help="what to keep away from; cut to as many windows as the caption takes")
    guidance_rescale: float = option(0.0, ge=0, le=1, help="temper guidance against overexposure (arXiv 2305.08891, section 3.4); 0: off")
    max_chunks: int = option(
        4, ge=1, help="windows of text (75 tokens each in SDXL) that a caption may take; what is beyond is cut, and counted"
    )
    refiner: str | None = checkpoint(None, layout="diffusers", help="refiner pipeline for the last steps: a local directory or a hub id")
    refiner_split: float = option(0.8, gt=0, lt=1, help="share of the noise levels that the base model does, before the refiner")
    vae: str | None = checkpoint(None, help="another VAE, such as madebyollin/sdxl-vae-fp16-fix: a local directory or a hub id")

    def load(self, devices: Sequence[str]) -> SDXLGenerator:
        """Load the pipeline, and the refiner if there is one."""
        return load_sdxl(self, devices)


class SDXLGenerator(PipelineGenerator):
    """Base model and, if given, refiner. Captions are encoded whole, see ``ChunkedPrompts``."""

    def __init__(self, pipeline: Any, options: SDXLOptions, refiner: Any = None) -> None:
        super().__init__(pipeline, options)
        self.refiner = refiner
        self._split = options.refiner_split
        self._arguments = options.call_arguments() | {"guidance_rescale": options.guidance_rescale, "output_type": "np"}
        guided = options.guidance is None or options.guidance > 1
        pipelines = [p for p in (pipeline, refiner) if p is not None]
        self._prompts = [ChunkedPrompts(p, options.negative_prompt, guided, options.max_chunks) for p in pipelines]

    def bucket(self, request: ImageRequest) -> Hashable:
        """Return the windows of text that the caption takes, per pipeline."""
        return tuple(prompts.chunks(request.caption) for prompts in self._prompts)

    def cut_tokens(self, caption: str) -> int:
        """Return how many of the caption's tokens lie beyond the last window."""
        return self._prompts[0].cut_tokens(caption)

    def pixels(self, batch: Sequence[ImageRequest]) -> tuple[np.ndarray, Sequence[bool]]:
        """Run the base model and, for the last noise levels, the refiner on its latents."""
        captions, generators = [r.caption for r in batch], self.generators(batch)
        arguments = self._arguments | {"generator": generators} | self._prompts[0].arguments(captions)
        if self.refiner is None:
            return self.pipeline(**arguments).images, [False] * len(batch)
        # The two share one schedule: the base stops at the split, and the refiner starts there, on latents that still hold
        # that much noise. (The authors' code gives the refiner denoising_end, so it starts at the top and stops early.)
        latents = self.pipeline(**arguments | {"denoising_end": self._split, "output_type": "latent"}).images
        arguments |= self._prompts[1].arguments(captions)
        for taken_from_latents in ("width", "height"):
            arguments.pop(taken_from_latents, None)
        return self.refiner(**arguments, image=latents, denoising_start=self._split).images, [False] * len(batch)


def load_sdxl(options: SDXLOptions, devices: Sequence[str]) -> SDXLGenerator:
    """Load a pipeline of the SDXL class, with its refiner and VAE if the options name them."""
    device = single_device(devices)
    options = local_options(options)
    require_family(options.checkpoint, "StableDiffusionXL", "SDXL")
    if options.refiner:
        require_family(options.refiner, "StableDiffusionXL", "SDXL")

    from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

    components = {} if options.vae is None else {"vae": _load_vae(options.vae, options, device)}
    # Never a watermark: it would be learnt by whatever trains on the images.
    base = load_pipeline(StableDiffusionXLPipeline, options.checkpoint, options, device, add_watermarker=False, **components)
    if not options.refiner:
        return SDXLGenerator(base, options)
    components = {} if options.vae is None else {"vae": _load_vae(options.vae, options, device)}
    refiner = load_pipeline(StableDiffusionXLImg2ImgPipeline, options.refiner, options, device, add_watermarker=False, **components)
    return SDXLGenerator(base, options, refiner)


def _load_vae(directory: str, options: DiffusersOptions, device: str) -> Any:
    from diffusers import AutoencoderKL

    # A whole pipeline serves too: its VAE is taken.
    folder = os.path.join(directory, "vae") if os.path.isdir(os.path.join(directory, "vae")) else directory
    with loading(directory):
        return AutoencoderKL.from_pretrained(folder, dtype=resolve_dtype(options.dtype, device), local_files_only=True)
