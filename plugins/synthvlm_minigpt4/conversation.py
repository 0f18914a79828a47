"""How MiniGPT-4 is talked to: the conversations of the authors' own code, one image each."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

from synthvlm.errors import CheckpointError

IMAGE = "<image>"
"""Stands for one token of the image in a converted checkpoint; the authors' ``<ImageHere>`` stands for all of them."""
GROUP = 4
"""Patches that make one token where there is no Q-Former."""
PATCHES = "minigpt4-patches"
"""The ``model_type`` of the variant that has no Q-Former, see :mod:`synthvlm_minigpt4.modeling`."""

_SYSTEM = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. "
    "Please answer my questions."
)
_CONVERSATIONS = {
    "vicuna": (_SYSTEM + "###Human: <Img>", "</Img> ", "###Assistant: "),
    # The second <s> is the authors': it begins each question, as in Llama 2's own format.
    "llama2": (_SYSTEM + "<s>[INST] <Img>", "</Img> ", " [/INST] "),
}
"""What stands before the image, between it and the question, and after the question. ``<s>``, which the tokenizer adds, comes first."""


@dataclass(frozen=True)
class Facts:
    """What the prompt and the picture depend on."""

    conversation: str
    tokens: int
    """Of an image."""
    side: int
    """Pixels."""


def conversation(prompt: str, facts: Facts) -> str:
    """Return the text up to where the answer begins."""
    before, between, after = _CONVERSATIONS[facts.conversation]
    # A caption that is quoted in a prompt may hold the placeholder, as LLaVA's data do.
    return f"{before}{IMAGE * facts.tokens}{between}{prompt.replace(IMAGE, '')}{after}"


@functools.lru_cache(maxsize=8)
def facts_of(directory: str) -> Facts:
    """Return what stands in a converted checkpoint's configuration. Raises CheckpointError for another checkpoint."""
    hint = "synthvlm convert minigpt4 MINIGPT4.pth DIR -o language=VICUNA -o vision=BLIP2, then -o checkpoint=DIR; see docs/converting.md"
    try:
        config = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))
        vision, language = config["vision_config"], config["text_config"]["model_type"]
        patches = (vision["image_size"] // vision["patch_size"]) ** 2
        if (config["model_type"], language) == ("blip-2", "llama"):
            return Facts("vicuna", config["num_query_tokens"], vision["image_size"])
        if config["model_type"] == PATCHES:
            return Facts("llama2", patches // config["patch_group"], vision["image_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{directory} is not a converted MiniGPT-4: {error!r} in its config.json", hint) from error
    raise CheckpointError(f"{directory} is {config['model_type']} with {language}, not a converted MiniGPT-4", hint)
