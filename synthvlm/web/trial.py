"""What another weight or another top-K would change: the ranking of ``select``, on the catalogue's scores, against the run's selection.

Nothing is written into the run. The tables are in the catalogue's database ``trial``: ``base`` (what is selected now), ``chosen`` (what
would be), ``marked`` (the marks of the images that there are), and those that :mod:`synthvlm.selecting.rank` and :mod:`synthvlm.marks` make.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from synthvlm import marks
from synthvlm.errors import OptionError
from synthvlm.run import fetch
from synthvlm.select import TOP, default_weights, means
from synthvlm.selecting.rank import Ranking, make_groups, make_quotas, normalised, rank
from synthvlm.sql import identifier
from synthvlm.web.catalogue import Catalogue


@dataclass(frozen=True)
class Settings:
    """How the pairs of a trial are ranked."""

    weights: tuple[tuple[str, float], ...]
    top: str
    threshold: float | None = None


class Trial:
    """The trials of one catalogue, one at a time: hold :attr:`lock` while its tables are read."""

    def __init__(self, catalogue: Catalogue, selection: str = "default") -> None:
        self.catalogue, self.selection = catalogue, selection
        self.lock = threading.RLock()
        self.version = 0
        """Raised whenever a table has changed."""
        self._db = catalogue.cursor()
        self._db.execute("USE trial")
        for name in ("base", "chosen"):
            self._db.execute(f"CREATE TABLE {name} (row BIGINT, candidate INTEGER)")
        self._seen: dict[str, Any] = {}
        self._told: dict[str, Any] = {}
        self._ranked: Any = None
        self.read_marks()
        self.read_selection()

    # -- the run's own selection and marks -----------------------------------------------------------------------------

    @property
    def record(self) -> dict[str, Any] | None:
        """Return what the run's selection says of itself, or None if there is none of these images."""
        found = self.catalogue.run.store.read_json(f"selections/{self.selection}.json")
        images = self.catalogue.shape.images
        return found if found and images and found.get("images") == images.name else None

    def start(self) -> dict[str, Any] | None:
        """Return where the sliders stand at first: as the selection has it, or by default; None if nothing can be ranked."""
        columns = self.catalogue.shape.weighable
        if not columns:
            return None
        record = self.record
        weights = {c: w for c, w in (record["weights"] if record else default_weights(columns)).items() if c in columns}
        asked = record.get("asked", {}) if record else {}
        own = {c: limit for stage in self.catalogue.shape.scores for c, limit in stage.limits.items()}
        limits: Mapping[str, Any] = asked.get("limits", {}) if record else own
        return {
            "weights": weights or {columns[0]: 1.0},
            "top": record["top"] if record else TOP,
            "selection": self.selection if record else None,
            "columns": columns,
            "asked": {k: v for k, v in asked.items() if v not in (None, "none") and k != "limits"},
            "limits": {c: (least, most) for c, (least, most) in limits.items() if c in columns},
        }

    def read_marks(self) -> None:
        """Take over the marks as they stand in the run."""
        with self.lock:
            marks.place(self.catalogue.run, self._db, self.catalogue.shape.images)
            self._changed("marks")

    def read_selection(self) -> None:
        """Make ``base`` of the run's selection, if that was made or made anew since the last time."""
        with self.lock:
            stamp = self._stamp()
            if stamp != self._seen.get("selection", "not read yet"):
                self._seen["selection"] = stamp
                file = f"selections/{self.selection}.parquet"
                if self.record and self.catalogue.run.store.exists(file):
                    self._db.execute(f"CREATE OR REPLACE TABLE base AS SELECT row, candidate FROM {self.catalogue.run.read_sql([file])}")
                else:
                    self._db.execute("DELETE FROM base")
                self._changed()

    def _changed(self, *what: str) -> None:
        for name in what:
            self._seen[name] = self._seen.get(name, 0) + 1
        self.version += 1

    # -- a trial -------------------------------------------------------------------------------------------------------

    def settle(self, settings: Settings | None = None) -> dict[str, Any]:
        """Make ``base`` and ``chosen`` by ``settings`` (by default those of the selection); return what changes. Raises OptionError or RunError.

        ``selected``, ``enter``, ``leave``: pairs; ``threshold``: the least total that is in without a mark; ``before`` and ``after``: the
        means of each score; ``command``: what selects this.
        """
        with self.lock:
            start = self.start()
            if start is None:
                return {"selected": 0, "enter": 0, "leave": 0}
            settings = settings or Settings(tuple(start["weights"].items()), start["top"], start["asked"].get("threshold"))
            self.read_selection()
            state = (self.catalogue.version, self._seen.get("marks"), self._seen["selection"])
            if self._told.get("key") != (state, settings):
                self._told = {}
                if self._seen.get("state") != state:
                    self._prepare(start, state)
                self._told = {"key": (state, settings), "told": self._compare(start, settings)}
            return self._told["told"]

    def _stamp(self) -> Any:
        """Return what changes when the selection is made anew."""
        store = self.catalogue.run.store
        name = f"selections/{self.selection}.json"
        return store.modified(name) if store.exists(name) else None

    def _prepare(self, start: Mapping[str, Any], state: Any) -> None:
        """Make what every trial on this state of the run starts from: the scores and the groups."""
        db, shape = self._db, self.catalogue.shape
        self._ranked = None
        columns = ", ".join(map(identifier, shape.weighable))
        # A copy, slim and in memory: a trial reads it several times over.
        db.execute(f"CREATE OR REPLACE TABLE gathered AS SELECT row, candidate, stored, {columns} FROM catalogue.pairs WHERE scored")
        db.execute("DROP TABLE IF EXISTS captions")
        make_groups(self.catalogue.run, db, start["asked"].get("group_by"))
        if start["selection"] is None:  # nothing is selected yet: compare with what would be by default
            self._choose(start, Settings(tuple(start["weights"].items()), start["top"]))
            db.execute("CREATE OR REPLACE TABLE base AS SELECT row, candidate FROM chosen")
        self._seen["state"] = state
        self._changed()

    def _choose(self, start: Mapping[str, Any], settings: Settings) -> None:
        """Make ``chosen``, by the rule of ``select``."""
        db, asked = self._db, start["asked"]
        group_by, normalise = asked.get("group_by"), asked.get("normalise", "none")
        ranking = Ranking(dict(settings.weights), settings.top, settings.threshold, group_by, normalise, start["limits"])
        ranking.check(self.catalogue.shape.weighable)
        if not ranking.weights:
            raise OptionError("no score has a weight", "give at least one")
        if self._ranked != (settings.weights, settings.threshold):  # moving the top alone leaves the ranking as it is
            self._ranked = None
            rank(db, ranking, normalised(db, ranking.weights, ranking.normalise))
            self._ranked = (settings.weights, settings.threshold)
        make_quotas(db, ranking.top, "scored" if ranking.limits else "best")
        if any(marks.act(db, ranking).values()):
            self._ranked = None  # marks have changed its tables
        empty = not db.execute("SELECT count(*) FROM quotas").fetchall()[0][0]
        source = "SELECT * FROM standing" if empty else marks.chosen_sql(db)
        db.execute(f"CREATE OR REPLACE TABLE chosen AS SELECT * FROM ({source})")
        self._changed()

    def _compare(self, start: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
        self._choose(start, settings)
        db, columns = self._db, self.catalogue.shape.weighable
        both = "SELECT row, candidate FROM {} EXCEPT SELECT row, candidate FROM {}"
        counts = [("enter", "chosen", "base"), ("leave", "base", "chosen")]
        told: dict[str, Any] = {n: db.execute(f"SELECT count(*) FROM ({both.format(a, b)})").fetchall()[0][0] for n, a, b in counts}
        told |= fetch(
            db,
            "SELECT count(*) AS selected, min(total) FILTER ((row, candidate) NOT IN (SELECT row, candidate FROM kept)) AS threshold FROM chosen",
        )[0]
        told["base"] = db.execute("SELECT count(*) FROM base").fetchall()[0][0]
        told["captions"] = db.execute("SELECT coalesce(sum(captions), 0)::BIGINT FROM quotas").fetchall()[0][0]
        named = {"after": "chosen", "before": "(SELECT s.* FROM scored s SEMI JOIN base USING (row, candidate))"}
        told |= {n: {c: v for c, v in means(db, table, columns).items() if c in (*columns, "total")} for n, table in named.items()}
        told["command"] = self._command(start, settings)
        return told

    def _command(self, start: Mapping[str, Any], settings: Settings) -> str:
        """Return the command that selects what the trial shows."""
        words = ["synthvlm", "select", str(self.catalogue.run.root), "--top", settings.top]
        for column, weight in settings.weights:
            words += ["--weight", f"{column}={weight:g}"]
        asked = start["asked"] | ({"threshold": settings.threshold} if settings.threshold is not None else {})
        for option, value in asked.items():
            words += [f"--{option.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else str(value)]
        for column, (least, most) in start["limits"].items():
            words += ["--within", f"{column}={'' if least is None else f'{least:g}'}..{'' if most is None else f'{most:g}'}"]
        return shlex.join([*words, *(["--as", self.selection] if self.selection != "default" else [])])
