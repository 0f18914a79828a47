"""Perplexity of a caption by a causal language model through transformers, GPT-2 unless another is named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from synthvlm.options import checkpoint, option, runtime
from synthvlm.sample import Failed

if TYPE_CHECKING:
    from synthvlm.sample import ScoreRequest

_STEP = 16
"""Captions are padded to multiples of so many tokens, so that a caption's value hardly depends on its neighbours."""


@dataclass(frozen=True)
class Perplexity:
    """Perplexity by a causal language model (GPT-2): high for jumbled words and keyword lists."""

    checkpoint: str = checkpoint("openai-community/gpt2", help="a causal language model: directory or hub id")
    longest: int = option(256, help="tokens looked at", ge=8)
    dtype: Literal["float32", "bfloat16", "float16"] = option("float32", help="arithmetic of the model")
    batch_size: int = runtime(64, help="captions at a time", ge=1)

    output_revision: ClassVar[int] = 1
    reads: ClassVar[str] = "text"
    wants_device: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    extra: ClassVar[str] = "transformers"

    def load(self, devices: Sequence[str]) -> PerplexityScorer:
        """Load the model on the first of ``devices``."""
        return PerplexityScorer(self, devices[0] if devices else "cpu")


class PerplexityScorer:
    """Captions → ``perplexity``: exp of the mean −log p of their tokens, the first one's after the beginning token, and the end's."""

    columns = ("perplexity",)

    def __init__(self, options: Perplexity, device: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.batch_size = options.batch_size
        self._longest, self._device = options.longest, device
        self._tokenizer: Any = AutoTokenizer.from_pretrained(options.checkpoint)
        model: Any = AutoModelForCausalLM.from_pretrained(options.checkpoint, dtype=getattr(torch, options.dtype))
        self._model: Any = model.to(device).eval()
        end = self._tokenizer.eos_token_id
        begin = self._tokenizer.bos_token_id
        self._begin = begin if begin is not None else end
        self._end = end if end is not None else self._begin
        card = {"model": self._model.config.model_type, "dtype": options.dtype, "text_policy": f"cut at {options.longest} tokens"}
        self.cards: Mapping[str, Mapping[str, Any]] = {"perplexity": {"metric": "perplexity by a causal language model", **card}}

    def score(self, batch: Sequence[ScoreRequest]) -> Iterable[Mapping[str, float] | Failed]:
        """Return the perplexity of each caption."""
        import torch

        texts = [" ".join((r.caption or "").split()) for r in batch]
        ids = [[self._begin, *self._tokenizer(t, add_special_tokens=False)["input_ids"][: self._longest], self._end] for t in texts]
        length = -(-max(map(len, ids)) // _STEP) * _STEP
        tokens = torch.full((len(ids), length), self._end)
        mask = torch.zeros((len(ids), length), dtype=torch.long)
        for n, line in enumerate(ids):
            tokens[n, : len(line)] = torch.tensor(line)
            mask[n, : len(line)] = 1
        tokens, mask = tokens.to(self._device), mask.to(self._device)
        with torch.inference_mode():
            logits = self._model(input_ids=tokens, attention_mask=mask).logits[:, :-1].float()
            loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none") * mask[:, 1:]
            mean = loss.double().sum(1) / mask[:, 1:].sum(1)
        return [{"perplexity": float(v)} for v in mean.exp().cpu()]
