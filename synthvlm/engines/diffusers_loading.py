"""Options that every diffusers pipeline shares, and loading one from a directory onto a device."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import logging
import os
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from synthvlm.errors import CheckpointError, OptionError, SynthVLMError
from synthvlm.options import checkpoint, option, runtime

if TYPE_CHECKING:
    import torch

_REQUIRED = cast(Any, dataclasses.MISSING)


@dataclass(frozen=True)
class DiffusersOptions:
    """What every diffusers pipeline can be told. ``None`` stands for the pipeline's own default."""

    checkpoint: str = checkpoint(_REQUIRED, layout="diffusers", help="pipeline: a local directory or a hub id (name or name@revision)")
    width: int | None = option(None, ge=8, multiple_of=8, help="image width in pixels")
    height: int | None = option(None, ge=8, multiple_of=8, help="image height in pixels")
    steps: int | None = option(None, ge=1, help="denoising steps")
    guidance: float | None = option(None, ge=0, help="classifier-free guidance scale; 1 or less: no guidance")
    negative_prompt: str = option("", help="what to keep away from")
    batch_size: int = option(4, ge=1, help="images made together; pixels depend on it in their last bits")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = option(
        "auto", help="precision of weights and noise; auto: bfloat16 on a GPU that has it, else float16, and float32 on the CPU"
    )
    variant: str | None = option(None, help="which weight files to load, such as fp16, where the checkpoint has several")
    compile: bool = option(False, help="compile the denoiser: slow to start, then faster; changes last bits of pixels")
    vae_tiling: bool = option(False, help="decode in overlapping tiles: less memory, slightly other pixels in large images")
    vae_slicing: bool = option(False, help="decode image by image: less memory; changes last bits, as a batch size does")
    offload: Literal["none", "model", "sequential", "group"] = runtime(
        "none",
        help="keep idle parts (model), or all but the working layers (group, sequential), off the GPU; same pixels; no effect on the CPU",
    )
    quantization: Literal["none", "bitsandbytes_4bit", "bitsandbytes_8bit"] = option(
        "none", help="load the denoiser and large text encoders quantised: less memory, other pixels"
    )
    attention_backend: str | None = option(
        None, help="attention kernel, by diffusers' name (native, flash, sage …); changes last bits or more"
    )

    requires: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers")
    extra: ClassVar[str] = "diffusion"
    output_revision: ClassVar[int] = 1

    def call_arguments(self) -> dict[str, Any]:
        """Return what is set of the arguments that diffusers' pipelines share."""
        found = {"width": self.width, "height": self.height, "num_inference_steps": self.steps, "guidance_scale": self.guidance}
        return {name: value for name, value in found.items() if value is not None}


def single_device(devices: Sequence[str]) -> str:
    """Return the one device to load on: a pipeline runs on one, and workers are one per device."""
    if len(devices) != 1:
        raise OptionError(f"a diffusers pipeline runs on one device, not on {', '.join(devices) or 'none'}", "start a worker per device")
    return devices[0]


def resolve_dtype(name: str, device: str) -> torch.dtype:
    """Return the precision that ``name`` means on ``device``."""
    import torch

    if name != "auto":
        return getattr(torch, name)
    kind = torch.device(device).type
    if kind == "cpu":
        return torch.float32
    if kind == "cuda":
        with torch.cuda.device(device):
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if kind == "xpu" else torch.float16


def local_options(options: Any) -> Any:
    """Return ``options`` with local checkpoints. The core resolves before workers start; this serves callers of ``load``."""
    names = [f.name for f in dataclasses.fields(options) if f.metadata.get("synthvlm", {}).get("role") == "checkpoint"]
    if all(os.path.isdir(getattr(options, name) or ".") for name in names):
        return options
    from synthvlm.checkpoints import resolve

    return resolve(options)[0]


