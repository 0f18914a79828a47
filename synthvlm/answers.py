"""Asking a captioner outside of a caption stage, and the JSON in what it answers: for scorers that grade and judges that compare."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from synthvlm.errors import SynthVLMError
from synthvlm.sample import CaptionRequest


def ask(captioner: Any, requests: Sequence[CaptionRequest]) -> list[Any]:
    """Return an answer per request, in order. A captioner with a batch size gets whole batches of one bucket, padded by repetition.

    Raises SynthVLMError if it returns fewer.
    """
    size = captioner.batch_size
    if not size:
        return list(captioner.caption(requests))
    bucket = getattr(captioner, "bucket", lambda _: None)
    groups: dict[Hashable, list[int]] = {}
    for place, request in enumerate(requests):
        groups.setdefault(bucket(request), []).append(place)
    answers: list[Any] = [None] * len(requests)
    for places in groups.values():
        for at in range(0, len(places), size):
            some = places[at : at + size]
            batch = [requests[place] for place in some + some[-1:] * (size - len(some))]
            made = list(captioner.caption(batch))
            if len(made) < len(some):
                raise SynthVLMError(f"{type(captioner).__name__} returned {len(made)} answers for {len(batch)} requests")
            for place, answer in zip(some, made, strict=False):  # the padding's answers are dropped
                answers[place] = answer
    return answers


def objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield every JSON object in an answer, an outer one before those within; words around them are passed over."""
    decoder = json.JSONDecoder()
    for found in re.finditer(r"\{", text):
        try:
            yield decoder.raw_decode(text, found.start())[0]
        except (ValueError, RecursionError):
            continue
