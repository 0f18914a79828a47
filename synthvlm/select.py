"""Choose pairs: the best candidate of each caption, then the top K or share of captions by Total (the paper, section 3.2).

Total = Σ weight · score, by default CLIP + 0.5 · SSIM. Ties go to the smaller id, then the smaller candidate number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq

from synthvlm.errors import OptionError, RunError
from synthvlm.run import RunDirectory, Stage, fetch

WEIGHTS: Mapping[str, float] = {"clip": 1.0, "ssim": 0.5}
"""λ = 0.5 (the paper, section 3.2)."""
TOP = "10%"
"""100K of 1M pairs (the paper, section 3.2)."""


def default_weights(columns: Sequence[str]) -> Mapping[str, float]:
    """Return the method's weights, of the terms that there are: a run scored by SSIM alone is ranked by it."""
    return {c: w for c, w in WEIGHTS.items() if c in columns} or WEIGHTS


def parse_top(top: str | float | int, captions: int) -> int:
    """Return how many of ``captions`` to keep: ``"10%"`` and ``0.1`` are shares, ``100`` and ``"100"`` counts, ``"all"`` is all."""
    text = str(top).strip()
    try:
        if text == "all":
            return captions
        if text.endswith("%"):
            share = float(text[:-1]) / 100
        elif "." in text or "e" in text.lower():
            share = float(text)
        else:
            count = int(text)
            if count < 1:
                raise ValueError
            return min(count, captions)
        if not 0 < share <= 1:
            raise ValueError
    except ValueError:
        raise OptionError(f"--top {top} is not a share or a count", "write 10%, 0.1, 1000 or all") from None
    return min(captions, max(1, int(share * captions + 0.5)))


def scored_sql(run: RunDirectory, scores: list[Stage]) -> str:
    """Return SQL that joins an image table with its score tables: image columns, caption, and every score column."""
    images = {s.reads["image"] for s in scores}
    if len(images) != 1:
        raise RunError(
            f"the score stages read different images: {', '.join(sorted(images))}", "name stages of one image stage with --scores"
        )
    seen: dict[str, str] = {}
    for s in scores:
        for c in s.columns:
            if c in seen:
                raise RunError(f"column {c!r} is in two score stages, {seen[c]} and {s.name}", "name one of them with --scores")
            seen[c] = s.name
    sql = 'SELECT g.key, g.row, g.id, g.candidate, g.caption, g.seed, g.width, g.height, g.sha256, g.bytes, g.stored, g.cut_tokens, g.note, g.tar, g."offset"'
    for n, s in enumerate(scores):
        sql += "".join(f', s{n}."{c}"' for c in s.columns)
    sql += f" FROM {run.table_sql(run.stage(next(iter(images))))} g"
    for n, s in enumerate(scores):
        sql += f" JOIN (SELECT * FROM {run.table_sql(s)} WHERE error IS NULL) s{n} USING (id, candidate)"
    return f"({sql} WHERE g.error IS NULL)"


