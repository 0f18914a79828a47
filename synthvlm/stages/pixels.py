"""The bytes of an image that a stage made, from the part that holds them now."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from synthvlm.sample import Failed

if TYPE_CHECKING:
    from synthvlm.worker import Context

Row = dict[str, Any]


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
