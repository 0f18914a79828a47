"""The bytes of a pair's pictures, wherever they lie: in this run, in another one, or in files."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from typing import Any

from synthvlm import images
from synthvlm.run import RunDirectory, steadily
from synthvlm.sample import Failed
from synthvlm.sql import quote

Pair = Mapping[str, Any]


class Pictures:
    """Reads pictures of pairs; any thread may."""

    def __init__(self, run: RunDirectory) -> None:
        self._runs: dict[str | None, RunDirectory] = {None: run}
        self._lock = threading.Lock()

    def read(self, pair: Pair, side: str) -> bytes | Failed:
        """Return the bytes of the picture of side ``a`` or ``b``, which have the hash that the pair tells; or why they cannot be had."""
        uri, tar, sha256 = (pair[f"{side}_{name}"] for name in ("uri", "tar", "sha256"))
        if tar is None:
            try:
                data = images.read_image_bytes(uri)
            except images.ImageError as error:
                return Failed(error.message, "ImageError")
            if hashlib.sha256(data).hexdigest() != sha256:
                return Failed(f"{uri} has changed since the pairs were drawn: give the same command again", "ImageChanged")
            return data
        run = self._run(pair[f"{side}_run"])
        try:
            data = _stored(run, tar, pair[f"{side}_offset"], pair[f"{side}_bytes"], sha256)
            if data is None:  # its part may have been merged into a larger one
                data = next((d for place in _places(run, pair[f"{side}_stage"], sha256) if (d := _stored(run, *place, sha256))), None)
        except OSError as error:
            return Failed(f"the image cannot be read: {error.strerror or error}", type(error).__name__)
        if data is None:
            return Failed(f"its pixels are no longer in {run.root}: synthvlm regenerate makes them again", "ImageGone")
        return data

    def _run(self, root: str | None) -> RunDirectory:
        with self._lock:
            if root not in self._runs:
                self._runs[root] = RunDirectory.open(str(root))
            return self._runs[root]


def _stored(run: RunDirectory, tar: str, offset: int, size: int, sha256: str) -> bytes | None:
    """Return stored bytes, or None if they are not what they should be."""
    try:
        data = run.store.read(tar, offset, size)
    except FileNotFoundError:
        return None
    return data if hashlib.sha256(data).hexdigest() == sha256 else None


def _places(run: RunDirectory, stage: str, sha256: str) -> list[tuple[str, int, int]]:
    """Return where a stage has these pixels now."""

    def read() -> list[tuple[str, int, int]]:
        found = run.parts_sql(run.stage(stage), None, 'sha256, tar, "offset", bytes')
        if found is None:
            return []
        with run.connect(threads=1) as db:
            return db.execute(f'SELECT tar, "offset", bytes FROM {found} WHERE sha256 = {quote(sha256)} AND tar IS NOT NULL').fetchall()

    return steadily(read)
