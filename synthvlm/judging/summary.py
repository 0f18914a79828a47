"""What judges' verdicts come to, for the terminal, as JSON, and for the report: ``summaries(run)``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from synthvlm.errors import RunError
from synthvlm.judging import pairs, prepare, statistics
from synthvlm.judging.wanted import annotator
from synthvlm.run import RunDirectory, Stage, fetch, steadily

PEOPLE = "people"
"""The judge that people are together, by majority, where several voted."""
Row = dict[str, Any]


def summaries(run: RunDirectory) -> list[dict[str, Any]]:
    """Return :func:`summarise` of every comparison of a run that has been judged."""
    return [s for s in (summarise(run, name) for name in pairs.names(run)) if s["judges"]]


def summarise(run: RunDirectory, name: str) -> dict[str, Any]:
    """Return the figures of a comparison as plain data. Raises RunError if there is none of that name.

    ``name``, ``kind`` (images, captions), ``labels`` (of a and b), ``pairs``, ``counts`` (of the drawing), ``judges`` and ``agreement``.
    A judge has ``judged`` pairs with ``wins`` (of a), ``ties``, ``losses``; ``win_rate`` (ties count half; value, low, high, n);
    ``p`` (sign test of the decided pairs); ``flip_rate`` and ``first`` (share of the decided answers that name what was shown first; 0.5
    is no bias); ``unparsable``, ``failed``, ``skipped``, ``repaired`` answers; and where the truth is known, ``accuracy`` on the pairs with a
    better side (a tie is half right). ``agreement``: Cohen's κ of every two judges on the pairs that both judged.
    """
    record = pairs.record(run, name)
    if record is None:
        raise RunError(f"{run.root} has no comparison {name!r}", f"it has: {', '.join(pairs.names(run)) or 'none'}")
    total = record["counts"]["pairs"]
    truth = statistics.codes([p["truth"] for p in pairs.read(run, name)])
    judges, verdicts = [], {}
    people: list[np.ndarray] = []
    for stage in prepare.stages(run, name):
        told, final = _judge(run, stage, total, truth)
        if told["answers"]:
            judges.append(told)
            verdicts[told["judge"]] = final
            people += [final] if told["person"] else []
    if len(people) > 1:
        final = majority(people)
        judges.append({"judge": PEOPLE, "person": True, "stage": None, **_figures(final, truth), "annotators": len(people)})
        verdicts[PEOPLE] = final
    return {
        "name": name,
        "kind": record["kind"],
        "labels": record["labels"],
        "pairs": total,
        "counts": record["counts"],
        "judges": judges,
        "agreement": list(_agreement(verdicts, {j["judge"] for j in judges if j["person"]})),
    }


def majority(votes: Sequence[np.ndarray]) -> np.ndarray:
    """Return what most of several people say of each pair; where no verdict has most votes it is a tie."""
    stacked = np.stack(votes)
    each = np.stack([(stacked == code).sum(0) for code in range(3)])
    clear = (each == each.max(0)).sum(0) == 1
    return np.where(each.sum(0) == 0, -1, np.where(clear, each.argmax(0), 1)).astype(np.int8)


def _judge(run: RunDirectory, stage: Stage, total: int, truth: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Return one judge's figures, and its verdict on each pair."""

    def read() -> list[Row]:
        with run.connect() as db:
            return fetch(
                db, f"SELECT row, flipped, verdict, repaired, seconds, error_class FROM {run.table_sql(stage)} ORDER BY row, flipped"
            )

    rows = steadily(read)
    person = annotator(stage) is not None
    answers = {side: np.full(total, -1, np.int8) for side in (False, True)}
    for side in answers:
        mine = [r for r in rows if r["flipped"] == side]
        answers[side][[r["row"] for r in mine]] = statistics.codes([r["verdict"] for r in mine])
    told: dict[str, Any] = {"judge": stage.runtime["judge"], "person": person, "stage": stage.name, "answers": len(rows)}
    if person:
        final = np.maximum(answers[False], answers[True])
    else:
        final, flips = statistics.both_orders(answers[False], answers[True])
        whole = int((final >= 0).sum())
        flipped = int(flips.sum())
        told["flip_rate"] = statistics.share([flipped, whole - flipped], (1.0, 0.0))
    first = sum(int((a == won).sum()) for a, won in ((answers[False], 0), (answers[True], 2)))
    second = sum(int((a == won).sum()) for a, won in ((answers[False], 2), (answers[True], 0)))
    told["first"] = statistics.share([first, second], (1.0, 0.0))
    reasons = Counter(r["error_class"] for r in rows if r["error_class"])
    told |= {
        "unparsable": reasons.pop("Unparsable", 0),
        "failed": sum(reasons.values()),
        "skipped": sum(r["verdict"] == "skip" for r in rows),
        "repaired": sum(bool(r["repaired"]) and not r["error_class"] for r in rows),
    }
    seconds = [r["seconds"] for r in rows if r["seconds"] is not None]
    told["seconds"] = float(np.median(seconds)) if seconds else None
    return told | _figures(final, truth), final


def _figures(final: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    wins, ties, losses = found = statistics.counts(final)
    known = (final >= 0) & ((truth == 0) | (truth == 2))
    right = [int((known & at).sum()) for at in (final == truth, final == 1)]
    right.append(int(known.sum()) - sum(right))
    return {
        "judged": sum(found),
        "wins": wins,
        "ties": ties,
        "losses": losses,
        "win_rate": statistics.win_rate(found),
        "p": statistics.sign_test(wins, losses),
        "accuracy": statistics.share(right, (1.0, 0.5, 0.0)),
    }


def _agreement(verdicts: dict[str, np.ndarray], people: set[str]) -> Any:
    names = list(verdicts)
    for n, one in enumerate(names):
        for other in names[n + 1 :]:
            if PEOPLE in (one, other) and {one, other} <= people:
                continue  # a person is part of the people
            if found := statistics.kappa(verdicts[one], verdicts[other]):
                yield {"judges": [one, other], **found}