def read_index(directory: str, without: Container[str] = ()) -> dict[str, Any]:
    """Return a pipeline directory's ``model_index.json``; components in ``without`` may be absent.

    Raises CheckpointError, with a hint, if it is not a whole pipeline.
    """
    root = Path(directory)
    if not root.is_dir():
        hint = "diffusers' from_single_file() and save_pretrained() turn a single file into a directory"
        raise CheckpointError(f"{directory} is not a pipeline directory", hint)
    if not (root / "model_index.json").is_file():
        inside = [str(p.parent) for p in sorted(root.glob("*/model_index.json"))]
        hint = f"there is one in {inside[0]}" if inside else "give the directory that holds model_index.json"
        raise CheckpointError(f"{directory} is not a diffusers pipeline: it has no model_index.json", hint)
    try:
        index = json.loads((root / "model_index.json").read_text(encoding="utf-8"))
        components = {n: v for n, v in index.items() if isinstance(v, list) and len(v) == 2 and v[1] is not None}
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{directory}/model_index.json cannot be read: {error}", "fetch or save the checkpoint anew") from error
    for name in (n for n in components if n not in without):
        folder = root / name
        if not folder.is_dir():
            raise CheckpointError(f"{directory} is incomplete: it has no {name} folder", "fetch or save the checkpoint anew")
        if (folder / "config.json").is_file() and not any(p.suffix in (".safetensors", ".bin") for p in folder.iterdir()):
            raise CheckpointError(f"{directory} is incomplete: {name} has no weights", "fetch or save the checkpoint anew")
    return index


def require_family(directory: str, prefix: str, name: str, without: Container[str] = ()) -> dict[str, Any]:
    """Return the index of ``directory``; raise CheckpointError unless its pipeline's class starts with ``prefix``."""
    index = read_index(directory, without)
    found = str(index.get("_class_name"))
    if not found.startswith(prefix):
        raise CheckpointError(f"{directory} is a {found}, not {name}", "the model `diffusers` runs text-to-image pipelines of any class")
    return index


def load_pipeline(pipeline_class: Any, directory: str, options: DiffusersOptions, device: str, **components: Any) -> Any:
    """Load a pipeline directory and put it on ``device`` as the options say.

    Raises CheckpointError if it cannot be loaded, OptionError for an option that this pipeline cannot follow.
    """
    import torch

    index = read_index(directory, without=components)
    if options.variant and not any(Path(directory).glob(f"*/*.{options.variant}[.-]*")):
        raise CheckpointError(f"{directory} has no weights of the variant {options.variant}", "leave variant unset")
    dtype = resolve_dtype(options.dtype, device)
    if torch.device(device).type == "cuda":
        torch.cuda.set_device(device)  # quantisers load to the current device
        torch.backends.cudnn.deterministic = True  # same request, same bytes
    arguments: dict[str, Any] = {"dtype": dtype, "variant": options.variant, "local_files_only": True, **components}
    if options.quantization != "none":
        if torch.device(device).type == "cpu":
            raise OptionError(f"quantization={options.quantization} needs a GPU", "leave quantization at none on the CPU")
        arguments["quantization_config"] = _quantization(options.quantization, index, components, dtype)
    with loading(directory):
        pipeline = pipeline_class.from_pretrained(directory, **arguments)
    pipeline.set_progress_bar_config(disable=True)
    _silence(pipeline)
    _apply(pipeline, options)
    _place(pipeline, options.offload, device)
    return pipeline


@contextlib.contextmanager
def loading(directory: str) -> Iterator[None]:
    """Hide the libraries' loading bars, and turn what goes wrong in loading ``directory`` into one line."""
    import torch
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    bars = [library for library in (diffusers_logging, transformers_logging) if library.is_progress_bar_enabled()]
    for library in bars:
        library.disable_progress_bar()
    try:
        yield
    except (SynthVLMError, torch.OutOfMemoryError, MemoryError, ImportError):
        raise
    except Exception as error:  # damaged files surface as OSError, ValueError, KeyError, SafetensorError, RuntimeError …
        lines = str(error).strip().splitlines()
        raise CheckpointError(
            f"{directory} cannot be loaded: {lines[0] if lines else type(error).__name__}", "fetch or save it anew"
        ) from error
    finally:
        for library in bars:
            library.enable_progress_bar()


