"""Run a captioner on vLLM in this process's devices: the whole shard is handed over, each answer comes when it is there, in order.

The prompt's tokens are made here, by the family and the checkpoint's tokenizer, so they are the same as on the transformers
engine; vLLM puts the image's own tokens in. Images are known by their content's hash: prompts on one image that come one after
the other share its preparation, its features and the tokens up to the question. With a JSON schema the answer is held to it.

vLLM makes up batches as requests come, so the last bits of its numbers, and now and then a word, can differ from run to run.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from synthvlm.engines.captioning import CaptionerOptions, Template
from synthvlm.engines.decoding import seed_of
from synthvlm.engines.diffusers_loading import local_options
from synthvlm.engines.transformers_loading import end_ids, load_processor, loading, template_of
from synthvlm.engines.vllm_loading import start_engine, watch_over_children
from synthvlm.errors import OptionError
from synthvlm.sample import Caption, CaptionRequest, Failed

if TYPE_CHECKING:
    from PIL.Image import Image


def load(options: CaptionerOptions, devices: Sequence[str]) -> VLLMCaptioner:
    """Load the model on ``devices``, tensor-parallel over several. Raises OptionError, CheckpointError or WorkerError if it cannot be."""
    if not devices:
        raise OptionError("a captioner needs a device", 'such as ["cuda:0"] or ["cpu"]')
    options = local_options(options)
    with loading(options.checkpoint):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(options.checkpoint, local_files_only=True, trust_remote_code=options.trust_remote_code)
    return VLLMCaptioner(start_engine(options, devices), tokenizer, options)


class _Place:
    """A request's place in the order of answers."""

    def __init__(self, answer: Caption | Failed | None = None) -> None:
        self.answer = answer


class VLLMCaptioner:
    """vLLM's engine, stepped here, as a captioner."""

    batch_size: int | None = None

    def __init__(self, engine: Any, tokenizer: Any, options: CaptionerOptions) -> None:
        self.options, self._engine, self._tokenizer = options, engine, tokenizer
        self._ends = end_ids(options, self._tokenizer)
        self._prepared: dict[str, Image] = {}
        self._running: dict[str, _Place] = {}
        self._count = 0
        # What may wait while that many run: enough that the engine never lacks work, no more images in memory than need be.
        seats = engine.vllm_config.scheduler_config.max_num_seqs
        self._room = seats + max(8, seats // 4)
        self._unwatch = watch_over_children()

    def caption(self, batch: Iterable[CaptionRequest]) -> Iterator[Caption | Failed]:
        """Yield one caption per request, in order. Requests are taken as the engine has room for them, until there are no more."""
        source, more = iter(batch), True
        order: deque[_Place] = deque()
        try:
            while True:
                while order and order[0].answer is not None:
                    yield order.popleft().answer  # type: ignore[misc]
                if more and len(self._running) < self._room:
                    request = next(source, None)
                    if request is None:
                        more = False
                    else:
                        order.append(self._add(request))
                elif self._running:
                    self._step()
                elif not order:
                    return
        finally:
            if self._running:  # the caller has had enough
                self._engine.abort_request(list(self._running))
                self._running.clear()

    def close(self) -> None:
        """End the engine's processes."""
        self._engine.engine_core.shutdown()
        self._unwatch()

    def _add(self, request: CaptionRequest) -> _Place:
        """Hand one request over."""
        refused = self.options.refusal(request)
        if refused:
            return _Place(refused)
        from vllm.v1.engine.exceptions import EngineDeadError

        self._count += 1
        prompt: Any = {}
        try:
            prompt, parameters = self._render(request), self._parameters(request)
            self._engine.add_request(str(self._count), prompt, parameters)
        except EngineDeadError:
            raise
        except Exception as error:  # too long, a picture that the processor cannot take, a schema that is none: this row's alone
            self._forget(prompt)
            lines = str(error).strip().splitlines()
            return _Place(Failed(f"vLLM refuses it: {lines[0][:400] if lines else type(error).__name__}", type(error).__name__))
        place = self._running[str(self._count)] = _Place()
        return place

    def _forget(self, prompt: Mapping[str, Any]) -> None:
        """Have the images of a prompt that was refused sent with the next one on them: vLLM noted them as known to the engine."""
        known = self._engine.renderer.mm_processor_cache
        for name in prompt.get("mm_hashes", {}).get("image", ()):
            if known is not None:
                known.invalidate(name)

    def _render(self, request: CaptionRequest) -> Any:
        """Return the request's prompt as vLLM takes it: tokens with the image's placeholder, images, what they are known by."""
        from vllm.renderers.inputs.preprocess import parse_model_prompt

        text = self.options.render(request.prompt, len(request.images), self._template)
        bos = self._tokenizer.bos_token
        tokens = self._tokenizer(text, add_special_tokens=not (bos and text.startswith(bos)))["input_ids"]
        prompt: dict[str, Any] = {"prompt_token_ids": tokens}
        if request.images:
            prompt["multi_modal_data"] = {"image": self._pictures(request)}
            if request.image_ids:
                prompt["multi_modal_uuids"] = {"image": list(request.image_ids)}
        renderer = self._engine.renderer
        (rendered,) = renderer.render_cmpl([parse_model_prompt(self._engine.model_config, prompt)], renderer.default_cmpl_tok_params)
        return rendered

    @functools.cached_property
    def _template(self) -> Template:
        """Return the checkpoint's chat template, for families that render with it; the others' checkpoints need not have one."""
        return template_of(load_processor(self.options), self.options.checkpoint)

    def _pictures(self, request: CaptionRequest) -> list[Image]:
        """Return the request's pictures, prepared; the last request's are kept for the next prompt on them."""
        if not request.image_ids:
            return [self.options.prepare(image) for image in request.images]
        before = self._prepared
        self._prepared = {
            name: before[name] if name in before else self.options.prepare(image)
            for name, image in zip(request.image_ids, request.images, strict=True)
        }
        return [self._prepared[name] for name in request.image_ids]

    def _parameters(self, request: CaptionRequest) -> Any:
        """Return how to decode: everything explicit, ends as on the transformers engine."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

        options, ends = self.options, list(self._ends)
        schema = None
        if request.json_schema is not None:
            schema = StructuredOutputsParams(json=dict(request.json_schema))
            ends = sorted({*ends, self._tokenizer.eos_token_id} - {None})  # with it a grammar ends
        return SamplingParams(
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=0,
            min_p=0.0,
            repetition_penalty=request.repetition_penalty,
            max_tokens=request.max_new_tokens,
            seed=seed_of(request, options.seed) if options.temperature > 0 else None,
            stop=list(options.stop) or None,
            stop_token_ids=ends,
            ignore_eos=True,  # else the tokenizer's own would count too, which the checkpoint need not mean
            structured_outputs=schema,
            detokenize=bool(options.stop),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _step(self) -> None:
        for output in self._engine.step():
            if output.finished:
                self._running.pop(output.request_id).answer = self._answer(output)

    def _answer(self, output: Any) -> Caption | Failed:
        made = output.outputs[0]
        if made.finish_reason not in ("stop", "length"):
            return Failed(f"vLLM gave it up ({made.finish_reason})", "GivenUp")
        ids = list(made.token_ids)
        # As the transformers engine does it; vLLM's own text, made token by token, can differ in spaces.
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Caption(self.options.trim(text), made.finish_reason, len(ids), len(output.prompt_token_ids))
