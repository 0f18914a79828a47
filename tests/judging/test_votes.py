"""People's votes: rows like any judge's, written at once, never telling which set is which."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from synthvlm import parts
from synthvlm.errors import InputError, OptionError
from synthvlm.judging import pairs, sides, votes
from synthvlm.judging.summary import summarise
from synthvlm.pipeline import Run
from tests import rows

N = 40


@pytest.fixture
def ballot(pictures: Callable[..., str], tmp_path: Path) -> votes.Ballot:
    a = pictures("a", [(str(i), "red", (200, i, 0)) for i in range(N)], better=["a"] * N)
    b = pictures("b", [(str(i), "red", (100, i, 0)) for i in range(N)])
    run = Run.create(tmp_path / "run")
    found = [sides.find(path, {}) for path in (a, b)]
    return votes.Ballot(run, pairs.draw(run, *found, name="x", truth="better"))


def best(ballot: votes.Ballot, person: str, row: int) -> str:
    """Return what someone with eyes votes."""
    return "right" if ballot.voter(person).pairs[row]["flipped"] else "left"


def test_votes_are_rows_at_once_and_judging_goes_on_where_it_stopped(ballot: votes.Ballot) -> None:
    for row in range(10):
        voter = ballot.vote("Zoë Q.", row, best(ballot, "Zoë Q.", row), 1.5)
        assert voter.next == row + 1
    again = votes.Ballot(ballot.run, ballot.comparison).voter("Zoë Q.")
    assert again.next == 10
    assert [again.votes[row][0] for row in range(10)] == [best(ballot, "Zoë Q.", row) for row in range(10)]
    told = summarise(ballot.run, "x")
    (judge,) = told["judges"]
    assert (judge["judge"], judge["person"], judge["wins"], judge["judged"], judge["seconds"]) == ("Zoë Q.", True, 10, 10, 1.5)
    assert judge["accuracy"]["value"] == 1.0


def test_a_vote_can_be_taken_back_and_a_skip_is_no_verdict(ballot: votes.Ballot) -> None:
    ballot.vote("ann", 0, "left")
    ballot.vote("ann", 0, "right")
    ballot.vote("ann", 1, "skip")
    voter = ballot.vote("ann", 2, "tie")
    ballot.merge()
    assert voter.next == 3
    (judge,) = summarise(ballot.run, "x")["judges"]
    assert (judge["answers"], judge["judged"], judge["skipped"], judge["ties"]) == (3, 2, 1, 1)
    table = rows.table(ballot.run, voter.stage.name)
    assert table[0]["verdict"] == ("a" if voter.pairs[0]["flipped"] else "b"), "the second vote counts"
    assert votes.Ballot(ballot.run, ballot.comparison).voter("ann").votes[0][0] == "right"


def test_small_files_are_merged_and_nothing_is_lost(ballot: votes.Ballot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(votes, "MANY_PARTS", 8)
    for row in range(N):
        ballot.vote("ann", row, "tie")
    stage = ballot.voter("ann").stage
    assert len(parts.list_parts(ballot.run.store, stage.name)) < 12
    assert len(rows.table(ballot.run, stage.name)) == N
    assert ballot.run.tally(stage)["made"] == N


def test_order_is_drawn_by_person_and_pair(ballot: votes.Ballot) -> None:
    flipped = {p: [pair["flipped"] for pair in ballot.voter(p).pairs] for p in ("ann", "bob")}
    assert flipped["ann"] != flipped["bob"]
    for order in flipped.values():
        assert 10 <= sum(order) <= 30
    assert [p["id"] for p in ballot.voter("ann").pairs] == [p["id"] for p in ballot.voter("bob").pairs], "they judge the same pairs first"


def test_people_and_models_agree_or_not(ballot: votes.Ballot) -> None:
    for row in range(20):
        ballot.vote("ann", row, best(ballot, "ann", row))
        ballot.vote("bob", row, best(ballot, "bob", row) if row % 2 else "tie")
    ballot.run.judge_with(ballot.comparison, "eye", {"careless": 0.3})
    told = summarise(ballot.run, "x")
    assert [j["judge"] for j in told["judges"]] == ["eye", "ann", "bob", "people"]
    between = {tuple(a["judges"]): a for a in told["agreement"]}
    assert set(between) == {("eye", "ann"), ("eye", "bob"), ("ann", "bob"), ("eye", "people")}
    assert between["ann", "bob"]["n"] == 20 and between["ann", "bob"]["same"] == 0.5
    # Where two people differ they are a tie together: what bob says.
    people = told["judges"][-1]
    assert (people["wins"], people["ties"], people["annotators"]) == (10, 10, 2)


def test_what_is_no_vote(ballot: votes.Ballot) -> None:
    for person in ("", "  ", "a\nb", "x" * 65):
        with pytest.raises(OptionError, match="no name"):
            ballot.vote(person, 0, "left")
    with pytest.raises(InputError, match="no pair 40"):
        ballot.vote("ann", N, "left")
    with pytest.raises(InputError, match="no vote"):
        ballot.vote("ann", 0, "a")
    assert ballot.voter("O'Neil").stage.name != ballot.voter("O-Neil").stage.name
