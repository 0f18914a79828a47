r"""What every captioner can be told, and what a model family says of itself so that any engine can run it.

A family is a frozen dataclass derived from :class:`CaptionerOptions`. It holds data and touches pictures only through PIL;
``load`` hands it to ``synthvlm.engines.<engine>``, whose ``load(options, devices)`` returns the captioner::

    @dataclass(frozen=True)
    class LLaVA(CaptionerOptions):
        checkpoint: str = checkpoint("llava-hf/llava-1.5-7b-hf")
        family: ClassVar[str] = "llava"                 # whose wording of a perspective to use
        max_images: ClassVar[int | None] = 1

        def render(self, prompt, images, template):     # exactly what the model was trained with
            return f"{SYSTEM} USER: {'<image>' * images}\n{prompt} ASSISTANT:"

        def prepare(self, image):                       # before the model's own processor, in every engine
            return pad_to_square(image)

What each engine takes of it:

==================== ============ ==== ======
member               transformers vllm openai
==================== ============ ==== ======
``prepare``          yes          yes  yes
``render``           yes          yes  no: the server has the checkpoint's own template
``conversation``     by render    ..   yes
``stop``             yes          yes  yes
``stop_tokens``      yes          yes  no
``max_images``       yes          yes  yes
``processor_kwargs`` yes          yes  no
``model_class``,     yes          no   no
``processor``,
``finish``
``vllm_arguments``   no           yes  no
``openai_arguments`` no           no   yes
==================== ============ ==== ======

Every engine sets each decoding parameter itself (``temperature``, ``top_p`` and ``seed`` of the options; ``max_new_tokens`` and
``repetition_penalty`` of the request; top-k off; the end tokens of :func:`end_tokens`), so a checkpoint's own sampling defaults
never leak in. A caption's ``tokens`` count the end token, as servers do; stop strings and special tokens are no part of its text.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from synthvlm.errors import CheckpointError, OptionError
from synthvlm.options import checkpoint, option, runtime
from synthvlm.sample import CaptionRequest, Failed

if TYPE_CHECKING:
    from PIL.Image import Image

    from synthvlm.interfaces import Captioner

Message = dict[str, Any]
"""``{"role": …, "content": [{"type": "image"}, {"type": "text", "text": …}]}``, as chat templates take it."""
Template = Callable[..., str]
"""The checkpoint's own chat template: messages, and its own arguments by name → text up to where the answer begins."""

_REQUIRED = cast(Any, dataclasses.MISSING)


