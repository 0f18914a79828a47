"""What a line will cost: a few samples through the real workers, and from their rates the hours, GPU-hours, disk and yield of the whole.

A stage takes ``load + rows · seconds per row / workers``. The first batch is left out of the rate where there are others: compilers and caches
warm up in it. Stages of text run on the CPUs and do not speed up with GPUs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from synthvlm.errors import OptionError
from synthvlm.execution import Execution, Listener
from synthvlm.following import follow
from synthvlm.pipeline import Run
from synthvlm.recipe import Recipe

SAMPLES = 16
WORKERS = (1, 2, 4, 8, 16, 32, 64)
_UNTIMED = ("export", "report", "merge")
"""Steps that run once, at the speed of the disk."""


@dataclass
class Timing:
    """What one stage took."""

    stage: str
    kind: str = ""
    on_device: bool = True
    """False: its rows are made on the CPUs, however many devices there are."""
    load: float = 0.0
    """Seconds until the first worker was ready."""
    seconds: float = 0.0
    """Seconds that a worker takes for a row."""
    rows: int = 0
    """Rows of the samples that were tried."""
    failed: int = 0

    def hours(self, rows: float, workers: int) -> float:
        """Return hours for so many rows."""
        return (self.load + rows * self.seconds / (workers if self.on_device else 1)) / 3600 if rows else 0.0


@dataclass
class Calibration:
    """What a few samples took, and what they came to."""

    samples: int
    timings: list[Timing]
    image_bytes: float = 0.0
    """Of a stored image, on average."""
    kept: float = 1.0
    """Share of the captions that curation keeps."""
    seconds: float = 0.0
    repeat: int = 1


@dataclass
class _Clock:
    """Times stages by what their workers tell; a listener, in front of another one."""

    behind: Listener | None = None
    timings: dict[str, Timing] = field(default_factory=dict)
    _at: list[tuple[float, int]] = field(default_factory=list)

    def start(self, stage: str, rows: int, devices: list[str]) -> None:
        """Begin a stage."""
        self._stage, self._workers, self._began, self._ready, self._at = stage, len(devices), time.monotonic(), 0.0, []
        if self.behind:
            self.behind.start(stage, rows, devices)

    def event(self, kind: str, facts: dict[str, Any]) -> None:
        """Hear of a worker."""
        if kind == "ready" and not self._ready:
            self._ready = time.monotonic()
        elif kind == "rows" and facts.get("stage", self._stage) == self._stage:
            self._at.append((time.monotonic(), facts["made"] + len(facts["failed"])))
        if self.behind:
            self.behind.event(kind, facts)

    def finish(self) -> None:
        """End a stage."""
        if self._at:
            since, rows = self._ready, sum(n for _, n in self._at)
            if len(self._at) > 1 and rows > self._at[0][1]:
                since, rows = self._at[0][0], rows - self._at[0][1]
            seconds = max(0.0, self._at[-1][0] - since) * self._workers / max(1, rows)
            self.timings[self._stage] = Timing(self._stage, load=max(0.0, self._ready - self._began), seconds=seconds)
        if self.behind:
            self.behind.finish()


def calibrate(recipe: Recipe, root: str, samples: int, execution: Execution) -> Calibration:
    """Take the first ``samples`` of a recipe's input through its steps on one worker, in the new run ``root``.

    Raises OptionError if the recipe names no input, and whatever its steps raise.
    """
    if recipe.input.path is None:
        raise OptionError("there is nothing to calibrate with: the line goes on in a run that is there", "name captions or images")
    began = time.monotonic()
    clock = _Clock(execution.listener)
    run = Run.create(root, seed=recipe.seed)
    run.execution = replace(_one_worker(execution), listener=clock)
    (run.add_images if recipe.reads_images else run.add)(recipe.input.path, **recipe.reader | {"limit": samples})
    follow(recipe.model_copy(update={"steps": [s for s in recipe.steps if s.verb not in _UNTIMED]}), run)
    found = Calibration(run.sample_count(), [], repeat=1, seconds=time.monotonic() - began)
    for name, timing in clock.timings.items():
        stage = run.stage(name)
        tally = run.tally(stage)
        timing.kind, timing.rows, timing.failed = stage.kind, tally["made"] + tally["failed"], tally["failed"]
        timing.on_device = stage.kind != "score" or not stage.reads_text
        found.timings.append(timing)
        if stage.kind == "generate":
            found.repeat = stage.repeat
            with run.connect(1) as db:
                (size,) = db.execute(f"SELECT avg(bytes) FROM {run.table_sql(stage)} WHERE stored").fetchall()[0]
            found.image_bytes = size or 0.0
    if "curate" in run.results:
        found.kept = run.results["curate"]["kept"] / max(1, run.results["curate"]["captions"])
    return found


def _one_worker(execution: Execution) -> Execution:
    """Return the same with one worker, on as many threads as each would have."""
    first = execution.resolved_devices()[0]
    return replace(execution, devices=["cpu"] if first == "cpu" else first.split(","), threads=execution.threads_each())


def rows_of(calibration: Calibration, timing: Timing, samples: int, kept: float) -> float:
    """Return how many rows a stage has for ``samples``, of which curation keeps the share ``kept`` (of those tried: ``calibration.kept``)."""
    share = timing.rows / max(1, calibration.samples)
    return samples * (share if timing.kind == "score" and not timing.on_device else share / (calibration.kept or 1.0) * kept)


def hours(calibration: Calibration, samples: int, kept: float, workers: Sequence[int] = WORKERS) -> dict[int, float]:
    """Return hours by the number of workers."""
    work: Mapping[str, float] = {t.stage: rows_of(calibration, t, samples, kept) for t in calibration.timings}
    return {n: sum(t.hours(work[t.stage], n) for t in calibration.timings) for n in workers}
