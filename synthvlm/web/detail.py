"""Everything that is known of one pair: the image, its scores with their cards, captions, other candidates, the command that makes it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from synthvlm import marks
from synthvlm.errors import RunError
from synthvlm.run import RunDirectory, Stage, fetch, quote, row_key, steadily
from synthvlm.web.catalogue import SAMPLES, Catalogue, Shape, latest_sql

_IMAGE = (
    "key",
    "seed",
    "width",
    "height",
    "sha256",
    "bytes",
    "stored",
    "cut_tokens",
    "note",
    "batch_size",
    "error",
    "error_class",
    "tries",
)


def detail(catalogue: Catalogue, row: int, candidate: int) -> dict[str, Any]:
    """Return it, read from the run's parts. Raises RunError if there is no such pair."""
    return steadily(lambda: _detail(catalogue.run, catalogue.shape, row, candidate))


def _detail(run: RunDirectory, shape: Shape, row: int, candidate: int) -> dict[str, Any]:
    rows = (row, row + 1)
    with run.connect(1) as db:
        samples = fetch(db, f"SELECT * FROM {run.samples_sql(rows)}")
        if not samples:
            raise RunError(f"the run has no sample {row}")
        sample = samples[0]
        if shape.images:
            key = row_key(shape.images.digest, sample["id"], sample["caption"], candidate)
            found = fetch(db, f"SELECT * FROM {latest_sql(run, shape.images, rows)} WHERE key = {quote(key)}")
            image = {c: found[0][c] for c in _IMAGE} if found else None
        else:
            image = {"sha256": sample["image_sha256"], "uri": sample["image_uri"], "stored": True} if sample["image_sha256"] else None
        told = {
            "row": row,
            "candidate": candidate,
            "id": sample["id"],
            "caption": sample["caption"],
            "image_name": sample["image"],
            "meta": json.loads(sample["meta"]) if sample["meta"] else {},
            "image": image,
            "scores": [s for stage in (*shape.scores, *shape.texts) for s in _scores(run, db, stage, sample, image, candidate)],
            "captions": [c for stage in shape.captions for c in _captions(run, db, stage, rows, candidate)],
        }
    return told | (_made_by(run, shape.images, sample["id"], candidate) if shape.images else {"model": None, "command": None})


def marked(catalogue: Catalogue, row: int, candidate: int) -> dict[str, Any]:
    """Return what a mark of the pair holds of it: stage, key, row, id, candidate. Raises RunError if it has no image."""
    told = detail(catalogue, row, candidate)
    image = told["image"]
    key = image and (image.get("key") if catalogue.shape.images else image["sha256"])
    if not key or image.get("error"):
        raise RunError(f"{told['id']!r} has no image to mark")
    stage = catalogue.shape.images.name if catalogue.shape.images else marks.OWN
    return {"stage": stage, "key": key, "row": row, "id": told["id"], "candidate": candidate}


def _scores(
    run: RunDirectory, db: Any, stage: Stage, sample: Mapping[str, Any], image: Mapping[str, Any] | None, candidate: int
) -> list[dict[str, Any]]:
    """Return the values of a stage for the pair, each with its card; a failure is told once."""
    consumed = [sample["id"], sample["caption"]]
    if not stage.reads_text:
        if not image or not image["sha256"]:
            return []
        consumed += [image["sha256"], *([] if stage.reads["image"] == SAMPLES else [candidate])]
    rows = (sample["row"], sample["row"] + 1)
    found = fetch(db, f"SELECT * FROM {latest_sql(run, stage, rows)} WHERE key = {quote(row_key(stage.digest, *consumed))}")
    if not found:
        return []
    if found[0]["error"]:
        return [{"stage": stage.name, "name": stage.name, "value": None, "card": {}, "error": found[0]["error"]}]
    return [
        {"stage": stage.name, "name": c, "value": found[0][c], "card": _lines(stage.cards.get(c, {})), "error": None} for c in stage.columns
    ]


def _captions(run: RunDirectory, db: Any, stage: Stage, rows: tuple[int, int], candidate: int) -> list[dict[str, Any]]:
    found = fetch(
        db,
        f"""SELECT perspective, text, raw, finish_reason, tokens, flags, error FROM {run.table_sql(stage, rows)}
            WHERE candidate = {int(candidate)} ORDER BY position""",
    )
    source = stage.reads["image"]
    words = ["synthvlm", "caption", str(run.root), "--model", stage.plugins[0]["name"], "--as", stage.name]
    words += [] if source == SAMPLES else ["--images", source]
    return [
        {
            "stage": stage.name,
            "model": stage.plugins[0]["name"],
            "prompt": stage.perspectives.get(r["perspective"], {}).get("prompt"),
            "command": shlex.join([*words, "--perspective", r["perspective"]]),
            **r,
        }
        for r in found
    ]


def _made_by(run: RunDirectory, stage: Stage, sample_id: str, candidate: int) -> dict[str, Any]:
    """Return the model that made the image and the command that makes it again, bit for bit."""
    plugin = stage.plugins[0]
    several = sum(run.stage(n).kind == "generate" for n in run.stage_names()) > 1
    words = [
        "synthvlm",
        "regenerate",
        str(run.root),
        "--candidate",
        str(candidate),
        *(["--images", stage.name] if several else []),
        "--",
        sample_id,
    ]
    origin = " ".join(str(plugin[k]) for k in ("distribution", "version") if plugin.get(k))
    model = {"name": plugin["name"], "origin": origin, "stage": stage.name, "settings": _lines(stage.identity)}
    return {"model": model, "command": shlex.join(words if sample_id.startswith("-") else [w for w in words if w != "--"])}


def _lines(tree: Any, path: str = "") -> list[tuple[str, str]]:
    """Return a card or settings as (dotted name, value) lines."""
    if isinstance(tree, Mapping):
        return [line for name in tree for line in _lines(tree[name], f"{path}.{name}" if path else str(name))]
    return [(path, str(tree))]
