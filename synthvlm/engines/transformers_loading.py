"""Load a captioner's processor and model with transformers, from a local directory onto its devices."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from synthvlm.engines.captioning import CaptionerOptions, Message, Template, end_tokens
from synthvlm.engines.diffusers_loading import resolve_dtype
from synthvlm.errors import CheckpointError, OptionError, SynthVLMError

if TYPE_CHECKING:
    import torch

_KEPT_PRECISE = ("lm_head", "vision_tower", "vision_model", "visual", "multi_modal_projector", "qformer", "language_projection")
"""Modules that are not quantised: small beside the language model, and they suffer more."""


def load_processor(options: CaptionerOptions) -> Any:
    """Return what turns text and pictures into the model's inputs: the family's own, or the checkpoint's.

    Raises CheckpointError if it cannot be loaded.
    """
    with loading(options.checkpoint):
        own = options.processor(options.checkpoint)
        if own is not None:
            return own
        from transformers import AutoProcessor

        found: Any = AutoProcessor.from_pretrained(options.checkpoint, local_files_only=True, trust_remote_code=options.trust_remote_code)
    if getattr(found, "tokenizer", None) is None or getattr(found, "image_processor", None) is None:
        raise CheckpointError(
            f"{options.checkpoint} has no processor for text and images",
            "give an image-text-to-text checkpoint, with its preprocessor files",
        )
    return found


def template_of(processor: Any, checkpoint: str) -> Template:
    """Return the checkpoint's chat template as a function; using it raises CheckpointError where there is none, or it refuses."""
    from jinja2 import TemplateError

    def render(messages: Sequence[Message], **arguments: Any) -> str:
        if not getattr(processor, "chat_template", None):
            hint = "use the plugin of its family, if there is one, or add the model's chat_template.jinja to the directory"
            raise CheckpointError(f"{checkpoint} has no chat template", hint)
        try:
            return processor.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False, **arguments)
        except TemplateError as error:  # such as one that knows no system message
            raise CheckpointError(f"the chat template of {checkpoint} refuses the conversation: {_first_line(error)}") from error

    return render


def end_ids(options: CaptionerOptions, tokenizer: Any) -> list[int]:
    """Return the ids of the tokens that end an answer: the checkpoint's and the family's. Raises CheckpointError if there is none."""
    found = [*end_tokens(options.checkpoint), *(tokenizer.convert_tokens_to_ids(t) for t in options.stop_tokens)]
    if not found and tokenizer.eos_token_id is not None:
        found = [tokenizer.eos_token_id]
    if not found or None in found:
        raise CheckpointError(f"{options.checkpoint} names no token that ends an answer", "set eos_token_id in its generation_config.json")
    return sorted(set(found))


def load_model(options: CaptionerOptions, devices: Sequence[str]) -> Any:
    """Return the model on its devices, ready to generate; spread over them where they are several.

    Raises CheckpointError if weights are missing, damaged or of another model, OptionError for what cannot be followed here.
    """
    import torch
    import transformers

    device = devices[0]
    dtype = resolve_dtype(options.dtype, device)
    if torch.device(device).type == "cuda":
        torch.cuda.set_device(device)  # quantisers load to the current device
        torch.backends.cudnn.deterministic = True  # same request, same words
    arguments: dict[str, Any] = {"dtype": dtype, "local_files_only": True, "trust_remote_code": options.trust_remote_code}
    if options.attention != "auto":
        arguments["attn_implementation"] = options.attention
    if options.quantization != "none":
        arguments["quantization_config"] = _quantization(options, device, dtype)
    # With accelerate's map, quantised weights go to the device as they are read, and several devices share the layers.
    mapped = len(devices) > 1 or options.quantization != "none"
    if mapped:
        arguments["device_map"] = "balanced" if len(devices) > 1 else {"": device}
    with loading(options.checkpoint):
        loader = getattr(transformers, options.model_class)
        model, found = loader.from_pretrained(options.checkpoint, output_loading_info=True, **arguments)
    missing = sorted(found["missing_keys"])
    if missing or found["mismatched_keys"]:
        # transformers fills these with random numbers and goes on.
        what = f"lacks {len(missing)} weights, such as {missing[0]}" if missing else "has weights of another shape"
        raise CheckpointError(f"{options.checkpoint} {what}: it is not whole, or not of this model", "fetch or convert it anew")
    if not mapped:
        model = model.to(device)
    options.finish(model)
    return model.eval()


@contextlib.contextmanager
def loading(directory: str) -> Iterator[None]:
    """Hide the library's loading bars, and turn what goes wrong in loading ``directory`` into one line."""
    import torch
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    except (SynthVLMError, torch.OutOfMemoryError, MemoryError):
        raise
    except ImportError as error:  # FlashAttention, a tokenizer's library, what remote code wants
        raise OptionError(f"{directory} cannot be loaded here: {_first_line(error)}", "install it, or choose another option") from error
    except Exception as error:  # damaged files surface as OSError, ValueError, KeyError, SafetensorError, RuntimeError …
        raise CheckpointError(f"{directory} cannot be loaded: {_first_line(error)}", "fetch or save it anew") from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _quantization(options: CaptionerOptions, device: str, dtype: torch.dtype) -> Any:
    import torch

    if torch.device(device).type == "cpu":
        raise OptionError(f"quantization={options.quantization} needs a GPU", "leave quantization at none on the CPU")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise OptionError(f"quantization={options.quantization} needs the package bitsandbytes", "pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    if options.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(_KEPT_PRECISE))
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=list(_KEPT_PRECISE)
    )
