"""The bytes of images for a page: of one that a stage made, from its part; of the input's, from where its row says. Thumbnails are kept.

Nothing here takes a path from a request: an image is asked for by its row, and what is read must be what the run recorded.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from PIL import Image

from synthvlm import images
from synthvlm.run import RunDirectory, fetch

SIDE = 384
"""Pixels of a thumbnail's long side."""
CACHE = 96 << 20
"""Bytes of thumbnails that are kept."""
MEDIA = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
"""What every browser shows; anything else is sent as PNG."""


class Pictures:
    """The images of one run, and a cache of thumbnails that is bounded in bytes."""

    def __init__(self, run: RunDirectory, cache: int = CACHE) -> None:
        self._run, self._room = run, cache
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()
        self._decoding = threading.Semaphore(max(1, (os.cpu_count() or 1)))  # an image may have many millions of pixels

    def made(self, tar: str, offset: int, size: int) -> bytes:
        """Return the bytes of an image that a stage made. Raises FileNotFoundError if its part is no longer there."""
        return self._run.store.read(tar, offset, size)

    def given(self, row: int) -> bytes:
        """Return the bytes of the input's image of sample ``row``. Raises ImageError if there is none, or other bytes stand there now."""
        with self._run.connect(1) as db:
            found = fetch(db, f"SELECT image_uri, image_sha256 FROM {self._run.samples_sql((row, row + 1))} WHERE image_sha256 IS NOT NULL")
        if not found:
            raise images.ImageError(f"sample {row} has no image")
        data = images.read_image_bytes(found[0]["image_uri"])
        if hashlib.sha256(data).hexdigest() != found[0]["image_sha256"]:
            raise images.ImageError(f"the image of sample {row} has changed since it was read in", "give the command that read it again")
        return data

    def thumbnail(self, key: Hashable, read: Callable[[], bytes]) -> bytes:
        """Return a WebP of at most :data:`SIDE` pixels of the image that ``read`` gives, or the one that is kept under ``key``."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        small = self._shrink(read())
        with self._lock:
            if key not in self._kept:
                self._kept[key] = small
                self._size += len(small)
            while self._size > self._room:
                self._size -= len(self._kept.popitem(last=False)[1])
        return small

    def _shrink(self, data: bytes) -> bytes:
        with self._decoding:
            image = images.decode(data)
            image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
            out = io.BytesIO()
            image.save(out, "webp", quality=82, method=2)
        return out.getvalue()

    def whole(self, data: bytes) -> tuple[bytes, str]:
        """Return an image file as a browser shows it, and its media type: the bytes themselves where it knows the format. Raises ImageError."""
        kind, _, _ = images.measure(io.BytesIO(data))
        if kind in MEDIA:
            return data, MEDIA[kind]
        with self._decoding:
            return images.encode(images.decode(data), "png"), "image/png"
