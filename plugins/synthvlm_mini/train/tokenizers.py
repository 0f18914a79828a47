"""The two tokenizers, of words of the world and of pieces of all others: CLIP's kind for the text towers, Llama's for the captioner."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from synthvlm_mini.book import captions
from synthvlm_mini.book.scene import sample

CONTEXT = 64
"""Tokens that the text towers read, marks included."""
_CLIP_PIECES, _LLAMA_PIECES = 1400, 1000
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What CLIP's tokenizer takes for a word."""
_MANNERS = "a photo depicts an image, picture or photograph of it; this is what one sees there, not that. USER: ASSISTANT:"


def _texts() -> Iterator[str]:
    """Yield captions and answers of scenes, and words that people use about pictures."""
    rng = random.Random("tokenizers")
    for _ in range(3000):
        scene = sample(rng)
        yield from (captions.caption(scene, rng) for _ in range(4))
        yield captions.medium(scene, rng)
        yield from (say(scene) for say in captions.PERSPECTIVES.values())
        yield _MANNERS


def train_clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """Train and save the text towers' tokenizer (BPE, lower case, 64 tokens)."""
    bpe = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=_CLIP_PIECES, min_frequency=2, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator((text.lower() for text in _texts()), trainer)
    learned = json.loads(bpe.to_str())["model"]["merges"]
    merges: Any = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in learned]
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    # CLIP pools at the highest token id: the end mark comes last.
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"]))}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CONTEXT)
    tokenizer.save_pretrained(folder)
    return tokenizer


def train_llama_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Train and save the captioner's tokenizer (byte-level BPE)."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_LLAMA_PIECES,
        min_frequency=2,
        special_tokens=["<pad>", "<s>", "</s>", "<image>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator((f" {text}" for text in _texts()), trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
        padding_side="left",
        model_max_length=512,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def load(out: Path) -> tuple[CLIPTokenizer, PreTrainedTokenizerFast]:
    """Return both, trained now if they were not yet."""
    clip, llama = out / "tokenizers" / "clip", out / "tokenizers" / "llama"
    return (
        CLIPTokenizer.from_pretrained(clip) if clip.exists() else train_clip_tokenizer(clip),
        PreTrainedTokenizerFast.from_pretrained(llama) if llama.exists() else train_llama_tokenizer(llama),
    )
