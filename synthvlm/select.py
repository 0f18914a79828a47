"""Choose pairs: the best candidate of each caption, then the top K or share of captions by Total (the paper, section 3.2).

Total = Σ weight · score, by default CLIP + 0.5 · SSIM. Ties go to the smaller id, then the smaller candidate number. Options: a least
Total, a quota per group, scores by rank, and diversity (:mod:`synthvlm.selecting.diversity`). Scores are gathered once
(:mod:`synthvlm.selecting.gather`); no image is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq

from synthvlm import cards, marks
from synthvlm.curating.rules import parse, words
from synthvlm.errors import RunError
from synthvlm.run import RunDirectory, Stage, fetch
from synthvlm.selecting import diversity
from synthvlm.selecting.gather import gather, image_stage, images_sql, numbers, opened
from synthvlm.selecting.rank import ALL, Ranking, best_sql, parse_top, settle, take_sql, term_sql
from synthvlm.sql import identifier

__all__ = ["TOP", "WEIGHTS", "default_weights", "parse_top", "ranked", "scored_sql", "select"]

WEIGHTS: Mapping[str, float] = {"clip": 1.0, "ssim": 0.5}
"""λ = 0.5 (the paper, section 3.2)."""
TOP = "10%"
"""100K of 1M pairs (the paper, section 3.2)."""
DIGITS = 12
"""Decimals of the figures that are sums over pairs."""
_IMAGE_COLUMNS = ("seed", "width", "height", "sha256", "bytes", "cut_tokens", "note", "batch_size")


def default_weights(columns: Sequence[str]) -> Mapping[str, float]:
    """Return the method's weights, of the terms that there are: a run scored by SSIM alone is ranked by it.

    Where captions were scored by sentence, their mean takes CLIP's place.
    """
    by_sentence = {"clip_mean": WEIGHTS["clip"]} if "clip_mean" in columns and "clip" not in columns else {}
    return by_sentence | {c: w for c, w in WEIGHTS.items() if c in columns} or WEIGHTS


def ranked(
    scores: Sequence[Stage],
    weights: Mapping[str, float] | None = None,
    top: str | float | int | None = None,
    threshold: float | None = None,
    group_by: str | None = None,
    normalise: str = "none",
    limits: Mapping[str, Any] | None = None,
) -> Ranking:
    """Return the ranking with what is not given filled in: limits from the cards, too. Raises OptionError or RunError for what cannot be."""
    columns = numbers(scores)
    top = top if top is not None else TOP if threshold is None else ALL
    within = {c: limit for s in scores for c, limit in s.limits.items()} | {c: parse(c, v) for c, v in (limits or {}).items()}
    within = {c: limit for c, limit in within.items() if limit != (None, None)}
    ranking = Ranking(dict(weights or default_weights(columns)), top, threshold, group_by, normalise, within)
    ranking.check(columns)
    return ranking


def scored_sql(run: RunDirectory, scores: Sequence[Stage]) -> str:
    """Return SQL that joins an image table with its score tables: image columns, caption, and every score column."""
    images = image_stage(run, scores)
    sql = 'SELECT g.key, g.row, g.id, g.candidate, g.caption, g.seed, g.width, g.height, g.sha256, g.bytes, g.stored, g.cut_tokens, g.note, g.tar, g."offset"'
    for n, s in enumerate(scores):
        sql += "".join(f", s{n}.{identifier(c)}" for c in s.columns)
    sql += f" FROM {run.table_sql(images)} g"
    for n, s in enumerate(scores):
        same = "(id)" if s.reads_text else "(id, candidate)"
        sql += f" JOIN (SELECT * FROM {run.table_sql(s)} WHERE error IS NULL) s{n} USING {same}"
    return f"({sql} WHERE g.error IS NULL)"


def select(
    run: RunDirectory,
    scores: list[Stage],
    *,
    weights: Mapping[str, float] | None = None,
    top: str | float | int | None = None,
    threshold: float | None = None,
    group_by: str | None = None,
    normalise: str = "none",
    limits: Mapping[str, Any] | None = None,
    max_similarity: float | None = None,
    clusters: int | None = None,
    name: str = "default",
    ignore_marks: bool = False,
) -> dict[str, Any]:
    """Write ``selections/<name>.parquet`` (the kept rows with every score) and ``.json`` (how they were chosen); return the latter.

    ``top``: a share or number of captions (10%, or with ``threshold``, the least Total, all), of each group if ``group_by`` names a field. Of two images
    alike by ``max_similarity`` (cosine) or more only the better is kept; ``clusters`` of images that are alike take turns. ``limits``
    (column → ``MIN..MAX`` or ``off``) keep pairs from being chosen; safety scorers bring their own. Pairs that people marked
    (:mod:`synthvlm.marks`) are in or out before all but the limits, unless ``ignore_marks``. Raises RunError if nothing is scored yet
    or a weight names no column.
    """
    columns = numbers(scores)
    warnings = cards.check(run, scores)
    ranking = ranked(scores, weights, top, threshold, group_by, normalise, limits)
    diverse = diversity.Diversity(max_similarity, clusters)
    vectors = diverse.check(scores)
    with run.store.lock(f"selecting {name}", wait=60), opened(run) as (db, scratch):
        gather(run, db, scores)
        settle(run, db, ranking)
        pairs = db.execute("SELECT count(*) FROM scored").fetchall()[0][0]
        if pairs == 0:
            raise RunError(f"{run.root} has no scored pairs yet", "run: synthvlm score RUN")
        reaching = db.execute("SELECT count(*) FROM standing").fetchall()[0][0]
        marked = marks.honour(run, db, image_stage(run, scores), ranking, ignore_marks)
        _refuse_nothing(run, db, ranking, reaching)
        told = diverse.apply(run, db, vectors, scratch) if vectors else None
        db.execute(f"CREATE TABLE selected AS SELECT * FROM ({marks.chosen_sql(db, 'cluster' if clusters else None)})")
        summary = {
            "name": name,
            "scores": [s.name for s in scores],
            "images": image_stage(run, scores).name,
            "weights": dict(ranking.weights),
            "top": str(ranking.top),
            "asked": {
                "threshold": threshold,
                "group_by": group_by,
                "normalise": normalise,
                "limits": {c: list(limit) for c, limit in ranking.limits.items()},
                "max_similarity": max_similarity,
                "clusters": clusters,
            },
            "pairs": pairs,
            "captions": db.execute("SELECT sum(captions)::BIGINT FROM quotas").fetchall()[0][0],
            "selected": db.execute("SELECT count(*) FROM selected").fetchall()[0][0],
            "winners_not_stored": _not_stored(db, ranking),
            "threshold": db.execute(
                "SELECT min(total) FROM selected WHERE (row, candidate) NOT IN (SELECT row, candidate FROM kept)"
            ).fetchall()[0][0],
            "cards": {c: s.cards.get(c, {}) for s in scores for c in s.columns},
            "sets": {
                n: means(db, table, columns)
                for n, table in (("all candidates", "scored"), ("best of each caption", "best"), ("selected", "selected"))
            },
            "terms": {c: _term(db, c, ranking) for c in ranking.weights},
        }
        summary |= {"warnings": warnings} if warnings else {}
        summary |= {"outside_limits": _outside(db, ranking)} if ranking.limits else {}
        summary |= {"groups": _groups(db)} if group_by else {}
        summary |= {"diversity": told} if told else {}
        summary |= {"marks": marked} if any(marked.values()) else {}
        _write(run, db, scores, columns, name, grouped=group_by is not None)
        run.store.put(f"selections/{name}.json", (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode())
    return summary


def _refuse_nothing(run: RunDirectory, db: Any, ranking: Ranking, reaching: int) -> None:
    """Raise RunError, with what to do about it, if there is nothing to select; ``reaching``: pairs that marks aside could be."""
    if db.execute("SELECT (SELECT count(*) FROM standing) + (SELECT count(*) FROM kept)").fetchall()[0][0]:
        return
    if reaching:
        raise RunError("every pair that could be selected is marked drop", "select without the marks: --ignore-marks")
    highest = db.execute(f"SELECT max(total) FROM scored WHERE stored AND {ranking.allows}").fetchall()[0][0]
    if ranking.limits and highest is None and db.execute("SELECT bool_or(stored) FROM scored").fetchall()[0][0]:
        held = ", ".join(f"{c} {words(*limit)}" for c, limit in ranking.limits.items())
        raise RunError(f"no pair is within the limits ({held})", "set others: --within COLUMN=MIN..MAX, or off")
    if highest is not None:
        raise RunError(f"no pair reaches a total of {ranking.threshold:g}: the best has {highest:.4g}", "set a lower --threshold")
    raise RunError(
        f"{run.root} has scores, but no pixels of the images that they belong to",
        "make them again: synthvlm regenerate RUN ID …, or all: synthvlm generate RUN --model MODEL",
    )


def means(db: Any, table: str, columns: Sequence[str]) -> dict[str, Any]:
    """Return rows, means and standard deviations of a set of pairs."""
    named = [(identifier(c), identifier(f"{c} sd")) for c in (*columns, "total")]
    # Rounded where the order of summation, which threads decide, would show.
    parts = ", ".join(f"round(avg({c}), {DIGITS}) AS {c}, coalesce(round(stddev_samp({c}), {DIGITS}), 0) AS {sd}" for c, sd in named)
    return fetch(db, f"SELECT count(*) AS samples, {parts} FROM {table}")[0]


def _outside(db: Any, ranking: Ranking) -> int:
    """Count the scored pairs that the limits keep from being chosen."""
    return db.execute(f"SELECT count(*) FILTER (NOT coalesce({ranking.allows}, false)) FROM scored").fetchall()[0][0]


def _not_stored(db: Any, ranking: Ranking) -> int:
    """Count the pairs that would be selected, diversity apart, if their pixels were there."""
    if db.execute("SELECT bool_and(stored) FROM best").fetchall()[0][0]:
        return 0
    wanted = take_sql(db, f"(SELECT * FROM best WHERE {ranking.reaches})")
    return db.execute(f"SELECT count(*) FROM ({wanted}) WHERE NOT stored").fetchall()[0][0]


def _term(db: Any, column: str, ranking: Ranking) -> dict[str, float]:
    """Say how much a term decides: its share of the variance of Total, and what it would choose alone.

    The share is cov(weight · score, Total) / var(Total) over all candidates; the shares of all terms add up to 1.
    """
    weight, name = ranking.weights[column], identifier(column)
    share = f"covar_samp({term_sql(column, weight, ranking.normalise)}, total) / nullif(var_samp(total), 0)"
    share = db.execute(f"SELECT {share} FROM scored").fetchall()[0][0]
    alone = take_sql(db, f"({best_sql(name, 'scored')})", name)
    same, mean = db.execute(f"SELECT count(s.row), avg(a.total) FROM ({alone}) a LEFT JOIN selected s USING (row, candidate)").fetchall()[0]
    chosen = db.execute("SELECT count(*) FROM selected").fetchall()[0][0]
    return {
        "weight": weight,
        "share": round(share, DIGITS) if share is not None else 0.0,
        "alone_overlap": same / chosen if chosen else 0.0,
        "alone_mean_total": round(mean, DIGITS),
    }


def _groups(db: Any) -> list[dict[str, Any]]:
    """Return, for each group, how many captions it has and how many of them are selected."""
    chosen = "SELECT grp, count(*) AS n, round(avg(total), 12) AS total FROM selected GROUP BY grp"
    return fetch(
        db,
        f"""SELECT q.grp AS "group", q.captions, coalesce(n, 0) AS selected, total FROM quotas q
            LEFT JOIN ({chosen}) s ON s.grp IS NOT DISTINCT FROM q.grp ORDER BY q.captions DESC, q.grp""",
    )


def _write(run: RunDirectory, db: Any, scores: list[Stage], columns: list[str], name: str, grouped: bool) -> None:
    """Write the selected pairs with all that is known of them, best first. Where their pixels lie is left out: it changes."""
    images = image_stage(run, scores)
    found = images_sql(run, images, None, ["p.key", "p.row", "p.candidate", "s.caption", *(f"p.{c}" for c in _IMAGE_COLUMNS)])
    once = "QUALIFY row_number() OVER (PARTITION BY p.key ORDER BY p.stored DESC, p.tries DESC) = 1"
    chosen = f"({found} AND p.stored AND (p.row, p.candidate) IN (SELECT row, candidate FROM selected) {once})"
    values = [*(f"s.{identifier(c)}" for c in columns), *(['s.grp AS "group"'] if grouped else []), "s.total"]
    sql = f"""SELECT i.key, i.row, s.id, i.candidate, i.caption, {", ".join(f"i.{c}" for c in _IMAGE_COLUMNS)}, {", ".join(values)}
        FROM {chosen} i JOIN selected s USING (row, candidate) ORDER BY s.total DESC, s.id, i.candidate"""
    with run.store.writer(f"selections/{name}.parquet") as out:
        rows = db.sql(sql).to_arrow_reader(10_000)
        with pq.ParquetWriter(out, rows.schema, compression="zstd") as writer:
            for batch in rows:
                writer.write_batch(batch)
