"""Caption pictures with a tiny checkpoint on one engine and write every answer's token ids: ``python -m tests.engines.agreement PLUGIN DIR ENGINE OUT``.

For the engine ``openai`` the environment's OPENAI_BASE_URL says where a vLLM server with the checkpoint is.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from synthvlm import CaptionRequest
from synthvlm.plugins import discover

PROMPTS = ("describe this image in detail", "a photo of a cat?", "the quick brown fox")
LIMIT = 24


def requests(pictures: int = 3, prompts: tuple[str, ...] = PROMPTS, penalty: float = 1.0) -> list[CaptionRequest]:
    """Return each prompt on each picture, a picture's prompts adjacent; pictures differ in shape."""
    from tests.tiny_captioners import picture

    made = []
    for n in range(pictures):
        image = picture(n, ((96, 80), (150, 60), (70, 70))[n % 3])
        made += [CaptionRequest(f"{n}-{p}", p, (image,), (f"{n:064d}",), LIMIT, penalty) for p in prompts]
    return made


def options(plugin: str, directory: str, engine: str, **more: Any) -> Any:
    """Return a family's options on an engine."""
    return discover().create("captioner", plugin, {"checkpoint": directory, "engine": engine, "dtype": "float32"} | more)


def note_token_ids(captioner: Any, engine: str) -> list[list[int]]:
    """Return a list that fills with the token ids of each answer, in order."""
    noted: list[list[int]] = []
    if engine == "transformers":
        inner = captioner._caption

        def caption(ids: list[int], row: Any, as_json: bool) -> Any:
            made = inner(ids, row, as_json)
            noted.append(ids[: made.tokens])
            return made

        captioner._caption = caption
    elif engine == "vllm":
        inner = captioner._answer

        def answer(output: Any) -> Any:
            noted.append(list(output.outputs[0].token_ids))
            return inner(output)

        captioner._answer = answer
    else:
        from synthvlm.engines import openai_client

        read = openai_client.read_answer
        inner_body = captioner._requests._messages.body

        async def body(request: CaptionRequest) -> dict[str, Any]:
            made = await inner_body(request)
            return made | {"extra_body": made["extra_body"] | {"return_token_ids": True}}

        def read_answer(answer: Any, options: Any) -> Any:
            noted.append(list(answer.choices[0].token_ids))
            return read(answer, options)

        captioner._requests._messages.body, openai_client.read_answer = body, read_answer
    return noted


def main(plugin: str, directory: str, engine: str, out: str) -> None:
    """Caption one request at a time, so that ids and answers belong together, then the whole shard at once."""
    more: dict[str, Any] = {"batch_size": 1} if engine == "transformers" else {}
    if engine == "openai":
        more = {"served_model": "tiny", "request_timeout": 60.0}
    captioner = options(plugin, directory, engine, **more).load(["cpu"])
    noted = note_token_ids(captioner, engine)
    asked = [*requests(), *requests(1, penalty=1.3)]
    answers = [answer for request in asked for answer in captioner.caption([request])]
    ids = [list(i) for i in noted]
    # Again as a shard: the transformers engine in batches of one here, the others all in flight together.
    shard = (
        [answer for n in range(len(asked)) for answer in captioner.caption([asked[n]])]
        if more.get("batch_size")
        else [*captioner.caption(iter(asked))]
    )
    captioner.close()
    with open(out, "w") as stream:
        json.dump(
            [
                {"id": r.id, "ids": i, "answer": repr(a), "shard": repr(s), "text": a.text}
                for r, i, a, s in zip(asked, ids, answers, shard, strict=True)
            ],
            stream,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
