"""How many requests a server is given at a time: more while it bears them, half when it says that it is too many."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import Literal

log = logging.getLogger(__name__)
_START = 8

Verdict = Literal["answered", "overloaded", "failed"]


class Pace:
    """The number of requests in flight, by additive increase and multiplicative decrease (as TCP does, RFC 5681).

    It rises by one per answer until the server first complains, and from then on by one per round of answers. Everything runs
    in one event loop.
    """

    def __init__(self, most: int) -> None:
        self.limit = float(min(_START, most))
        self.running = 0
        self._most = most
        self._round = 0
        self._rising = True
        self._quiet_until = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> int:
        """Wait for a place, and return the round that the request belongs to; give both back with :meth:`leave`."""
        while True:
            quiet = self._quiet_until - time.monotonic()
            if quiet > 0:
                await asyncio.sleep(quiet)
            elif self.running >= int(self.limit):
                place = asyncio.get_running_loop().create_future()
                self._waiting.append(place)
                await place
            else:
                self.running += 1
                return self._round

    def leave(self, round_: int, verdict: Verdict) -> None:
        """Give the place back, with what became of the request."""
        if verdict == "answered" and self.running >= int(self.limit):  # a limit that is not reached says nothing of the server
            self.limit = min(float(self._most), self.limit + (1.0 if self._rising else 1.0 / self.limit))
        elif verdict == "overloaded" and round_ == self._round:  # once per round: those that were sent before the halving do not count
            self._round += 1
            self._rising = False
            self.limit = max(1.0, self.limit / 2)
            log.info("the server has too much to do: at most %d requests at a time from here", int(self.limit))
        self.running -= 1
        self._wake()

    def quiet(self, seconds: float) -> None:
        """Send nothing new for so long, as the server wishes."""
        self._quiet_until = max(self._quiet_until, time.monotonic() + seconds)

    def _wake(self) -> None:
        free = int(self.limit) - self.running
        while free > 0 and self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                free -= 1
