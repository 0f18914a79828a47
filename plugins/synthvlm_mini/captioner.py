"""The captioner ``mini-captioner``: the miniature world told by a small model of the LLaVA class, loaded as LLaVA is on every engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from synthvlm_llava import LLaVA

from synthvlm.options import checkpoint, option

CAPTIONER = str(Path(__file__).resolve().parent / "weights" / "captioner")


@dataclass(frozen=True)
class MiniCaptioner(LLaVA):
    """Tell the miniature world that ships with SynthVLM, from every perspective, in a tenth of a second on a CPU."""

    checkpoint: str = checkpoint(CAPTIONER, help="model: a local directory or a hub id (name or name@revision)")
    batch_size: int = option(32, ge=1, help="requests done together on the transformers engine; last bits, so rarely words, depend on it")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = option("float32", help="precision of the weights; auto: see llava")

    family: ClassVar[str] = "mini"
    """It knows the questions of its training by heart, and those of other models not at all: see ``prompts/perspectives``."""
    system: ClassVar[str] = ""
    mean_color: ClassVar[tuple[int, int, int]] = (127, 127, 127)

    @staticmethod
    def is_right(perspective: str, caption: str, truth: str) -> bool | None:
        """Say whether a caption is right, by the picture's own caption; None where that cannot be said."""
        from synthvlm_mini.judging import is_right

        return is_right(perspective, caption, truth)
