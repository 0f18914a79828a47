"""``ngrams``: how English a caption reads, by a small statistical model that ships with SynthVLM. No checkpoint, no neural network.

Two numbers: ``word_perplexity`` of a trigram model over words and word classes (jumbled words, keyword lists), ``letter_perplexity`` of a model of
letters in words (keyboard mashing). Both are drawn towards the model's mean where a caption is short. Captions whose letters are
mostly not Latin have no value, those of fewer than four words no word perplexity. For what a language model would say, there is the scorer ``perplexity``.

``python -m synthvlm_ngrams.train DICT`` made the tables, of WordNet 3.0's glosses and examples (see ``WORDNET-LICENSE``) and of captions that
:mod:`synthvlm_ngrams.grammar` makes up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import synthvlm
from synthvlm.hookspecs import Register

if TYPE_CHECKING:
    from synthvlm_ngrams.model import NgramScorer


@dataclass(frozen=True)
class Ngrams:
    """How English a caption reads, by a bundled n-gram model of words and letters."""

    batch_size: int = synthvlm.runtime(1024, help="captions at a time, where they are not measured by the thousand", ge=1)

    output_revision: ClassVar[int] = 1
    reads: ClassVar[str] = "text"

    def load(self, devices: Sequence[str]) -> NgramScorer:
        """Read the tables; ``devices`` are not used."""
        from synthvlm_ngrams.model import NgramScorer

        return NgramScorer(self.batch_size)


@synthvlm.hookimpl
def register_scorers(register: Register) -> None:
    """Register the scorer."""
    register("ngrams", Ngrams)
