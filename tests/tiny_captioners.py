"""Tiny random image-text-to-text checkpoints in their published layouts, with processor, tokenizer and chat template.

Every maker is seeded. ``python -m tests.tiny_captioners llava DIR`` makes one by hand. Weights are drawn so that answers vary
with the picture and the prompt, and that two tokens are rarely as likely as each other.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS = [
    "a photo of a cat sitting on a mat",
    "describe this image in detail",
    "the quick brown fox jumps over the lazy dog 0123456789",
    "USER: ASSISTANT: system user assistant You are a helpful assistant.",
]
CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% elif 'text' in c %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
# As llava-hf's: the role of a system message is not written, images come first, and each text is followed by a space.
LLAVA = (
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'].upper() + ': ' }}{% endif %}"
    "{% for c in m['content'] if c['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def picture(seed: int = 0, size: tuple[int, int] = (96, 80)) -> Any:
    """Return one of many different pictures."""
    import numpy as np
    from PIL import Image

    width, height = size
    y, x = np.mgrid[0:height, 0:width].astype("float32")
    wave = [np.sin((seed + 2) * (x / width * a + y / height * b) + seed) for a, b in ((5, 1), (1, 6), (3, 4))]
    return Image.fromarray(((np.stack(wave, -1) + 1) * 127.5).astype("uint8"))


def _tokenizer(specials: list[str], **names: Any) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(WORDS * 20, trainers.BpeTrainer(vocab_size=400, initial_alphabet=letters, show_progress=False))
    tokenizer.add_special_tokens(specials)
    if names.pop("writes_bos", False):
        bos = names["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=2048, **names)


def _save(model: Any, processor: Any, directory: Path, **generation: Any) -> Path:
    """Fill the model with seeded weights and write it, its processor, and its generation defaults."""
    import torch

    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if p.dim() == 1:
                p.copy_(torch.ones(p.shape) if "norm" in name and name.endswith("weight") else 0.02 * torch.randn(p.shape, generator=draw))
            else:
                loudness = 1.0 if "embed_tokens" in name else 1 / math.sqrt(p[0].numel())
                p.copy_(loudness * torch.randn(p.shape, generator=draw))
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def _text(kind: str, tokenizer: Any, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        **more,
    }


def llava(directory: Path, side: int = 56, template: str | None = LLAVA) -> Path:
    """LLaVA-1.5's layout: CLIP ViT, two-layer projector, Llama; key names as in llava-hf's checkpoints."""
    from safetensors.torch import load_file, save_file
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "writes_bos": True}
    tokenizer = _tokenizer(["<unk>", "<s>", "</s>", "<image>", "<pad>"], **names)
    ids = tokenizer.convert_tokens_to_ids
    mean = [0.48145466, 0.4578275, 0.40821073]
    images = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_mean=mean)
    processor = LlavaProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=template
    )
    vision = {"model_type": "clip_vision_model", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3}
    config = LlavaConfig(
        vision_config=vision | {"num_attention_heads": 2, "image_size": side, "patch_size": 14, "projection_dim": 64},
        text_config=_text("llama", tokenizer, bos_token_id=ids("<s>"), eos_token_id=ids("</s>"), pad_token_id=ids("<pad>")),
        image_token_index=ids("<image>"),
        image_seq_length=(side // 14) ** 2,
        vision_feature_layer=-2,
    )
    # The published generation_config.json has no more than these.
    _save(LlavaForConditionalGeneration(config), processor, directory, eos_token_id=ids("</s>"), pad_token_id=ids("<pad>"))
    file = directory / "model.safetensors"
    old, new = "vision_tower.", "vision_tower.vision_model."
    weights = {k.replace(old, new, 1) if k.startswith(old) and not k.startswith(new) else k: v for k, v in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    return directory


def _qwen(directory: Path, processor_class: Any, make: Callable[[dict[str, Any], dict[str, Any]], Any], **sampling: Any) -> Path:
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    specials = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ]
    tokenizer = _tokenizer(specials, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    ids = tokenizer.convert_tokens_to_ids
    limits = {"min_pixels": 56 * 56, "max_pixels": 112 * 112}
    processor = processor_class(
        image_processor=Qwen2VLImageProcessor(**limits),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**limits),
        chat_template=CHATML.replace("IMAGE", QWEN_IMAGE),
    )
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]}
    tokens = {
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
        "tie_word_embeddings": False,
    }
    text = _text("", tokenizer, bos_token_id=ids("<|endoftext|>"), eos_token_id=ids("<|im_end|>"), rope_parameters=rope)
    del text["model_type"]
    ends = [ids("<|im_end|>"), ids("<|endoftext|>")]
    return _save(make(text, tokens), processor, directory, eos_token_id=ends, pad_token_id=ids("<|endoftext|>"), **sampling)


def qwen2_vl(directory: Path) -> Path:
    """Qwen2-VL's layout. As published, its generation defaults ask for sampling."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    def make(text: dict[str, Any], tokens: dict[str, Any]) -> Any:
        vision = {"depth": 2, "embed_dim": 64, "hidden_size": 128, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
        return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **tokens))

    return _qwen(directory, Qwen2VLProcessor, make, do_sample=True, temperature=0.01, top_p=0.001, top_k=1)


