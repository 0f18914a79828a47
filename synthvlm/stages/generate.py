"""Captions in, encoded images out."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from synthvlm import images
from synthvlm.run import Stage, image_seed
from synthvlm.sample import Failed, GeneratedImage, ImageRequest
from synthvlm.stages.batching import run_batches

if TYPE_CHECKING:
    from synthvlm.worker import Context

Row = dict[str, Any]
EXTENSIONS = {"jpeg": "jpg", "png": "png", "webp": "webp"}


def request(run_seed: int, row: Row) -> ImageRequest:
    """Return the request for a pending row."""
    return ImageRequest(row["id"], row["candidate"], row["caption"], image_seed(run_seed, row["id"], row["candidate"]))


def encode(row: Row, result: Any, batch_size: int, run_seed: int, image_format: Any, quality: int) -> tuple[Row, tuple[str, bytes] | None]:
    """Return the finished row and its pixels as (extension, bytes); a failure has none."""
    done: Row = {k: row[k] for k in ("key", "row", "id", "candidate")} | {"tries": row["tries"] + 1, "batch_size": batch_size}
    done["seed"] = image_seed(run_seed, row["id"], row["candidate"])
    if isinstance(result, Failed):
        return done | {"error": result.error, "error_class": result.error_class}, None
    made = result if isinstance(result, GeneratedImage) else GeneratedImage(result)
    try:
        data = images.encode(made.image, image_format, quality)
        width, height = made.image.size
    except Exception as error:
        return done | {"error": f"the generator's result cannot be stored: {error}", "error_class": type(error).__name__}, None
    done |= {"width": width, "height": height, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    return done | {"cut_tokens": made.cut_tokens, "note": made.note, "stored": True}, (EXTENSIONS[image_format], data)


def generate_shard(context: Context, stage: Stage, generator: Any, shard: int, suspects: frozenset[str]) -> None:
    """Make what is pending of a shard. Encoding and writing go on beside the device's work."""
    seed, kind = context.run.seed, stage.identity["image"]
    writer = context.writer(stage)

    def finish(batch: list[tuple[Row, Any, int]]) -> None:
        done = [encode(row, result, size, seed, kind["format"], kind["quality"]) for row, result, size in batch]
        writer.add(shard, [r for r, _ in done], {r["key"]: p for r, p in done if p})
        context.progress(stage.name, [r for r, _ in done])
        if writer.due:
            writer.flush()

    rows = context.pending(stage, shard)
    bucket = getattr(generator, "bucket", None)
    for batch in run_batches(rows, lambda r: request(seed, r), generator.generate, generator, context, bucket, suspects):
        context.later(finish, batch)
    context.later(writer.flush)
