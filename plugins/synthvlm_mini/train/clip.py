"""CLIP of the miniature world, as an open_clip directory: pairs that differ in one thing are its negatives, both ways."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from synthvlm_mini.book import captions
from synthvlm_mini.book.scene import Scene
from synthvlm_mini.train.loop import Schedule, fit
from synthvlm_mini.train.pictures import PIXELS, Pictures
from synthvlm_mini.train.tokenizers import CONTEXT, load
from synthvlm_mini.train.towers import HEADS, PATCH, TEXT_LAYERS, VISION_LAYERS, WIDTH, pretrain_text, pretrain_vision, tokens
from synthvlm_mini.train.truth import Heads, head_loss

_MOST = 60.0
"""The highest logit scale: beyond it, hard negatives make the training unstable."""
_PAIRS, _PARTS = 48, 32
"""Of a batch: pairs of pictures that differ in one thing, with all told; other pictures with a part told."""


def config(vocabulary: int) -> dict[str, Any]:
    """Return ``open_clip_config.json``."""
    vision = {"image_size": PIXELS, "layers": VISION_LAYERS, "width": WIDTH, "patch_size": PATCH, "head_width": WIDTH // HEADS}
    text = {"context_length": CONTEXT, "vocab_size": vocabulary, "width": WIDTH, "heads": HEADS, "layers": TEXT_LAYERS}
    return {
        "model_cfg": {"embed_dim": WIDTH, "vision_cfg": vision, "text_cfg": text | {"hf_tokenizer_name": "local"}},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
    }


def from_towers(vision: nn.Module, text: nn.Module) -> dict[str, torch.Tensor]:
    """Return pre-trained towers (transformers' CLIP classes) under open_clip's names."""
    a = {k.removeprefix("vision_model."): v for k, v in vision.state_dict().items()}
    b = {k.removeprefix("text_model."): v for k, v in text.state_dict().items()}
    state = {
        "visual.class_embedding": a["embeddings.class_embedding"],
        "visual.conv1.weight": a["embeddings.patch_embedding.weight"],
        "visual.positional_embedding": a["embeddings.position_embedding.weight"],
        "token_embedding.weight": b["embeddings.token_embedding.weight"],
        "positional_embedding": b["embeddings.position_embedding.weight"],
        "text_projection": b["text_projection.weight"].T.contiguous(),
    }
    for kind in ("weight", "bias"):
        state[f"visual.ln_pre.{kind}"] = a[f"pre_layrnorm.{kind}"]
        state[f"visual.ln_post.{kind}"] = a[f"post_layernorm.{kind}"]
        state[f"ln_final.{kind}"] = b[f"final_layer_norm.{kind}"]
    for source, prefix, layers in ((a, "visual.transformer", VISION_LAYERS), (b, "transformer", TEXT_LAYERS)):
        for layer in range(layers):
            old, new = f"encoder.layers.{layer}", f"{prefix}.resblocks.{layer}"
            for kind in ("weight", "bias"):
                state[f"{new}.attn.in_proj_{kind}"] = torch.cat([source[f"{old}.self_attn.{q}_proj.{kind}"] for q in "qkv"])
                state[f"{new}.attn.out_proj.{kind}"] = source[f"{old}.self_attn.out_proj.{kind}"]
                for theirs, ours in (("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")):
                    state[f"{new}.{ours}.{kind}"] = source[f"{old}.{theirs}.{kind}"]
    return {k: v.detach().clone() for k, v in state.items()}


def encode_text(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return what ``model.encode_text`` does, normalised, for texts padded to less than the whole context: the mask is causal."""
    length = ids.shape[1]
    x = model.token_embedding(ids) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return F.normalize(x[torch.arange(len(x), device=x.device), ids.argmax(-1)] @ model.text_projection, dim=-1)


def _worded(one: Scene, other: Scene, rng: random.Random) -> tuple[str, str]:
    """Return captions of two scenes that differ in one thing, in the same words half of the time."""
    if rng.random() < 0.5:
        seed = rng.random()
        return captions.caption(one, random.Random(seed)), captions.caption(other, random.Random(seed))
    return captions.caption(one, rng), captions.caption(other, rng)


def train_clip(out: Path, device: torch.device, scale: float = 1.0, mistakes: Pictures | None = None) -> Any:
    """Train CLIP on renders; with ``mistakes`` (pictures that the generator made, with what they show) go on with those among them."""
    tokenizer, _ = load(out)
    pictures = Pictures(out)
    model: Any = open_clip.CLIP(**config(len(tokenizer))["model_cfg"]).to(device)
    heads = Heads(WIDTH).to(device)
    name = "clip" if mistakes is None else "clip-mistakes"
    if mistakes is None:
        missing = model.load_state_dict(from_towers(pretrain_vision(out, device, scale), pretrain_text(out, device, scale)), strict=False)
        assert not missing.unexpected_keys and set(missing.missing_keys) == {"visual.proj", "logit_scale"}, missing
    else:
        before = torch.load(out / "clip.pt", map_location=device, weights_only=True)["average"]
        model.load_state_dict(before["clip"])
        heads.load_state_dict(before["heads"])
    pooled: dict[str, torch.Tensor] = {}
    model.visual.ln_post.register_forward_hook(lambda module, given, made: pooled.update(it=made if made.ndim == 2 else made[:, 0]))

    def loss(rng: random.Random) -> tuple[torch.Tensor, Mapping[str, float]]:
        pair = pictures.pairs(rng, _PAIRS if mistakes is None else _PAIRS // 2, device)
        single = pictures.batch(rng, _PARTS, device)
        parts = [pair, single]
        texts = [t for a, b in zip(pair.scenes[0::2], pair.scenes[1::2], strict=True) for t in _worded(a, b, rng)]
        texts += [captions.medium(s, rng) for s in single.scenes]
        extra: list[str] = []
        if mistakes is not None:
            made = mistakes.batch(rng, _PAIRS, device)
            parts.append(made)
            for shown, asked in zip(made.scenes, made.asked, strict=True):
                right, wrong = _worded(shown, asked, rng)
                texts.append(right)
                extra += [wrong] if asked != shown else []
        pixels, truth = torch.cat([p.pixels for p in parts]), torch.cat([p.labels for p in parts])
        with torch.autocast(device.type, torch.bfloat16):
            of_images = model.encode_image(pixels, normalize=True)
            known = heads(pooled["it"])
            of_texts = encode_text(model, tokens(tokenizer, texts + extra, device))
        logits = model.logit_scale.exp() * of_images.float() @ of_texts.float().T
        right = torch.arange(len(logits), device=device)
        contrast = (F.cross_entropy(logits, right) + F.cross_entropy(logits[:, : len(logits)].T, right)) / 2
        auxiliary, share = head_loss(known, truth)
        return contrast + auxiliary, {
            "contrast": float(contrast.detach()),
            "scene": share,
            "found": float((logits.argmax(1) == right).float().mean()),
        }

    def bound() -> None:
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(_MOST))

    steps = max(2, int((1800 if mistakes is None else 600) * scale))
    schedule = Schedule(steps=steps, rate=8e-4 if mistakes is None else 4e-4, decay_from=0.3)
    fit(name, out, {"clip": model, "heads": heads}, loss, schedule, after=bound)
    return model


def export_clip(model: Any, out: Path, folder: Path) -> None:
    """Write the open_clip directory, in half precision."""
    tokenizer, _ = load(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config(len(tokenizer)), indent=1) + "\n")
    tokenizer.save_pretrained(folder)
    state = {k: v.detach().cpu().half().contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