def qwen2_5_vl(directory: Path) -> Path:
    """Qwen2.5-VL's layout: attention in windows. As published, its generation defaults ask for sampling and a repetition penalty."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    def make(text: dict[str, Any], tokens: dict[str, Any]) -> Any:
        vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": 128, "patch_size": 14}
        vision |= {"window_size": 56, "fullatt_block_indexes": [1]}
        return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens))

    return _qwen(directory, Qwen2_5_VLProcessor, make, do_sample=True, temperature=1e-6, repetition_penalty=1.05)


def internvl(directory: Path) -> Path:
    """InternVL's layout in transformers' own classes, with tiles of 56 pixels and 4 tokens each."""
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    roles = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}
    tokenizer = _tokenizer(specials, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=roles)
    ids = tokenizer.convert_tokens_to_ids
    side = {"height": 56, "width": 56}
    normal = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=side, crop_to_patches=True, min_patches=1, max_patches=4, **normal),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=side),
        image_seq_length=4,
        chat_template=CHATML.replace("IMAGE", "<IMG_CONTEXT>\n"),
    )
    vision = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "attention_bias": True}
    config = InternVLConfig(
        vision_config=vision | {"image_size": [56, 56], "patch_size": [14, 14]},
        text_config=_text("qwen2", tokenizer, bos_token_id=ids("<|endoftext|>"), eos_token_id=ids("<|im_end|>"), tie_word_embeddings=False),
        image_token_id=ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    ends = {"eos_token_id": ids("<|im_end|>"), "pad_token_id": ids("<|endoftext|>")}
    return _save(InternVLForConditionalGeneration(config), processor, directory, **ends)


def idefics3(directory: Path) -> Path:
    """Idefics3's layout, one that no plugin of ours knows: large pictures are split into a varying number of tiles."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessor, Idefics3Processor

    specials = ["<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>"]
    specials += [f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5)]
    tokenizer = _tokenizer(specials, bos_token="<|im_start|>", eos_token="<end_of_utterance>", pad_token="<|endoftext|>")
    ids = tokenizer.convert_tokens_to_ids
    images = Idefics3ImageProcessor(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    template = (
        "<|im_start|>{% for m in messages %}{{ m['role'].capitalize() }}:{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    )
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template)
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Idefics3Config(
        vision_config=vision | {"image_size": 56, "patch_size": 14},
        text_config=_text("llama", tokenizer, pad_token_id=ids("<|endoftext|>")),
        image_token_id=ids("<image>"),
        scale_factor=2,
        pad_token_id=ids("<|endoftext|>"),
    )
    ends = {"eos_token_id": ids("<end_of_utterance>"), "pad_token_id": ids("<|endoftext|>")}
    return _save(Idefics3ForConditionalGeneration(config), processor, directory, **ends)


def set_generation_defaults(directory: Path, **values: Any) -> None:
    """Write sampling defaults into a checkpoint, as publishers do."""
    path = directory / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


MAKERS: dict[str, Callable[[Path], Path]] = {
    "llava": llava,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "internvl": internvl,
    "idefics3": idefics3,
}

if __name__ == "__main__":
    print(MAKERS[sys.argv[1]](Path(sys.argv[2])))
