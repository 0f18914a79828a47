"""The bytes of an image: of one that a stage made, from the part that holds them now; of the input's, from where it lies."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from synthvlm import images
from synthvlm.sample import Failed

if TYPE_CHECKING:
    from synthvlm.worker import Context

Row = dict[str, Any]


def image_bytes(context: Context, row: Row) -> bytes | Failed | None:
    """Return the bytes of a row's image, one that a stage made or one of the input's; else as :func:`stored_bytes`."""
    if row["tar"] is not None:
        return stored_bytes(context, row)
    try:
        data = images.read_image_bytes(row["image_uri"])
    except images.ImageError as error:
        return Failed(error.message, "ImageError")
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        return Failed(f"{row['image_uri']} has changed since it was read in: give the same command again", "ImageChanged")
    return data


def stored_bytes(context: Context, row: Row) -> bytes | Failed | None:
    """Return a stored image's bytes, or why they cannot be read; None if its part turned out damaged (its rows will be made again)."""
    try:
        data = _read(context, row)
    except OSError as error:  # the disk or the network is in trouble; --retry-failed tries again
        return Failed(f"the image cannot be read: {error.strerror or error}", type(error).__name__)
    if data is None:
        moved = context.relocate(row)  # another process may have merged its part into a larger one
        data = _read(context, moved) if moved else None
    if data is None:
        context.damaged(row)
    return data


def _read(context: Context, row: Row) -> bytes | None:
    """Return a stored image's bytes, or None if they are not what its row says."""
    try:
        data = context.run.store.read(row["tar"], row["offset"], row["bytes"])
    except FileNotFoundError:
        return None
    return data if hashlib.sha256(data).hexdigest() == row["sha256"] else None
