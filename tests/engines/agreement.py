"""Caption pictures on one engine and write every answer's token ids: ``python -m tests.engines.agreement ENGINE OUT PLUGIN[=CHECKPOINT] …``.

Each captioner's answers go to ``OUT/PLUGIN.ENGINE.json``. For the engine ``openai`` the environment's OPENAI_BASE_URL says where a
vLLM server is that has the checkpoint under the name ``tiny``.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
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
    """Return a family's options on an engine; without a directory with the checkpoint that is its default."""
    values = {"engine": engine, "dtype": "float32"} | ({"checkpoint": directory} if directory else {})
    return discover().create("captioner", plugin, values | more)


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


def world_requests() -> list[CaptionRequest]:
    """Return the questions of the miniature captioner's training on pictures of its world."""
    from PIL import Image
    from synthvlm_mini import world

    from synthvlm import perspectives

    made, draw = [], random.Random(4)
    for n in range(3):
        image = Image.fromarray(world.render(world.sample(draw), 64, n))
        for name in ("detail", "nouns", "background"):
            [perspective] = perspectives.resolve([name], "mini").values()
            made.append(CaptionRequest(f"{n}-{name}", perspective.render({}), (image,), (f"{n:064d}",), perspective.max_new_tokens))
    return made


def main(engine: str, out: str, *captioners: str) -> None:
    """Have each captioner answer one request at a time, so that ids and answers belong together, then the whole shard at once."""
    for captioner in captioners:
        plugin, _, directory = captioner.partition("=")
        answers = ask(plugin, directory, engine)
        (Path(out) / f"{plugin}.{engine}.json").write_text(json.dumps(answers))


def ask(plugin: str, directory: str, engine: str) -> list[dict[str, Any]]:
    """Return a line per request: its ids and the answer to it alone, and the answer as one of a shard."""
    more: dict[str, Any] = {"transformers": {"batch_size": 4}, "vllm": {}, "openai": {"served_model": "tiny", "request_timeout": 60.0}}[
        engine
    ]
    captioner = options(plugin, directory, engine, **more).load(["cpu"])
    noted = note_token_ids(captioner, engine)
    asked = world_requests() if plugin == "mini-captioner" else [*requests(), *requests(1, penalty=1.3)]
    answers = [answer for request in asked for answer in captioner.caption([request])]
    ids = noted[:: len(noted) // len(asked)]  # on the transformers engine a batch is filled up with the same request
    shard = list(captioner.caption(asked))
    getattr(captioner, "close", lambda: None)()
    return [
        {"id": r.id, "ids": i, "text": a.text, "finish_reason": a.finish_reason, "tokens": a.tokens, "prompt_tokens": a.prompt_tokens,
         "shard": s.text}
        for r, i, a, s in zip(asked, ids, answers, shard, strict=True)
    ]  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
