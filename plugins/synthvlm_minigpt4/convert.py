"""MiniGPT-4 from its parts → one directory: the projection that was trained, the language model, and BLIP-2's eyes.

With Vicuna the result is BLIP-2 with Llama as its text model (``Blip2ForConditionalGeneration``). The Llama 2 variant has no
Q-Former, and is a class of our own. Which of the two it is follows from the projection's width.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from synthvlm.converting import added_tokens, at_hand, expected_weights, from_sentencepiece, read_json, read_weights, write_weights, writing
from synthvlm.errors import CheckpointError
from synthvlm.options import option, runtime
from synthvlm_minigpt4.conversation import GROUP, IMAGE
from synthvlm_minigpt4.eyes import Eyes

if TYPE_CHECKING:
    import torch

_REQUIRED = cast(Any, dataclasses.MISSING)
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_BUFFERS = re.compile(r"(.*\.)?(position_ids|rotary_emb\.inv_freq)$")
"""Computed, not trained; older files hold them."""


@dataclass(frozen=True)
class Conversion:
    """MiniGPT-4 (Vicuna 7B and 13B, or Llama 2): SRC is the authors' .pth file."""

    # Where the parts lie is no part of what comes out: what is in them is.
    language: str = runtime(_REQUIRED, help="Vicuna v0, or Llama-2-7b-chat, in transformers' layout: a directory or a hub id")
    vision: str = runtime(
        _REQUIRED, help="Salesforce/blip2-flan-t5-xxl in transformers' layout (directory or hub id), or LAVIS's eva_vit_g.pth"
    )
    qformer: str | None = runtime(None, help="LAVIS's blip2_pretrained_flant5xxl.pth, if vision is eva_vit_g.pth and SRC is for Vicuna")
    dtype: Literal["keep", "bfloat16", "float16", "float32"] = option("keep", help="precision to write; keep: that of each part")

    def convert(self, source: str, target: str, say: Callable[[str], None]) -> None:
        """Write the directory ``target``. Raises CheckpointError if a part is not what it should be, or lacks something."""
        from transformers import Blip2ForConditionalGeneration, GenerationConfig

        from synthvlm_minigpt4.modeling import PatchesForConditionalGeneration

        parts = {"SRC": at_hand(source), "language": at_hand(self.language), "vision": at_hand(self.vision)}
        if self.qformer:
            parts["qformer"] = at_hand(self.qformer)
        projection = _projection(parts["SRC"])
        eyes = Eyes.of(parts["vision"], parts.get("qformer"))
        through_qformer = _through_qformer(projection["weight"].shape[1], eyes, source)
        language = _language(parts["language"])
        with writing("minigpt4", 1, parts, target, self) as folder:
            if folder is None:
                say(f"{target} is already made of this")
                return
            image = language.vocab_size  # the image's token comes after all others
            language.vocab_size += 1
            config = _config(eyes, language, through_qformer, image, self.dtype)
            model_class = Blip2ForConditionalGeneration if through_qformer else PatchesForConditionalGeneration
            config.architectures = [model_class.__name__]
            weights = _weights(projection, eyes, through_qformer, parts["language"])
            write_weights(folder, weights, expected_weights(model_class, config), self.dtype, say)
            config.save_pretrained(folder)
            _processor(Path(parts["language"]), image, config.vision_config.image_size).save_pretrained(folder)
            GenerationConfig(
                bos_token_id=language.bos_token_id, eos_token_id=language.eos_token_id, pad_token_id=language.pad_token_id
            ).save_pretrained(folder)


def _projection(file: str) -> dict[str, torch.Tensor]:
    found = {name: tensor for name, tensor in read_weights(file) if not _BUFFERS.match(name)}
    if any(".lora_" in name for name in found):
        raise CheckpointError(f"{file} is MiniGPT-v2, which is not supported: it holds LoRA weights", "give the .pth of MiniGPT-4")
    projection = {name.removeprefix("llama_proj."): tensor for name, tensor in found.items()}
    if set(projection) != {"weight", "bias"}:
        raise CheckpointError(
            f"{file} is not MiniGPT-4: it should hold llama_proj.weight and llama_proj.bias, and has {', '.join(sorted(found)[:4]) or 'nothing'}",
            "give the authors' .pth file: pretrained_minigpt4_7b.pth or the like",
        )
    return projection


