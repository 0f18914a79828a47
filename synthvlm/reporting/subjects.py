"""What a report is about: the pairs of a run, which it made or read in, their scores, a selection of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from synthvlm import parts
from synthvlm.errors import RunError
from synthvlm.reporting.names import formula, is_remark
from synthvlm.run import RunDirectory, Stage
from synthvlm.select import default_weights
from synthvlm.selecting.gather import numbers


@dataclass
class Subject:
    """An image stage (or the images that were read in), its score stages if there are any, a selection if there is one."""

    run: RunDirectory
    images: Stage | None
    """None: the pairs were read in as they are."""
    scores: list[Stage]
    selection: dict[str, Any] | None
    db: duckdb.DuckDBPyConnection

    @property
    def name(self) -> str:
        """Return what the page calls the run: its folder, without where that lies."""
        return run_name(self.run)

    @property
    def all_columns(self) -> list[str]:
        """Return every column of the score stages that holds numbers."""
        return numbers(self.scores)

    @property
    def columns(self) -> list[str]:
        """Return the score columns, those that Total weighs first."""
        scores = [c for c in self.all_columns if not is_remark(c, self.all_columns)]
        return sorted(scores, key=lambda c: (c not in self.weights, scores.index(c)))

    @property
    def weights(self) -> Mapping[str, float]:
        """Return what Total is made of: the selection's weights, else the default ones, else the first score by itself."""
        if self.selection:
            return self.selection["weights"]
        return {c: w for c, w in default_weights(self.all_columns).items() if c in self.all_columns} or dict.fromkeys(
            self.all_columns[:1], 1.0
        )

    @property
    def normalise(self) -> str:
        """Return whether Total weighs scores or their ranks."""
        return (self.selection or {}).get("asked", {}).get("normalise", "none")

    @property
    def cards(self) -> dict[str, Any]:
        """Return the card of every column, and that of Total, which consists of the cards of its terms."""
        cards = {c: s.cards.get(c, {}) for s in self.scores for c in s.columns}
        total = {"formula": formula(self.weights, self.normalise)} | {c: cards.get(c, {}) for c in self.weights}
        return cards | {"total": total}


def run_name(run: RunDirectory) -> str:
    """Return a run's name: its folder's, without where that lies, since a page is made to be passed on."""
    return os.path.basename(run.root.rstrip("/")) or "run"


def has_pairs(run: RunDirectory) -> bool:
    """Say whether a run makes images, or has scores of the pairs that it read in."""
    return any(s.kind == "generate" or _of_samples(s) for s in map(run.stage, run.stage_names()))


def _of_samples(stage: Stage) -> bool:
    return stage.kind == "score" and bool(stage.columns) and stage.reads.get("image") == "samples"


def open_subject(run: RunDirectory, db: duckdb.DuckDBPyConnection, selection: str, images: str | None) -> Subject:
    """Find what to report on. A selection names its stages; without one, the image stage that has scores, or the first.

    Where the run makes no images, the pairs that were read in are meant. Raises RunError if it has neither, or if a selection is asked
    for (other than ``default``) that is not there.
    """
    summary = run.store.read_json(f"selections/{selection}.json")
    if summary is None and selection != "default":
        there = ", ".join(n.removesuffix(".json") for n in run.store.list("selections", ".json"))
        raise RunError(
            f"{run.root} has no selection {selection!r}", f"it has: {there}" if there else "choose pairs first: synthvlm select RUN"
        )
    stages = [run.stage(n) for n in run.stage_names()]
    if summary is not None and images in (None, summary["images"]):
        return Subject(run, run.stage(summary["images"]), [run.stage(n) for n in summary["scores"]], summary, db)
    scored = [s for s in stages if s.kind == "score" and s.columns and parts.list_parts(run.store, s.name)]
    generated = [s.name for s in stages if s.kind == "generate"]
    if not generated:
        raw = [s for s in scored if _of_samples(s)]
        if not raw:
            raise RunError(f"{run.root} has no images yet", "run: synthvlm generate RUN --model MODEL")
        return Subject(run, None, _side_by_side(raw), None, db)
    name = images or next((s.reads["image"] for s in scored if s.reads_pixels), generated[0])
    return Subject(run, run.stage(name), _side_by_side([s for s in scored if s.reads_pixels and s.reads["image"] == name]), None, db)


def _side_by_side(stages: list[Stage]) -> list[Stage]:
    """Return the stages whose columns can stand side by side: of two that score by one measure the first."""
    kept: list[Stage] = []
    for s in stages:
        if not {*s.columns} & {c for k in kept for c in k.columns}:
            kept.append(s)
    return kept
