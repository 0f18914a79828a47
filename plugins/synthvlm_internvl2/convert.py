"""InternVL2 as OpenGVLab publishes it → a directory that transformers' ``InternVLForConditionalGeneration`` loads, without remote code.

The vision model is InternViT-300M. The language model is InternLM2 in the 2B and 8B, which is Llama with the projections of q, k and v
stored as one (per group of heads: its queries, then k, then v), and Qwen2 in the 1B.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from synthvlm.converting import added_tokens, at_hand, expected_weights, from_sentencepiece, read_json, read_weights, write_weights, writing
from synthvlm.errors import CheckpointError
from synthvlm.options import option
from synthvlm_internvl2.conversation import END, IMAGE, TEMPLATE

if TYPE_CHECKING:
    import torch

ORIGINAL = "InternVLChatModel"
"""The class of the published layout."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SPECIAL = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": IMAGE}
_OTHERS = (
    "InternVL2 in its 1B, 2B and 8B can be converted; of newer InternVL there are repositories named -hf, which --model transformers runs"
)


@dataclass(frozen=True)
class Conversion:
    """InternVL2 (1B, 2B, 8B) as published by OpenGVLab: SRC is its directory or hub id."""

    dtype: Literal["keep", "bfloat16", "float16", "float32"] = option("keep", help="precision to write; keep: as published (bfloat16)")

    def convert(self, source: str, target: str, say: Callable[[str], None]) -> None:
        """Write the directory ``target``. Raises CheckpointError if ``source`` is another model, or lacks something."""
        from transformers import GenerationConfig, InternVLForConditionalGeneration

        source = at_hand(source)
        original = read_json(Path(source) / "config.json")
        _require_internvl2(source, original)
        with writing("internvl2", 1, {"SRC": source}, target, self) as folder:
            if folder is None:
                say(f"{target} is already made of this")
                return
            tokenizer = _tokenizer(Path(source), original)
            config = _config(original, tokenizer, self.dtype)
            expected = {_published(name): shape for name, shape in expected_weights(InternVLForConditionalGeneration, config).items()}
            write_weights(folder, _renamed(source, original), expected, self.dtype, say)
            config.save_pretrained(folder)
            _processor(original, tokenizer).save_pretrained(folder)
            ends = [tokenizer.convert_tokens_to_ids(END), tokenizer.eos_token_id]
            GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id).save_pretrained(
                folder
            )


def _require_internvl2(source: str, config: dict[str, Any]) -> None:
    if ORIGINAL not in (config.get("architectures") or ()):
        architectures = ", ".join(config.get("architectures") or ("a model without a name",))
        hint = "it is converted already" if architectures == "InternVLForConditionalGeneration" else _OTHERS
        raise CheckpointError(f"{source} is {architectures}, not InternVL2 as OpenGVLab publishes it ({ORIGINAL})", hint)
    language, vision = config["llm_config"], config["vision_config"]
    unlike = []
    if (config.get("template"), _kind(config)) not in {("internlm2-chat", "InternLM2ForCausalLM"), ("Hermes-2", "Qwen2ForCausalLM")}:
        unlike.append(f"language model {_kind(config)} with the conversation {config.get('template')}")
    if vision.get("qk_normalization") or vision.get("norm_type", "layer_norm") != "layer_norm":
        unlike.append("the vision model of the 26B and larger ones")
    if config.get("select_layer", -1) != -1 or config.get("ps_version") != "v2":
        unlike.append(f"image features of layer {config.get('select_layer')}, arranged by {config.get('ps_version')}")
    if (config.get("force_image_size") or vision["image_size"]) != vision["image_size"]:
        unlike.append(f"tiles of {config['force_image_size']} pixels with a vision model for {vision['image_size']}")
    if config.get("use_llm_lora") or config.get("use_backbone_lora"):
        unlike.append("unmerged LoRA weights")
    if language.get("bias"):
        unlike.append("biases in the language model's attention")
    if unlike:
        raise CheckpointError(f"{source} is an InternVL that this cannot convert: it has {'; '.join(unlike)}", _OTHERS)


def _kind(config: dict[str, Any]) -> str:
    return (config["llm_config"].get("architectures") or ["?"])[0]


def _config(original: dict[str, Any], tokenizer: Any, dtype: str) -> Any:
    from transformers import InternVLConfig, InternVLVisionConfig, LlamaConfig, Qwen2Config

    language, vision = original["llm_config"], original["vision_config"]
    same = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
    text: dict[str, Any] = {key: language[key] for key in (*same, "max_position_embeddings", "rms_norm_eps")}
    tied = bool(language.get("tie_word_embeddings"))
    text |= {"tie_word_embeddings": tied, "hidden_act": language.get("hidden_act", "silu"), "eos_token_id": tokenizer.eos_token_id}
    scaling = language.get("rope_scaling") or {"type": "default"}
    rope = {"rope_type": scaling["type"], "rope_theta": language["rope_theta"]} | {k: v for k, v in scaling.items() if k != "type"}
    text |= {"rope_parameters": rope, "pad_token_id": tokenizer.pad_token_id}
    text_class = LlamaConfig if _kind(original) == "InternLM2ForCausalLM" else Qwen2Config
    same = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps")
    config = InternVLConfig(
        text_config=text_class(**text, bos_token_id=tokenizer.bos_token_id),
        vision_config=InternVLVisionConfig(
            **{key: vision[key] for key in same},
            image_size=[vision["image_size"]] * 2,
            patch_size=[vision["patch_size"]] * 2,
            attention_bias=vision.get("qkv_bias", True),
            norm_type="layer_norm",
            use_qk_norm=False,
        ),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=_tokens(original),
        downsample_ratio=original["downsample_ratio"],
        tie_word_embeddings=tied,
    )
    config.architectures = ["InternVLForConditionalGeneration"]
    config.dtype = original.get("torch_dtype", "bfloat16") if dtype == "keep" else dtype
    return config


