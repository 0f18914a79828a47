"""Scorers: rows → named numbers. Public, so that plugins build on them; importing it imports no model library.

- :class:`ClipScore` and :class:`ClipScoreHessel`: agreement of an image with its caption (:mod:`synthvlm.scorers.clip`);
- :class:`SSIMScore`: what an image keeps when it is scaled to a CLIP input and back (:mod:`synthvlm.scorers.ssim`);
- :class:`VQAScore`: the probability that a captioner says Yes to the caption (:mod:`synthvlm.scorers.vqa`);
- :func:`structural_similarity`: the fast kernel by itself.
"""

from synthvlm.scorers.clip import ClipScore, ClipScoreHessel
from synthvlm.scorers.ssim import SSIMScore, structural_similarity
from synthvlm.scorers.vqa import VQAScore

__all__ = ["ClipScore", "ClipScoreHessel", "SSIMScore", "VQAScore", "structural_similarity"]
