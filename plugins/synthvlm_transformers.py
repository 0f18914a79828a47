"""The captioner ``transformers``: any image-text-to-text checkpoint that transformers (or vLLM) has a class for, with its own chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from synthvlm.engines.captioning import CaptionerOptions, Message, Template
from synthvlm.errors import OptionError
from synthvlm.hookspecs import Register, hookimpl
from synthvlm.options import option


@dataclass(frozen=True)
class AnyModel(CaptionerOptions):
    """Any image-text-to-text model: Qwen3-VL, InternVL3, Gemma 3, SmolVLM, LLaVA-OneVision and more. ``-o checkpoint=…``."""

    system: str | None = option(None, help="system message; none: what the chat template puts there by itself")
    template: dict[str, Any] | str = option("{}", help='arguments of the chat template, as JSON: {"enable_thinking": false}')
    processor_arguments: dict[str, Any] | str = option(
        "{}", help='arguments of the image processor, as JSON, by the names it knows: {"size": {"longest_edge": 1536}}'
    )
    stop_at: str | None = option(None, help="text at which an answer ends, where the checkpoint's own end tokens do not do")

    family: ClassVar[str] = "transformers"

    def __post_init__(self) -> None:
        """Read the JSON options, so that the same ones are the same identity however they were written."""
        super().__post_init__()
        for name in ("template", "processor_arguments"):
            given = getattr(self, name)
            try:
                read = json.loads(given or "{}") if isinstance(given, str) else given
            except ValueError as error:
                raise OptionError(
                    f"transformers: option {name}={given!r} is not JSON: {error}", f"""such as -o {name}='{{"a": 1}}'"""
                ) from error
            if not isinstance(read, dict):
                raise OptionError(f"transformers: option {name}={given!r} is not a JSON object", f"""such as -o {name}='{{"a": 1}}'""")
            object.__setattr__(self, name, read)

    @property
    def stop(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the text at which an answer ends, if one was named."""
        return (self.stop_at,) if self.stop_at else ()

    def conversation(self, prompt: str, images: int) -> list[Message]:
        """Return the messages: the system message if there is one, then images and prompt."""
        said = super().conversation(prompt, images)
        return [{"role": "system", "content": [{"type": "text", "text": self.system}]}, *said] if self.system else said

    def render(self, prompt: str, images: int, template: Template) -> str:
        """Return what the checkpoint's own chat template makes of it."""
        return template(self.conversation(prompt, images), **dict(self.template))  # type: ignore[arg-type]

    def processor_kwargs(self) -> Mapping[str, Any]:
        """Return what the user set of the image processor."""
        return dict(self.processor_arguments)  # type: ignore[arg-type]

    def openai_arguments(self) -> Mapping[str, Any]:
        """Return the chat template's arguments as vLLM and SGLang take them."""
        return {"extra_body": {"chat_template_kwargs": self.template}} if self.template else {}


@hookimpl
def register_captioners(register: Register) -> None:
    """Register ``transformers``."""
    register("transformers", AnyModel)
