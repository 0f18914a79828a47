"""Make a run directory by hand, without any model: real small images, plausible scores, everything that a run may hold.

Each image is drawn from its caption's words with more or less noise; the scores follow the noise, so that selection has sense.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from synthvlm import images, parts
from synthvlm.run import RunDirectory, Stage, fetch, image_seed, row_key
from synthvlm.samples import ingest

COLORS = {
    "red": "#d7372f",
    "blue": "#2f6fd7",
    "green": "#3a9d4b",
    "yellow": "#e8c22e",
    "purple": "#8547b8",
    "orange": "#e8842e",
    "white": "#f4f4f4",
    "black": "#222",
}
SHAPES = ("circle", "square", "triangle")
EXTENSIONS = {"jpeg": "jpg", "png": "png", "webp": "webp"}


def captions(count: int) -> list[str]:
    """Return ``count`` captions of coloured shapes, the same each time."""
    draw = random.Random(7)
    return [f"a {a} {draw.choice(SHAPES)} on a {b} background" for a, b in (draw.sample(list(COLORS), 2) for _ in range(count))]


def draw(caption: str, noise: float, side: int = 64, seed: int = 0) -> Image.Image:
    """Draw the first shape and the first two colours that the caption names, blotted out by ``noise`` (0..1)."""
    words = caption.lower().replace(",", " ").replace(".", " ").split()
    found = [COLORS[w] for w in words if w in COLORS] or [list(COLORS.values())[len(caption) % len(COLORS)]]
    rng = random.Random(f"{caption}/{seed}")
    image = Image.new("RGB", (side, side), found[1] if len(found) > 1 else "#9fb4c4")
    pen = ImageDraw.Draw(image)
    reach = side * rng.uniform(0.2, 0.32)
    x, y = side * rng.uniform(0.4, 0.6), side * rng.uniform(0.4, 0.6)
    box = (x - reach, y - reach, x + reach, y + reach)
    shape = next((w for w in words if w in SHAPES), "circle")
    if shape == "circle":
        pen.ellipse(box, fill=found[0])
    elif shape == "square":
        pen.rectangle(box, fill=found[0])
    else:
        pen.polygon([(x, y - reach), (x + reach, y + reach), (x - reach, y + reach)], fill=found[0])
    for _ in range(int(noise * 60)):
        u, v, r = rng.uniform(0, side), rng.uniform(0, side), side * rng.uniform(0.02, 0.09)
        pen.ellipse((u - r, v - r, u + r, v + r), fill=rng.choice(list(COLORS.values())))
    return image


def fabricate_run(
    root: str | Path,
    captions: Sequence[str] | Mapping[str, str] = (),
    repeat: int = 2,
    *,
    seed: int = 0,
    side: int = 64,
    shard_size: int = 4,
    name: str = "mini",
    image_format: str = "jpeg",
    scores: str | None = "clip-ssim",
    failed: Collection[tuple[str, int]] = (),
    dropped: Collection[tuple[str, int]] = (),
    notes: Mapping[str, str] | None = None,
    cut: Mapping[str, int] | None = None,
    meta: Mapping[str, Mapping[str, Any]] | None = None,
) -> RunDirectory:
    """Make (or go on with) a run whose image stage ``name`` and score stage ``scores`` are complete; return it.

    ``captions``: a list (ids ``0``, ``1`` …) or id → caption. ``failed`` and ``dropped`` name (id, candidate) of images that could
    not be made and of images whose pixels were not kept; ``notes``, ``cut`` and ``meta`` go by id. ``scores=None`` leaves it at images.
    """
    root = Path(root)
    pairs = captions if isinstance(captions, Mapping) else {str(n): c for n, c in enumerate(captions)}
    run = RunDirectory.create(root, seed=seed)
    source = root.parent / f"{root.name}-captions.json"
    source.write_text(json.dumps([{"id": i, "caption": c, **(meta or {}).get(i, {})} for i, c in pairs.items()], ensure_ascii=False))
    ingest(run, str(source))
    quality = 90 if image_format == "jpeg" else None
    plugin = {"name": name, "distribution": "tests", "version": "1", "options": {"steps": 4, "guidance": 2.0, "batch_size": 4}}
    identity = {name: {"steps": 4, "guidance": 2.0, "batch_size": 4}, "image": {"format": image_format, "quality": quality}}
    stage = run.ensure_stage(Stage(name, "generate", [plugin], identity, {"caption": "samples"}, shard_size, repeat))
    for shard, rows in _pending(run, stage):
        finished, pixels = [], {}
        for row in rows:
            at = (row["id"], row["candidate"])
            done = {k: row[k] for k in ("key", "row", "id", "candidate")} | {
                "seed": image_seed(seed, *at),
                "tries": row["tries"] + 1,
                "batch_size": 4,
            }
            if at in failed:
                finished.append(done | {"error": "the fabricated generator gave up", "error_class": "MadeToFail"})
                continue
            data = images.encode(draw(row["caption"], noise_of(*at), side, row["candidate"]), image_format, quality or 95)  # type: ignore[arg-type]
            done |= {
                "width": side,
                "height": side,
                "sha256": hashlib.sha256(data).hexdigest(),
                "bytes": len(data),
                "stored": at not in dropped,
            }
            finished.append(done | {"cut_tokens": (cut or {}).get(row["id"], 0), "note": (notes or {}).get(row["id"])})
            if at not in dropped:
                pixels[row["key"]] = (EXTENSIONS[image_format], data)
        info = {
            "host": "somewhere",
            "pid": 1,
            "device": "cpu",
            "threads": 1,
            "versions": {"python": "3.11", "synthvlm": "0.1.0"},
            "seconds": 8.0,
        }
        parts.commit(run.store, name, shard, stage.schema, finished, pixels, info)
    if scores:
        _score(run, stage, scores, side, set(cut or {}))
    return run


def noise_of(sample_id: str, candidate: int) -> float:
    """Return how much noise (0..1) an image has, from its id and candidate number alone."""
    return hashlib.md5(f"{sample_id}/{candidate}".encode(), usedforsecurity=False).digest()[0] / 255


def _score(run: RunDirectory, made: Stage, name: str, side: int, cut: set[str]) -> None:
    columns = ["clip", "clip_cut", "ssim", "ssim_small"]
    cards = {
        "clip": {"metric": "CLIPScore: max(cosine, 0)", "model": "fabricated", "prefix": "A photo depicts ", "text": "cut"},
        "clip_cut": {"metric": "the caption was cut"},
        "ssim": {"metric": "SSIM of the image with itself, scaled down and back", "side": 224, "interpolation": "bicubic"},
        "ssim_small": {"metric": "the image is not larger than S and scores 1 unseen", "side": 224},
    }
    identity = {"clip": {"preset": "fabricated", "output_revision": 1}, "ssim": {"side": 224}}
    plugins = [{"name": n, "distribution": "tests", "version": "1", "options": o} for n, o in identity.items()]
    stage = run.ensure_stage(
        Stage(name, "score", plugins, identity, {"image": made.name, "caption": "samples"}, made.shard_size, columns=columns, cards=cards)
    )
    small = side <= 224
    for shard, rows in _pending(run, stage):
        finished = []
        for row in rows:
            assert row["key"] == row_key(stage.digest, row["id"], row["caption"], row["sha256"], row["candidate"])
            noise = noise_of(row["id"], row["candidate"])
            wobble = random.Random(row["id"]).gauss(0, 0.02)
            values = {
                "clip": 0.38 - 0.12 * noise + wobble,
                "clip_cut": float(row["id"] in cut),
                "ssim": 1.0 if small else 0.9 - 0.3 * noise + wobble,
                "ssim_small": float(small),
            }
            finished.append({k: row[k] for k in ("key", "row", "id", "candidate", "sha256")} | {"tries": 1} | values)
        parts.commit(run.store, name, shard, stage.schema, finished, info={"device": "cpu", "versions": {"python": "3.11"}, "seconds": 1.0})


def _pending(run: RunDirectory, stage: Stage) -> Iterable[tuple[int, list[dict[str, Any]]]]:
    with run.connect(1) as db:
        for shard in range(-(-run.sample_count() // stage.shard_size)):
            # Of the wanted rows rather than the pending ones: an image whose pixels were not kept was scored before they went.
            rows = (shard * stage.shard_size, (shard + 1) * stage.shard_size)
            have = run.parts_sql(stage, rows, "key") or "(SELECT '' AS key WHERE false)"
            rows = fetch(
                db, f"SELECT *, 0 AS tries FROM {run.wanted_sql(stage, rows)} ANTI JOIN {have} USING (key) ORDER BY row, candidate"
            )
            if rows:
                yield shard, rows
