"""The hooks that a plugin may implement: each is handed ``register(name, options_class)``."""

from __future__ import annotations

from collections.abc import Callable

import pluggy

PROJECT = "synthvlm"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Register = Callable[[str, type], None]


@hookspec
def register_generators(register: Register) -> None:
    """Register text-to-image models: ``register("sdxl", SDXL)``."""


@hookspec
def register_captioners(register: Register) -> None:
    """Register multimodal language models that caption, judge or grade."""


@hookspec
def register_scorers(register: Register) -> None:
    """Register scorers: rows → named numbers."""