def select(
    run: RunDirectory,
    scores: list[Stage],
    *,
    weights: Mapping[str, float] | None = None,
    top: str | float | int = TOP,
    name: str = "default",
) -> dict[str, Any]:
    """Write ``selections/<name>.parquet`` (the kept rows with every score) and ``.json`` (how they were chosen); return the latter.

    Raises RunError if nothing is scored yet or a weight names no column.
    """
    columns = [c for s in scores for c in s.columns]
    weights = dict(weights or default_weights(columns))
    unfit = [c for c, w in weights.items() if not math.isfinite(w)]
    if unfit:
        raise OptionError(f"the weight of {unfit[0]!r} is {weights[unfit[0]]}", "give a number")
    unknown = [c for c in weights if c not in columns]
    if unknown:
        raise RunError(
            f"no score stage has the column {unknown[0]!r}",
            f"there are: {', '.join(columns) or 'none'}; weigh them with --weight NAME=VALUE",
        )
    total = " + ".join(f'{_number(w)} * "{c}"' for c, w in weights.items())
    with run.store.lock(f"selecting {name}", wait=60), run.connect() as db:
        # A score that is no number would be the largest of all in SQL: it must not win.
        db.execute(
            f"CREATE TABLE scored AS SELECT * FROM (SELECT *, {total} AS total FROM {scored_sql(run, scores)}) WHERE isfinite(total)"
        )
        pairs, captions = db.execute("SELECT count(*), count(DISTINCT id) FROM scored").fetchall()[0]
        if pairs == 0:
            raise RunError(f"{run.root} has no scored pairs yet", "run: synthvlm score RUN")
        dropped = db.execute(f"SELECT count(*) FROM ({_best('total', 'scored')}) WHERE NOT stored").fetchall()[0][0]
        keep = parse_top(top, captions)
        db.execute(f"CREATE TABLE best AS {_best('total', '(SELECT * FROM scored WHERE stored)')}")
        if not db.execute("SELECT count(*) FROM best").fetchall()[0][0]:
            raise RunError(
                f"{run.root} has scores, but no pixels of the images that they belong to",
                "make them again: synthvlm generate RUN --model MODEL",
            )
        db.execute(f"CREATE TABLE selected AS SELECT * FROM best ORDER BY total DESC, id, candidate LIMIT {keep}")
        summary = {
            "name": name,
            "scores": [s.name for s in scores],
            "images": scores[0].reads["image"],
            "weights": weights,
            "top": str(top),
            "pairs": pairs,
            "captions": captions,
            "selected": db.execute("SELECT count(*) FROM selected").fetchall()[0][0],
            "winners_not_stored": dropped,
            "threshold": db.execute("SELECT min(total) FROM selected").fetchall()[0][0],
            "cards": {c: s.cards.get(c, {}) for s in scores for c in s.columns},
            "sets": {
                n: _means(db, table, columns)
                for n, table in (("all candidates", "scored"), ("best of each caption", "best"), ("selected", "selected"))
            },
            "terms": {c: _term(db, c, w, keep) for c, w in weights.items()},
        }
        with run.store.writer(f"selections/{name}.parquet") as out:
            rows = db.sql('SELECT * EXCLUDE (tar, "offset", stored) FROM selected ORDER BY total DESC, id, candidate').to_arrow_reader(
                10_000
            )
            with pq.ParquetWriter(out, rows.schema, compression="zstd") as writer:
                for batch in rows:
                    writer.write_batch(batch)
        run.store.put(f"selections/{name}.json", (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode())
    return summary


def _number(value: float) -> str:
    """Return SQL for exactly this double; a bare literal would be a DECIMAL, and rounded on its way."""
    return f"'{float(value)!r}'::DOUBLE"


def _best(score: str, source: str) -> str:
    return f"SELECT * FROM {source} QUALIFY row_number() OVER (PARTITION BY id ORDER BY {score} DESC, candidate) = 1"


def _means(db: Any, table: str, columns: list[str]) -> dict[str, Any]:
    """Return rows, means and standard deviations of a set of pairs."""
    parts = ", ".join(f'avg("{c}") AS "{c}", coalesce(stddev_samp("{c}"), 0) AS "{c} sd"' for c in [*columns, "total"])
    return fetch(db, f"SELECT count(*) AS samples, {parts} FROM {table}")[0]


def _term(db: Any, column: str, weight: float, keep: int) -> dict[str, float]:
    """Say how much a term decides: its share of the variance of Total, and what it would choose alone.

    The share is cov(weight · score, Total) / var(Total) over all candidates; the shares of all terms add up to 1.
    """
    share = db.execute(f'SELECT covar_samp({_number(weight)} * "{column}", total) / nullif(var_samp(total), 0) FROM scored').fetchall()[0][
        0
    ]
    alone = f"""SELECT * FROM ({_best(f'"{column}"', "(SELECT * FROM scored WHERE stored)")}) ORDER BY "{column}" DESC, id, candidate LIMIT {keep}"""
    same, mean = db.execute(f"SELECT count(s.id), avg(a.total) FROM ({alone}) a LEFT JOIN selected s USING (id, candidate)").fetchall()[0]
    chosen = db.execute("SELECT count(*) FROM selected").fetchall()[0][0]
    return {"weight": weight, "share": share if share is not None else 0.0, "alone_overlap": same / chosen, "alone_mean_total": mean}
