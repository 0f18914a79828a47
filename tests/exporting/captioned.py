"""A run that captioned images, made by hand: real image files, rows as caption stages leave them, no model."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from synthvlm import parts
from synthvlm.perspectives import resolve
from synthvlm.run import RunDirectory, Stage, fetch
from synthvlm.samples import ingest


def write_images(folder: Path, names: Sequence[str]) -> None:
    """Write an image for each name, of a colour and size of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, name in enumerate(names):
        Image.new("RGB", (20 + n, 16), (n * 40 % 256, 200 - n, 90)).save(folder / name, format="PNG" if "." not in name else None)


def read_in(
    root: Path, names: Sequence[str], original: Mapping[str, str] | None = None, folder: str = "photos", **more: Any
) -> RunDirectory:
    """Make images and read a list of them into a run; ``original``: name → the caption that it came with."""
    write_images(root / folder, names)
    records = [
        {
            "id": name.partition(".")[0],
            "image": f"{folder}/{name}",
            **({"caption": original[name]} if name in (original or {}) else {}),
            **more,
        }
        for name in names
    ]
    (root / "images.json").write_text(json.dumps(records))
    run = RunDirectory.create(root / "run")
    ingest(run, str(root / "images.json"), images=True)
    return run


def caption(
    run: RunDirectory, name: str, perspectives: Sequence[str], images: str = "samples", failed: Collection[tuple[str, str]] = ()
) -> Stage:
    """Make a complete caption stage: each caption tells its stage, perspective and sample. ``failed``: (id, perspective)."""
    plugin = {"name": name, "distribution": "tests", "version": "1", "options": {"max_pixels": 9}}
    records = {n: p.record() for n, p in resolve(perspectives).items()}
    stage = run.ensure_stage(Stage(name, "caption", [plugin], {name: {"max_pixels": 9}}, {"image": images}, 4, perspectives=records))
    with run.connect(1) as db:
        for shard in range(-(-run.sample_count() // stage.shard_size)):
            rows = fetch(db, f"SELECT * FROM {run.pending_sql(stage, stage.rows(shard))} ORDER BY {stage.order}")
            done = []
            for r in rows:
                row = {k: r[k] for k in ("key", "row", "id", "candidate", "perspective", "sha256")} | {"tries": 1}
                bad = (r["id"], r["perspective"]) in failed
                done.append(row | ({"error": "no", "error_class": "No"} if bad else {"text": f"{name} {r['perspective']} of {r['id']}"}))
            if done:
                parts.commit(run.store, name, shard, stage.schema, done, info={"device": "cpu", "versions": {"python": "3.11"}})
    return stage
