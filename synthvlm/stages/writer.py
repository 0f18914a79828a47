"""Gather finished rows and commit them as parts, at least about once a minute, beside the device's work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from synthvlm import parts
from synthvlm.run import RunDirectory, Stage

COMMIT_BYTES = 256 << 20


class PartWriter:
    """Rows of one stage waiting for their part. Any thread may flush: what is done is never lost to a stop."""

    def __init__(
        self, run: RunDirectory, stage: Stage, seconds: float, info: Callable[[], Mapping[str, Any]], committed: Callable[[str, int], None]
    ) -> None:
        self._run, self._stage, self._seconds, self._info, self._committed = run, stage, seconds, info, committed
        self.of_images = stage.kind == "generate"
        self._several = stage.kind in ("caption", "judge")
        """Rows of several shards come mixed: each shard's part then waits until it is due."""
        self._lock = threading.RLock()
        self._rows: dict[int, list[dict[str, Any]]] = {}
        self._tables: list[Any] = []
        """Arrow tables of one shard, where rows come by the thousand."""
        self._of_tables = -1
        self._pixels: dict[str, tuple[str, bytes]] = {}
        self._bytes = 0
        self._since = time.monotonic()

    def add(self, shard: int, rows: list[dict[str, Any]], pixels: Mapping[str, tuple[str, bytes]] | None = None) -> None:
        """Take finished rows (and pixels by key) of ``shard``."""
        with self._lock:
            if self._rows and shard not in self._rows and not self._several:
                self.flush()
            if not self._rows:
                self._since = time.monotonic()
            self._rows.setdefault(shard, []).extend(rows)
            self._pixels |= pixels or {}
            self._bytes += sum(len(data) for _, data in (pixels or {}).values())

    def add_table(self, shard: int, table: Any) -> None:
        """Take finished rows of ``shard`` as an Arrow table in the stage's schema."""
        with self._lock:
            if self._tables and shard != self._of_tables:
                self.flush()
            if not self._tables:
                self._since = time.monotonic()
            self._of_tables = shard
            self._tables.append(table)

    @property
    def due(self) -> bool:
        """Say whether what waits should be committed now."""
        return bool(self._rows or self._tables) and (time.monotonic() - self._since >= self._seconds or self._bytes >= COMMIT_BYTES)

    def flush(self) -> None:
        """Commit what waits."""
        with self._lock:
            if not (self._rows or self._tables):
                return
            info = dict(self._info()) | {"seconds": round(time.monotonic() - self._since, 3), "stage": self._stage.digest}
            if self._stage.columns:  # what the numbers are stays with them, whatever becomes of stage.json
                info |= {"columns": self._stage.columns, "cards": self._stage.cards}
            if self._tables:
                count = parts.commit_table(self._run.store, self._stage.name, self._of_tables, self._tables, info)
                self._tables = []
                self._committed(self._stage.name, count)
            for shard in sorted(self._rows):
                rows = sorted(self._rows[shard], key=lambda r: (r["row"], r["candidate"], r.get("perspective", "")))
                parts.commit(self._run.store, self._stage.name, shard, self._stage.schema, rows, self._pixels, info)
                del self._rows[shard]
                info = info | {"seconds": 0.0}  # counted with the first
                self._committed(self._stage.name, len(rows))
            self._pixels, self._bytes = {}, 0
