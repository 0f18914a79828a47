"""Many captions for one image in one line: merge the caption stages of a run, or the files that captioning scripts leave.

::

    {"image": "train/1.jpg", "caption": ["the original's", "a first captioner's", "a second one's"]}

Lines come in the order of the original (of the samples, for a run). Equal inputs give equal bytes, whatever form the captions come
in. Memory does not grow with the files: DuckDB joins, and puts aside beside the output what does not fit.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import duckdb

from synthvlm.errors import InputError, OptionError, RunError
from synthvlm.merging import join, output
from synthvlm.merging.abreast import MOST, TABLE, Unfit, abreast
from synthvlm.merging.join import Column, one
from synthvlm.merging.load import UNUSUAL, clean_lines_sql, load_original, load_source
from synthvlm.merging.records import Notes
from synthvlm.merging.sources import Source, arrange

if TYPE_CHECKING:
    from synthvlm.run import RunDirectory

MISSING = ("skip", "drop", "empty")
ORIGINAL = "original"
_SHARED = 0.1
"""Share of its captions that a source's parts may have in common before it is said that they may be no parts."""
_AT_A_TIME = 2
"""Sources that are read at a time: more need more memory."""
Sources = Sequence[str] | Mapping[str, str | Sequence[str]]


def merge_files(
    original: str,
    sources: Sources,
    out: str | os.PathLike[str],
    *,
    order: Sequence[str] = (),
    missing: str = "skip",
    keep_original: bool = True,
    dedupe: bool = False,
    group: bool = True,
    provenance: bool = True,
    composed: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Write to ``out`` a line for each image of ``original``, with its own captions and those of every source.

    ``original`` and ``sources`` are JSON arrays of ``{"image", "caption"}``, objects ``{image: caption}`` or JSON Lines, known by
    their content; the original's captions may be lists, or not be there. ``sources`` maps names to paths, or lists paths, patterns
    and ``NAME=PATH``; with ``group``, files that differ only in a number at the end of their names are parts of one source.

    ``order`` names sources (or ``"original"``) that come first. An image that lacks a caption gets a shorter list (``missing``
    ``"skip"``), no line (``"drop"``) or an empty text in its place (``"empty"``). ``dedupe`` drops captions that equal an earlier
    one of the line. ``provenance`` writes beside ``out`` which source each position is; ``composed`` is a folder as for :func:`compose`.

    Returns what was done; its ``notes`` are lines for people. Raises InputError if there is nothing to write.
    """
    _check(missing)
    arranged = arrange(sources, group=group)
    if os.path.realpath(out) in map(os.path.realpath, [original, *(f for s in arranged for f in s.files)]):
        raise OptionError(f"--out {out} is one of the files to merge", "choose another name")
    with output.workshop(os.fspath(out)) as (db, folder):
        notes = Notes(original)
        width = load_original(db, original, notes, folder)
        told = notes.lines()
        if repeated := join.first_of_each(db, "images"):
            told.append(f"{original}: {repeated:,} records name an image again; the first of each is used")
        images, captioned = one(db, "SELECT count(*), count(caption_0) FROM images")
        if not images:
            raise InputError(f"{original} names no image", told[0] if told else 'its lines look like {"image": "1.jpg", "caption": "…"}')
        columns: list[Column] = []
        if keep_original and captioned:
            about = {"source": ORIGINAL, "files": [original], "records": images + repeated, "duplicates": repeated}
            for n in range(width):
                (having,) = one(db, f"SELECT count(caption_{n}) FROM images")
                if having:  # only a record that is not used may have had so many
                    columns.append(Column(ORIGINAL, "images", f"caption_{n}", about, images - having))
        db.execute("SET threads = 1")  # one for each source, which keeps rows in order
        done, made = None, []
        if composed is None:
            done = _abreast(db, arranged, columns, told, order, (os.fspath(out), missing, dedupe, provenance))
        if done is None:
            found, made = _source_columns(db, arranged, images, told, folder, composed)
            done = output.write_lines(db, output.ordered([*columns, *found], order), os.fspath(out), missing, dedupe, provenance)
    return done | {"duplicates": repeated, "notes": told} | ({} if composed is None else {"composed": made})


def compose(sources: Sources, out: str | os.PathLike[str], *, group: bool = True) -> dict[str, Any]:
    """Put the parts of each source together, as ``composed.jsonl`` and ``composed_index.json`` ({image: caption}) in ``out``.

    Several sources get a folder each, by their names. ``sources`` are as for :func:`merge_files`; of several captions of one image
    the first counts. Returns what was done. Raises InputError if there is no caption at all.
    """
    told: list[str] = []
    done: list[dict[str, Any]] = []
    with output.workshop(f"{os.fspath(out)}/composed.jsonl") as (db, scratch):
        arranged = arrange(sources, group=group)
        for source in arranged:
            told += source.facts
            folder = _folder(out, source, arranged)
            count, repeated = _compose(db, _load_source(db, source, scratch, told), folder)
            if repeated:
                told.append(f"{source.name}: {repeated:,} records name an image again; the first of each is used")
            if count:
                done.append(_made(source, folder, count, repeated))
            else:
                told.append(f"{source.name} has no usable caption")
    if not done:
        raise _nothing(arranged, told)
    return {"composed": done, "notes": told}


def merge_run(
    run: RunDirectory,
    stages: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    order: Sequence[str] = (),
    missing: str = "skip",
    keep_original: bool = True,
    dedupe: bool = False,
    provenance: bool = True,
) -> dict[str, Any]:
    """Write a line for each image of ``run``, in the order of its samples, with the captions of ``stages`` (default: all that caption).

    ``out`` is ``RUN/merged.jsonl`` by default. Positions are called ``STAGE/PERSPECTIVE``; ``order`` takes these and stages. An image
    is named as the input named it; one that the run made, by its path in the run's export. The other options are those of
    :func:`merge_files`. Raises RunError if the run has no such stage, or no caption yet.
    """
    from synthvlm.merging import stages as of_run

    _check(missing)
    chosen = of_run.caption_stages(run, stages)
    where = f"{run.root}/merged.jsonl" if out is None else os.fspath(out)
    with output.workshop(where) as (db, _):
        db.execute("SET threads = 1")
        if not run.store.is_local:
            db.register_filesystem(run.store.fs)
        told = of_run.load_images(db, run, chosen[0].reads["image"])
        images, captioned = one(db, "SELECT count(*), count(caption_0) FROM images")
        made = [c for stage in chosen for c in of_run.stage_columns(db, run, stage, told)]
        if not made:
            raise RunError(f"{run.root} has no captions yet", "make them with: synthvlm recaption IMAGES --out RUN")
        columns: list[Column] = []
        if keep_original and captioned:
            columns = [Column(ORIGINAL, "images", about={"source": ORIGINAL}, lacking=images - captioned)]
        done = output.write_lines(db, output.ordered([*columns, *made], order), where, missing, dedupe, provenance)
    return done | {"notes": told}


def _check(missing: str) -> None:
    if missing not in MISSING:
        raise OptionError(f"--missing {missing} is not known", f"there are: {', '.join(MISSING)}")


def _abreast(
    db: duckdb.DuckDBPyConnection, arranged: list[Source], own: list[Column], told: list[str], order: Sequence[str], how: tuple[Any, ...]
) -> dict[str, Any] | None:
    """Write the lines of sources that are plain JSON Lines in the order of the images; None if they turn out to be otherwise."""
    lines: list[tuple[Column, str]] = []
    with contextlib.suppress(InputError):
        for source in arranged if len(arranged) <= MOST else ():
            sql = clean_lines_sql(source.files)
            lines += [(Column(source.name, "", about={"source": source.name, "files": source.files}), sql)] if sql else []
    if len(lines) < len(arranged) or not lines:
        return None
    with contextlib.suppress(Unfit), abreast(db, own, lines) as columns:
        done = output.write_lines(db, output.ordered(columns, order), *how, table=TABLE)
        told += [fact for source in arranged for fact in source.facts]
        return done
    return None


def _source_columns(
    db: duckdb.DuckDBPyConnection,
    arranged: list[Source],
    images: int,
    told: list[str],
    scratch: str,
    composed: str | os.PathLike[str] | None,
) -> tuple[list[Column], list[dict[str, Any]]]:
    """Bring every source into the order of the images; return their columns, and what was composed of them."""
    cursors = [db.cursor() for _ in arranged]

    def column_of(n: int) -> tuple[Column | None, list[str], dict[str, Any] | None]:
        folder = None if composed is None else _folder(composed, arranged[n], arranged)
        return _source_column(cursors[n], arranged[n], f"source_{n}", images, scratch, folder)

    columns: list[Column] = []
    with ThreadPoolExecutor(_AT_A_TIME, "merge-source") as pool:
        try:
            found = list(pool.map(column_of, range(len(arranged))))
        except BaseException:
            for cursor in cursors:
                cursor.interrupt()
            pool.shutdown(cancel_futures=True)
            raise
    for column, notes, _ in found:
        told += notes
        columns += [column] if column else []
    if not columns:
        raise _nothing(arranged, told)
    return columns, [made for _, _, made in found if made]


def _source_column(
    db: duckdb.DuckDBPyConnection, source: Source, table: str, images: int, scratch: str, composed: str | None
) -> tuple[Column | None, list[str], dict[str, Any] | None]:
    """Return the column of a source, if it has any caption; what is to be told of it; and what was composed in that folder."""
    told = list(source.facts)
    loaded: list[str] = []
    counts: dict[str, int] | None = None
    with contextlib.suppress(*UNUSUAL, InputError):
        if lines := clean_lines_sql(source.files):
            counts = join.align(db, table, [lines])
            loaded = [lines]
    if not loaded:
        loaded = _load_source(db, source, scratch, told)
        counts = join.align(db, table, loaded) if loaded else None
    if not counts or not counts["records"]:
        return None, [*told, f"{source.name} has no usable caption: it gets no position"], None
    made = None if composed is None else _made(source, composed, *_compose(db, loaded, composed))
    about = {"source": source.name, "files": source.files, **counts}
    return Column(source.name, table, about=about, lacking=images - counts["used"]), told + _counted(source, counts), made


def _load_source(db: duckdb.DuckDBPyConnection, source: Source, scratch: str, told: list[str]) -> list[str]:
    """Return SQL for each of a source's files that can be read."""
    loaded = []
    for file in source.files:
        notes = Notes(file)
        try:
            loaded.append(load_source(db, file, notes, scratch))
        except InputError as error:
            notes.facts.append(f"{error.message}; it is left out")
        told += notes.lines()
    return loaded


def _compose(db: duckdb.DuckDBPyConnection, loaded: list[str], folder: str) -> tuple[int, int]:
    """Write a source's composed files, if it has any caption; return how many images they have, and how many were named again."""
    table = f"composed_{uuid.uuid4().hex}"
    db.execute(f"CREATE TABLE {table} (image VARCHAR, caption_0 VARCHAR)")
    for captions in loaded:
        db.execute(f"INSERT INTO {table} {captions}")
    repeated = join.first_of_each(db, table)
    (count,) = one(db, f"SELECT count(*) FROM {table}")
    if count:
        output.compose(db, table, folder)
    db.execute(f"DROP TABLE {table}")
    return count, repeated


def _made(source: Source, folder: str, images: int, duplicates: int) -> dict[str, Any]:
    """Return what is told of composed files."""
    return {"source": source.name, "folder": folder, "images": images, "duplicates": duplicates}


def _counted(source: Source, counts: dict[str, int]) -> list[str]:
    """Return what is to be told of a source once it is joined."""
    told = []
    if counts["duplicates"]:
        told.append(f"{source.name}: {counts['duplicates']:,} records name an image again; the first of each is used")
        if len(source.files) > 1 and counts["duplicates"] > _SHARED * counts["used"]:
            told.append(
                f"{source.name}: are its {len(source.files)} files no parts, but several captioners'? --separate makes each a source"
            )
    if counts["unknown"]:
        told.append(f"{source.name}: {counts['unknown']:,} captions are of images that the original lacks")
    return told


def _folder(out: str | os.PathLike[str], source: Source, arranged: list[Source]) -> str:
    return os.fspath(out) if len(arranged) == 1 else f"{os.fspath(out)}/{source.name}"


def _nothing(arranged: list[Source], told: list[str]) -> InputError:
    named = ", ".join(s.name for s in arranged) or "the files"
    return InputError(f"there is no usable caption in {named}", told[0] if told else "name the files of captions to merge")
