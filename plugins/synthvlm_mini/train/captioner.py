"""The captioner: a small LLaVA that answers seven questions about a picture, each in its own way."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import CLIPImageProcessor, GenerationConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from synthvlm_mini.book.captions import PERSPECTIVES
from synthvlm_mini.book.scene import Scene
from synthvlm_mini.questions import QUESTIONS
from synthvlm_mini.train.loop import Schedule, fit
from synthvlm_mini.train.pictures import PIXELS, Pictures
from synthvlm_mini.train.tokenizers import load
from synthvlm_mini.train.towers import GRID, PATCH, WIDTH, pretrain_vision, vision_config
from synthvlm_mini.train.truth import DenseHead, of_patches

_OTHERS = tuple(name for name in PERSPECTIVES if name != "detail")
_BATCH, _QUESTIONS_EACH = 32, 2
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def captioner(tokenizer: Any) -> Any:
    """Return a new captioner: the vision tower, a projector, and a Llama of 4 layers, 192 wide."""
    language = LlamaConfig(
        vocab_size=-(-len(tokenizer) // 16) * 16,
        hidden_size=WIDTH,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision_config(),
        text_config=language,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        image_seq_length=GRID * GRID,
        tie_word_embeddings=True,
    )
    return LlavaForConditionalGeneration(config)


class _Examples:
    """Pictures with three questions and their answers each, after one common beginning: the picture is read once for all."""

    def __init__(self, tokenizer: Any) -> None:
        image = tokenizer.convert_tokens_to_ids("<image>")
        self.tokenizer = tokenizer
        prefix = tokenizer("USER: <image>\n").input_ids
        self.at = prefix.index(image)
        self.prefix = [*prefix[: self.at], *[image] * GRID * GRID, *prefix[self.at + 1 :]]
        self.questions = {k: tokenizer(f"{q} ASSISTANT:", add_special_tokens=False).input_ids for k, q in QUESTIONS.items()}

    def row(self, scene: Scene, asked: list[str]) -> tuple[list[int], list[int], list[int], list[int]]:
        """Return ids, positions, segments (0: the beginning, which all others see) and labels."""
        ids, start = list(self.prefix), len(self.prefix)
        positions, segments, wanted = list(range(start)), [0] * start, [-100] * start
        for number, name in enumerate(asked, 1):
            question = self.questions[name]
            answer = [*self.tokenizer(f" {PERSPECTIVES[name](scene)}", add_special_tokens=False).input_ids, self.tokenizer.eos_token_id]
            ids += question + answer
            positions += range(start, start + len(question) + len(answer))
            segments += [number] * (len(question) + len(answer))
            wanted += [-100] * len(question) + answer
        return ids, positions, segments, wanted

    def batch(self, scenes: list[Scene], rng: random.Random, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Return ids, positions, attention mask (B, 1, T, T; added to the scores) and labels, padded on the right."""
        rows = [self.row(scene, ["detail", *rng.sample(_OTHERS, _QUESTIONS_EACH)]) for scene in scenes]
        length = max(len(row[0]) for row in rows)
        ids, positions, segments, wanted = (
            torch.tensor([row[part] + [fill] * (length - len(row[part])) for row in rows], device=device)
            for part, fill in ((0, 0), (1, 0), (2, -1), (3, -100))
        )
        before = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        seen = before & ((segments[:, None, :] == 0) | (segments[:, None, :] == segments[:, :, None]))
        mask = torch.zeros(seen.shape, device=device).masked_fill(~seen, -1e9)
        return ids, positions, mask[:, None], wanted


def train_captioner(out: Path, device: torch.device, scale: float = 1.0) -> Any:
    """Train the captioner, its vision tower going on with telling what every patch shows."""
    _, tokenizer = load(out)
    pictures, examples = Pictures(out), _Examples(tokenizer)
    tower = pretrain_vision(out, device, scale)
    torch.manual_seed(4)
    model = captioner(tokenizer).to(device)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    dense = DenseHead(WIDTH).to(device)

    def loss(rng: random.Random) -> tuple[torch.Tensor, Mapping[str, float]]:
        batch = pictures.batch(rng, _BATCH, device)
        ids, positions, mask, wanted = examples.batch(batch.scenes, rng, device)
        with torch.autocast(device.type, torch.bfloat16):
            patches = model.model.vision_tower(batch.pixels).last_hidden_state[:, 1:]
            seen = model.model.multi_modal_projector(patches)
            words = model.get_input_embeddings()(ids).to(seen.dtype)
            end = examples.at + GRID * GRID
            given = torch.cat([words[:, : examples.at], seen, words[:, end:]], 1)
            states = model.model.language_model(
                inputs_embeds=given, attention_mask=mask.to(seen.dtype), position_ids=positions, use_cache=False
            ).last_hidden_state
            following = wanted[:, 1:]
            answered = following != -100
            logits = model.lm_head(states[:, :-1][answered]).float()
        spoken = F.cross_entropy(logits, following[answered])
        shown = of_patches(batch.grid(GRID), batch.labels).flatten(1, 2)
        on_patches, right = dense(seen, shown)
        correct = (logits.argmax(-1) == following[answered]).float().mean()
        return spoken + 0.3 * on_patches, {"words": float(correct), "patches": right}

    schedule = Schedule(steps=max(2, int(5000 * scale)), rate=1e-3, decay_from=0.4)
    fit("captioner", out, {"captioner": model, "dense": dense}, loss, schedule)
    return model


def export_captioner(model: Any, out: Path, folder: Path) -> None:
    """Write the checkpoint directory in the published layout of LLaVA, in half precision, with processor and chat template."""
    _, tokenizer = load(out)
    model = model.to("cpu")
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    # transformers 5 leaves out a level that the published checkpoints have, and that vLLM insists on.
    state = {
        (k if "vision_model." in k else k.replace("vision_tower.", "vision_tower.vision_model.")): v.half().contiguous()
        for k, v in load_file(path).items()
    }
    save_file(state, path, metadata={"format": "pt"})
    images = CLIPImageProcessor(
        size={"shortest_edge": PIXELS}, crop_size={"height": PIXELS, "width": PIXELS}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TEMPLATE,
    ).save_pretrained(folder)
