"""SynthVLM: captions into training images, images into training captions; score every pair, keep the best.

Everything public is importable from here; nothing heavy is imported until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from synthvlm.errors import (
    CheckpointError,
    InputError,
    OptionError,
    PluginError,
    RunError,
    RunLocked,
    RunMismatch,
    SynthVLMError,
    TooManyFailures,
    WorkerError,
)
from synthvlm.hookspecs import hookimpl
from synthvlm.options import checkpoint, option, runtime
from synthvlm.sample import Caption, CaptionRequest, Failed, GeneratedImage, ImageRequest, Sample, ScoreRequest

if TYPE_CHECKING:
    from synthvlm.pipeline import Run

__version__ = "0.1.0"

__all__ = [
    "Caption",
    "CaptionRequest",
    "CheckpointError",
    "Failed",
    "GeneratedImage",
    "ImageRequest",
    "InputError",
    "OptionError",
    "PluginError",
    "Run",
    "RunError",
    "RunLocked",
    "RunMismatch",
    "Sample",
    "ScoreRequest",
    "SynthVLMError",
    "TooManyFailures",
    "WorkerError",
    "checkpoint",
    "hookimpl",
    "option",
    "runtime",
]

_LATE = {"Run": "synthvlm.pipeline"}  # brings DuckDB and Arrow with it


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(importlib.import_module(_LATE[name]), name)
    raise AttributeError(f"module 'synthvlm' has no attribute {name!r}")
