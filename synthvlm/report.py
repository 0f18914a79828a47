"""One page on a run, or on several side by side, and beside it its figures as JSON. It opens offline, light or dark, and prints."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from synthvlm.errors import OptionError, RunError
from synthvlm.judging.summary import summaries
from synthvlm.reporting import captions, comparison, figures, others, pictures, rendering, told
from synthvlm.reporting.comparison import PairSet
from synthvlm.reporting.pictures import Extent
from synthvlm.reporting.subjects import Subject, has_pairs, open_subject, run_name
from synthvlm.run import RunDirectory
from synthvlm.selecting.gather import opened
from synthvlm.storage import Store

Path = str | os.PathLike[str]


def report(
    runs: RunDirectory | Sequence[RunDirectory],
    *,
    selection: str = "default",
    out: Path | None = None,
    images: str | None = None,
    compare: Sequence[Path] = (),
) -> str:
    """Write the page and, beside it, its figures as JSON; return the page's path.

    ``out`` is a folder or the path of an ``.html`` file (default: ``RUN/report/report.html`` of the first run, for another selection
    ``report-NAME.html``). A run without a selection, or without scores, has a page too; of several runs, those without the selection are
    reported without one. ``images`` names the image stage where there is no selection to tell. ``compare``: other runs, of which only the
    scores are taken, and files of image-caption pairs with the scores that they carry. Raises RunError if a run has nothing to report or
    no run has that selection, OptionError if two are called the same, InputError for a file that holds no pairs.
    """
    return write(runs, selection=selection, out=out, images=images, compare=compare)[0]


def write(
    runs: RunDirectory | Sequence[RunDirectory],
    *,
    selection: str = "default",
    out: Path | None = None,
    images: str | None = None,
    compare: Sequence[Path] = (),
) -> tuple[str, dict[str, Any]]:
    """Do as :func:`report` does, and return the figures as well."""
    asked = [runs] if isinstance(runs, RunDirectory) else list(runs)
    _check_names(asked, compare)
    where = os.fspath(out) if out is not None else f"{asked[0].root}/report"
    folder, _, page = (
        where.rpartition("/")
        if where.endswith(".html")
        else (where, "", "report.html" if selection == "default" else f"report-{selection}.html")
    )
    extent = Extent.of(len(asked))
    of = [selection if len(asked) == 1 or _has(run, selection) else "default" for run in asked]
    if len(asked) > 1 and not any(_has(run, selection) for run in asked) and selection != "default":
        raise RunError(f"none of the runs has a selection {selection!r}", "choose pairs first: synthvlm select RUN --as NAME")
    gathered = [_gather(run, name, images, extent) for run, name in zip(asked, of, strict=True)]
    sets, notes = _sets(gathered, compare)
    numbers = figures.clean({"table": comparison.table(sets, notes), "runs": [g["figures"] for g in gathered]})
    text = rendering.page(numbers, [g["shown"] for g in gathered])
    store = Store(folder or ".")
    store.put_json(page.removesuffix(".html") + ".json", numbers)
    store.put(page, text.encode())
    return f"{folder or '.'}/{page}", numbers


def _has(run: RunDirectory, selection: str) -> bool:
    return run.store.exists(f"selections/{selection}.json")


def _check_names(runs: Sequence[RunDirectory], compare: Sequence[Path]) -> None:
    """Raise OptionError if two of what is compared could not be told apart by name."""
    names: dict[str, str] = {}
    for path in [*(r.root for r in runs), *(os.fspath(c) for c in compare)]:
        name = os.path.basename(path.rstrip("/"))
        if name in names:
            same = names[name].rstrip("/") == path.rstrip("/")
            raise OptionError(
                f"{path} is named twice" if same else f"{names[name]} and {path} would both be called {name} in the report",
                "name it once" if same else "rename one of them, or link to it under another name",
            )
        names[name] = path


def _gather(run: RunDirectory, selection: str, images: str | None, extent: Extent) -> dict[str, Any]:
    """Return a run's ``figures`` (JSON-able), what is ``shown`` of it, and its sets for the table."""
    with opened(run) as (db, _):
        said = captions.gather(run, db)
        shown: dict[str, Any] = {"told": told.gather(run, db, said, extent)} if said else {}
        found: dict[str, Any] = {"run": run_name(run)}
        sets: list[PairSet] = []
        if said is None or has_pairs(run):
            subject = open_subject(run, db, selection, images)
            found = figures.gather(subject)
            shown["pictures"] = pictures.gather(subject, extent)
            sets = _sets_of(subject, found)
        if said:
            found["captions"] = said
        found["judgements"] = summaries(run)
        return {"figures": found, "shown": shown, "sets": sets}


def _sets_of(subject: Subject, found: dict[str, Any]) -> list[PairSet]:
    """Return the sets of a run for the table."""
    columns = [*subject.columns, "total"]
    return [PairSet(subject.name, name, values, subject.cards, columns) for name, values in found["sets"].items()]


def _sets(gathered: Sequence[dict[str, Any]], compare: Sequence[Path]) -> tuple[list[PairSet], list[str]]:
    """Return every set of the table, those of the runs first, and notes on what is compared."""
    sets = [s for g in gathered for s in g["sets"]]
    columns = list(dict.fromkeys(c for s in sets for c in s.columns)) or ["clip", "ssim", "total"]
    weights = next((g["figures"]["scored"]["weights"] for g in gathered if g["figures"].get("scored")), {})
    notes: list[str] = []
    for path in (os.fspath(c) for c in compare):
        if others.is_run(path):
            other = RunDirectory.open(path)
            with opened(other) as (db, _):
                subject = open_subject(other, db, "default", None)
                found = figures.sets_only(subject)
            sets += _sets_of(subject, found)
            if not found["sets"]:
                notes.append(f"{subject.name} has no scores yet")
        else:
            one, said = others.read(path, columns, weights)
            sets.append(one)
            notes += said
    return sets, notes
