"""Cards: what the numbers of a score column are. Numbers with different cards are never mixed.

A card is a mapping: metric, weights, preprocessing, prefix, text policy … What it says of precision is recorded and only warned of, like
library versions, since it moves the last digits and not what is measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from synthvlm import parts
from synthvlm.errors import RunMismatch
from synthvlm.run import RunDirectory, Stage, differences

PRECISION = ("dtype", "computed_in")
"""Fields of a card that only warn."""
Cards = Mapping[str, Mapping[str, Any]]


def compare(one: Cards, other: Cards) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield (column, dotted field, value, other value) wherever the cards of a column that both have differ."""
    one, other = json.loads(json.dumps([one, other]))  # of which one may have been read from a file: no tuples
    for column in one:
        if column in other:
            yield from ((column, *found) for found in differences(one[column], other[column]))


def refuse(where: str, have: Cards, wanted: Cards) -> list[str]:
    """Return a warning for each difference in precision. Raises RunMismatch, naming the difference, if the columns measure different things."""
    warnings = []
    found = list(compare(have, wanted))
    for column, field, old, new in found:
        if field.split(".")[0] not in PRECISION:
            fields = {(c, f.split(".")[0]) for c, f, *_ in found if f.split(".")[0] not in PRECISION}
            more = f" (and {len(fields) - 1} more)" if len(fields) > 1 else ""
            raise RunMismatch(
                f"the column {column!r} of {where} holds numbers with {field}={_short(old)}, and these have {field}={_short(new)}{more}: "
                "they cannot stand in one column",
                "--as NAME makes another stage, and keeps both",
            )
        warnings.append(f"{where}: some numbers in {column!r} were computed with {field}={_short(old)}, others with {_short(new)}")
    return list(dict.fromkeys(warnings))


def check(run: RunDirectory, stages: Sequence[Stage]) -> list[str]:
    """Return warnings about precision in the parts of score stages. Raises RunMismatch if a column's parts do not measure the same."""
    warnings: list[str] = []
    for stage in stages:
        for part in parts.list_parts(run.store, stage.name):
            info = parts.part_info(run.store, part)
            for leaf in info.get("merged", [info]):
                if leaf.get("stage") == stage.digest and leaf.get("cards"):
                    warnings += refuse(f"stage {stage.name!r} of {run.root}", leaf["cards"], stage.cards)
    return list(dict.fromkeys(warnings))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
