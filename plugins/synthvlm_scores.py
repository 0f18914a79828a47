"""The built-in scorers: ``clip``, ``clipscore-hessel`` and ``ssim``. What they do stands in :mod:`synthvlm.scorers`."""

from __future__ import annotations

import synthvlm
from synthvlm.hookspecs import Register
from synthvlm.scorers import ClipScore, ClipScoreHessel, SSIMScore


@synthvlm.hookimpl
def register_scorers(register: Register) -> None:
    """Register the scorers that score an image, alone or with its caption."""
    register("clip", ClipScore)
    register("clipscore-hessel", ClipScoreHessel)
    register("ssim", SSIMScore)
