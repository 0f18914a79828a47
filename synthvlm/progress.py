"""Progress for people: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_EVERY = 10.0
"""Seconds between plain lines."""


class Reporter:
    """Tells of one stage after another: rows done, rows/s in all and per device, images/s, time left, failures by reason."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self.live = self.console.is_terminal
        self._progress: Progress | None = None
        self._images = 0.0
        """Images per row, where rows are captions."""

    def start(self, stage: str, rows: int, devices: list[str]) -> None:
        """Begin a stage of ``rows``. Of captions the event ``images`` tells then how many images they are of."""
        self._stage, self._total, self._done, self._devices = stage, rows, 0, devices
        self._images = 0.0
        self._began = self._first = self._last_line = time.monotonic()
        self._per_device: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._line(
            f"{stage}: {rows:,} to make on {len(devices)} worker{'s' * (len(devices) > 1)} ({', '.join(sorted(set(devices)))}); loading …"
        )
        if self.live:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
            self._progress = Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=self.console)
            self._task = self._progress.add_task(stage, total=rows, rate="")
            self._progress.start()

    def event(self, kind: str, facts: dict[str, Any]) -> None:
        """Hear of something in a worker."""
        if kind == "ready":
            if not self._done:
                self._first = time.monotonic()
        elif kind == "rows":
            self._rows(facts)
        elif kind == "images":
            self._images = facts["images"] / max(1, self._total)
        elif kind == "reading":
            self._line(f"images: {facts['looked']:,} found, {facts['hashed']:,} of them read for their hash")
        elif kind == "died":
            self._line(f"worker on {facts['device']} died ({facts['how']}); restarted, its batch is tried again. Log: {facts['log']}")
        elif kind == "warning":
            self._line(f"note: {facts['text']}")
        elif kind == "not_compacted":
            self._line(f"{facts['stage']}: its files could not be merged now ({facts['reason']}); `synthvlm compact` does it later")
        elif kind == "damaged":
            self._line(f"damaged: {facts['part']}; set aside, its rows are made again")

    def _rows(self, facts: dict[str, Any]) -> None:
        count = facts["made"] + len(facts["failed"]) if facts.get("stage", self._stage) == self._stage else 0
        self._done += count
        self._per_device[facts["device"]] += count
        for failure in facts["failed"]:
            self._failures[failure["class"]] += 1
            if self._failures[failure["class"]] == 1:
                self._line(f"set aside {failure['id']}: {failure['error']} (others of this kind are only counted)")
        if self._progress:
            self._progress.update(self._task, completed=self._done, rate=self._rate())
        elif time.monotonic() - self._last_line >= PLAIN_EVERY:
            self._last_line = time.monotonic()
            self._line(f"{self._stage}: {self._done:,}/{self._total:,}  {self._rate()}  {self._left()}")

    def _rate(self) -> str:
        seconds = max(1e-6, time.monotonic() - self._first)
        unit = self._images or 1.0  # captions are told by their images
        several = len(self._per_device) > 1
        each = " (" + ", ".join(f"{d} {unit * n / seconds:.2f}" for d, n in sorted(self._per_device.items())) + ")" if several else ""
        failed = f", {sum(self._failures.values())} set aside" if self._failures else ""
        captions = f", {self._done / seconds:.2f} captions/s" if self._images else ""
        return f"{unit * self._done / seconds:.2f}{' images' if self._images else ''}/s{each}{captions}{failed}"

    def _left(self) -> str:
        seconds = (time.monotonic() - self._first) / max(1, self._done) * (self._total - self._done)
        return (
            f"about {seconds / 3600:.1f} h left"
            if seconds > 5400
            else f"about {seconds / 60:.0f} min left"
            if seconds > 90
            else f"about {seconds:.0f} s left"
        )

    def finish(self) -> None:
        """End a stage."""
        if self._progress:
            self._progress.stop()
            self._progress = None
        failures = "".join(f"; {n} failed with {c}" for c, n in self._failures.most_common())
        self._line(
            f"{self._stage}: {self._done:,} of {self._total:,} done in {time.monotonic() - self._began:.0f} s ({self._rate()}){failures}"
        )

    def _line(self, text: str) -> None:
        if self._progress:
            self._progress.console.print(text, markup=False)
        elif self.live:
            self.console.print(text, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)
