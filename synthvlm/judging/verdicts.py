"""What a judging model is asked and how its answer is read: ``prompts/judge/*.yaml``, JSON back, one try at repair."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from synthvlm import prompts
from synthvlm.answers import objects
from synthvlm.errors import InputError
from synthvlm.perspectives import Perspective
from synthvlm.sample import CaptionRequest

DEFAULT = {"images": "alignment", "captions": "captions"}
"""Prompts, by what is compared."""
QUOTED = {"images": ("caption",), "captions": ("caption_a", "caption_b")}
"""What a prompt must quote, by what is compared."""
MAX_NEW_TOKENS = 160
REASON = 300
"""Characters of a reason that are kept."""
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "verdict": {"type": "string", "enum": ["A", "B", "tie"]}},
    "required": ["reason", "verdict"],
    "additionalProperties": False,
}
"""Of an answer; vLLM and most servers hold a model to it. The reason comes first, so that the verdict can follow from it."""
_WORDS = {
    "a": "A",
    "b": "B",
    "tie": "tie",
    "first": "A",
    "second": "B",
    "1": "A",
    "2": "B",
    "equal": "tie",
    "both": "tie",
    "neither": "tie",
}
_REPAIR = """

You were asked this before and answered:
{answer}
That is no verdict. Answer again, with JSON alone: {{"reason": "one short sentence", "verdict": "A" or "B" or "tie"}}"""


def load_prompt(name: str | os.PathLike[str], kind: str) -> Perspective:
    """Return a judge's prompt for ``kind`` (images, captions). Raises OptionError or InputError, naming file and field."""
    path = prompts.find("judge", name)
    data = prompts.read(path, {"prompt": str}, {"description": str, "max_new_tokens": int})
    prompt = Perspective(path.stem, data["prompt"].strip(), data.get("max_new_tokens", MAX_NEW_TOKENS))
    try:
        fields = set(prompt.fields)
    except Exception as error:  # Jinja2's syntax errors
        raise InputError(f"{path}: the prompt is no template: {error}", "write {{ caption }} to quote the caption") from error
    check_fields(str(path), fields, kind)
    return prompt


def check_fields(where: str, fields: set[str], kind: str) -> None:
    """Raise InputError for a prompt that does not quote what is compared, or quotes what a pair does not have."""
    wanted = set(QUOTED[kind])
    if not wanted <= fields or fields - wanted - {"caption"}:
        names = ", ".join(f"{{{{ {n} }}}}" for n in sorted(wanted))
        raise InputError(f"{where}: a prompt that compares {kind} must quote {names} and nothing else", "see prompts/judge for examples")


def read(text: str) -> tuple[str, str] | None:
    """Return (A, B or tie; the reason) of an answer, or None if it is no verdict."""
    for said in objects(text):
        word = re.sub(r"^(image|caption|picture)\s+", "", str(said.get("verdict", "")).strip().strip(".").lower())
        if word in _WORDS:
            return _WORDS[word], " ".join(str(said.get("reason") or "").split())[:REASON]
    return None


def of_sets(answer: str, flipped: bool) -> str:
    """Return ``a``, ``b`` or ``tie`` of the sets, from A or B as they were shown."""
    if answer == "tie":
        return answer
    return "a" if (answer == "A") != flipped else "b"


def repair(request: CaptionRequest, answer: str) -> CaptionRequest:
    """Return the request for the second try."""
    return replace(request, prompt=request.prompt + _REPAIR.format(answer=answer.strip()[:500] or "(nothing)"))
