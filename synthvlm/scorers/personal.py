"""Personal data in captions: addresses and numbers that belong to a person. By patterns; of numbers that have a check digit, only right ones count.

Names are another matter: that "Mona Lisa" may stand in a caption and a neighbour's name may not, no pattern knows. A plugin around a library that
finds names (Presidio, GLiNER) is a text scorer like this one: see docs/plugins.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from synthvlm.options import runtime
from synthvlm.scorers import wording
from synthvlm.scorers.text import TextScorer, count_matches

_STREET = r"\b\d{1,5}[a-z]? (?:[a-z]+\.? ){1,3}(?:street|st\.|avenue|ave\.?|road|rd\.|boulevard|blvd\.?|lane|drive|dr\.|court),? (?:[a-z]+ ?){1,3},? (?:[a-z]{2} )?\d{4,5}\b"
_SOCIAL_SECURITY = r"\b\d{3}-\d{2}-\d{4}\b"
_NETWORK = r"\b(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)\b"
_CARD = r"\b(?:\d[ -]?){13,19}\b"
_ACCOUNT = r"\b[a-z]{2}\d{2}(?: ?[a-z0-9]{4}){3,7}(?: ?[a-z0-9]{1,3})?\b"


@dataclass(frozen=True)
class Personal:
    """E-mail addresses, telephone, card, account and social security numbers, street and network addresses. No names."""

    batch_size: int = runtime(1024, help="captions at a time, where they are not measured by the thousand", ge=1)

    output_revision: ClassVar[int] = 1
    reads: ClassVar[str] = "text"

    def load(self, devices: Sequence[str]) -> PersonalScorer:
        """Return the scorer; ``devices`` are not used."""
        return PersonalScorer(self.batch_size)


class PersonalScorer(TextScorer):
    """Captions → ``personal``, how many such things each holds."""

    columns = ("personal",)
    _plain = wording.any_of(wording.EMAILS, wording.PHONES, _STREET, _SOCIAL_SECURITY, _NETWORK)

    def __init__(self, batch_size: int = 1024) -> None:
        self.batch_size = batch_size
        self.cards = {
            "personal": {"metric": "e-mail, phone, card, account, social security numbers, street and network addresses; no names"}
        }

    def measure(self, captions: Sequence[str]) -> Mapping[str, Any]:
        """Return the column."""
        import numpy as np
        import pyarrow as pa

        lower = [c.lower() for c in captions]
        texts = pa.array(lower, pa.string())
        counts = np.zeros(len(lower), np.int64)
        for pattern, right in ((_ACCOUNT, iban), (_CARD, luhn)):
            for n in np.flatnonzero(count_matches(texts, pattern)):
                counts[n] += sum(right(found[0]) for found in re.finditer(pattern, lower[n]))
                lower[n] = re.sub(pattern, " ", lower[n])  # its digits are no telephone's
        return {"personal": counts + count_matches(pa.array(lower, pa.string()), self._plain)}


def luhn(number: str) -> bool:
    """Say whether a card number's check digit is right (ISO/IEC 7812)."""
    digits = [int(d) for d in number if d.isdigit()][::-1]
    return len(digits) >= 13 and sum(d if n % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d) for n, d in enumerate(digits)) % 10 == 0


def iban(number: str) -> bool:
    """Say whether an account number's check digits are right (ISO 13616)."""
    plain = number.replace(" ", "")
    moved = plain[4:] + plain[:4]
    return int("".join(str(int(c, 36)) for c in moved)) % 97 == 1
