"""The built-in scorers of pairs: ``clip``, ``clipscore-hessel``, ``ssim`` and ``vqascore``. What they do stands in :mod:`synthvlm.scorers`."""

from __future__ import annotations

import synthvlm
from synthvlm.hookspecs import Register
from synthvlm.scorers import ClipScore, ClipScoreHessel, SSIMScore, VQAScore


@synthvlm.hookimpl
def register_scorers(register: Register) -> None:
    """Register the scorers that score an image, alone or with its caption."""
    register("clip", ClipScore)
    register("clipscore-hessel", ClipScoreHessel)
    register("ssim", SSIMScore)
    register("vqascore", VQAScore)