def _through_qformer(width: int, eyes: Eyes, source: str) -> bool:
    """Say whether the projection, by its width, goes on from the Q-Former, or from patches."""
    patches = eyes.vision.get("hidden_size", 1408) * GROUP
    if width == patches:
        return False
    if eyes.qformer is None:
        raise CheckpointError(
            f"{source} needs a Q-Former, and eva_vit_g.pth has none", "give -o qformer=blip2_pretrained_flant5xxl.pth too"
        )
    if width == eyes.qformer.get("hidden_size", 768):
        return True
    raise CheckpointError(
        f"{source} takes {width} numbers, which neither the Q-Former nor {GROUP} patches give", "do they belong together?"
    )


def _language(directory: str) -> Any:
    """Return the language model's configuration with the ids that its tokenizer has, which older files have wrong."""
    from transformers import LlamaConfig

    config = read_json(Path(directory) / "config.json")
    if config.get("model_type") != "llama":
        raise CheckpointError(
            f"{directory} is {config.get('model_type')}, not Llama", "give Vicuna v0 (Vision-CAIR/vicuna-7b) or Llama-2-7b-chat"
        )
    tokenizer = from_sentencepiece(Path(directory) / "tokenizer.model")
    ids = {"bos_token_id": tokenizer.token_to_id("<s>"), "eos_token_id": tokenizer.token_to_id("</s>")}
    unwanted = ("architectures", "tie_word_embeddings", "transformers_version", "pad_token_id")
    kept = {key: value for key, value in config.items() if key not in unwanted}
    return LlamaConfig(**{**kept, **ids}, pad_token_id=ids["eos_token_id"], tie_word_embeddings=False)


def _config(eyes: Eyes, language: Any, through_qformer: bool, image: int, dtype: str) -> Any:
    from transformers import Blip2Config

    from synthvlm_minigpt4.modeling import PatchesConfig

    if through_qformer:
        config: Any = cast(Any, Blip2Config)(
            vision_config=dict(eyes.vision),
            qformer_config=dict(eyes.qformer or {}),
            text_config=language.to_dict(),
            num_query_tokens=eyes.queries,
            image_token_index=image,
            tie_word_embeddings=False,
        )
    else:
        config = PatchesConfig(vision_config=dict(eyes.vision), text_config=language, patch_group=GROUP, image_token_id=image)
    config.dtype = (language.dtype or "float16") if dtype == "keep" else dtype
    return config


def _weights(projection: dict[str, torch.Tensor], eyes: Eyes, through_qformer: bool, language: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every weight under transformers' name; a name that is not known comes as it is, and is refused by its reader."""
    import torch

    yield from ((f"language_projection.{name}", tensor) for name, tensor in projection.items())
    yield from eyes.weights(through_qformer)
    for name, tensor in read_weights(language):
        if _BUFFERS.match(name):
            continue
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            # The image's token stands for features, so its own embedding is never looked at. To be said it must not become likelier
            # than <unk>, which Llama never says: it has that one's row.
            tensor = torch.cat([tensor, tensor[:1]])
        yield f"language_model.{name}", tensor


def _processor(language: Path, image: int, side: int) -> Any:
    from transformers import Blip2Processor, BlipImageProcessor, PreTrainedTokenizerFast

    added = {number: text for number, text in added_tokens(language).items() if number < image}
    size = from_sentencepiece(language / "tokenizer.model").get_vocab_size()
    # Rows of the embeddings that have no token of their own.
    added |= {number: f"<unused_{number}>" for number in range(size, image) if number not in added}
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    backend = from_sentencepiece(language / "tokenizer.model", {**added, image: IMAGE})
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **named, extra_special_tokens={"image_token": IMAGE})
    images = BlipImageProcessor(size={"height": side, "width": side}, image_mean=_MEAN, image_std=_STD)
    # Without a number of query tokens the processor leaves the text as it is; else it would put the image before it.
    return Blip2Processor(images, tokenizer)
