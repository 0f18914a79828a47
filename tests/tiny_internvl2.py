"""A tiny InternVL2 in the layout that OpenGVLab publishes, and its forward pass written out once more, to compare with.

The directory's Python files raise when they are run: whoever loads the checkpoint must do without them.
"""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

SIDE, PATCH, TOKENS = 56, 14, 4
"""Of a tile: pixels, pixels of a patch, tokens."""
_CORPUS = [
    "a photo of a cat sitting on a mat",
    "describe this image in detail, the quick brown fox jumps over the lazy dog 0123456789",
    "system user assistant You are a helpful assistant. USER: ASSISTANT: Image-1: Image-2:",
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。",
    "Give the following image: <Img>ImageContent</Img>. ###Human: ###Assistant: [INST] [/INST]",
] * 10
_SPECIAL = ["<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"]
VISION = {
    "architectures": ["InternVisionModel"], "attention_dropout": 0.0, "drop_path_rate": 0.0, "dropout": 0.0, "hidden_act": "gelu",
    "hidden_size": 32, "image_size": SIDE, "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 64, "layer_norm_eps": 1e-6,
    "model_type": "intern_vit_6b", "norm_type": "layer_norm", "num_attention_heads": 2, "num_channels": 3, "num_hidden_layers": 2,
    "patch_size": PATCH, "qk_normalization": False, "qkv_bias": True, "use_flash_attn": True,
}  # fmt: skip
INTERNLM2 = {
    "architectures": ["InternLM2ForCausalLM"], "attn_implementation": "flash_attention_2", "bias": False, "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 128, "initializer_range": 0.02, "intermediate_size": 96, "max_position_embeddings": 32768,
    "model_type": "internlm2", "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2, "pad_token_id": 2,
    "rms_norm_eps": 1e-5, "rope_scaling": {"factor": 2.0, "type": "dynamic"}, "rope_theta": 1000000, "tie_word_embeddings": False,
}  # fmt: skip
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645, "hidden_act": "silu",
    "hidden_size": 128, "intermediate_size": 96, "max_position_embeddings": 32768, "max_window_layers": 2, "model_type": "qwen2",
    "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
    "sliding_window": 32768, "tie_word_embeddings": False, "use_sliding_window": False,
}  # fmt: skip


def sentencepiece_model(path: Path, dummy_prefix: bool, unused: int = 0, **more: Any) -> Any:
    """Train a SentencePiece model of Llama's kind on a few sentences, write it, and return its processor.

    ``unused``: pieces with InternLM2's names for places to be given to special tokens. ``more``: SentencePiece's own settings.
    """
    import sentencepiece

    out = io.BytesIO()
    settings: dict[str, Any] = {
        "model_type": "bpe", "vocab_size": 560, "hard_vocab_limit": False, "character_coverage": 1.0, "byte_fallback": True, "num_threads": 1,
        "normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": dummy_prefix, "split_digits": True,
        "allow_whitespace_only_pieces": True, "unk_id": 0, "bos_id": 1, "eos_id": 2, "minloglevel": 2,
        "user_defined_symbols": [f"[UNUSED_TOKEN_{140 + n}]" for n in range(unused)],
    }  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(_CORPUS), model_writer=out, **settings | more)
    path.write_bytes(out.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def _internlm2_tokenizer(directory: Path) -> int:
    """Write the tokenizer's files; two special tokens take the places of pieces, the others follow, as in the real one."""
    processor = sentencepiece_model(directory / "tokenizer.model", dummy_prefix=False, unused=2)
    places = [processor.piece_to_id(f"[UNUSED_TOKEN_{140 + n}]") for n in range(2)]
    size = processor.get_piece_size()
    numbers = dict(zip(_SPECIAL, [*places, *range(size, size + len(_SPECIAL) - 2)], strict=True))
    _tokenizer_config(directory, "InternLM2Tokenizer", numbers, {"<unk>": 0, "<s>": 1, "</s>": 2})
    return size + len(_SPECIAL) - 2


def _qwen2_tokenizer(directory: Path) -> int:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(_CORPUS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False))
    trained.model.save(str(directory))
    size = trained.get_vocab_size()
    numbers = {token: size + n for n, token in enumerate(["<|endoftext|>", *_SPECIAL])}
    _tokenizer_config(directory, "Qwen2Tokenizer", numbers, {})
    return size + len(numbers)


