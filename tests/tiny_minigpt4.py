"""The parts of a tiny MiniGPT-4 as they are published, and its forward pass written out once more, to compare with.

Vicuna in transformers' layout (.bin, and only a SentencePiece model for a tokenizer), the authors' .pth, and BLIP-2's eyes as LAVIS's files
or in transformers' layout.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from tests.tiny_internvl2 import sentencepiece_model

SIDE, PATCH, WIDTH, BLOCKS = 56, 14, 176, 2
"""Of the vision model. Two heads of 88, as EVA-ViT-g has 16."""
QUERIES, QFORMER, LAYERS = 5, 128, 3
"""Of the Q-Former: two heads of 64; the first and the third layer look at the image."""
HIDDEN, HEADS = 48, 4
Weights = dict[str, torch.Tensor]


def _draw(shapes: dict[str, tuple[int, ...]], seed: int) -> Weights:
    random = torch.Generator().manual_seed(seed)
    out = {}
    for name, shape in shapes.items():
        wide = "embed_tokens" in name or "pos_embed" in name or "query_tokens" in name
        scale = 1.0 if wide else 0.2 if len(shape) == 1 else 1.5 / math.sqrt(math.prod(shape[1:]))
        norm = any(part in name for part in ("norm", "LayerNorm", "ln_vision")) and name.endswith("weight")
        out[name] = torch.randn(shape, generator=random) * scale + (1.0 if norm else 0.0)
    return out


def _linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def vision() -> Weights:
    """Return ``eva_vit_g.pth``'s tensors, with what BLIP-2 leaves: a norm and a head."""
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, WIDTH), "pos_embed": (1, (SIDE // PATCH) ** 2 + 1, WIDTH)}
    shapes |= {"patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH), "patch_embed.proj.bias": (WIDTH,)}
    for n in range(BLOCKS):
        at = f"blocks.{n}"
        shapes |= _norm(f"{at}.norm1", WIDTH) | {f"{at}.attn.q_bias": (WIDTH,), f"{at}.attn.v_bias": (WIDTH,)}
        shapes |= {f"{at}.attn.qkv.weight": (3 * WIDTH, WIDTH)} | _linear(f"{at}.attn.proj", WIDTH, WIDTH) | _norm(f"{at}.norm2", WIDTH)
        shapes |= _linear(f"{at}.mlp.fc1", 300, WIDTH) | _linear(f"{at}.mlp.fc2", WIDTH, 300)
    return _draw(shapes | _norm("norm", WIDTH) | _linear("head", 10, WIDTH), 1)


def qformer() -> Weights:
    """Return ``blip2_pretrained_flant5xxl.pth``'s tensors, with parts for text and for T5 that MiniGPT-4 leaves."""
    shapes: dict[str, tuple[int, ...]] = {"query_tokens": (1, QUERIES, QFORMER)} | _norm("ln_vision", WIDTH)
    shapes |= _norm("Qformer.bert.embeddings.LayerNorm", QFORMER) | {"Qformer.bert.embeddings.word_embeddings.weight": (30, QFORMER)}
    for n in range(LAYERS):
        at = f"Qformer.bert.encoder.layer.{n}"
        for kind in ("attention", *(["crossattention"] if n % 2 == 0 else [])):
            into = QFORMER if kind == "attention" else WIDTH
            shapes |= _linear(f"{at}.{kind}.self.query", QFORMER, QFORMER)
            shapes |= _linear(f"{at}.{kind}.self.key", QFORMER, into) | _linear(f"{at}.{kind}.self.value", QFORMER, into)
            shapes |= _linear(f"{at}.{kind}.output.dense", QFORMER, QFORMER) | _norm(f"{at}.{kind}.output.LayerNorm", QFORMER)
        for side in ("", "_query"):
            shapes |= _linear(f"{at}.intermediate{side}.dense", 200, QFORMER) | _linear(f"{at}.output{side}.dense", QFORMER, 200)
            shapes |= _norm(f"{at}.output{side}.LayerNorm", QFORMER)
    return _draw(shapes | _linear("Qformer.cls.predictions.decoder", 30, QFORMER) | _linear("t5_proj", 20, QFORMER), 2)


def projection(patches: bool = False) -> Weights:
    """Return what the authors trained."""
    return _draw(_linear("llama_proj", HIDDEN, 4 * WIDTH if patches else QFORMER), 3)


def llama(vocabulary: int) -> Weights:
    """Return the language model, in transformers' names."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, HIDDEN)}
    for n in range(2):
        at = f"model.layers.{n}"
        shapes |= {f"{at}.self_attn.{x}_proj.weight": (HIDDEN, HIDDEN) for x in "qkvo"} | {f"{at}.mlp.down_proj.weight": (HIDDEN, 96)}
        shapes |= {f"{at}.mlp.{x}_proj.weight": (96, HIDDEN) for x in ("gate", "up")}
        shapes |= {f"{at}.{x}_layernorm.weight": (HIDDEN,) for x in ("input", "post_attention")}
    return _draw(shapes | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (vocabulary, HIDDEN)}, 4)


def language(directory: Path, pad_row: bool = True) -> tuple[Path, Any]:
    """Write Vicuna v0: two .bin files, wrong special ids in its configuration, a row for [PAD]; return it and its SentencePiece processor."""
    directory.mkdir(parents=True, exist_ok=True)
    processor = sentencepiece_model(directory / "tokenizer.model", dummy_prefix=True)
    size = processor.get_piece_size()
    vocabulary = size + pad_row
    if pad_row:
        (directory / "added_tokens.json").write_text(json.dumps({"[PAD]": size}))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": -1,
        "hidden_act": "silu", "hidden_size": HIDDEN, "initializer_range": 0.02, "intermediate_size": 96, "max_position_embeddings": 2048,
        "num_attention_heads": HEADS, "num_hidden_layers": 2, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "torch_dtype": "float32",
        "transformers_version": "4.28.1", "use_cache": True, "vocab_size": vocabulary,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", "bos_token": "", "eos_token": ""}))
    weights = llama(vocabulary) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}  # a buffer, as older files have it
    names = sorted(weights)
    table = {name: f"pytorch_model-0000{1 + n % 2}-of-00002.bin" for n, name in enumerate(names)}
    for file in set(table.values()):
        torch.save({name: weights[name] for name in names if table[name] == file}, directory / file)
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return directory, processor


def hf_blip2(directory: Path, norm: Weights | None = None) -> Path:
    """Write the same eyes in transformers' layout, with names written out here; a second file for T5 is in the index, and not there."""
    directory.mkdir(parents=True, exist_ok=True)
    out: Weights = {}
    v, q = vision(), qformer() | (norm or {})
    out["vision_model.embeddings.class_embedding"] = v["cls_token"]
    out["vision_model.embeddings.position_embedding"] = v["pos_embed"]
    for x in ("weight", "bias"):
        out[f"vision_model.embeddings.patch_embedding.{x}"] = v[f"patch_embed.proj.{x}"]
        out[f"vision_model.post_layernorm.{x}"] = q[f"ln_vision.{x}"]
        out[f"qformer.layernorm.{x}"] = q[f"Qformer.bert.embeddings.LayerNorm.{x}"]
        for n in range(BLOCKS):
            new, old = f"vision_model.encoder.layers.{n}", f"blocks.{n}"
            for a, b in (
                ("layer_norm1", "norm1"),
                ("layer_norm2", "norm2"),
                ("self_attn.projection", "attn.proj"),
                ("mlp.fc1", "mlp.fc1"),
                ("mlp.fc2", "mlp.fc2"),
            ):
                out[f"{new}.{a}.{x}"] = v[f"{old}.{b}.{x}"]
        for n in range(LAYERS):
            new, old = f"qformer.encoder.layer.{n}", f"Qformer.bert.encoder.layer.{n}"
            for kind in ("attention", *(["crossattention"] if n % 2 == 0 else [])):
                for part in ("query", "key", "value"):
                    out[f"{new}.{kind}.attention.{part}.{x}"] = q[f"{old}.{kind}.self.{part}.{x}"]
                for part in ("dense", "LayerNorm"):
                    out[f"{new}.{kind}.output.{part}.{x}"] = q[f"{old}.{kind}.output.{part}.{x}"]
            for part in ("intermediate_query.dense", "output_query.dense", "output_query.LayerNorm"):
                out[f"{new}.{part}.{x}"] = q[f"{old}.{part}.{x}"]
    for n in range(BLOCKS):
        attention = f"vision_model.encoder.layers.{n}.self_attn"
        out[f"{attention}.qkv.weight"] = v[f"blocks.{n}.attn.qkv.weight"]
        out[f"{attention}.qkv.bias"] = torch.cat([v[f"blocks.{n}.attn.q_bias"], torch.zeros(WIDTH), v[f"blocks.{n}.attn.v_bias"]])
    out["query_tokens"] = q["query_tokens"]
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in out.items()}, directory / first, metadata={"format": "pt"})
    table = dict.fromkeys(out, first) | {"language_projection.weight": second, "language_model.shared.weight": second}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    config = {
        "architectures": ["Blip2ForConditionalGeneration"], "model_type": "blip-2", "num_query_tokens": QUERIES,
        "vision_config": {"hidden_size": WIDTH, "intermediate_size": 300, "num_hidden_layers": BLOCKS, "num_attention_heads": 2, "image_size": SIDE,
                          "patch_size": PATCH, "layer_norm_eps": 1e-6, "qkv_bias": True, "hidden_act": "gelu"},
        "qformer_config": {"hidden_size": QFORMER, "intermediate_size": 200, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
                           "cross_attention_frequency": 2, "encoder_hidden_size": WIDTH},
        "text_config": {"model_type": "t5"},
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def lavis(directory: Path) -> tuple[Path, Path]:
    """Write the eyes as LAVIS's two files."""
    directory.mkdir(parents=True, exist_ok=True)
    torch.save(vision(), directory / "eva_vit_g.pth")
    torch.save({"model": qformer()}, directory / "blip2_pretrained_flant5xxl.pth")
    return directory / "eva_vit_g.pth", directory / "blip2_pretrained_flant5xxl.pth"


def pth(file: Path, patches: bool = False, **more: Any) -> Path:
    """Write the authors' file as their trainer does: the model beside its optimizer, with a buffer or two."""
    file.parent.mkdir(parents=True, exist_ok=True)
    model = projection(patches) | {"Qformer.bert.embeddings.position_ids": torch.arange(5)[None]}
    torch.save({"model": model, "optimizer": {"state": {}}, "config": {"run": {"seed": 42}}, "epoch": 4, **more}, file)
    return file


# The forward pass, as the authors' code has it (eva_vit, Qformer, minigpt4).


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def _apply(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def _normed(w: Weights, name: str, x: torch.Tensor, epsilon: float) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], epsilon)


def features(pixels: torch.Tensor, patches: bool = False) -> torch.Tensor:
    """Return the language model's tokens for ``pixels`` (images, 3, side, side)."""
    w = vision()
    x = F.conv2d(pixels, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=PATCH).flatten(2).transpose(1, 2)
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], 1) + w["pos_embed"]
    for n in range(BLOCKS):
        at = f"blocks.{n}"
        bias = torch.cat([w[f"{at}.attn.q_bias"], torch.zeros(WIDTH), w[f"{at}.attn.v_bias"]])
        qkv = F.linear(_normed(w, f"{at}.norm1", x, 1e-6), w[f"{at}.attn.qkv.weight"], bias)
        x = x + _apply(w, f"{at}.attn.proj", _attend(*qkv.chunk(3, -1), heads=2))
        x = x + _apply(w, f"{at}.mlp.fc2", F.gelu(_apply(w, f"{at}.mlp.fc1", _normed(w, f"{at}.norm2", x, 1e-6))))
    if patches:  # the norm was never trained, nor loaded
        x = F.layer_norm(x, x.shape[-1:], eps=1e-5)[:, 1:]
        x = torch.stack([torch.cat(list(row), -1) for image in x for row in image.split(4)]).unflatten(0, (len(x), -1))
        return _apply(projection(True), "llama_proj", x)
    w = qformer()
    seen = _normed(w, "ln_vision", x, 1e-5)
    x = _normed(w, "Qformer.bert.embeddings.LayerNorm", w["query_tokens"].expand(len(seen), -1, -1), 1e-12)
    for n in range(LAYERS):
        at = f"Qformer.bert.encoder.layer.{n}"
        for kind, source in (("attention", None), *([("crossattention", seen)] if n % 2 == 0 else [])):
            from_ = x if source is None else source
            q, k, v = _apply(w, f"{at}.{kind}.self.query", x), *(_apply(w, f"{at}.{kind}.self.{p}", from_) for p in ("key", "value"))
            x = _normed(w, f"{at}.{kind}.output.LayerNorm", x + _apply(w, f"{at}.{kind}.output.dense", _attend(q, k, v, 2)), 1e-12)
        y = _apply(w, f"{at}.output_query.dense", F.gelu(_apply(w, f"{at}.intermediate_query.dense", x)))
        x = _normed(w, f"{at}.output_query.LayerNorm", x + y, 1e-12)
    return _apply(projection(), "llama_proj", x)


