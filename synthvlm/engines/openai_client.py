"""One request to an OpenAI-compatible server, seen through: attempts, pauses between them, and what to say when it was in vain."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import logging
import random
import time
from collections.abc import Mapping
from typing import Any

from synthvlm.engines.captioning import CaptionerOptions
from synthvlm.engines.openai_messages import Messages, UnusableAnswer, read_answer
from synthvlm.engines.pace import Pace, Verdict
from synthvlm.sample import Caption, CaptionRequest, Failed

log = logging.getLogger(__name__)
PATIENCE = 3.0
"""A row is given up so many times ``request_timeout`` after its first attempt began."""
TRIES = 5
"""Attempts at a row whose request itself seems to be what the server stumbles over."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_OVERLOADED = (429, 503, 529)
_AGAIN = (408, 409, 425)


class Trouble(Exception):
    """An attempt that failed: what to say, and whether and when to try again."""

    def __init__(self, said: Failed, verdict: Verdict = "failed", *, tries: float = float("inf"), pause: float | None = None) -> None:
        super().__init__(said.error)
        self.said, self.tries, self.pause = said, tries, pause
        self.verdict: Verdict = verdict


class Requests:
    """Sends requests through the client of one server at a common pace. Runs in one event loop."""

    def __init__(self, client: Any, options: CaptionerOptions, messages: Messages, secret: str | None) -> None:
        self.pace = Pace(options.concurrency)
        self._client, self._options, self._messages, self._secret = client, options, messages, secret

    async def answer(self, request: CaptionRequest) -> Caption | Failed:
        """Return the server's answer, or why there is none; raises nothing but cancellation."""
        refused = self._options.refusal(request)
        if refused:
            return refused
        try:
            body = await self._messages.body(request)
            return await self._persist(body)
        except Exception as error:
            log.exception("a request could not be made")
            return Failed(scrub(f"{type(error).__name__}: {error}", self._secret)[:500], type(error).__name__)

    async def _persist(self, body: dict[str, Any]) -> Caption | Failed:
        attempt, deadline = 0, None
        while True:
            round_ = await self.pace.enter()
            verdict: Verdict = "failed"
            now = time.monotonic()
            deadline = deadline or now + PATIENCE * self._options.request_timeout
            try:
                result = await self._attempt(body, min(self._options.request_timeout, max(1.0, deadline - now)))
                verdict = "answered"
                return result
            except Trouble as trouble:
                verdict, last = trouble.verdict, trouble
            finally:
                self.pace.leave(round_, verdict)
            attempt += 1
            pause = last.pause
            if pause is not None:
                self.pace.quiet(pause)
                pause *= random.uniform(1.0, 1.1)  # so that those that wait do not all come at once
            else:
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
            if attempt >= last.tries or time.monotonic() + pause > deadline:
                tried = f" (tried {attempt} times)" if attempt > 1 else ""
                return Failed(last.said.error + tried, last.said.error_class)
            await asyncio.sleep(pause)

    async def _attempt(self, body: dict[str, Any], seconds: float) -> Caption | Failed:
        """Send the request once. Raises Trouble."""
        import openai

        self._rename_limit(body)
        try:
            # The client's own time-out starts again with each byte; this one does not.
            async with asyncio.timeout(seconds):
                answer = await self._client.chat.completions.create(**body)
            return read_answer(answer, self._options)
        except (TimeoutError, openai.APITimeoutError) as error:
            raise Trouble(Failed(f"the server did not answer in {seconds:.0f} s", "Timeout"), "overloaded") from error
        except openai.APIStatusError as error:
            raise self._refused(error, body) from error
        except openai.APIConnectionError as error:
            raise Trouble(Failed(scrub(f"no connection to the server: {_innermost(error)}", self._secret), "NoConnection")) from error
        except (UnusableAnswer, openai.APIResponseValidationError, ValueError) as error:  # ValueError: what was to be JSON is none
            said = str(error) if isinstance(error, UnusableAnswer) else f"the server's answer cannot be read: {_innermost(error)}"
            raise Trouble(Failed(scrub(said, self._secret), "UnusableAnswer"), tries=TRIES) from error

    def _refused(self, error: Any, body: dict[str, Any]) -> Trouble:
        """Return what an answer with an error status means."""
        status, reason = int(error.status_code), scrub(server_reason(error), self._secret)
        if status == 400 and "max_completion_tokens" in reason and "max_tokens" in body:
            self._messages.limit_name = "max_completion_tokens"  # hosted reasoning models want the other word
            return Trouble(Failed(reason, "Refused"), pause=0.0, tries=TRIES)
        if status == 429 and "insufficient_quota" in (error.code, error.type):  # no waiting helps
            return Trouble(Failed(f"the account has no quota left: {reason}", "NoQuota"), tries=1)
        if status in _OVERLOADED:
            said = Failed(f"the server has too much to do ({status}): {reason}", "Overloaded")
            return Trouble(said, "overloaded", pause=retry_after(error.response.headers))
        if status >= 500 or status in _AGAIN:
            pause = retry_after(error.response.headers)
            return Trouble(Failed(f"the server failed ({status}): {reason}", "ServerError"), tries=TRIES, pause=pause)
        return Trouble(Failed(f"the server refused it ({status}): {reason}", "Refused"), tries=1)

    def _rename_limit(self, body: dict[str, Any]) -> None:
        if self._messages.limit_name not in body:
            body[self._messages.limit_name] = body.pop("max_tokens")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait: ``Retry-After`` holds a number of them or a date (RFC 9110, section 10.2.3)."""
    value = headers.get("retry-after")
    if not value:
        return None
    with contextlib.suppress(ValueError):
        seconds = float(value)
        return seconds if 0 <= seconds < float("inf") else None
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


def server_reason(error: Any) -> str:
    """Return the line with which a server explains an error status."""
    body = error.body
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail") or body.get("error") or body
    text = " ".join(str(body if body not in (None, "") else "no reason given").split())
    return text[:400]


def scrub(text: str, secret: str | None) -> str:
    """Return ``text`` without the key, which some servers repeat in their errors."""
    return text.replace(secret, "***") if secret else text


def _innermost(error: BaseException) -> str:
    """Return the first cause that says something: clients wrap the system's error several times."""
    said = str(error)
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
        said = str(error) or said
    return " ".join(said.split())[:300] or type(error).__name__
