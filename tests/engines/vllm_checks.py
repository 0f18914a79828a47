"""What the vLLM engine does, really run, as one JSON line: ``python -m tests.engines.vllm_checks DIR BROKEN``. It needs a process of its own."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import Any

from synthvlm import Caption, CaptionRequest, Failed, SynthVLMError
from tests.engines.agreement import options, requests
from tests.tiny_captioners import picture

VERDICT = {"type": "object", "properties": {"better": {"enum": ["first", "second"]}}, "required": ["better"], "additionalProperties": False}


def load_error(directory: str, **more: Any) -> list[str]:
    """Return the class and the words with which loading fails."""
    try:
        options("llava", directory, "vllm", **more).load(["cpu"])
    except SynthVLMError as error:
        return [type(error).__name__, str(error)]
    return ["", "it loaded"]


def main(directory: str, broken: str) -> dict[str, Any]:
    """Return what was seen."""
    seen: dict[str, Any] = {
        "too long": load_error(directory, max_model_len=1_000_000),
        "int8": load_error(directory, quantization="int8"),
    }
    captioner: Any = options("llava", directory, "vllm").load(["cpu"])
    prepared: list[Any] = []
    cached: list[int] = []
    prepare, answer = type(captioner.options).prepare, captioner._answer
    type(captioner.options).prepare = lambda self, image: prepared.append(image) or prepare(self, image)  # type: ignore[method-assign]
    captioner._answer = lambda output: cached.append(output.num_cached_tokens) or answer(output)

    # Prompts on one image share its preparation and its tokens.
    asked = requests(2)
    alone = [caption for request in asked for caption in captioner.caption([request])]
    seen["prepared"], seen["cached"] = len(prepared), list(cached)

    # A shard streams: answers come before it is exhausted, in order, and no more is taken than has room.
    total, taken = 4 * captioner._room, 0

    def shard() -> Iterator[CaptionRequest]:
        nonlocal taken
        for n in range(total):
            taken += 1
            yield dataclasses.replace(asked[n % len(asked)], id=str(n), max_new_tokens=(2, 24)[n % 2])

    counts: list[int] = []
    answers: list[Any] = []
    for caption in captioner.caption(shard()):
        answers.append(caption)
        counts.append(taken)
    seen["stream"] = {
        "total": total, "answers": len(answers), "taken at the first": counts[0], "room": captioner._room,
        "most ahead": max(c - n for n, c in enumerate(counts)),
        "in order": all(a.tokens <= (2, 24)[n % 2] for n, a in enumerate(answers)),
        "as alone": [a == alone[n % len(asked)] for n, a in enumerate(answers) if n % 2 and n % len(asked) % 2],
    }  # fmt: skip

    # The caller may have had enough; the next shard does not see what was in flight.
    stream = captioner.caption(shard())
    next(stream)
    stream.close()
    seen["after a break"] = [a == b for a, b in zip(captioner.caption(iter(asked)), alone, strict=True)]

    # One row's trouble is its own.
    image, other = picture(0), picture(9)
    odd = [
        asked[0],
        CaptionRequest("two", "a", (image, image), ("0" * 64, "1" * 64)),
        CaptionRequest("long", "a cat " * 3000, (image,), ("0" * 64,)),
        # Only with the image's tokens is it too long: the image was handed over, and the next request on it must find it all the same.
        CaptionRequest("longer", "a cat " * 900, (other,), ("9" * 64,)),
        CaptionRequest("fine", "a cat", (other,), ("9" * 64,), max_new_tokens=4),
        CaptionRequest("schema", "a", (image,), ("0" * 64,), json_schema={"type": "no such type"}),
        CaptionRequest("text", "describe", max_new_tokens=4),
        asked[1],
    ]
    seen["odd"] = [[type(a).__name__, a.error if isinstance(a, Failed) else a.text] for a in captioner.caption(odd)]
    seen["odd is as alone"] = [seen["odd"][0][1] == alone[0].text, seen["odd"][-1][1] == alone[1].text]

    held = [dataclasses.replace(r, json_schema=VERDICT, max_new_tokens=40) for r in asked]
    seen["schema"] = [[json.loads(a.text), a.finish_reason] for a in captioner.caption(held) if isinstance(a, Caption)]

    captioner.options = dataclasses.replace(captioner.options, temperature=1.0, seed=7)
    drawn = [[a.text for a in captioner.caption(iter(asked))] for _ in range(2)]
    captioner.options = dataclasses.replace(captioner.options, seed=8)
    seen["sampling"] = {
        "again": drawn[0] == drawn[1],
        "greedy": drawn[0] == [a.text for a in alone],
        "seed": drawn[0] == [a.text for a in captioner.caption(asked)],
    }
    captioner.close()
    seen["broken"] = load_error(broken)
    return seen


if __name__ == "__main__":
    print("SEEN " + json.dumps(main(*sys.argv[1:])))
