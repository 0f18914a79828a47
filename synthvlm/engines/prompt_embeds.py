"""Captions → text embeddings: each caption on its own, whole where the model allows it, once for all its candidates."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

REMEMBERED = 32
"""Captions whose embeddings are kept, on the CPU. Candidates of a caption are adjacent, so a few suffice."""


@dataclass(frozen=True)
class Embedding:
    """A caption as the model sees it: one vector per token and one for the whole, both with a batch axis of one."""

    tokens: torch.Tensor
    pooled: torch.Tensor


class Prompts:
    """Encode captions one by one, so that an embedding never depends on its neighbours, and remember the last ones."""

    def __init__(self, pipeline: Any, negative_prompt: str, guided: bool) -> None:
        self._pipeline, self._negative_prompt, self._guided = pipeline, negative_prompt, guided
        self._known: OrderedDict[Any, Embedding] = OrderedDict()

    def encode(self, caption: str) -> Embedding:
        """Return the caption's embedding, from memory if it was seen lately."""
        return self._remember(("caption", caption), lambda: self._encode(caption))

    def arguments(self, captions: Sequence[str]) -> dict[str, Any]:
        """Return what the pipeline's call wants in place of prompts. The captions must be equally long once encoded."""
        import torch

        embeddings = [self.encode(caption) for caption in captions]
        device = self._pipeline._execution_device
        found = {
            "prompt_embeds": torch.cat([e.tokens for e in embeddings]).to(device),
            "pooled_prompt_embeds": torch.cat([e.pooled for e in embeddings]).to(device),
        }
        if self._guided:
            negative = self._negative(embeddings[0])
            found["negative_prompt_embeds"] = torch.cat([negative.tokens] * len(captions)).to(device)
            found["negative_pooled_prompt_embeds"] = torch.cat([negative.pooled] * len(captions)).to(device)
        return found

    def cut_tokens(self, caption: str) -> int:
        """Return how many of the caption's tokens the model does not see."""
        raise NotImplementedError

    def _encode(self, text: str) -> Embedding:
        raise NotImplementedError

    def _negative(self, like: Embedding) -> Embedding:
        raise NotImplementedError

    def _remember(self, key: Any, make: Any) -> Embedding:
        import torch

        if key not in self._known:
            with torch.no_grad():
                made = make()
            self._known[key] = Embedding(made.tokens.cpu(), made.pooled.cpu())
        self._known.move_to_end(key)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return self._known[key]


class ChunkedPrompts(Prompts):
    """Encode captions for the SDXL class, whole: as many windows of the text encoders as a caption needs, up to ``max_chunks``.

    Within one window the embedding is bit for bit that of ``pipeline.encode_prompt``. Longer captions are split into windows,
    each between the start and end tokens; their vectors follow each other, and the first window gives the pooled vector.
    (compel offers this too, but it reads parentheses, plus and minus signs in a caption as weights.)
    """

    def __init__(self, pipeline: Any, negative_prompt: str, guided: bool, max_chunks: int) -> None:
        super().__init__(pipeline, negative_prompt, guided)
        self._max_chunks = max_chunks
        pairs = ((pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2))
        # Either encoder may be absent: the refiner has the second alone.
        self._towers = [(tokenizer, encoder) for tokenizer, encoder in pairs if encoder is not None]

    def chunks(self, caption: str) -> int:
        """Return the number of windows that the caption takes."""
        needed = max(-(-len(_token_ids(t, caption)) // _room(t, e)) for t, e in self._towers)
        return min(max(needed, 1), self._max_chunks)

    def cut_tokens(self, caption: str) -> int:
        """Return how many of the caption's tokens lie beyond the last window."""
        return min(max(0, len(_token_ids(t, caption)) - self._max_chunks * _room(t, e)) for t, e in self._towers)

    def _encode(self, text: str) -> Embedding:
        return self._encode_as(text, self.chunks(text))

    def _negative(self, like: Embedding) -> Embedding:
        import torch

        # As in diffusers: SDXL base was trained with zeros for "no caption", the refiner was not.
        if not self._negative_prompt and self._pipeline.config.force_zeros_for_empty_prompt:
            return Embedding(torch.zeros_like(like.tokens), torch.zeros_like(like.pooled))
        tokenizer, encoder = self._towers[0]
        chunks = like.tokens.shape[1] // (_room(tokenizer, encoder) + 2)
        return self._remember(("negative", chunks), lambda: self._encode_as(self._negative_prompt, chunks))

    def _encode_as(self, text: str, chunks: int) -> Embedding:
        import torch
        from diffusers.utils.torch_utils import get_module_execution_device

        pooled = None
        columns = []
        for tokenizer, encoder in self._towers:
            room, ids = _room(tokenizer, encoder), _token_ids(tokenizer, text)
            windows = []
            for k in range(chunks):
                piece = ids[k * room : (k + 1) * room]
                padding = [tokenizer.pad_token_id] * (room - len(piece))
                window = torch.tensor([[tokenizer.bos_token_id, *piece, tokenizer.eos_token_id, *padding]])
                # A window at a time: a batch of them would give other last bits than a caption of one window gets.
                output = encoder(window.to(get_module_execution_device(encoder)), output_hidden_states=True)
                if pooled is None and output[0].ndim == 2:  # only the encoder with a projection has a pooled output
                    pooled = output[0]
                windows.append(output.hidden_states[-2])
            columns.append(torch.cat(windows, dim=1))
        assert pooled is not None, "an SDXL pipeline has a text encoder with a projection"
        return Embedding(torch.cat(columns, dim=-1).to(self._towers[-1][1].dtype), pooled)


class SD3Prompts(Prompts):
    """Encode captions for Stable Diffusion 3 by the pipeline's own ``encode_prompt``, one at a time.

    Its two CLIP encoders see 77 tokens. T5, where it is loaded, sees ``max_sequence_length``.
    """

    def __init__(self, pipeline: Any, negative_prompt: str, guided: bool, max_sequence_length: int) -> None:
        super().__init__(pipeline, negative_prompt, guided)
        self._max_sequence_length = max_sequence_length

    def cut_tokens(self, caption: str) -> int:
        """Return how many tokens the encoder that sees most does not see."""
        p = self._pipeline
        tokenizer, limit = p.tokenizer, p.tokenizer_max_length
        if p.text_encoder_3 is not None:
            tokenizer, limit = p.tokenizer_3, self._max_sequence_length
        return max(0, len(tokenizer(caption, verbose=False).input_ids) - limit)

    def _encode(self, text: str) -> Embedding:
        tokens, _, pooled, _ = self._pipeline.encode_prompt(
            text, None, None, do_classifier_free_guidance=False, max_sequence_length=self._max_sequence_length
        )
        return Embedding(tokens, pooled)

    def _negative(self, like: Embedding) -> Embedding:
        return self._remember("negative", lambda: self._encode(self._negative_prompt))


def _room(tokenizer: Any, encoder: Any) -> int:
    """Return the tokens of a caption that one window holds, beside its start and end tokens."""
    return min(tokenizer.model_max_length, encoder.config.max_position_embeddings) - 2


def _token_ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False).input_ids