@dataclass(frozen=True)
class CaptionerOptions:
    """What every captioner can be told, whichever engine runs it. Derive from it to make a family, see the module."""

    checkpoint: str = checkpoint(_REQUIRED, help="model: a local directory or a hub id (name or name@revision)")
    engine: Literal["transformers", "vllm", "openai"] = option(
        "transformers", help="what runs the model: transformers or vllm here, openai: any OpenAI-compatible server that has it"
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = option(
        "auto", help="precision of the weights; auto: bfloat16 on a GPU that has it, else float16, and float32 on the CPU"
    )
    quantization: Literal["none", "int8", "int4"] = option(
        "none", help="load the language model quantised (by bitsandbytes): less memory, other words"
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = option(
        "auto", help="attention kernel of the transformers engine; auto: sdpa where the model has it"
    )
    batch_size: int = option(16, ge=1, help="requests done together on the transformers engine; last bits, so rarely words, depend on it")
    temperature: float = option(0.0, ge=0, help="0: always the likeliest token; above: sample")
    top_p: float = option(1.0, gt=0, le=1, help="sample among the likeliest tokens that make up this share; 1: all")
    seed: int = option(0, ge=0, help="of sampling; no effect at temperature 0")
    trust_remote_code: bool = option(
        False, help="run Python code that comes with the checkpoint; then its revision must be pinned (name@<40 hex digits>)"
    )
    base_url: str | None = runtime(None, help="openai engine: the server's address, such as http://localhost:8000/v1")
    api_key_env: str = runtime("OPENAI_API_KEY", help="openai engine: the environment variable that holds the key")
    served_model: str | None = runtime(None, help="openai engine: the model's name on the server, if it is not the checkpoint's")
    concurrency: int = runtime(64, ge=1, help="openai engine: most requests in flight; fewer where the server bears less")
    request_timeout: float = runtime(300.0, gt=0, help="openai engine: seconds to wait for one answer")
    gpu_memory_utilization: float = runtime(0.9, gt=0, le=1, help="vllm engine: share of the GPU's memory to take")
    max_model_len: int | None = runtime(None, ge=1, help="vllm engine: most tokens of prompt and answer; none: the checkpoint's own")

    family: ClassVar[str] = ""
    """The name under which a perspective's file may have wordings for this family."""
    engines: ClassVar[tuple[str, ...]] = ("transformers", "vllm", "openai")
    """The engines that run it."""
    max_images: ClassVar[int | None] = None
    """Most images of one request; None: no limit."""
    stop: ClassVar[tuple[str, ...]] = ()
    """Texts at which an answer ends; they are cut off."""
    stop_tokens: ClassVar[tuple[str, ...]] = ()
    """Tokens that end an answer, beside the checkpoint's own."""
    model_class: ClassVar[str] = "AutoModelForImageTextToText"
    """The class of transformers that loads the checkpoint."""
    output_revision: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    extra: ClassVar[str] = "transformers"

    def __post_init__(self) -> None:
        """Refuse what cannot be followed."""
        if self.engine not in self.engines:
            raise OptionError(f"this model does not run on the engine {self.engine}", f"it runs on: {', '.join(self.engines)}")
        if self.trust_remote_code and self.engine != "openai" and not _pinned(self.checkpoint):
            raise OptionError(
                f"trust_remote_code needs a pinned revision of {self.checkpoint}: its code could change under you",
                "read the code, then give checkpoint=name@<commit, 40 hex digits>, or a local directory",
            )

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Return the checkpoint options that are not loaded here, so need not be fetched: a server has them, known by name."""
        return ("checkpoint",) if self.engine == "openai" else ()

    # What a family says of itself, by overriding.

    def conversation(self, prompt: str, images: int) -> list[Message]:
        """Return the messages of one request: ``images`` images, then the prompt."""
        content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": prompt}]
        return [{"role": "user", "content": content}]

    def render(self, prompt: str, images: int, template: Template) -> str:
        """Return the whole prompt as the model reads it, with the image's placeholder, up to where the answer begins.

        An engine that wants another placeholder is told by ``self.engine``.
        """
        return template(self.conversation(prompt, images))

    def prepare(self, image: Image) -> Image:
        """Return the picture as it goes to the model's processor, or to the server: padded, resized, or as it is."""
        return image

    def processor_kwargs(self) -> Mapping[str, Any]:
        """Return arguments for each call of the checkpoint's image processor (on vllm: ``mm_processor_kwargs``)."""
        return {}

    def processor(self, directory: str) -> Any:
        """Return what turns text and pictures into the model's inputs, if it is not the checkpoint's own ``AutoProcessor``."""
        return None

    def finish(self, model: Any) -> None:
        """Set on the loaded torch model what its configuration cannot say."""

    def vllm_arguments(self) -> Mapping[str, Any]:
        """Return further arguments of ``vllm.LLM``, such as ``hf_overrides``."""
        return {}

    def openai_arguments(self) -> Mapping[str, Any]:
        """Return further arguments of a chat completion, such as ``extra_body``."""
        return {}

    # What follows from that, for engines.

    def refusal(self, request: CaptionRequest) -> Failed | None:
        """Return why the family cannot take the request, or None if it can."""
        if self.max_images is not None and len(request.images) > self.max_images:
            most = "one image" if self.max_images == 1 else f"{self.max_images} images"
            return Failed(f"this model takes {most} at a time, not {len(request.images)}", "TooManyImages")
        return None

    def trim(self, text: str) -> str:
        """Return the answer up to the first stop string, without space around it."""
        return text[: min((at for at in map(text.find, self.stop) if at >= 0), default=len(text))].strip()

    def load(self, devices: Sequence[str]) -> Captioner:
        """Load the model with its engine."""
        return importlib.import_module(f"synthvlm.engines.{self.engine}").load(self, devices)


def _pinned(checkpoint: str) -> bool:
    """Say whether the checkpoint is a directory, or a hub repository at one commit."""
    return os.path.isdir(checkpoint) or re.search(r"@[0-9a-f]{40}$", checkpoint) is not None


def end_tokens(directory: str) -> tuple[int, ...]:
    """Return the ids of the tokens that end an answer, as the checkpoint in ``directory`` has them.

    They stand in ``generation_config.json``, or else in ``config.json``, there at the top or with the language model. Nothing else is taken of the former.
    Raises CheckpointError for a file that cannot be read.
    """
    for name in ("generation_config.json", "config.json"):
        path = Path(directory) / name
        try:
            config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}", "fetch or save the checkpoint anew") from error
        for part in (config, config.get("text_config") or {}, config.get("llm_config") or {}):
            found = part.get("eos_token_id")
            if found is not None:
                return tuple(found) if isinstance(found, list) else (found,)
    return ()
