"""The licences of models that are often used, as their pages on the Hub name them. What is not in the table is said to be unknown."""

from __future__ import annotations

import re

UNKNOWN = "unknown: look at the model's own page"
_KNOWN: tuple[tuple[str, str], ...] = (
    (r"stabilityai/(stable-diffusion-xl-(base|refiner)-[\d.]+|sdxl-vae)", "openrail++ (CreativeML Open RAIL++-M)"),
    (r"stabilityai/sdxl-turbo", "Stability AI Non-Commercial Research Community License"),
    (r"stabilityai/stable-diffusion-3(\.5)?-[\w-]+", "stabilityai-ai-community (Stability AI Community License)"),
    (r"black-forest-labs/FLUX\.1-schnell", "apache-2.0"),
    (r"black-forest-labs/FLUX\.1-dev", "flux-1-dev-non-commercial-license"),
    (r"PixArt-alpha/PixArt-[\w-]+", "openrail++"),
    (r"OpenGVLab/InternVL2-(1B|2B|4B|8B|26B|40B)", "mit (its language model has a licence of its own)"),
    (r"OpenGVLab/InternVL2-Llama3-76B", "llama3"),
    (r"Qwen/Qwen2-VL-(2B|7B)-Instruct", "apache-2.0"),
    (r"Qwen/Qwen2-VL-72B-Instruct", "tongyi-qianwen"),
    (r"Qwen/Qwen2\.5-VL-(7B|32B)-Instruct", "apache-2.0"),
    (r"Qwen/Qwen2\.5-VL-3B-Instruct", "qwen-research"),
    (r"llava-hf/llava-1\.5-(7b|13b)-hf", "llama2"),
    (r"timm/vit_(base|large)_patch\d+_clip_\d+\.openai", "apache-2.0 (OpenAI's weights: mit)"),
    (r"timm/ViT-[\w-]*SigLIP2[\w-]*", "apache-2.0"),
    (r"(openai-community/)?gpt2(-medium|-large|-xl)?", "mit"),
    (r"Falconsai/nsfw_image_detection", "apache-2.0"),
)
"""Pattern of a hub id → its licence."""
_OURS = "apache-2.0"


def licence(asked: str) -> str:
    """Return the licence of a checkpoint, by the hub id that it was asked for by (``name`` or ``name@revision``)."""
    name = asked.partition("@")[0]
    return next((said for pattern, said in _KNOWN if re.fullmatch(pattern, name)), UNKNOWN)


def bundled(distribution: str) -> str:
    """Return the licence of what needs no checkpoint: rules, and models that ship inside a plugin."""
    return _OURS if distribution == "synthvlm" else UNKNOWN
