"""BLIP-2's vision model and Q-Former, from transformers' layout or from LAVIS's files, under transformers' names.

LAVIS has the vision model (EVA-ViT-g) in ``eva_vit_g.pth``, and the Q-Former with the norm between the two in
``blip2_pretrained_flant5xxl.pth``. Their sizes follow from the weights; what does not (heads) is as in the one model that there is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthvlm.converting import read_json, read_weights
from synthvlm.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_HEAD = {"vision": 88, "qformer": 64}
"""Sizes of an attention head: EVA-ViT-g has 16 of 88, BERT 12 of 64."""
_BLOCKS = 39
"""Blocks of EVA-ViT-g that BLIP-2 uses: features are those of the last but one."""


@dataclass(frozen=True)
class Eyes:
    """Where the two lie, and what they are like."""

    source: str
    qformer_file: str | None
    vision: dict[str, Any]
    """Arguments of ``Blip2VisionConfig``."""
    qformer: dict[str, Any] | None
    """Arguments of ``Blip2QFormerConfig``; None: there is none."""
    queries: int

    @classmethod
    def of(cls, source: str, qformer: str | None) -> Eyes:
        """Read what they are like. Raises CheckpointError for other models."""
        if Path(source).is_dir():
            config = read_json(Path(source) / "config.json")
            if config.get("model_type") != "blip-2":
                raise CheckpointError(f"{source} is {config.get('model_type')}, not BLIP-2", "give Salesforce/blip2-flan-t5-xxl")
            if qformer:
                raise CheckpointError(f"{source} has a Q-Former of its own", "leave -o qformer= away")
            return cls(source, None, config["vision_config"], config["qformer_config"], config.get("num_query_tokens", 32))
        shapes = {name: tuple(tensor.shape) for name, tensor in read_weights(source)}
        if "cls_token" not in shapes:
            raise CheckpointError(f"{source} is no vision model of LAVIS: it has no cls_token", "give eva_vit_g.pth")
        queries, parts = 0, None
        if qformer:
            parts = {name: tuple(tensor.shape) for name, tensor in read_weights(qformer)}
            if "query_tokens" not in parts:
                raise CheckpointError(f"{qformer} is no Q-Former of LAVIS: it has no query_tokens", "give blip2_pretrained_flant5xxl.pth")
            queries = parts["query_tokens"][1]
        return cls(source, qformer, _vision(shapes), _qformer(parts) if parts else None, queries)

    def weights(self, qformer: bool) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the weights under transformers' names, with those of the Q-Former or without.

        Without it, the norm after the vision model does nothing: only with the Q-Former was it trained, and the authors load it
        with that or not at all.
        """
        if Path(self.source).is_dir():
            found = read_weights(self.source, ("vision_model.", "qformer.", "query_tokens") if qformer else ("vision_model.",))
        else:
            found = self._lavis(qformer)
        for name, tensor in found:
            if qformer or not name.startswith("vision_model.post_layernorm."):
                yield name, tensor
        if not qformer:
            import torch

            width = self.vision.get("hidden_size", 1408)
            yield "vision_model.post_layernorm.weight", torch.ones(width)
            yield "vision_model.post_layernorm.bias", torch.zeros(width)

    def _lavis(self, qformer: bool) -> Iterator[tuple[str, torch.Tensor]]:
        import torch

        biases: dict[str, torch.Tensor] = {}
        for name, tensor in read_weights(self.source):
            new = _vision_name(name)
            if new is None:
                continue
            at, _, last = new.rpartition(".")
            if last in ("q_bias", "v_bias"):
                biases[new] = tensor
                if (other := biases.get(f"{at}.{'v' if last == 'q_bias' else 'q'}_bias")) is not None:
                    query, value = (tensor, other) if last == "q_bias" else (other, tensor)
                    yield f"{at}.qkv.bias", torch.cat([query, torch.zeros_like(query), value])  # the keys have none
                continue
            yield new, tensor
        if qformer and self.qformer_file:
            for name, tensor in read_weights(self.qformer_file):
                if (new := _qformer_name(name)) is not None:
                    yield new, tensor


def _vision(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    width, patch = shapes["cls_token"][-1], shapes["patch_embed.proj.weight"][-1]
    blocks = 1 + max(int(match[1]) for name in shapes if (match := re.match(r"blocks\.(\d+)\.", name)))
    return {
        "hidden_size": width,
        "intermediate_size": shapes["blocks.0.mlp.fc1.weight"][0],
        "num_hidden_layers": min(blocks, _BLOCKS),
        "num_attention_heads": width // _HEAD["vision"],
        "image_size": round((shapes["pos_embed"][1] - 1) ** 0.5) * patch,
        "patch_size": patch,
    }


def _qformer(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    layers = 1 + max(int(match[1]) for name in shapes if (match := re.search(r"\.encoder\.layer\.(\d+)\.", name)))
    across = [n for n in range(layers) if f"Qformer.bert.encoder.layer.{n}.crossattention.self.query.weight" in shapes]
    width = shapes["query_tokens"][-1]
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // _HEAD["qformer"],
        "intermediate_size": shapes["Qformer.bert.encoder.layer.0.intermediate_query.dense.weight"][0],
        "cross_attention_frequency": across[1] if len(across) > 1 else layers,
    }


_VISION = [
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"\.attn\.", ".self_attn."),
]


def _vision_name(name: str) -> str | None:
    """Return transformers' name, or None for what BLIP-2 does not use: the last block, and what follows the blocks."""
    block = re.match(r"blocks\.(\d+)\.", name)
    if not name.startswith(("cls_token", "pos_embed", "patch_embed.", "blocks.")) or (block and int(block[1]) >= _BLOCKS):
        return None
    for old, new in _VISION:
        name = re.sub(old, new, name)
    return f"vision_model.{name}"


def _qformer_name(name: str) -> str | None:
    """Return transformers' name, or None for what MiniGPT-4 deletes (the parts for text) or replaces (what goes to the language model)."""
    if name.startswith("ln_vision."):
        return name.replace("ln_vision.", "vision_model.post_layernorm.")
    if name.startswith("Qformer.bert.embeddings.LayerNorm."):
        return name.replace("Qformer.bert.embeddings.LayerNorm.", "qformer.layernorm.")
    text = r"Qformer\.(cls|bert\.embeddings|bert\.encoder\.layer\.\d+\.(intermediate|output))\."
    if (name != "query_tokens" and not name.startswith("Qformer.")) or re.match(text, name):
        return None
    name = name.replace("Qformer.bert.", "qformer.", 1)
    return name.replace(".attention.self.", ".attention.attention.").replace(".crossattention.self.", ".crossattention.attention.")
