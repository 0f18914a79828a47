"""How much captioners agree, and where least: two captions of one image, from one perspective, compared by the words in them.

The measure is the share of words (letters and digits, in lower case) that both have of those that either has (Jaccard). It needs no
model and is counted in SQL, a range of samples at a time. Of many images some, picked by chance, are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import duckdb

from synthvlm.run import Stage, fetch

SHOWN = 6
"""Pairs of captions that differ most."""
_COMPARED = 20_000
"""Images of a range (about a million rows) that are compared; some more where chance has it."""


class Differing:
    """Counts over pairs of caption stages that read the same images; filled range by range."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        numbered = list(enumerate(stages))
        self._pairs = [(a, b) for a, b in combinations(numbered, 2) if a[1].reads["image"] == b[1].reads["image"]]
        self._sums: dict[tuple[str, str, str], dict[str, float]] = {}
        self.most: list[dict[str, Any]] = []
        """The pairs of captions that have least in common, least first: row, candidate, perspective, stages, texts, similarity."""

    def add(self, db: duckdb.DuckDBPyConnection) -> None:
        """Compare the captions in ``told_0``, ``told_1`` … of a range (see :mod:`synthvlm.reporting.captions`)."""
        for (n, one), (m, other) in self._pairs:
            rows = db.execute(f"SELECT count(DISTINCT row) FROM told_{n}").fetchall()[0][0]
            some = f"WHERE hash(row) % {-(-rows // _COMPARED)} = 0" if rows > _COMPARED else ""
            words = r"list_distinct(regexp_extract_all(lower(text), '[\pL\pN]+'))"
            said = f"SELECT row, id, candidate, sha256, perspective, text, {words} AS words FROM (SELECT * FROM told_{{}} {some}) WHERE error IS NULL"
            both = "len(list_intersect(a.words, b.words))"
            db.execute(f"""CREATE OR REPLACE TEMP TABLE compared_texts AS SELECT a.row, a.id, a.candidate, a.perspective, a.text AS text_a, b.text AS text_b,
                coalesce({both} / nullif(len(a.words) + len(b.words) - {both}, 0), 1.0) AS similarity
                FROM ({said.format(n)}) a JOIN ({said.format(m)}) b USING (row, candidate, sha256, perspective)""")
            counted = "SELECT perspective, count(*) AS images, sum(similarity) AS similarity, count(*) FILTER (text_a = text_b) AS same"
            for r in fetch(db, f"{counted} FROM compared_texts GROUP BY perspective"):
                sums = self._sums.setdefault((one.name, other.name, r.pop("perspective")), dict.fromkeys(r, 0))
                for k, v in r.items():
                    sums[k] += v
            least = f"SELECT *, md5(id) AS chance FROM compared_texts ORDER BY similarity, chance, candidate, perspective LIMIT {SHOWN}"
            self.most += [r | {"stages": [one.name, other.name], "texts": [r.pop("text_a"), r.pop("text_b")]} for r in fetch(db, least)]
        self.most = sorted(self.most, key=lambda r: (r["similarity"], r["chance"], r["candidate"], r["perspective"]))[:SHOWN]

    def agreement(self) -> list[dict[str, Any]]:
        """Return for each pair of captioners and perspective: images compared, mean similarity, and the share of equal captions."""
        return [
            {
                "stages": [a, b],
                "perspective": perspective,
                "images": int(s["images"]),
                "similarity": round(s["similarity"] / s["images"], 9),
                "same": s["same"] / s["images"],
            }
            for (a, b, perspective), s in sorted(self._sums.items())
        ]
