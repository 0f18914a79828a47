"""People's votes: who has voted on what, what is next, and a vote written into the run as soon as it is cast.

A person sees left and right; which set is which follows from a hash of person and pair, and is known here alone.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from typing import Any

from synthvlm import parts
from synthvlm.compact import compact
from synthvlm.errors import InputError, SynthVLMError
from synthvlm.judging.prepare import prepare_person
from synthvlm.run import RunDirectory, Stage, fetch, steadily

CHOICES = ("left", "right", "tie", "skip")
MANY_PARTS = 64
"""Votes, a file each, after which they are merged."""
Row = dict[str, Any]


@dataclass
class Voter:
    """One person's votes."""

    stage: Stage
    pairs: list[Row]
    """What is asked, in order, with ``key`` and ``flipped`` (B is on the left)."""
    votes: dict[int, tuple[str, int]]
    """Pair → (choice, tries)."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    unmerged: int = 0

    @property
    def next(self) -> int | None:
        """Return the first pair without a vote, or None."""
        return next((row for row in range(len(self.pairs)) if row not in self.votes), None)


class Ballot:
    """The pairs of a comparison (by its record), to be voted on by people; any thread may."""

    def __init__(self, run: RunDirectory, comparison: dict[str, Any]) -> None:
        self.run, self.comparison = run, comparison
        self._voters: dict[str, Voter] = {}
        self._lock = threading.Lock()

    def voter(self, annotator: str) -> Voter:
        """Return a person's votes as they stand. Raises OptionError for a name that is none."""
        name = annotator.strip()
        with self._lock:
            if name not in self._voters:
                self._voters[name] = self._read(prepare_person(self.run, self.comparison, name))
            return self._voters[name]

    def pair(self, voter: Voter, row: int) -> Row:
        """Return a pair. Raises InputError if there is none of that number."""
        if not 0 <= row < len(voter.pairs):
            raise InputError(f"there is no pair {row}", f"there are {len(voter.pairs)}, numbered from 0")
        return voter.pairs[row]

    def vote(self, annotator: str, row: int, choice: str, seconds: float | None = None) -> Voter:
        """Write a vote; a later one on the same pair takes its place. Raises InputError for what is none."""
        voter = self.voter(annotator)
        pair = self.pair(voter, row)
        if choice not in CHOICES:
            raise InputError(f"{choice!r} is no vote", f"there are: {', '.join(CHOICES)}")
        with voter.lock:
            tries = voter.votes[row][1] + 1 if row in voter.votes else 1
            done = {k: pair[k] for k in ("key", "row", "id", "candidate", "flipped")}
            done |= {"verdict": _of_sets(choice, pair["flipped"]), "seconds": seconds, "tries": tries}
            info = {"stage": voter.stage.digest}
            parts.commit(self.run.store, voter.stage.name, row // voter.stage.shard_size, voter.stage.schema, [done], info=info)
            voter.votes[row] = (choice, tries)
            voter.unmerged += 1
            if voter.unmerged >= MANY_PARTS:
                voter.unmerged = 0
                with contextlib.suppress(SynthVLMError, OSError):  # the vote is safe; merging can wait
                    compact(self.run, voter.stage)
        return voter

    def merge(self) -> None:
        """Merge everybody's small files, at the end."""
        for voter in self._voters.values():
            with contextlib.suppress(SynthVLMError, OSError):
                compact(self.run, voter.stage)

    def _read(self, stage: Stage) -> Voter:
        def read() -> tuple[list[Row], list[Row]]:
            with self.run.connect() as db:
                pairs = fetch(db, f"SELECT * FROM {self.run.wanted_sql(stage)} ORDER BY row")
                return pairs, fetch(db, f"SELECT row, flipped, verdict, tries FROM {self.run.table_sql(stage)} WHERE error IS NULL")

        pairs, cast = steadily(read)
        return Voter(stage, pairs, {r["row"]: (_as_shown(r["verdict"], r["flipped"]), r["tries"]) for r in cast})


def _of_sets(choice: str, flipped: bool) -> str:
    """Return the verdict of a choice."""
    if choice not in ("left", "right"):
        return choice
    return "a" if (choice == "left") != flipped else "b"


def _as_shown(verdict: str, flipped: bool) -> str:
    """Return the choice that a verdict came from."""
    if verdict not in ("a", "b"):
        return verdict
    return "left" if (verdict == "a") != flipped else "right"
