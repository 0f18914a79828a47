"""Follow a run that may be going on: read what its parts and logs say while a page looks, and tell how far each stage is. No lock is taken."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Any

import duckdb

from synthvlm import parts
from synthvlm.errors import SynthVLMError
from synthvlm.run import fetch
from synthvlm.sql import identifier
from synthvlm.web.catalogue import Catalogue

EVERY = 2.0
"""Seconds between looks."""
LOOKED_AT = 15.0
"""Seconds after the last question until nobody is taken to look any more."""
WINDOW = 600.0
"""Seconds over which a rate is told."""
ACTIVE = 180.0
"""Seconds after the newest part until a run is no longer taken to go on: a part is written about once a minute."""
_TAIL = 4096


class Live:
    """Keeps a catalogue up to date in a thread of its own, and tells of progress."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.trouble: str | None = None
        """Why the run cannot be read now."""
        self.ready = threading.Event()
        """The catalogue has been read once."""
        self._asked = time.monotonic()
        self._stop = threading.Event()
        self._told: tuple[int, list[dict[str, Any]]] = (-1, [])
        self._written: dict[str, tuple[float, int]] = {}
        self._db = catalogue.cursor()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._follow, name="catalogue", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """End it, and wait for that."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _follow(self) -> None:
        while not self._stop.is_set():
            if time.monotonic() - self._asked < LOOKED_AT or not self.ready.is_set():
                self._look()
            self._stop.wait(EVERY)

    def _look(self) -> None:
        try:
            self.catalogue.refresh(self._stop.is_set)
            self.trouble = None
        except (SynthVLMError, OSError, duckdb.Error) as error:  # such as a run that is being made anew: it is looked at again
            self.trouble = error.message if isinstance(error, SynthVLMError) else str(error).splitlines()[0]
        self.ready.set()

    def tell(self) -> dict[str, Any]:
        """Return what there is now: the catalogue's version and how much of it is read, the stages, whether the run goes on, the last log line."""
        self._asked = time.monotonic()
        with self._lock:
            version = self.catalogue.version
            if self._told[0] != version:
                self._told = (version, self._stages())
            stages, newest = self._with_rates(self._told[1])
        done, of = self.catalogue.progress
        missing = any(s["wanted"] > s["made"] + s["failed"] for s in stages)
        return {
            "version": version,
            "read": done,
            "to_read": of,
            "stages": stages,
            "reached": self._reached,
            "reasons": self._reasons,
            "active": missing and newest is not None and time.time() - newest < ACTIVE,
            "newest": newest,
            "log": self._last_line(),
            "trouble": self.trouble,
        }

    # -- counting ------------------------------------------------------------------------------------------------------

    def _stages(self) -> list[dict[str, Any]]:
        """Count the lines of each stage; also how many have come to which one, and failed for what."""
        shape = self.catalogue.shape
        counted = fetch(self._db, "SELECT stage, reason, count(*) AS n FROM pairs GROUP BY stage, reason ORDER BY n DESC, stage, reason")
        self._reached: dict[str, int] = {}
        self._reasons: dict[str, int] = {}
        for r in counted:
            self._reached[r["stage"]] = self._reached.get(r["stage"], 0) + r["n"]
            if r["reason"] is not None:
                self._reasons[r["reason"]] = self._reasons.get(r["reason"], 0) + r["n"]
        failed: dict[str, int] = {}
        for r in counted:
            if r["reason"] is not None:
                failed[r["stage"]] = failed.get(r["stage"], 0) + r["n"]
        lines = sum(self._reached.values()) - self._reached.get("curation", 0)
        made = lines - self._reached.get("waiting", 0) - failed.get(shape.images.name, 0) if shape.images else lines
        told = []
        if shape.images:
            told.append(_told(shape.images, lines, made, failed))
        for stage in shape.scores:
            column = next((n for n, (s, _) in shape.columns.items() if s is stage), None)
            have = f"SELECT count({identifier(column)}) FROM pairs" if column else "SELECT 0"
            told.append(_told(stage, made, self._db.execute(have).fetchall()[0][0], failed))
        if shape.captions:
            have = self._db.execute("SELECT coalesce(sum(captions), 0)::BIGINT FROM pairs").fetchall()[0][0]
            if len(shape.captions) == 1:
                stage = shape.captions[0]
                told.append(_told(stage, made * len(stage.perspectives), have, failed))
            else:  # the lines count the captions of all models together
                wanted = made * sum(len(s.perspectives) for s in shape.captions)
                lost = sum(failed.get(s.name, 0) for s in shape.captions)
                told.append({"name": "captions", "kind": "caption", "wanted": wanted, "made": have, "failed": lost})
        return told

    def _with_rates(self, stages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], float | None]:
        """Add rows per second to stages whose parts are being written; also return when the newest part of all was."""
        run = self.catalogue.run
        if not run.store.is_local:  # each part would be asked for over the network
            return stages, None
        now, newest, told = time.time(), None, []
        seen: dict[str, tuple[float, int]] = {}
        by_stage: dict[str, list[tuple[float, int]]] = {}
        for stage in self.catalogue.shape.stages:
            for part in parts.list_parts(run.store, stage.name):
                with contextlib.suppress(OSError, ValueError):  # merged away meanwhile
                    seen[part.path] = self._written.get(part.path) or self._look_at(part, now)
                    by_stage.setdefault(stage.name, []).append(seen[part.path])
        self._written = seen
        for at, _ in seen.values():
            newest = at if newest is None else max(newest, at)
        for s in stages:
            names = [c.name for c in self.catalogue.shape.captions] if s["name"] == "captions" else [s["name"]]
            late = sorted(w for n in names for w in by_stage.get(n, []) if w[1] and now - w[0] < WINDOW)
            span = late[-1][0] - late[0][0] if len(late) > 1 else 0
            told.append(s | {"rate": sum(n for _, n in late[1:]) / span if span > 1 else None})
        return told, newest

    def _look_at(self, part: parts.Part, now: float) -> tuple[float, int]:
        """Return when a part was written and how many rows it has: 0 of old and of merged ones, which tell no rate."""
        import pyarrow.parquet as pq

        store = self.catalogue.run.store
        at = store.modified(part.path)
        if now - at > WINDOW or part.first != part.last:
            return at, 0
        return at, pq.read_metadata(store.path(part.path)).num_rows

    def _last_line(self) -> dict[str, Any] | None:
        """Return the last line of the log that was written last."""
        store = self.catalogue.run.store
        if not store.is_local:
            return None
        with contextlib.suppress(OSError, ValueError):
            name = max(store.list("logs", ".log"), key=lambda n: store.modified(f"logs/{n}"))
            size = store.size(f"logs/{name}") or 0
            lines = store.read(f"logs/{name}", max(0, size - _TAIL)).decode(errors="replace").strip().splitlines()
            return {"name": os.path.basename(name), "line": lines[-1][:300] if lines else "", "at": store.modified(f"logs/{name}")}
        return None


def _told(stage: Any, wanted: int, made: int, failed: dict[str, int]) -> dict[str, Any]:
    return {"name": stage.name, "kind": stage.kind, "wanted": wanted, "made": made, "failed": failed.get(stage.name, 0)}
