"""What goes to an OpenAI-compatible server and what comes back: a caption request as a chat completion, an answer as a caption."""

from __future__ import annotations

import asyncio
import base64
import io
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from synthvlm.sample import Caption, CaptionRequest, Failed

if TYPE_CHECKING:
    from PIL.Image import Image

    from synthvlm.engines.captioning import CaptionerOptions

_SHARED = 8
"""Encoded images kept for the next requests on them: one image's prompts come one after the other. Each may be some 30 MB."""
_OWN_DEFAULTS = ("vllm", "sglang")
"""Servers, by the owner that they name for their models, which take sampling defaults from the checkpoint, and take these words."""


class UnusableAnswer(Exception):
    """The server answered with something that is no chat completion."""


class Messages:
    """Makes the arguments of a chat completion. Runs in one event loop; pictures are encoded in threads beside it."""

    def __init__(self, options: CaptionerOptions, model: str, owner: str | None) -> None:
        """Take the model's name on the server, and who the server says owns it (``vllm``, ``sglang``, a company)."""
        self._options, self._model, self._local = options, model, owner in _OWN_DEFAULTS
        self._encoded: OrderedDict[str, asyncio.Task[str]] = OrderedDict()
        self.limit_name = "max_tokens"
        """``max_completion_tokens`` for servers that insist on it."""

    async def body(self, request: CaptionRequest) -> dict[str, Any]:
        """Return the arguments for ``request``. Every decoding parameter that the server knows is set, so that no default leaks in."""
        options = self._options
        urls = [await self._url(image, image_id) for image, image_id in zip(request.images, _ids(request), strict=True)]
        body: dict[str, Any] = {
            "model": self._model,
            "messages": _with_images(options.conversation(request.prompt, len(urls)), urls),
            "temperature": options.temperature,
            "top_p": options.top_p,
        }
        if options.temperature > 0:  # without sampling it says nothing, and some servers refuse the word
            body["seed"] = options.seed
        if options.stop:
            body["stop"] = list(options.stop)
        if request.json_schema is not None:
            schema = {"name": "answer", "schema": dict(request.json_schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        extra: dict[str, Any] = {}
        if self._local:
            extra = {"top_k": -1, "min_p": 0.0, "repetition_penalty": request.repetition_penalty}
        elif request.repetition_penalty != 1.0:
            extra = {"repetition_penalty": request.repetition_penalty}  # a server that does not know it says so
        own = dict(options.openai_arguments())
        body["extra_body"] = extra | dict(own.pop("extra_body", {}))
        return body | own | {self.limit_name: request.max_new_tokens}

    async def _url(self, image: Image, image_id: str) -> str:
        """Return the image as a data URL; one that is asked for again soon is encoded once."""
        task = self._encoded.get(image_id) if image_id else None
        if task is None:
            task = asyncio.ensure_future(asyncio.to_thread(data_url, self._options, image))
            if image_id:
                self._encoded[image_id] = task
                while len(self._encoded) > _SHARED:
                    self._encoded.popitem(last=False)
        return await asyncio.shield(task)  # a caller that goes away must not take it from the others


def _ids(request: CaptionRequest) -> tuple[str, ...]:
    return request.image_ids or ("",) * len(request.images)


def data_url(options: CaptionerOptions, image: Image) -> str:
    """Return a picture, prepared as the family wants it, as a data URL."""
    picture = options.prepare(image).convert("RGB")
    stream = io.BytesIO()
    if getattr(options, "image_format", "png") == "jpeg":
        picture.save(stream, "JPEG", quality=95, subsampling=0)
        kind = "jpeg"
    else:
        picture.save(stream, "PNG", compress_level=1)  # a tenth larger than at 6, and five times faster
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _with_images(messages: list[dict[str, Any]], urls: list[str]) -> list[dict[str, Any]]:
    """Put the data URLs in the places of the conversation's images."""
    left = iter(urls)

    def part(p: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"type": "image_url", "image_url": {"url": next(left)}} if p["type"] == "image" else p

    return [
        m | {"content": m["content"] if isinstance(m["content"], str) else [part(p) for p in m["content"]]}  # strings hold no image
        for m in messages
    ]


def read_answer(answer: Any, options: CaptionerOptions) -> Caption | Failed:
    """Return what a chat completion says. Raises UnusableAnswer if it is none."""
    choices = getattr(answer, "choices", None)
    message = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
    if message is None:
        raise UnusableAnswer("the server's answer is no chat completion")
    reason = getattr(choices[0], "finish_reason", None)  # type: ignore[index]
    if reason == "content_filter":
        return Failed("the server's content filter held the answer back", "ContentFilter")
    text = getattr(message, "content", None) or getattr(message, "refusal", None) or ""
    if not isinstance(text, str):
        raise UnusableAnswer("the server's answer is no text")
    usage = getattr(answer, "usage", None)
    counts = [n if isinstance(n := getattr(usage, name, None), int) else None for name in ("completion_tokens", "prompt_tokens")]
    return Caption(options.trim(text), reason if reason in ("stop", "length") else None, counts[0], counts[1])