def _tokenizer_config(directory: Path, name: str, numbers: dict[str, int], also: dict[str, int]) -> None:
    decoder = {
        str(n): {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
        for t, n in {**also, **numbers}.items()
    }
    internlm2 = name == "InternLM2Tokenizer"
    config = {
        "added_tokens_decoder": decoder,
        "additional_special_tokens": _SPECIAL,
        "bos_token": "<s>" if internlm2 else None,
        "eos_token": "</s>" if internlm2 else "<|im_end|>",
        "pad_token": "</s>" if internlm2 else "<|endoftext|>",
        "model_max_length": 8192,
        "chat_template": "{{ 'the checkpoint has another' }}",
        "tokenizer_class": name,
    }
    if internlm2:
        config |= {"auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]}, "unk_token": "<unk>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False))
    (directory / "added_tokens.json").write_text(json.dumps(numbers))


def published(directory: Path, language: dict[str, Any] = INTERNLM2, shards: int = 2, dtype: torch.dtype = torch.float32) -> Path:
    """Write the checkpoint: configuration, weights in ``shards`` files with an index, tokenizer, and code that must not be run."""
    directory.mkdir(parents=True, exist_ok=True)
    internlm2 = language["architectures"] == ["InternLM2ForCausalLM"]
    language = {**language, "vocab_size": (_internlm2_tokenizer if internlm2 else _qwen2_tokenizer)(directory)}
    config = {
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig", "AutoModel": "modeling_internvl_chat.InternVLChatModel"},
        "downsample_ratio": 0.5, "dynamic_image_size": True, "force_image_size": SIDE, "llm_config": language, "max_dynamic_patch": 12,
        "min_dynamic_patch": 1, "model_type": "internvl_chat", "ps_version": "v2", "select_layer": -1,
        "template": "internlm2-chat" if internlm2 else "Hermes-2", "torch_dtype": str(dtype).removeprefix("torch."),
        "use_backbone_lora": 0, "use_llm_lora": 0, "use_thumbnail": True, "vision_config": VISION,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    for name in ("configuration_internvl_chat", "modeling_internvl_chat", "tokenization_internlm2"):
        (directory / f"{name}.py").write_text("raise SystemExit('code of the checkpoint was run')\n")
    write_shards(directory, {name: tensor.to(dtype) for name, tensor in weights(config).items()}, shards)
    return directory


def write_shards(directory: Path, tensors: dict[str, torch.Tensor], shards: int) -> None:
    """Write ``tensors`` as the hub has them: in one file, or in several with an index."""
    for old in [*directory.glob("*.safetensors"), *directory.glob("*.index.json")]:
        old.unlink()
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(tensors)
    each = math.ceil(len(names) / shards)
    table = {}
    for n in range(shards):
        file = f"model-{n + 1:05}-of-{shards:05}.safetensors"
        here = {name: tensors[name] for name in names[n * each : (n + 1) * each]}
        save_file(here, directory / file, metadata={"format": "pt"})
        table |= dict.fromkeys(here, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))


