"""A run as a data set: the kept pairs, or images with all their captions, in the format that a consumer reads.

::

    OUT/llava.json                     llava: a JSON array; --data_path OUT/llava.json --image_folder OUT
    OUT/pairs.jsonl                    jsonl: an image a line, with its scores and the user's own fields (meta)
    OUT/train/metadata.jsonl           imagefolder: load_dataset("imagefolder", data_dir=OUT)
    OUT/llamafactory.json              llamafactory: ShareGPT messages, and dataset_info.json, which names the file
    OUT/images/00003/<id>-<candidate>.jpg    the image of a sample in samples/00003.parquet (train/00003/… for imagefolder)
    OUT/data/train-00000-of-00100.tar        webdataset: KEY.jpg, KEY.txt, KEY.json
    OUT/data/train-00000-of-00100.parquet    parquet: load_dataset(OUT), whose column image is decoded
    OUT/recipe.parquet, recipe.json    recipe: captions, seeds, scores and the generator, without pixels
    OUT/README.md                      the data card
    OUT/llava.sha256                   the images or shards of the export, for sha256sum -c

Image bytes are copied as they are. The data file comes last, or of shards their list: if it is there, the export is whole. It is read
back before it counts. Equal runs give equal files.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from synthvlm import prompts
from synthvlm.curating.rules import parse
from synthvlm.errors import OptionError, RunError
from synthvlm.exporting import card, folder, plan, recipe, shards
from synthvlm.exporting.formats import CONVERSATIONS, FOLDERS, FORMATS, Wording, neutralised_sql
from synthvlm.exporting.plan import Work
from synthvlm.run import RunDirectory, Stage
from synthvlm.sql import quote
from synthvlm.storage import Store

__all__ = ["FORMATS", "export", "selected"]
_MEMORY = "1500MB"
"""DuckDB's share: what does not fit is put aside on the disk."""
SHARD = 1000
"""Images in a shard: some hundred megabytes of 1024 × 1024 JPEGs."""


def export(
    run: RunDirectory,
    format: str = "llava",
    *,
    selection: str | None = None,
    captions: bool | Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    instructions: str = "llava",
    keep_original: bool = True,
    limits: Mapping[str, Any] | None = None,
    shard: int = SHARD,
    licence: str | None = None,
    title: str | None = None,
) -> dict[str, Any]:
    """Write a run as a data set in ``out`` (default: ``RUN/exports/FORMAT``, or any fsspec URL) and check what was written.

    The pairs of ``selection`` (``default``) are exported, or with ``captions`` the images that the run captioned, each with all its
    captions: of every caption stage, or of those named; the original one first, with ``keep_original``. A run without a selection
    that captions images exports its captions unasked.

    ``format`` is one of FORMATS. ``instructions`` names the wordings of human turns (a shipped list, or a YAML file's path); the
    caption of a perspective answers the perspective's own prompt. ``limits`` (column → ``MIN..MAX``, or ``off``) keep images out by
    their scores; a safety scorer's column brings its own. ``shard`` is the number of images in a shard. ``licence`` and ``title``
    are for the card.

    What is there already is kept; images and shards of an earlier export of this format that do not belong to this one go.
    Returns what was done. Raises OptionError, or RunError if there is nothing of the kind, or an image is not as it was selected.
    """
    if format not in FORMATS:
        raise OptionError(f"there is no export format {format!r}", f"there are: {', '.join(FORMATS)}")
    if shard < 1:
        raise OptionError(f"{shard} images a shard are none", "give a number from 1")
    if captions and selection:
        raise OptionError("an export is of a selection, or of captions", "leave one of them out")
    wordings = prompts.instructions(instructions) if format in CONVERSATIONS else []
    stages = _caption_stages(run, captions, selection)
    if stages and format == "recipe":
        raise OptionError("a recipe is of images that the run made, not of captions", "choose another --format, or a --selection")
    chosen = None if stages else selected(run, selection or "default")
    where = _where(run, format, out, None if chosen is None else chosen["name"])
    store = Store(where)
    with tempfile.TemporaryDirectory(prefix="synthvlm-") as scratch, run.connect() as db:
        db.execute(f"SET temp_directory = {quote(scratch)}; SET memory_limit = '{_MEMORY}'")
        if not store.is_local and (run.store.is_local or type(store.fs) is not type(run.store.fs)):
            db.register_filesystem(store.fs)
        columns = [*chosen["cards"], "total"] if chosen else []
        work = Work(run, store, format, db, Wording(wordings, _prompts(stages)), chosen, stages, columns, shard=shard)
        work.limits = _limits(work, limits)
        store.sweep("", deep=False)  # the rest of a user's folder is not ours to look through
        store.sweep(os.path.dirname(work.layout.file) or work.layout.images or "data")
        if chosen:
            plan.pairs(work)
        else:
            plan.captions(work, work.source, keep_original)
        done = (folder if format in FOLDERS else recipe if format == "recipe" else shards).write(work)
        if format in CONVERSATIONS:
            (changed,) = db.execute(f"SELECT {neutralised_sql(not chosen)} FROM plan").fetchall()[0]
        else:
            changed = 0
        if not chosen:
            done |= _caption_counts(work)
        kept_card = not card.write(work, done, licence, title)
    said = {"format": format, "selection": chosen["name"] if chosen else None, "out": where, "file": f"{where}/{work.layout.file}"}
    return said | done | {"images": done["written"] + done["kept"], "neutralised": changed, "limited": work.dropped, "own_card": kept_card}


