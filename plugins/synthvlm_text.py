"""The built-in scorers of captions, for curation, and those that compare with benchmarks. What they do stands in :mod:`synthvlm.scorers`."""

from __future__ import annotations

import synthvlm
from synthvlm.hookspecs import Register
from synthvlm.scorers.decontamination import Overlap, PerceptualHash
from synthvlm.scorers.judge import Judge
from synthvlm.scorers.language import Language
from synthvlm.scorers.perplexity import Perplexity
from synthvlm.scorers.personal import Personal
from synthvlm.scorers.text import TextRules


@synthvlm.hookimpl
def register_scorers(register: Register) -> None:
    """Register the scorers."""
    register("text", TextRules)
    register("language", Language)
    register("personal", Personal)
    register("perplexity", Perplexity)
    register("judge", Judge)
    register("overlap", Overlap)
    register("phash", PerceptualHash)
