"""The format ``recipe``: what images are made of, without pixels. ``synthvlm regenerate`` makes them again from it.

::

    recipe.parquet     id, candidate, caption, seed, width, height, batch_size, sha256, every score, total
    recipe.json        the generator (plugin, options, checkpoints by revision or content), run seed, cards, versions

A recipe is some hundred bytes an image: for a data set that others can make again, it stands for the pixels (the paper, section 4.3).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq

from synthvlm.errors import RunError
from synthvlm.exporting.plan import Work
from synthvlm.exporting.shards import Progress
from synthvlm.options import describe
from synthvlm.plugins import discover
from synthvlm.reporting.figures import clean
from synthvlm.reporting.work import where, without_folders
from synthvlm.run import RunDirectory, Stage
from synthvlm.sql import identifier, quote

FORMAT = 1
_COLUMNS = ("id", "candidate", "caption", "seed", "width", "height", "batch_size", "sha256")
_ROWS = 10_000


def write(work: Work) -> dict[str, int]:
    """Write both files and check them; return images ``written`` and ``kept``, records, and the bytes of the images that they stand for."""
    assert work.selection is not None
    # The batch size that the image was really made with, as its row has it now.
    names = ", ".join(f"batch_made AS {n}" if n == "batch_size" else identifier(n) for n in [*_COLUMNS, *work.columns])
    progress = Progress(work, [work.layout.file])
    fresh = progress.shard(work.layout.file, lambda f: _write(work, f, names), lambda f: _check(work, f, names))
    said = describe_generator(work.run, work.run.stage(work.selection["images"])) | _selected(work)
    if work.store.read_json("recipe.json") != said:
        progress.begin()
        work.store.put_json("recipe.json", said)
    progress.finish()
    records, size = work.db.execute("SELECT count(*), sum(bytes) FROM plan").fetchall()[0]
    return {"records": records, "bytes": int(size), "written": records if fresh else 0, "kept": 0 if fresh else records, "removed": 0}


def _write(work: Work, file: IO[bytes], names: str) -> None:
    rows = work.db.cursor().sql(f"SELECT {names} FROM plan ORDER BY n").to_arrow_reader(_ROWS)
    with pq.ParquetWriter(file, rows.schema, compression="zstd") as writer:
        for batch in rows:
            writer.write_batch(batch)


def _check(work: Work, file: IO[bytes], names: str) -> int:
    """Read the file back. Raises RunError or ArrowException."""
    found = pq.ParquetFile(file)
    if found.schema_arrow.names != [*_COLUMNS, *work.columns] or found.metadata.num_rows != work.count():
        raise RunError("it has other columns or rows than were written")
    back = f"read_parquet({quote(work.store.url(work.layout.file))})"
    same = ", ".join(map(identifier, [*_COLUMNS, *work.columns]))
    different = f"SELECT count(*) FROM (SELECT {names} FROM plan EXCEPT SELECT {same} FROM {back})"
    if work.db.execute(different).fetchall()[0][0]:
        raise RunError("it does not hold what was written")
    return 0


def _selected(work: Work) -> dict[str, Any]:
    """Return how the pairs were chosen."""
    assert work.selection is not None
    chosen = {k: work.selection.get(k) for k in ("name", "scores", "weights", "top", "asked", "pairs", "captions", "selected", "threshold")}
    return {
        "records": work.count(),
        "selection": clean(chosen),
        "cards": {c: clean(card) for c, card in work.selection["cards"].items() if c in work.columns},
    }


def describe_generator(run: RunDirectory, stage: Stage) -> dict[str, Any]:
    """Return what it takes to make the images of a stage again.

    Of options only those that count (others may hold paths and addresses), and of a checkpoint in a local directory the directory's
    name alone: ``-o checkpoint=DIR`` says where it is, and its content hash whether it is the same.
    """
    plugin = stage.plugins[0]
    return {
        "format": FORMAT,
        "run_seed": run.seed,
        "generator": {
            "name": plugin["name"],
            "distribution": plugin["distribution"],
            "version": plugin["version"],
            "options": asked(stage, plugin),
            "checkpoints": checkpoints(plugin),
            "output_revision": stage.identity[plugin["name"]].get("output_revision", 1),
        },
        "image": stage.identity["image"],
        "identity": stage.identity,
        "threads": stage.runtime.get("threads"),
        **{k: v for k, v in where(run, stage, 0).items() if k in ("devices", "versions")},
    }


def asked(stage: Stage, plugin: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a stage's plugin that count, checkpoints as they were asked for, pinned to the revision that they came to.

    One that ships in the plugin is left out: it is the default wherever the plugin is installed.
    """
    identity = dict(stage.identity[plugin["name"]])
    identity.pop("output_revision", None)
    for name, found in plugin.get("checkpoints", {}).items():
        identity[name] = pinned(found)
        if ships(found):
            del identity[name]
    return identity


def ships(checkpoint: dict[str, Any]) -> bool:
    """Say whether a checkpoint is one that ships inside of an installed plugin, as its default or for the scorers that it recommends."""
    if not os.path.isabs(str(checkpoint["asked"])):
        return False
    brought: set[str] = set()
    for registration in discover().registrations.values():
        brought |= {str(o.default) for o in describe(registration.cls) if o.role == "checkpoint"}
        scorers: dict[str, dict[str, Any]] = getattr(registration.cls, "recommended", {}).get("scorers") or {}
        brought |= {str(options["checkpoint"]) for options in scorers.values() if "checkpoint" in options}
    # By the end of its path: the run may come from a machine where packages lie elsewhere.
    tails = {Path(path).parts[-3:] for path in brought if os.path.isabs(path)}
    return Path(checkpoint["asked"]).parts[-3:] in tails


def pinned(checkpoint: dict[str, Any]) -> str:
    """Return a hub name with its revision; of a local directory its name only."""
    name, revision = str(checkpoint["asked"]), str(checkpoint["revision"])
    return without_folders(name) if ":" in revision or "@" in name else f"{name}@{revision}"


def checkpoints(plugin: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a plugin's checkpoints: what was asked for, without folders, and what it is."""
    return {n: {"asked": without_folders(c["asked"]), "revision": c["revision"]} for n, c in plugin.get("checkpoints", {}).items()}