def selected(run: RunDirectory, name: str) -> dict[str, Any]:
    """Return how a selection was made; raises RunError, naming those there are, if there is none of that name."""
    summary = run.store.read_json(f"selections/{name}.json")
    if summary is None or not run.store.exists(f"selections/{name}.parquet"):
        there = ", ".join(n.removesuffix(".json") for n in run.store.list("selections", ".json"))
        hint = f"it has: {there}" if there else "choose pairs first: synthvlm select RUN"
        raise RunError(f"{run.root} has no selection {name!r}", hint)
    return summary


def _caption_stages(run: RunDirectory, captions: bool | Sequence[str] | None, selection: str | None) -> list[Stage]:
    """Return the stages whose captions are exported; none if it is a selection that is."""
    from synthvlm.merging.stages import caption_stages

    if captions is None:
        unasked = selection is None and not run.store.exists("selections/default.json")
        captions = unasked and any(run.stage(n).kind == "caption" for n in run.stage_names())
    if not captions:
        return []
    return caption_stages(run, None if captions is True else list(captions))


def _prompts(stages: Sequence[Stage]) -> dict[str, str]:
    """Return, by source, the prompt that a caption answers; one that quotes fields of its sample is no instruction."""
    return {f"{s.name}/{n}": p["prompt"] for s in stages for n, p in s.perspectives.items() if p.get("prompt") and not p.get("fields")}


def _limits(work: Work, given: Mapping[str, Any] | None) -> dict[str, tuple[float | None, float | None]]:
    """Return the limits on scores: those of safety scorers, and over them those that are given."""
    merged = {c: limit for s in plan.score_stages(work.run, work.source) for c, limit in s.limits.items()}
    merged |= {c: parse(c, v) for c, v in (given or {}).items()}
    return {column: limit for column, limit in merged.items() if limit != (None, None)}


def _where(run: RunDirectory, format: str, out: str | os.PathLike[str] | None, selection: str | None) -> str:
    if out is not None:
        return os.fspath(out).rstrip("/") or "/"
    ending = {"default": "", None: "-captions"}.get(selection, f"-{selection}")
    return f"{run.root}/exports/{format}{ending}"


def _caption_counts(work: Work) -> dict[str, int]:
    """Return how many captions there are, and the most of one image."""
    total, most = work.db.execute("SELECT sum(len(captions)), max(len(captions)) FROM plan").fetchall()[0]
    return {"captions": int(total), "most_captions": most}
