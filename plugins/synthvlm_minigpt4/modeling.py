"""What transformers lacks for MiniGPT-4: the variant without Q-Former, and generation that sees a picture once for all its prompts."""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Blip2VisionConfig,
    Blip2VisionModel,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from synthvlm_minigpt4.conversation import PATCHES

EPSILON = 1e-5
"""Of the norm after the vision model: LAVIS's ``ln_vision`` has PyTorch's default, BLIP-2 in transformers the vision model's own 1e-6."""


class PatchesConfig(PreTrainedConfig):
    """An EVA vision model whose patches go straight to Llama, ``patch_group`` at a time."""

    model_type = PATCHES
    # Not annotated: the base class makes a field of what is.
    sub_configs = {"vision_config": Blip2VisionConfig, "text_config": AutoConfig}  # type: ignore[assignment] # noqa: RUF012

    vision_config: Any = None
    text_config: Any = None
    patch_group: int = 4
    image_token_id: int = 0
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Make configurations of what was read as plain data."""
        if not isinstance(self.vision_config, PreTrainedConfig):
            self.vision_config = Blip2VisionConfig(**(self.vision_config or {}))
        if not isinstance(self.text_config, PreTrainedConfig):
            text = {"model_type": "llama", **(self.text_config or {})}
            self.text_config = AutoConfig.for_model(text.pop("model_type"), **text)
        super().__post_init__(**kwargs)


class PatchesForConditionalGeneration(PreTrainedModel):
    """MiniGPT-4 with Llama 2: without class token, ``patch_group`` neighbouring patches of a row are one token of the language model."""

    config_class = PatchesConfig
    config: PatchesConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["Blip2EncoderLayer", "Blip2VisionEmbeddings", "LlamaDecoderLayer"]  # noqa: RUF012

    def __init__(self, config: PatchesConfig) -> None:
        super().__init__(config)
        self.vision_model = Blip2VisionModel._from_config(config.vision_config)
        self.vision_model.post_layernorm.eps = EPSILON
        self.language_projection = nn.Linear(config.vision_config.hidden_size * config.patch_group, config.text_config.hidden_size)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> Any:
        """Return the language model's."""
        return self.language_model.get_input_embeddings()

    def get_image_features(self, pixel_values: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Return the images (images, 3, side, side) as tokens in ``pooler_output``: (images, patches / patch_group, hidden)."""
        seen = self.vision_model(pixel_values=pixel_values).last_hidden_state
        grouped = seen[:, 1:].reshape(len(seen), -1, seen.shape[-1] * self.config.patch_group)
        return BaseModelOutputWithPooling(last_hidden_state=seen, pooler_output=self.language_projection(grouped))

    def generate(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Go on from a prompt, see :func:`generate`."""
        return generate(self, *args, **kwargs)


def generate(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, pixel_values: torch.Tensor | None = None, **arguments: Any
) -> torch.Tensor:
    """Return the prompt's ids (batch, length) and what follows; the images' tokens stand where ``image_token_id`` does, in order.

    Unlike the one of transformers' BLIP-2 it asks ``get_image_features``, where an engine can answer for pictures seen before.
    """
    embedded = model.get_input_embeddings()(input_ids)
    if pixel_values is not None:
        features = model.get_image_features(pixel_values=pixel_values, return_dict=True).pooler_output
        places = (input_ids == model.config.image_token_id).unsqueeze(-1).to(embedded.device)
        embedded = embedded.masked_scatter(places, features.to(embedded.device, embedded.dtype))
    return model.language_model.generate(input_ids=input_ids, inputs_embeds=embedded, attention_mask=attention_mask, **arguments)


def finish(model: Any) -> None:
    """Set on a loaded model what its configuration cannot say."""
    model.vision_model.post_layernorm.eps = EPSILON
    model.generate = types.MethodType(generate, model)
    model.language_model.generation_config = GenerationConfig()  # nothing of a sampling default may come from here


def register() -> None:
    """Tell transformers of the variant's class."""
    AutoConfig.register(PATCHES, PatchesConfig, exist_ok=True)
    AutoModelForImageTextToText.register(PatchesConfig, PatchesForConditionalGeneration, exist_ok=True)
