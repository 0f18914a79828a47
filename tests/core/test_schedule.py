"""Which shard next, whom to suspect after a death, when to stop: no processes here."""

from __future__ import annotations

import pytest

from synthvlm.errors import TooManyFailures
from synthvlm.executors.schedule import MIN_FAILURES, WINDOW, Job, Schedule


def drain(schedule: Schedule) -> list[int]:
    found = []
    while (shard := schedule.next()) is not None:
        found.append(shard)
    return found


def failures(count: int, reason: str = "Refused") -> list[dict[str, str]]:
    return [{"class": reason, "id": str(n), "error": f"because {n}"} for n in range(count)]


def test_shards_come_in_order_and_once():
    schedule = Schedule([3, 1, 2])
    assert len(schedule) == 3
    assert drain(schedule) == [3, 1, 2]
    assert len(schedule) == 0
    assert schedule.next() is None


def test_a_dead_workers_shards_are_next_in_their_order():
    schedule = Schedule(range(6))
    held = [schedule.next(), schedule.next()]
    assert schedule.died(held, []) == []
    assert drain(schedule) == [0, 1, 2, 3, 4, 5]


def test_a_death_without_rows_in_flight_blames_nobody():
    schedule = Schedule([0])
    for _ in range(10):
        assert schedule.died([0], []) == []
    assert schedule.suspects() == []


def test_the_batch_is_retried_then_its_rows_go_alone_and_only_the_culprit_is_set_aside():
    schedule = Schedule([0])
    batch = ["a", "b", "bad", "c"]
    assert schedule.died([0], batch) == []
    assert schedule.suspects() == [], "the first death may have been chance: the batch is tried as it was"
    assert schedule.died([0], batch) == []
    assert schedule.suspects() == ["a", "b", "bad", "c"], "now one by one"
    assert schedule.died([0], ["bad"]) == [], "alone, but once is chance"
    assert schedule.died([0], ["bad"]) == ["bad"]
    assert "bad" not in schedule.suspects(), "it is a row with a failure now: nothing to do any more"
    assert {"a", "b", "c"} <= set(schedule.suspects()), "harmless: they are done alone if they are ever to be done again"


def test_a_row_that_was_never_suspected_is_not_blamed_for_dying_alone():
    schedule = Schedule([0])
    deaths = 0
    while not schedule.died([0], ["only"]):
        deaths += 1
        assert deaths < 10
    assert deaths == 3, "as it was, twice; then alone, twice: the fourth death is proof"


def test_rows_that_went_through_are_forgiven():
    schedule = Schedule([0])
    for _ in range(2):
        schedule.died([0], ["a", "b"])
    schedule.died([0], ["a"])
    schedule.settled(["a"])
    assert schedule.suspects() == ["b"]
    for _ in range(3):
        assert schedule.died([0], ["a"]) == [], "counted anew"
    assert schedule.died([0], ["a"]) == ["a"]


def test_two_culprits_in_one_batch_are_both_found():
    schedule = Schedule([0])
    batch = ["x", "good", "y"]
    for _ in range(2):
        schedule.died([0], batch)
    blamed = []
    for key in ("x", "x", "y", "y"):
        blamed += schedule.died([0], [key])
    assert blamed == ["x", "y"]


def test_most_of_the_last_rows_failing_for_one_reason_stops():
    schedule = Schedule([])
    schedule.record(0, failures(MIN_FAILURES - 1))
    with pytest.raises(TooManyFailures, match=r"10 of the last 10 rows failed with Refused, for example 0: because 0") as error:
        schedule.record(0, failures(1))
    assert "--retry-failed" in str(error.value)
    assert "--max-failures" in str(error.value)
    assert error.value.exit_code == 3


def test_a_few_failures_among_many_rows_do_not_stop():
    schedule = Schedule([])
    for _ in range(50):
        schedule.record(6, failures(4))


def test_many_failures_for_different_reasons_do_not_stop():
    schedule = Schedule([])
    for n in range(60):
        schedule.record(0, failures(1, f"Reason{n % 3}"))


def test_only_the_last_rows_count():
    schedule = Schedule([])
    schedule.record(1_000, [])
    schedule.record(0, failures(WINDOW // 2))
    with pytest.raises(TooManyFailures, match=f"of the last {WINDOW} rows"):
        schedule.record(0, failures(1))
    calm = Schedule([])
    calm.record(0, failures(MIN_FAILURES - 1))
    for _ in range(WINDOW):
        calm.record(1, [])
    calm.record(0, failures(MIN_FAILURES - 1))


@pytest.mark.parametrize(("share", "stops"), [(0.0, True), (0.2, True), (0.3, False), (1.0, False)])
def test_the_share_is_the_users(share, stops):
    schedule = Schedule([], share)

    def feed() -> None:
        for _ in range(10):
            schedule.record(3, failures(1))

    if stops:
        with pytest.raises(TooManyFailures):
            feed()
    else:
        feed()


def test_all_failures_may_be_allowed():
    Schedule([], 1.0).record(0, failures(1_000))


def test_a_workers_first_line_says_what_it_needs_and_no_more():
    job = Job("runs/x", [{"name": "sdxl"}], {"sdxl": [{"name": "sdxl", "options": {}}]}, ["0", "1"], threads=3, retry_failed=True)
    assert job.message() == {
        "run": "runs/x",
        "stages": [{"name": "sdxl"}],
        "plugins": {"sdxl": [{"name": "sdxl", "options": {}}]},
        "threads": 3,
        "retry_failed": True,
        "commit_seconds": 60.0,
    }