def weights(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return random weights under the published names."""
    vision, language = config["vision_config"], config["llm_config"]
    width, hidden, vocabulary = vision["hidden_size"], language["hidden_size"], language["vocab_size"]
    head = hidden // language["num_attention_heads"]
    heads, groups = language["num_attention_heads"], language["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {
        "vision_model.embeddings.class_embedding": (1, 1, width),
        "vision_model.embeddings.position_embedding": (1, (SIDE // PATCH) ** 2 + 1, width),
        "vision_model.embeddings.patch_embedding.weight": (width, 3, PATCH, PATCH),
        "vision_model.embeddings.patch_embedding.bias": (width,),
    }
    for n in range(vision["num_hidden_layers"]):
        at = f"vision_model.encoder.layers.{n}"
        shapes |= {f"{at}.{name}": (width,) for name in ("ls1", "ls2", "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")}
        shapes |= {f"{at}.attn.qkv.weight": (3 * width, width), f"{at}.attn.qkv.bias": (3 * width,)}
        shapes |= {f"{at}.attn.proj.weight": (width, width), f"{at}.attn.proj.bias": (width,)}
        shapes |= {f"{at}.mlp.fc1.weight": (64, width), f"{at}.mlp.fc1.bias": (64,)}
        shapes |= {f"{at}.mlp.fc2.weight": (width, 64), f"{at}.mlp.fc2.bias": (width,)}
    shapes |= {"mlp1.0.weight": (4 * width,), "mlp1.0.bias": (4 * width,), "mlp1.1.weight": (hidden, 4 * width), "mlp1.1.bias": (hidden,)}
    shapes |= {"mlp1.3.weight": (hidden, hidden), "mlp1.3.bias": (hidden,)}
    if language["model_type"] == "internlm2":
        shapes |= {"language_model.model.tok_embeddings.weight": (vocabulary, hidden), "language_model.model.norm.weight": (hidden,)}
        for n in range(language["num_hidden_layers"]):
            at = f"language_model.model.layers.{n}"
            shapes |= {f"{at}.attention.wqkv.weight": ((heads + 2 * groups) * head, hidden), f"{at}.attention.wo.weight": (hidden, hidden)}
            shapes |= {f"{at}.feed_forward.w{i}.weight": (96, hidden) for i in (1, 3)} | {f"{at}.feed_forward.w2.weight": (hidden, 96)}
            shapes |= {f"{at}.attention_norm.weight": (hidden,), f"{at}.ffn_norm.weight": (hidden,)}
        shapes |= {"language_model.output.weight": (vocabulary, hidden)}
    else:
        shapes |= {"language_model.model.embed_tokens.weight": (vocabulary, hidden), "language_model.model.norm.weight": (hidden,)}
        for n in range(language["num_hidden_layers"]):
            at = f"language_model.model.layers.{n}"
            for letter, out in (("q", heads * head), ("k", groups * head), ("v", groups * head)):
                shapes |= {f"{at}.self_attn.{letter}_proj.weight": (out, hidden), f"{at}.self_attn.{letter}_proj.bias": (out,)}
            shapes |= {f"{at}.self_attn.o_proj.weight": (hidden, hidden), f"{at}.mlp.down_proj.weight": (hidden, 96)}
            shapes |= {f"{at}.mlp.{name}_proj.weight": (96, hidden) for name in ("gate", "up")}
            shapes |= {f"{at}.{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
        shapes |= {"language_model.lm_head.weight": (vocabulary, hidden)}
    random = torch.Generator().manual_seed(0)
    out = {}
    for name, shape in shapes.items():
        scale = 1.0 if "embeddings" in name or "embed_tokens" in name else 0.3 if len(shape) == 1 else 1.5 / math.sqrt(math.prod(shape[1:]))
        out[name] = torch.randn(shape, generator=random) * scale + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return out


# The forward pass, as the authors' code has it (modeling_intern_vit, modeling_internlm2, modeling_internvl_chat).


def image_features(w: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """Return the tokens of tiles ``pixels`` (tiles, 3, side, side): (tiles, tokens, hidden)."""
    v = {name.removeprefix("vision_model."): tensor for name, tensor in w.items()}
    x = (
        F.conv2d(pixels, v["embeddings.patch_embedding.weight"], v["embeddings.patch_embedding.bias"], stride=PATCH)
        .flatten(2)
        .transpose(1, 2)
    )
    x = torch.cat([v["embeddings.class_embedding"].expand(len(x), -1, -1), x], 1) + v["embeddings.position_embedding"]
    heads = VISION["num_attention_heads"]
    for n in range(VISION["num_hidden_layers"]):
        p = {name.removeprefix(f"encoder.layers.{n}."): tensor for name, tensor in v.items()}
        y = F.layer_norm(x, x.shape[-1:], p["norm1.weight"], p["norm1.bias"], 1e-6)
        qkv = F.linear(y, p["attn.qkv.weight"], p["attn.qkv.bias"]).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (qkv[0] @ qkv[1].transpose(-1, -2)) / math.sqrt(qkv.shape[-1])
        y = (scores.softmax(-1) @ qkv[2]).transpose(1, 2).flatten(2)
        x = x + p["ls1"] * F.linear(y, p["attn.proj.weight"], p["attn.proj.bias"])
        y = F.gelu(
            F.linear(F.layer_norm(x, x.shape[-1:], p["norm2.weight"], p["norm2.bias"], 1e-6), p["mlp.fc1.weight"], p["mlp.fc1.bias"])
        )
        x = x + p["ls2"] * F.linear(y, p["mlp.fc2.weight"], p["mlp.fc2.bias"])
    side = SIDE // PATCH
    x = x[:, 1:].unflatten(1, (side, side))
    # Four neighbours become one token: (row, column) of the upper left one, then what stands beside and below, as ps_version v2 has it.
    x = torch.cat([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1).flatten(1, 2)
    x = F.layer_norm(x, x.shape[-1:], w["mlp1.0.weight"], w["mlp1.0.bias"])
    return F.linear(F.gelu(F.linear(x, w["mlp1.1.weight"], w["mlp1.1.bias"])), w["mlp1.3.weight"], w["mlp1.3.bias"])


def logits(w: dict[str, torch.Tensor], embedded: torch.Tensor) -> torch.Tensor:
    """Return InternLM2's logits for embedded tokens (batch, tokens, hidden)."""
    w = {name.removeprefix("language_model."): tensor for name, tensor in w.items()}
    x, length = embedded, embedded.shape[1]
    heads, groups = INTERNLM2["num_attention_heads"], INTERNLM2["num_key_value_heads"]
    head = INTERNLM2["hidden_size"] // heads
    angles = torch.outer(torch.arange(length).float(), 1.0 / INTERNLM2["rope_theta"] ** (torch.arange(0, head, 2).float() / head)).repeat(
        1, 2
    )

    def norm(y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return weight * y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-5)

    def turn(y: torch.Tensor) -> torch.Tensor:
        half = torch.cat([-y[..., head // 2 :], y[..., : head // 2]], -1)
        return y * angles.cos() + half * angles.sin()

    for n in range(INTERNLM2["num_hidden_layers"]):
        p = {name.removeprefix(f"model.layers.{n}."): tensor for name, tensor in w.items()}
        y = F.linear(norm(x, p["attention_norm.weight"]), p["attention.wqkv.weight"]).unflatten(-1, (groups, heads // groups + 2, head))
        q, k, v = y[..., :-2, :].flatten(2, 3).transpose(1, 2), y[..., -2, :].transpose(1, 2), y[..., -1, :].transpose(1, 2)
        k, v = (t.repeat_interleave(heads // groups, 1) for t in (k, v))
        scores = turn(q) @ turn(k).transpose(-1, -2) / math.sqrt(head) + torch.full((length, length), -torch.inf).triu(1)
        x = x + F.linear((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), p["attention.wo.weight"])
        y = norm(x, p["ffn_norm.weight"])
        y = F.silu(F.linear(y, p["feed_forward.w1.weight"])) * F.linear(y, p["feed_forward.w3.weight"])
        x = x + F.linear(y, p["feed_forward.w2.weight"])
    return F.linear(norm(x, w["model.norm.weight"]), w["output.weight"])
