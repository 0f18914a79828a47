"""How the transformers engine chooses tokens: everything explicit, and each row by itself.

Sampling draws a row's noise from its own generator (the Gumbel-max trick), so a row's words do not depend on its neighbours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from synthvlm.sample import CaptionRequest

if TYPE_CHECKING:
    import torch


def seed_of(request: CaptionRequest, seed: int) -> int:
    """Return the seed of one request's sampling: its own, whatever batch it comes in."""
    text = json.dumps([seed, request.id, request.prompt, list(request.image_ids)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def json_value(text: str) -> str | None:
    """Return the first whole JSON object or array in ``text``, as it stands there, or None."""
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=None)
    if start is None:
        return None
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)
    except ValueError:
        return None
    return text[start:end]


def processors(
    requests: Sequence[CaptionRequest], temperature: float, top_p: float, seed: int, mask: torch.Tensor, device: torch.device
) -> Any:
    """Return transformers' ``LogitsProcessorList`` for a batch whose requests share a repetition penalty; the likeliest token is taken after it.

    ``mask``: (batch, prompt length), 0 where the prompt is padding.
    """
    import torch
    from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

    chosen: list[Callable[..., torch.Tensor]] = []
    penalty = requests[0].repetition_penalty
    if penalty != 1.0:
        repetition, real = RepetitionPenaltyLogitsProcessor(float(penalty)), mask.bool()

        def penalise(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            # Padding was never said: put a token there that was.
            prompt = torch.where(real, ids[:, : real.shape[1]], ids[:, real.shape[1] - 1 : real.shape[1]])
            return repetition(torch.cat([prompt, ids[:, real.shape[1] :]], dim=1), scores)  # type: ignore[arg-type]

        chosen.append(penalise)
    if temperature > 0:
        generators = [torch.Generator(device).manual_seed(seed_of(r, seed)) for r in requests]
        warpers: list[Any] = [TemperatureLogitsWarper(float(temperature))] if temperature != 1 else []
        warpers += [TopPLogitsWarper(float(top_p))] if top_p < 1 else []

        def sample(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            for warper in warpers:
                scores = warper(ids, scores)
            noise = torch.stack([torch.empty_like(row).exponential_(generator=g) for row, g in zip(scores, generators, strict=True)])
            return scores - noise.log()

        chosen.append(sample)
    return LogitsProcessorList(chosen)


def stopping(tokenizer: Any, prompt_length: int, done: Callable[[str], bool]) -> Any:
    """Return transformers' ``StoppingCriteriaList`` that ends a row as soon as its text so far is ``done``."""
    import torch
    from transformers import StoppingCriteriaList

    def ended(ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        texts = tokenizer.batch_decode(ids[:, prompt_length:], skip_special_tokens=True)
        return torch.tensor([done(text) for text in texts], device=ids.device, dtype=torch.bool)

    return StoppingCriteriaList([ended])  # type: ignore[list-item]