def _quantization(backend: str, index: dict[str, Any], components: dict[str, Any], dtype: torch.dtype) -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise OptionError(f"quantization={backend} needs the package bitsandbytes", "pip install bitsandbytes")
    from diffusers.quantizers import PipelineQuantizationConfig

    # CLIP encoders and VAEs are small and suffer: the denoiser and T5-like encoders are what fills memory.
    large = ("unet", "transformer", "text_encoder")
    names = [n for n, v in index.items() if n.startswith(large) and v[1] and "CLIP" not in v[1] and n not in components]
    four_bit: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    kwargs: dict[str, Any] = four_bit if backend == "bitsandbytes_4bit" else {"load_in_8bit": True}
    return PipelineQuantizationConfig(quant_backend=backend, quant_kwargs=kwargs, components_to_quantize=names)


def denoiser(pipeline: Any) -> Any:
    """Return the part that runs once per step."""
    found = getattr(pipeline, "transformer", None) or getattr(pipeline, "unet", None)
    if found is None:
        raise OptionError(
            f"{type(pipeline).__name__} has neither a transformer nor a UNet", "leave compile and attention_backend at their defaults"
        )
    return found


def _apply(pipeline: Any, options: DiffusersOptions) -> None:
    import torch

    if options.attention_backend:
        _set_attention(denoiser(pipeline), options.attention_backend)
    if options.compile:
        model = denoiser(pipeline)
        # Repeated blocks compile once and serve all layers; SD3's transformer does not name its own, and raises.
        compile_ = model.compile_repeated_blocks if getattr(model, "_repeated_blocks", None) else model.compile
        compile_()
    for wanted, name in ((options.vae_tiling, "enable_tiling"), (options.vae_slicing, "enable_slicing")):
        if wanted:
            enable = getattr(getattr(pipeline, "vae", None), name, None)
            if enable is None:
                raise OptionError(f"the VAE of {type(pipeline).__name__} has no {name}()", "leave vae_tiling and vae_slicing off")
            enable()
    if hasattr(pipeline, "upcast_vae"):
        # Same as the pipeline's own method, which warns at every batch that it is deprecated in favour of this.
        pipeline.upcast_vae = lambda: pipeline.vae.to(dtype=torch.float32)


def _set_attention(model: Any, backend: str) -> None:
    # set_attention_backend() says nothing where no processor reads the setting: UNets and SD3 in diffusers 0.42.
    if not any(hasattr(getattr(module, "processor", None), "_attention_backend") for module in model.modules()):
        raise OptionError(
            f"{type(model).__name__} cannot change its attention backend: diffusers would ignore it", "leave attention_backend unset"
        )
    try:
        model.set_attention_backend(backend)
    except (ValueError, RuntimeError, ImportError) as error:
        raise OptionError(f"attention_backend={backend!r}: {str(error).splitlines()[0]}") from error


def _place(pipeline: Any, offload: str, device: str) -> None:
    import torch

    target = torch.device(device)
    if offload == "none" or target.type == "cpu":
        pipeline.to(target)
    elif offload == "model":
        pipeline.enable_model_cpu_offload(device=target)
    elif offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=target)
    else:
        pipeline.enable_group_offload(onload_device=target, offload_type="leaf_level", use_stream=target.type == "cuda")


class _NotNoise(logging.Filter):
    """Drop warnings that would come with every batch: cut captions, which rows record, and an empty list of exceptions."""

    _prefixes = (
        "The following part of your input was truncated",
        "Token indices sequence length is longer",
        "There are modules in AutoencoderKL that should be kept in float32: []",
    )

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self._prefixes)


def _silence(pipeline: Any) -> None:
    for name in (type(pipeline).__module__, "transformers.tokenization_utils_base", "diffusers.models.modeling_utils"):
        logger = logging.getLogger(name)
        if not any(isinstance(f, _NotNoise) for f in logger.filters):
            logger.addFilter(_NotNoise())