def _tokens(original: dict[str, Any]) -> int:
    """Return how many tokens a tile makes."""
    vision = original["vision_config"]
    return int((vision["image_size"] // vision["patch_size"]) ** 2 * original["downsample_ratio"] ** 2)


def _tokenizer(source: Path, original: dict[str, Any]) -> Any:
    from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

    # InternVL2 knows no videos as such; the processor wants a name for their token all the same.
    special = {**_SPECIAL, "video_token": IMAGE}
    if _kind(original) == "InternLM2ForCausalLM":
        named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
        backend = from_sentencepiece(source / "tokenizer.model", added_tokens(source))
        tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=backend, **named, extra_special_tokens=special)
    else:
        tokenizer = Qwen2Tokenizer.from_pretrained(source, extra_special_tokens=special)
    tokenizer.chat_template = TEMPLATE  # not that of the checkpoint, which has other line breaks
    lacking = [
        t
        for t in (END, "<|im_start|>", *_SPECIAL.values())
        if tokenizer.get_vocab().get(t, 1 << 40) >= original["llm_config"]["vocab_size"]
    ]
    if lacking:
        raise CheckpointError(f"the tokenizer in {source} lacks {', '.join(lacking)}", "fetch the checkpoint anew")
    return tokenizer


def _processor(original: dict[str, Any], tokenizer: Any) -> Any:
    from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

    side = original["vision_config"]["image_size"]
    size = {"height": side, "width": side}
    tiles = {"min_patches": original.get("min_dynamic_patch", 1), "max_patches": original.get("max_dynamic_patch", 12)}
    images = GotOcr2ImageProcessor(size=size, crop_to_patches=True, image_mean=_MEAN, image_std=_STD, **tiles)
    videos = InternVLVideoProcessor(size=size, image_mean=_MEAN, image_std=_STD)
    return InternVLProcessor(images, tokenizer, videos, image_seq_length=_tokens(original), chat_template=TEMPLATE)


_VISION = [
    ("encoder.layers.", "encoder.layer."),
    ("embeddings.class_embedding", "embeddings.cls_token"),
    ("embeddings.position_embedding", "embeddings.position_embeddings"),
    ("embeddings.patch_embedding.", "embeddings.patch_embeddings.projection."),
    (".attn.proj.", ".attention.projection_layer."),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".ls1", ".lambda_1"),
    (".ls2", ".lambda_2"),
]
_INTERNLM2 = [
    ("language_model.output.", "language_model.lm_head."),
    (".tok_embeddings.", ".embed_tokens."),
    (".attention.wo.", ".self_attn.o_proj."),
    (".feed_forward.w1.", ".mlp.gate_proj."),
    (".feed_forward.w2.", ".mlp.down_proj."),
    (".feed_forward.w3.", ".mlp.up_proj."),
    (".attention_norm.", ".input_layernorm."),
    (".ffn_norm.", ".post_attention_layernorm."),
]
_PROJECTOR = {"0": "layer_norm", "1": "linear_1", "3": "linear_2"}


def _renamed(source: str, original: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights under the names of transformers' own published checkpoints; a name that is not known stays as it is."""
    language = original["llm_config"]
    heads, groups = language["num_attention_heads"], language["num_key_value_heads"]
    for name, tensor in read_weights(source):
        if name.startswith("vision_model."):
            name = _replaced(name, [("vision_model.", "vision_tower."), *_VISION])
            if ".attn.qkv." in name:
                for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                    yield name.replace(".attn.qkv.", f".attention.{letter}_proj."), part
                continue
        elif layer := re.fullmatch(r"mlp1\.([013])\.(weight|bias)", name):
            name = f"multi_modal_projector.{_PROJECTOR[layer[1]]}.{layer[2]}"
        elif name.startswith("language_model.") and _kind(original) == "InternLM2ForCausalLM":
            if name.endswith(".attention.wqkv.weight"):
                each = tensor.unflatten(0, (groups, heads // groups + 2, -1))  # (groups, queries + k + v, size of a head, hidden)
                parts = {"q": each[:, :-2].flatten(0, 2), "k": each[:, -2].flatten(0, 1), "v": each[:, -1].flatten(0, 1)}
                for letter, part in parts.items():
                    yield name.replace(".attention.wqkv.", f".self_attn.{letter}_proj."), part
                continue
            name = _replaced(name, _INTERNLM2)
        elif name == "language_model.lm_head.weight" and language.get("tie_word_embeddings"):
            continue  # the embeddings once more
        yield name, tensor


def _replaced(name: str, pairs: list[tuple[str, str]]) -> str:
    for old, new in pairs:
        name = name.replace(old, new, 1)
    return name


def _published(name: str) -> str:
    """Return the name that a weight of transformers' class has in published checkpoints, which every engine reads."""
    pairs = [("model.vision_tower.", "vision_tower."), ("model.multi_modal_projector.", "multi_modal_projector.")]
    pairs += [("model.language_model.", "language_model.model."), ("lm_head.", "language_model.lm_head.")]
    return next((new + name[len(old) :] for old, new in pairs if name.startswith(old)), name)
