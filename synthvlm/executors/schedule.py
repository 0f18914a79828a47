"""Which shard next, whom to suspect after a death, when to stop: the decisions that every executor shares. No processes here."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from synthvlm.errors import TooManyFailures

WINDOW = 100
MIN_FAILURES = 10


@dataclass
class Job:
    """What a worker is told before its first shard, and what the parent needs beside."""

    run: str
    stages: list[dict[str, Any]]
    """The stages' records, as they stood when the job began."""
    plugins: dict[str, list[dict[str, Any]]]
    """Stage → plugins with resolved options."""
    devices: list[str]
    """One worker each: ``cpu``, or the index of a GPU."""
    threads: int = 1
    python: str | None = None
    retry_failed: bool = False
    max_failures: float = 0.5
    commit_seconds: float = 60.0
    remake: list[str] = field(default_factory=list)
    """Keys of images to make again; nothing else is made then."""

    def message(self) -> dict[str, Any]:
        """Return the first line for a worker, without its device."""
        message = {
            "run": self.run,
            "stages": self.stages,
            "plugins": self.plugins,
            "threads": self.threads,
            "retry_failed": self.retry_failed,
            "commit_seconds": self.commit_seconds,
        }
        return message | ({"remake": self.remake} if self.remake else {})


@dataclass
class Schedule:
    """The queue of shards and the record of deaths.

    A batch that was in flight when its worker died is retried as it was; at its second death row by row; a row whose worker
    dies twice while it is alone is the culprit and is set aside.
    """

    shards: Iterable[int]
    max_failures: float = 0.5
    _queue: deque[int] = field(default_factory=deque)
    _deaths: Counter[str] = field(default_factory=Counter)
    _alone: Counter[str] = field(default_factory=Counter)
    _recent: deque[str | None] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _examples: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._queue.extend(self.shards)

    def __len__(self) -> int:
        return len(self._queue)

    def next(self) -> int | None:
        """Return the next shard to hand out, or None."""
        return self._queue.popleft() if self._queue else None

    def suspects(self) -> list[str]:
        """Return the rows to do one by one."""
        return sorted(k for k, n in self._deaths.items() if n > 1)

    def settled(self, keys: Sequence[str]) -> None:
        """Forget the deaths of rows that went through."""
        for key in keys:
            self._deaths.pop(key, None)
            self._alone.pop(key, None)

    def died(self, shards: Sequence[int], in_flight: Sequence[str]) -> list[str]:
        """Take back a dead worker's shards; return the rows that are to blame."""
        self._queue.extendleft(reversed(shards))
        suspected = set(self.suspects())
        culprits = []
        for key in in_flight:
            self._deaths[key] += 1
            if len(in_flight) == 1 and (key in suspected):
                self._alone[key] += 1
                if self._alone[key] >= 2:
                    culprits.append(key)
        self.settled(culprits)
        return culprits

    def record(self, made: int, failed: Sequence[dict[str, str]]) -> None:
        """Take note of finished rows; raises TooManyFailures when most of the last ones failed for one reason."""
        self._recent.extend([None] * made)
        for failure in failed:
            self._recent.append(failure["class"])
            self._examples[failure["class"]] = f"{failure['id']}: {failure['error']}"
        reason, count = Counter(c for c in self._recent if c).most_common(1)[0] if any(self._recent) else ("", 0)
        if count >= MIN_FAILURES and count > self.max_failures * len(self._recent):
            raise TooManyFailures(
                f"{count} of the last {len(self._recent)} rows failed with {reason}, for example {self._examples[reason]}",
                "mend the cause, then run the same command with --retry-failed; or allow more with --max-failures 1",
            )
