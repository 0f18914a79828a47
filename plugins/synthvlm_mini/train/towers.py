"""The vision and the text tower, pre-trained on what is true of a scene.

A tower that must say what every patch shows (vision), or what a caption tells (text), has the whole world in its features within
minutes; from captions and pairs alone the same takes hours. CLIP, captioner and generator begin with these weights.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPVisionConfig, CLIPVisionModel

from synthvlm_mini.book import captions
from synthvlm_mini.book.scene import sample
from synthvlm_mini.train.loop import Schedule, fit
from synthvlm_mini.train.pictures import PIXELS, Pictures
from synthvlm_mini.train.tokenizers import CONTEXT, load
from synthvlm_mini.train.truth import DenseHead, Heads, head_loss, labels, of_patches

WIDTH, HEADS, PATCH = 192, 6, 16
VISION_LAYERS, TEXT_LAYERS = 5, 4
GRID = PIXELS // PATCH


def vision_config() -> CLIPVisionConfig:
    """Return the vision tower's shape: ViT 128 px, patch 16, 5 layers, 192 wide."""
    return CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=HEADS,
        image_size=PIXELS,
        patch_size=PATCH,
        hidden_act="gelu",
        projection_dim=WIDTH,
    )


def text_tower(tokenizer: Any) -> Any:
    """Return a new text tower: 64 tokens, 4 layers, 192 wide."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=TEXT_LAYERS,
            num_attention_heads=HEADS,
            max_position_embeddings=CONTEXT,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tokens(tokenizer: Any, texts: list[str], device: torch.device, length: int | None = None) -> torch.Tensor:
    """Return token ids (B, T), padded to the longest, or to ``length``."""
    padding = {"padding": "longest"} if length is None else {"padding": "max_length"}
    return tokenizer(texts, truncation=True, max_length=length or CONTEXT, return_tensors="pt", **padding).input_ids.to(device)


def pretrain_text(out: Path, device: torch.device, scale: float = 1.0) -> Any:
    """Train the text tower to know, from the pooled text, everything that a caption tells."""
    tokenizer, _ = load(out)
    torch.manual_seed(1)
    tower = text_tower(tokenizer).to(device)
    heads = Heads(WIDTH).to(device)

    def loss(rng: random.Random) -> tuple[torch.Tensor, Mapping[str, float]]:
        scenes = [sample(rng) for _ in range(128)]
        told = [(captions.caption(known, rng), known) for known in (s if rng.random() < 0.6 else captions.part(s, rng) for s in scenes)]
        with torch.autocast(device.type, torch.bfloat16):
            logits = heads(tower(tokens(tokenizer, [text for text, _ in told], device)).text_embeds)
        value, right = head_loss(logits, torch.tensor([labels(known) for _, known in told], device=device))
        return value, {"right": right}

    fit("text", out, {"tower": tower, "heads": heads}, loss, Schedule(steps=max(2, int(1500 * scale)), rate=1.5e-3, decay_from=0.4))
    return tower


def pretrain_vision(out: Path, device: torch.device, scale: float = 1.0) -> Any:
    """Train the vision tower to know what every patch shows, and everything about the scene from the class token."""
    pictures = Pictures(out)
    torch.manual_seed(2)
    tower: Any = CLIPVisionModel(vision_config())
    tower.to(device)
    dense, heads = DenseHead(WIDTH).to(device), Heads(WIDTH).to(device)

    def loss(rng: random.Random) -> tuple[torch.Tensor, Mapping[str, float]]:
        batch = pictures.batch(rng, 64, device)
        with torch.autocast(device.type, torch.bfloat16):
            features = tower(batch.pixels).last_hidden_state
            logits = heads(features[:, 0])
        shown = of_patches(batch.grid(GRID), batch.labels).flatten(1, 2)
        on_patches, right = dense(features[:, 1:], shown)
        of_scene, known = head_loss(logits, batch.labels)
        return on_patches + of_scene, {"patches": right, "scene": known}

    modules = {"tower": tower, "dense": dense, "heads": heads}
    fit("vision", out, modules, loss, Schedule(steps=max(2, int(4000 * scale)), rate=1e-3, decay_from=0.5))
    return tower
