"""The captioner ``openai``: any model on any OpenAI-compatible server, hosted or one's own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from synthvlm.engines.captioning import CaptionerOptions
from synthvlm.errors import OptionError
from synthvlm.hookspecs import Register, hookimpl
from synthvlm.options import checkpoint, option

if TYPE_CHECKING:
    from PIL.Image import Image


def _local(value: Any) -> Any:
    """Return a field that only local engines read, so it is no option here."""
    return dataclasses.field(default=value, init=False)


@dataclass(frozen=True)
class AnyServer(CaptionerOptions):
    """A model that a server has: vLLM, SGLang, llama.cpp, or a hosted one. The key comes from the environment alone."""

    checkpoint: str = checkpoint(cast(Any, dataclasses.MISSING), help="the model's name on the server")
    engine: Literal["openai"] = option("openai", help="what runs the model: always a server")
    image_format: Literal["png", "jpeg"] = option(
        "png", help="how images are sent: png loses nothing, jpeg (quality 95) is some four times smaller"
    )
    max_side: int | None = option(
        None, ge=16, help="scale larger images down to so many pixels, for servers that charge by them; none: as they are"
    )
    arguments: dict[str, Any] | str = option(
        "{}",
        help='further arguments of each chat completion, as JSON: {"reasoning_effort": "low"}; what only this server knows under "extra_body"',
    )
    dtype: Any = _local("auto")
    quantization: Any = _local("none")
    attention: Any = _local("auto")
    batch_size: Any = _local(1)
    trust_remote_code: Any = _local(False)
    served_model: Any = _local(None)
    gpu_memory_utilization: Any = _local(0.9)
    max_model_len: Any = _local(None)

    family: ClassVar[str] = "openai"
    engines: ClassVar[tuple[str, ...]] = ("openai",)
    requires: ClassVar[tuple[str, ...]] = ("openai",)

    def __post_init__(self) -> None:
        """Read ``arguments``, so that the same ones are the same identity however they were written."""
        super().__post_init__()
        read = self.arguments
        if isinstance(read, str):
            try:
                read = json.loads(read or "{}")
            except ValueError as error:
                raise OptionError(f"openai: option arguments={self.arguments!r} is not JSON: {error}", _EXAMPLE) from error
        if not isinstance(read, dict):
            raise OptionError(f"openai: option arguments={self.arguments!r} is not a JSON object", _EXAMPLE)
        object.__setattr__(self, "arguments", read)

    def prepare(self, image: Image) -> Image:
        """Return the picture, no larger than ``max_side``."""
        if self.max_side is None or max(image.size) <= self.max_side:
            return image
        scale = self.max_side / max(image.size)
        return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))

    def openai_arguments(self) -> Mapping[str, Any]:
        """Return what the user adds to each request."""
        assert isinstance(self.arguments, dict)
        return self.arguments


_EXAMPLE = """such as -o arguments='{"reasoning_effort": "low"}'"""


@hookimpl
def register_captioners(register: Register) -> None:
    """Register ``openai``."""
    register("openai", AnyServer)
