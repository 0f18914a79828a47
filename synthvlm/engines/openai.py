"""Ask any OpenAI-compatible server (vLLM serve, SGLang, a hosted one): as many requests at a time as it bears, answers in order.

The server applies the checkpoint's own chat template, so only the bare prompt and the images are sent. An image goes as a data
URL of its decoded, prepared pixels: PNG, which loses nothing, or JPEG at quality 95 where the options have ``image_format=jpeg``.

===================================================== ======================================================================
what comes back                                       what is done
===================================================== ======================================================================
429, 503, 529, nothing within ``request_timeout``     again, half as many at a time, for three times ``request_timeout``
no connection, or one that breaks                     again, for three times ``request_timeout``
another 5xx, 408, 409, 425, an answer that is none    again, five attempts in all
another 4xx, a content filter                         the row is set aside with the server's reason
===================================================== ======================================================================
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from synthvlm.engines.openai_client import Requests, scrub, server_reason
from synthvlm.engines.openai_messages import Messages
from synthvlm.errors import OptionError, WorkerError
from synthvlm.sample import Caption, CaptionRequest, Failed

if TYPE_CHECKING:
    from synthvlm.engines.captioning import CaptionerOptions

_DEFAULT_URL = "http://localhost:8000/v1"
"""Where ``vllm serve`` listens."""
_HELD = 1024
"""Answers that may wait for an earlier one before no more requests are taken."""
_GREETING_SECONDS = 30.0


class ServerCaptioner:
    """A model behind a server. Requests are taken from the shard as places come free; answers come in order, each when it is there."""

    batch_size: int | None = None

    def __init__(self, requests: Requests, client: Any, loop: _Loop) -> None:
        self._requests, self._client, self._loop = requests, client, loop

    @property
    def concurrency(self) -> int:
        """Return how many requests may be in flight now."""
        return int(self._requests.pace.limit)

    def caption(self, batch: Iterable[CaptionRequest]) -> Iterator[Caption | Failed]:
        """Yield one answer per request, in order, while later requests are in flight."""
        source, more = iter(batch), True
        waiting: deque[Future[Caption | Failed]] = deque()
        changed = threading.Event()
        try:
            while True:
                changed.clear()
                while waiting and waiting[0].done():
                    yield waiting.popleft().result()
                # As many again as may be in flight: their images are encoded by the time that a place comes free.
                if more and len(waiting) < _HELD and sum(not f.done() for f in waiting) < 2 * self.concurrency:
                    request = next(source, None)
                    if request is None:
                        more = False
                    else:
                        future = self._loop.submit(self._requests.answer(request))
                        future.add_done_callback(lambda _: changed.set())
                        waiting.append(future)
                elif waiting:
                    changed.wait()
                else:
                    return
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """End what is in flight, and the connections."""
        self._loop.close(self._client.close())


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="openai", daemon=True)
        self._thread.start()

    def submit(self, work: Any) -> Future[Any]:
        """Start a coroutine."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self, last: Any) -> None:
        """Cancel what runs, do ``last``, and end the thread."""

        async def end() -> None:
            others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await last

        self.submit(end()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def load(options: CaptionerOptions, devices: Sequence[str]) -> ServerCaptioner:
    """Connect to the server that has the model; ``devices`` are not needed. Raises OptionError, or WorkerError if it does not serve."""
    import openai

    url, key = server_address(options.base_url), os.environ.get(options.api_key_env)
    for chatty in ("httpx", "httpx2"):  # they log a line for each request
        logging.getLogger(chatty).setLevel(logging.WARNING)
    loop = _Loop()

    async def connect() -> Any:
        # Proxies of the environment are for the world outside; the client's own retries know nothing of the common pace.
        http = openai.DefaultAsyncHttpxClient(
            trust_env=not _this_machine(url), timeout=openai.Timeout(options.request_timeout, connect=_GREETING_SECONDS)
        )
        return openai.AsyncOpenAI(base_url=url, api_key=key or "none", max_retries=0, http_client=http)

    client = loop.submit(connect()).result()
    try:
        model, owner = loop.submit(_choose_model(client, options, url, key)).result()
    except BaseException:
        loop.close(client.close())
        raise
    return ServerCaptioner(Requests(client, options, Messages(options, model, owner), key), client, loop)


def server_address(base_url: str | None) -> str:
    """Return the server's address: the option, else OPENAI_BASE_URL, else where ``vllm serve`` listens. Raises OptionError."""
    url = base_url or os.environ.get("OPENAI_BASE_URL") or _DEFAULT_URL
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise OptionError("base_url is no address of a server", f"such as {_DEFAULT_URL}")
    if parts.username or parts.password:
        raise OptionError("base_url holds a password", "put the key into an environment variable, and name it with -o api_key_env=NAME")
    return url


def _this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _choose_model(client: Any, options: CaptionerOptions, url: str, key: str | None) -> tuple[str, str | None]:
    """Return the model's name on the server and who the server says owns it. Raises WorkerError if it is not there."""
    import openai

    asked = options.served_model or options.checkpoint
    try:
        async with asyncio.timeout(_GREETING_SECONDS):
            models = {m.id: getattr(m, "owned_by", None) async for m in client.models.list()}
    except (TimeoutError, openai.APIConnectionError) as error:
        raise WorkerError(f"no server answers at {url}", "start it, or give its address with -o base_url=http://HOST:PORT/v1") from error
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        reason = scrub(server_reason(error), key)
        way_on = "check the key in" if key else "it wants a key: put it into"
        raise WorkerError(
            f"the server at {url} does not let us in: {reason}",
            f"{way_on} the environment variable {options.api_key_env}, or name another with -o api_key_env=NAME",
        ) from error
    except (openai.APIError, AttributeError, TypeError, ValueError):
        return asked, None  # not every server lists its models; the first answers will tell
    if models and asked not in models:
        names = ", ".join(sorted(models)[:10])
        raise WorkerError(f"the server at {url} has no model {asked!r}", f"it has: {names}. Choose with -o served_model=NAME")
    return asked, models.get(asked)
