"""Preference figures against their definitions, worked by hand or by plain loops."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from synthvlm.judging import statistics
from synthvlm.judging.summary import majority

A, TIE, B, NONE = 0, 1, 2, -1


def test_an_answer_that_differs_between_the_orders_is_a_tie() -> None:
    plain = statistics.codes(["a", "b", "tie", "a", "a", "tie", None, "a", "skip"])
    flipped = statistics.codes(["a", "b", "tie", "b", "tie", "b", "a", None, "a"])
    final, flips = statistics.both_orders(plain, flipped)
    assert final.tolist() == [A, B, TIE, TIE, TIE, TIE, NONE, NONE, NONE]
    assert flips.tolist() == [False, False, False, True, True, True, False, False, False]
    assert statistics.counts(final) == [1, 4, 1]


def test_the_bootstrap_is_that_of_pairs_drawn_again() -> None:
    """Drawing counts gives the interval that drawing pairs one by one gives, and the textbook's standard error."""
    found = (60, 10, 30)
    told = statistics.win_rate(found)
    assert told is not None
    pairs, draw = [1.0] * 60 + [0.5] * 10 + [0.0] * 30, random.Random(2)
    means = sorted(sum(draw.choices(pairs, k=100)) / 100 for _ in range(4000))
    assert told["value"] == 0.65
    assert told["low"] == pytest.approx(means[100], abs=0.012)
    assert told["high"] == pytest.approx(means[3900], abs=0.012)
    error = math.sqrt((60 * 0.35**2 + 10 * 0.15**2 + 30 * 0.65**2) / 100) / 10
    assert told["high"] - told["low"] == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert statistics.win_rate(found) == told, "seeded"
    assert statistics.win_rate((0, 0, 0)) is None


@pytest.mark.parametrize(("wins", "losses", "p"), [(10, 0, 2 / 1024), (9, 1, 22 / 1024), (5, 5, 1.0), (0, 1, 1.0), (0, 0, None)])
def test_the_sign_test_is_the_binomial_s(wins: int, losses: int, p: float | None) -> None:
    assert statistics.sign_test(wins, losses) == (None if p is None else pytest.approx(p))
    if wins + losses:
        assert statistics.sign_test(losses, wins) == statistics.sign_test(wins, losses)


def test_a_sign_test_of_thousands_does_not_underflow() -> None:
    p = statistics.sign_test(3000, 2000)
    assert p is not None and 1e-46 < p < 1e-44  # z = 14.1


def test_kappa_is_cohen_s() -> None:
    """Cohen (1960): of a table worked by hand, rows are one judge's verdicts and columns the other's."""
    table = np.array([[20, 5, 5], [5, 20, 0], [10, 5, 30]])
    one = np.repeat([A, TIE, B], table.sum(1))
    other = np.concatenate([np.repeat([A, TIE, B], row) for row in table])
    told = statistics.kappa(np.append(one, [NONE, A]), np.append(other, [A, NONE]))
    expected = (0.30 * 0.35) + (0.25 * 0.30) + (0.45 * 0.35)
    assert told is not None
    assert told["n"] == 100 and told["same"] == 0.7
    assert told["value"] == pytest.approx((0.7 - expected) / (1 - expected))
    assert told["low"] < told["value"] < told["high"]
    assert told["high"] - told["low"] == pytest.approx(0.27, abs=0.05)


def test_kappa_of_who_agrees_by_chance_is_nothing_and_of_one_word_undefined() -> None:
    draw = np.random.default_rng(4)
    told = statistics.kappa(draw.integers(0, 3, 20_000), draw.integers(0, 3, 20_000))
    assert told is not None and told["value"] == pytest.approx(0, abs=0.02) and told["low"] < 0 < told["high"]
    same = statistics.kappa(np.zeros(5, np.int8), np.zeros(5, np.int8))
    assert same == {"n": 5, "same": 1.0, "value": None, "low": None, "high": None}
    assert statistics.kappa(np.array([A, NONE]), np.array([NONE, A])) is None


def test_people_together_say_what_most_of_them_say() -> None:
    votes = [np.array(v, np.int8) for v in ([A, A, A, NONE, TIE, NONE], [A, B, B, B, B, NONE], [B, TIE, NONE, NONE, B, NONE])]
    assert majority(votes).tolist() == [A, TIE, TIE, B, B, NONE]
