"""Limits: what a measured column may be. They live in the recipe; a caption outside of one is dropped, and the column's name is the reason."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synthvlm.errors import OptionError
from synthvlm.scorers.decontamination import LEAST
from synthvlm.sql import identifier, quote

Limit = tuple[float | None, float | None]
"""The least and the most that a value may be; None: no limit on that side."""

LIMITS: Mapping[str, Limit] = {
    "words": (2, 400),
    "characters": (3, 3000),
    "letters": (0.5, None),
    "urls": (None, 0),
    "emails": (None, 0),
    "phones": (None, 0),
    "handles": (None, 0),
    "markup": (None, 0),
    "filenames": (None, 0),
    "advertising": (None, 0.9),
    "boilerplate": (None, 0),
    "blocked": (None, 0),
    "symbols": (None, 0.2),
    "digits": (None, 0.35),
    "capitals": (None, 0.75),
    "repeated_words": (None, 0.55),
    "repeated_trigrams": (None, 0.3),
    "word_run": (None, 3),
    "character_run": (None, 6),
    "language": (None, None),
    "word_perplexity": (None, 600),
    "letter_perplexity": (None, 18),
    "perplexity": (None, 1500),
    "personal": (None, 0),
    "judge": (0.5, None),
    "overlap": (None, 0),
    "phash_distance": (LEAST, None),
}
"""Column → limits, in the order in which a caption's first reason is looked for. A column that is not measured drops nothing."""
SHARE_OF_PAIRS = "40%"
"""Of the pairs that are left, by CLIPScore of caption and raw image (the paper, section 3.1)."""
SIMILARITY = 0.8
"""Jaccard similarity of word trigrams from which two captions are near-duplicates."""
SURE = 0.5
"""Probability from which a detected language counts."""
_ENGLISH = f"coalesce(language = 'en' OR language_p < {SURE}, true)"
GUARDS: Mapping[str, tuple[str, str]] = {
    "word_perplexity": ("language", _ENGLISH),
    "letter_perplexity": ("language", f"({_ENGLISH} OR letter_perplexity > 100)"),
    "perplexity": ("language", _ENGLISH),
}
"""Column → (another column, SQL): where that one is measured, the limit holds only where the SQL does. English models judge English."""
TEXT_COLUMNS = ("language",)
"""Columns that hold text, which limits in numbers cannot be set on."""


@dataclass(frozen=True)
class Rule:
    """A reason for dropping a caption, as SQL over the measured columns."""

    reason: str
    sql: str
    says: str
    """The limit in words."""


def limits(given: Mapping[str, Any] | None) -> dict[str, Limit]:
    """Return the default limits with ``given`` laid over them: column → [least, most], or None (or ``off``) for no limit.

    Raises OptionError for what is no limit.
    """
    merged = dict(LIMITS)
    for column, limit in (given or {}).items():
        merged[column] = parse(column, limit)
    return {c: limit for c, limit in merged.items() if limit != (None, None)}


def parse(column: str, limit: Any) -> Limit:
    """Return a limit: a pair, ``"2..400"``, ``"..0"``, or ``"off"`` and None for no limit. Raises OptionError."""
    if column in TEXT_COLUMNS and limit not in (None, "off"):
        raise OptionError(f"{column} is no number", "choose languages with --language en")
    if isinstance(limit, str):
        limit = None if limit == "off" else limit.split("..")
    if limit is None:
        return None, None
    try:
        least, most = (None if v in (None, "") else float(v) for v in limit)
    except (TypeError, ValueError):
        raise OptionError(f"the limit {limit!r} of {column} is not MIN..MAX", "write 2..400, 2.. or ..0, or off for none") from None
    if (
        any(v is not None and not math.isfinite(v) for v in (least, most))
        or least is None is most
        or (least is not None and most is not None and least > most)
    ):
        raise OptionError(f"the limit {limit!r} of {column} leaves nothing, or everything", "write 2..400, 2.. or ..0, or off for none")
    return least, most


def rules(wanted: Mapping[str, Limit], measured: Iterable[str], languages: Sequence[str] | None = None) -> list[Rule]:
    """Return the rules that can be applied, given the columns that are measured, in order."""
    columns = list(measured)
    found = []
    for column, (least, most) in wanted.items():
        if column in columns:
            name = identifier(column)
            sides = [f"{name} < {least!r}"] if least is not None else []
            sides += [f"{name} > {most!r}"] if most is not None else []
            other, guard = GUARDS.get(column, ("", ""))
            sql = f"({' OR '.join(sides)})" + (f" AND {guard}" if other in columns else "")
            found.append(Rule(column, sql, words(least, most)))
    if languages and "language" in columns:
        listed = ", ".join(quote(x) for x in languages)
        sql = f"language NOT IN ({listed}) AND language_p >= {SURE} AND long_enough"
        at = sum(list(LIMITS).index(r.reason) < list(LIMITS).index("language") for r in found if r.reason in LIMITS)
        found.insert(at, Rule("language", sql, f"one of {', '.join(languages)}"))
    return found


def words(least: float | None, most: float | None) -> str:
    """Say a limit in words."""
    ends = [f"at least {least:g}"] if least is not None else []
    if most is not None:
        ends.append("none" if most == 0 and least is None else f"at most {most:g}")
    return ", ".join(ends)
