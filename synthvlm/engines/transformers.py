"""Run any image-text-to-text model of transformers as a captioner: constant batches, pictures seen once, every decoding parameter explicit.

A row's words depend on its own request alone: batches have a constant number of rows and, within a bucket, a constant padded
length; pictures are seen one by one; sampling has a generator per row. (At another batch size last bits differ, so that a word may.)

A JSON schema is not enforced, since transformers has no structured output: an answer ends as soon as a whole JSON value is there,
and is that value alone; whether it fits the schema is for the reader to check.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from synthvlm.engines.captioning import CaptionerOptions
from synthvlm.engines.decoding import json_value, processors, stopping
from synthvlm.engines.diffusers_loading import local_options
from synthvlm.engines.transformers_inputs import Encoder, Row, SharedVision, pad_left
from synthvlm.engines.transformers_loading import end_ids, load_model, load_processor, template_of
from synthvlm.errors import OptionError
from synthvlm.sample import Caption, CaptionRequest, Failed

log = logging.getLogger(__name__)
T = TypeVar("T")
_STEP = 32
"""Prompts are padded to a multiple of this many tokens."""


def load(options: CaptionerOptions, devices: Sequence[str]) -> TransformersCaptioner:
    """Load the model on ``devices``; on several, its layers are spread over them."""
    if not devices:
        raise OptionError("a captioner needs a device", 'such as ["cuda:0"] or ["cpu"]')
    options = local_options(options)
    processor = load_processor(options)
    return TransformersCaptioner(load_model(options, devices), processor, options)


class TransformersCaptioner:
    """A model, its processor, and what its family says of itself, as a captioner."""

    def __init__(self, model: Any, processor: Any, options: CaptionerOptions) -> None:
        from transformers import GenerationConfig

        self.model, self.options = model, options
        self.batch_size: int | None = options.batch_size
        self._encoder = Encoder(processor, options, template_of(processor, options.checkpoint))
        self._tokenizer = processor.tokenizer
        self._ends = end_ids(options, self._tokenizer)
        pad = self._tokenizer.pad_token_id
        self._pad = self._ends[0] if pad is None else pad
        # `generate` fills what it is not told from here: the checkpoint's sampling defaults must not be found.
        model.generation_config = GenerationConfig(eos_token_id=self._ends, pad_token_id=self._pad)
        self._vision = SharedVision(model)
        self._share_vision()

    def bucket(self, request: CaptionRequest) -> Hashable:
        """Return what the requests of one batch must share: padded length and decoding.

        It prepares the picture, which is kept; called ahead, in another thread, that work is done while the model generates.
        """
        row = self._encode(request)
        return None if isinstance(row, Failed) else self._bucket(request, row)

    def caption(self, batch: Sequence[CaptionRequest]) -> list[Caption | Failed]:
        """Return a caption per request, in order. Requests of different buckets, and incomplete batches, are padded by repetition."""
        return self._batched(batch, self._generate)

    def probability(self, batch: Sequence[CaptionRequest], answer: str) -> list[float | Failed]:
        """Return, per request, the probability in [0, 1] that its answer begins with the token of ``answer``, such as "Yes".

        One token is read, at temperature 1; of the ways to write it, with and without a space before it, the sum counts.
        """
        ids = self._first_tokens(answer)

        def first(requests: Sequence[CaptionRequest], rows: Sequence[Row], length: int) -> list[float]:
            made = self._run(self._inputs(rows, length), requests, rows, 1, output_logits=True, return_dict_in_generate=True)
            return made.logits[0].float().softmax(-1)[:, ids].sum(-1).tolist()

        return self._batched(batch, first)

    def _first_tokens(self, answer: str) -> list[int]:
        """Return the tokens that ``answer`` may begin with. Raises OptionError if the vocabulary has no one token for it."""
        unknown = self._tokenizer.unk_token_id
        written = [self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in (answer, f" {answer}")]
        # Sentence-piece tokenizers write the space that begins a word into its token, or as a token of its own.
        found = {ids[-1] for ids in written if ids and ids[-1] != unknown and self._tokenizer.decode([ids[-1]]).strip() == answer}
        if not found:
            raise OptionError(f"the model has no token for the answer {answer!r}", "ask for an answer that is one short word")
        return sorted(found)

    def _batched(
        self, batch: Sequence[CaptionRequest], work: Callable[[list[CaptionRequest], list[Row], int], list[T]]
    ) -> list[T | Failed]:
        """Do ``work`` on whole batches of one bucket each; return a result per request, in order."""
        results: dict[int, T | Failed] = {}
        groups: dict[Any, list[tuple[int, CaptionRequest, Row]]] = {}
        for place, request in enumerate(batch):
            row = self._encode(request)
            if isinstance(row, Failed):
                results[place] = row
            else:
                groups.setdefault(self._bucket(request, row), []).append((place, request, row))
        size = self.batch_size or len(batch)
        for (length, *_), members in groups.items():
            for start in range(0, len(members), size):
                here = members[start : start + size]
                padded = [*here, *here[-1:] * (size - len(here))]
                made = work([request for _, request, _ in padded], [row for _, _, row in padded], length)
                results.update(zip((place for place, _, _ in here), made, strict=False))  # the padding's results are dropped
        return [results[place] for place in range(len(batch))]

    def close(self) -> None:
        """Give back what is held beside the model."""
        self._vision.clear()

    def _encode(self, request: CaptionRequest) -> Row | Failed:
        refusal = self.options.refusal(request)
        if refusal:
            return refusal
        try:
            return self._encoder.encode(request)
        except (ValueError, TypeError, IndexError) as error:  # a picture that the processor cannot take, such as 2000 × 4 pixels
            lines = str(error).strip().splitlines()
            return Failed(f"the model's processor refuses it: {lines[0] if lines else type(error).__name__}", "ProcessorError")

    def _bucket(self, request: CaptionRequest, row: Row) -> tuple[int, int, float, bool, Hashable]:
        length = -(-row.length // _STEP) * _STEP
        # Where pictures are seen by the batch, all of a batch must have the same number of tiles or patches.
        first = 1 if self._vision.active else 0
        shapes = tuple((name, () if self._vision.takes(name) else tuple(t.shape[first:])) for name, t in row.image.items())
        return length, request.max_new_tokens, request.repetition_penalty, request.json_schema is not None, shapes

    def _generate(self, requests: Sequence[CaptionRequest], rows: Sequence[Row], length: int) -> list[Caption]:
        """Have one whole batch of one bucket answered."""
        import torch

        arguments: dict[str, Any] = {}
        as_json = requests[0].json_schema is not None
        if as_json or self.options.stop:
            arguments["stopping_criteria"] = stopping(self._tokenizer, length, lambda text: self._ended(text, as_json))
        inputs = self._inputs(rows, length)
        made = self._run(inputs, requests, rows, requests[0].max_new_tokens, **arguments)
        if torch.equal(made[:, :length], inputs["input_ids"]):  # models that go on from embeddings give the answer alone
            made = made[:, length:]
        return [self._caption(ids, row, as_json) for ids, row in zip(made.tolist(), rows, strict=True)]

    def _inputs(self, rows: Sequence[Row], length: int) -> dict[str, Any]:
        return {name: tensor.to(self.model.device) for name, tensor in pad_left(rows, length, self._pad).items()}

    def _run(self, inputs: dict[str, Any], requests: Sequence[CaptionRequest], rows: Sequence[Row], limit: int, **arguments: Any) -> Any:
        """Return what ``generate`` gives for one whole batch, every decoding parameter explicit; at most ``limit`` tokens."""
        import torch
        from transformers import GenerationConfig

        device, options = self.model.device, self.options
        config = GenerationConfig(
            max_new_tokens=limit, do_sample=False, num_beams=1, eos_token_id=self._ends, pad_token_id=self._pad, use_cache=True
        )
        with torch.inference_mode():
            return self.model.generate(
                **inputs,
                **self._vision.inputs(rows),
                generation_config=config,
                logits_processor=processors(requests, options.temperature, options.top_p, options.seed, inputs["attention_mask"], device),
                **arguments,
            )

    def _ended(self, text: str, as_json: bool) -> bool:
        return any(stop in text for stop in self.options.stop) or (as_json and json_value(text) is not None)

    def _caption(self, ids: list[int], row: Row, as_json: bool) -> Caption:
        """Return what a row said: ``ids`` up to its end; what follows is padding, while other rows went on."""

        def ended(count: int) -> bool:
            return self._ended(self._text(ids[:count]), as_json)

        count = next((n for n, token in enumerate(ids, 1) if token in self._ends), None)
        if ended(len(ids) if count is None else count):
            count = bisect.bisect_left(range(len(ids) + 1), True, key=ended)
        text = self._text(ids[:count])
        answer = json_value(text) if as_json else None
        return Caption(
            answer or self.options.trim(text), "length" if count is None else "stop", len(ids) if count is None else count, row.length
        )

    def _text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _share_vision(self) -> None:
        """Have pictures seen once, if the model lets it: try it on two blank ones of different shapes."""
        from PIL import Image

        self._vision.install()
        blanks = [Image.new("RGB", size, color) for size, color in (((160, 160), "gray"), ((224, 112), "white"))]
        requests = [CaptionRequest("", "?", (image,), max_new_tokens=1) for image in blanks]
        rows = [row for row in map(self._encode, requests) if isinstance(row, Row)]
        if self._vision.active and len(rows) == len(requests):
            try:
                self._generate(requests, rows, max(row.length for row in rows))
            except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
                if "out of memory" in str(error).lower():
                    raise
                log.info("pictures are seen anew for each prompt: %s", str(error).splitlines()[:1])
                self._vision.used = False
        if not self._vision.used:
            self._vision.remove()
