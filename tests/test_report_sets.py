"""Means with their intervals, and which of them may stand in one column."""

from __future__ import annotations

import math
import statistics
from typing import Any

import duckdb
import pytest

from synthvlm.reporting.comparison import PairSet, table
from synthvlm.reporting.sets import measure, quantile

T_TABLE = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 9: 2.2622, 30: 2.0423, 1000: 1.9623}
"""The 0.975 quantile of Student's t, as printed tables have it."""
CARD = {"metric": "CLIPScore", "weights": "sha256:1", "dtype": "float32"}


def of(values: list[tuple[int, float | None]]) -> dict[str, Any]:
    with duckdb.connect() as db:
        db.execute("CREATE TABLE t (row BIGINT, x DOUBLE)")
        db.executemany("INSERT INTO t VALUES (?, ?)", [list(v) for v in values])
        return measure(db, "t", ["x"])


@pytest.mark.parametrize(("freedom", "want"), T_TABLE.items())
def test_quantiles_are_those_of_the_printed_tables(freedom: int, want: float) -> None:
    assert quantile(freedom) == pytest.approx(want, rel=2e-3)


def test_with_one_pair_a_caption_the_interval_is_the_usual_one() -> None:
    values = [0.31, 0.35, 0.28, 0.4, 0.33]
    found = of(list(enumerate(values)))
    half = quantile(4) * statistics.stdev(values) / math.sqrt(5)
    mean = statistics.mean(values)
    assert (found["samples"], found["captions"]) == (5, 5)
    assert found["x"] == pytest.approx({"mean": mean, "sd": statistics.stdev(values), "low": mean - half, "high": mean + half})


def test_candidates_that_are_all_alike_tell_no_more_than_one() -> None:
    once = [(n, x) for n, x in enumerate([0.31, 0.35, 0.28, 0.4, 0.33])]
    found, again = of(once), of(once * 8)
    assert again["samples"] == 40
    assert {k: again["x"][k] for k in ("mean", "low", "high")} == pytest.approx({k: found["x"][k] for k in ("mean", "low", "high")})


def test_what_has_no_value_does_not_count() -> None:
    found = of([(0, 0.2), (1, 0.4), (2, float("nan")), (3, float("inf")), (4, None)])
    assert found["samples"] == 5 and found["x"]["mean"] == pytest.approx(0.3)
    assert of([(0, 0.2), (0, 0.4)])["x"]["low"] is None, "one caption says nothing of others"
    assert of([(0, None)])["x"] == {"mean": None, "sd": None, "low": None, "high": None}


def pairs(of: str, card: dict[str, Any] | None, mean: float = 0.3) -> PairSet:
    figures = {"samples": 3, "captions": 3, "clip": {"mean": mean, "sd": 0.1, "low": 0.2, "high": 0.4}}
    return PairSet(of, "all pairs", figures, {"clip": card} if card else {}, ["clip"])


def test_sets_with_one_card_share_a_column() -> None:
    found = table([pairs("mine", CARD), pairs("other", {**CARD, "dtype": "float16"}, 0.2)])
    (column,) = found["columns"]
    assert (column["mark"], column["of"], found["notes"]) == ("", ["mine", "other"], [])
    assert [r["scores"][0]["mean"] for r in found["rows"]] == [0.3, 0.2]


def test_sets_with_different_cards_never_do() -> None:
    found = table([pairs("mine", CARD), pairs("other", {**CARD, "weights": "sha256:2"}, 0.2)])
    assert [(c["label"], c["mark"], c["of"]) for c in found["columns"]] == [("CLIPScore", "a", ["mine"]), ("CLIPScore", "b", ["other"])]
    assert [[s and s["mean"] for s in r["scores"]] for r in found["rows"]] == [[0.3, None], [None, 0.2]]
    assert found["notes"] == ["CLIPScore (a) and CLIPScore (b) are not comparable: their cards differ in weights, sha256:1 and sha256:2"]


def test_figures_without_a_card_stand_by_themselves() -> None:
    found = table([pairs("mine", CARD), pairs("web.json", None), pairs("more.json", None)])
    assert [c["of"] for c in found["columns"]] == [["mine"], ["web.json"], ["more.json"]]
    assert [n.split(" carries")[0] for n in found["notes"]] == ["web.json", "more.json"]
    assert found["notes"][0].endswith("how it measured is not known, and its figures stand apart: CLIPScore (b)")