def next_logits(vocabulary: int, embedded: torch.Tensor) -> torch.Tensor:
    """Return Llama's logits after embedded tokens (batch, tokens, hidden)."""
    w, x, length, head = llama(vocabulary), embedded, embedded.shape[1], HIDDEN // HEADS
    angles = torch.outer(torch.arange(length).float(), 1.0 / 10000.0 ** (torch.arange(0, head, 2).float() / head)).repeat(1, 2)

    def norm(y: torch.Tensor, name: str) -> torch.Tensor:
        return w[name] * y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)

    def turned(y: torch.Tensor) -> torch.Tensor:
        return y * angles.cos() + torch.cat([-y[..., head // 2 :], y[..., : head // 2]], -1) * angles.sin()

    for n in range(2):
        at = f"model.layers.{n}"
        y = norm(x, f"{at}.input_layernorm.weight")
        q, k, v = (F.linear(y, w[f"{at}.self_attn.{p}_proj.weight"]).unflatten(-1, (HEADS, head)).transpose(1, 2) for p in "qkv")
        scores = turned(q) @ turned(k).transpose(-1, -2) / math.sqrt(head) + torch.full((length, length), -torch.inf).triu(1)
        x = x + F.linear((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), w[f"{at}.self_attn.o_proj.weight"])
        y = norm(x, f"{at}.post_attention_layernorm.weight")
        y = F.silu(F.linear(y, w[f"{at}.mlp.gate_proj.weight"])) * F.linear(y, w[f"{at}.mlp.up_proj.weight"])
        x = x + F.linear(y, w[f"{at}.mlp.down_proj.weight"])
    return F.linear(norm(x, "model.norm.weight"), w["lm_head.weight"])[:, -1]
