"""The scorer ``nsfw``: whether an image is unsafe, by a model of the user's choice. What it does stands in :mod:`synthvlm.scorers.safety`."""

from __future__ import annotations

import synthvlm
from synthvlm.hookspecs import Register
from synthvlm.scorers.safety import ImageSafety


@synthvlm.hookimpl
def register_scorers(register: Register) -> None:
    """Register the scorer of images."""
    register("nsfw", ImageSafety)
