"""What travels through the lines: samples, requests and results. Plain frozen dataclasses, no heavy imports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of the input. ``id`` is None until the run gives it one; ``meta`` keeps everything else that the user had."""

    id: str | None
    caption: str | None = None
    image: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    line: int | None = None
    """1-based line (text formats) or record number (binary formats) in the source, for messages."""


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """An image to make: candidate number ``candidate`` of sample ``id``."""

    id: str
    candidate: int
    caption: str
    seed: int
    """32 bits, from (run seed, sample id, candidate) alone."""


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """An image with what its generator knows of it. A generator may return the bare image instead."""

    image: Image
    cut_tokens: int = 0
    """Caption tokens that the model did not see."""
    note: str | None = None
    """A remark on this row for the report, such as a caption that the model cannot know."""


@dataclass(frozen=True, slots=True)
class CaptionRequest:
    """A prompt over 0..n images (0: grade text, 1: caption, 2: judge)."""

    id: str
    prompt: str
    """The bare question or instruction; the captioner wraps it in its model's own conversation format."""
    images: tuple[Image, ...] = ()
    """Decoded, RGB, upright, at full size: preparing them is the captioner's."""
    image_ids: tuple[str, ...] = ()
    """SHA-256 of each image's file bytes (hex): equal ids are equal images, so work on one may be shared by its requests."""
    max_new_tokens: int = 256
    repetition_penalty: float = 1.0
    """1.0: none."""
    json_schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Caption:
    """A captioner's answer. A captioner may return the bare text instead."""

    text: str
    finish_reason: str | None = None
    """``stop`` or ``length`` (cut off by the token limit); None where the model does not say."""
    tokens: int | None = None
    """Tokens of the answer."""
    prompt_tokens: int | None = None
    """Tokens that the model saw before it, the image's included."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A pair to score. ``image`` is decoded from the stored bytes (RGB); it is None for text scorers."""

    id: str
    candidate: int
    caption: str | None
    image: Image | None
    prepared: Any = None
    """What the scorer's own ``prepare`` made of the pair ahead of time; None if it was not asked, or has none."""


@dataclass(frozen=True, slots=True)
class Failed:
    """One sample set aside with its reason, in place of a result; the rest of the batch goes on."""

    error: str
    error_class: str = "Failed"
