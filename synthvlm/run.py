"""A run directory: its samples, its stages, and the one rule of progress, *work to do = wanted keys - present keys*.

Keys are computed by DuckDB, for a shard or for everything at once, by the same SQL.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self, TypeVar

import duckdb

from synthvlm import caption_rows, parts
from synthvlm.errors import RunError, RunMismatch
from synthvlm.judging import wanted
from synthvlm.options import digest
from synthvlm.sql import fetch, nothing, quote
from synthvlm.storage import Store

__all__ = ["RunDirectory", "Stage", "fetch", "image_seed", "quote", "row_key", "steadily"]

FORMAT = 1
SAMPLES_PER_FILE = 10_000
SEPARATOR = "\x1f"
T = TypeVar("T")


@dataclass
class Stage:
    """One table of a run: what makes it (identity), how (runtime), and what it reads."""

    name: str
    kind: str
    """``generate``, ``score``, ``caption`` or ``judge``."""
    plugins: list[dict[str, Any]]
    """Name, distribution, version and all options of each plugin, for the record."""
    identity: dict[str, Any]
    reads: dict[str, str]
    shard_size: int
    """Samples per shard; fixed when the stage is made, since parts are named by shard."""
    repeat: int = 1
    columns: list[str] = field(default_factory=list)
    cards: dict[str, Any] = field(default_factory=dict)
    perspectives: dict[str, Any] = field(default_factory=dict)
    """Of a caption stage: name → record (:mod:`synthvlm.perspectives`). Not part of the identity: each row consumes its own."""
    runtime: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Return the identity's digest, which every key of the stage contains."""
        return digest(self.identity)

    @property
    def schema(self) -> Any:
        """Return the Arrow schema of the stage's rows."""
        fixed = {"generate": parts.IMAGES, "caption": parts.CAPTIONS, "judge": parts.VERDICTS}
        return fixed.get(self.kind) or parts.scores_schema(self.columns, self.cards)

    def rows(self, shard: int) -> tuple[int, int]:
        """Return the half-open range of a shard's samples."""
        return shard * self.shard_size, (shard + 1) * self.shard_size

    @property
    def limits(self) -> dict[str, tuple[float | None, float | None]]:
        """Return the limits that columns carry on their cards: those of safety scorers do."""
        return {c: (card["limit"][0], card["limit"][1]) for c, card in self.cards.items() if card.get("limit")}

    @property
    def reads_pixels(self) -> bool:
        """Say whether it reads images that another stage made: those whose pixels were not kept are then out of reach."""
        return self.kind in ("score", "caption") and self.reads.get("image", "samples") != "samples"

    @property
    def reads_text(self) -> bool:
        """Say whether it reads captions alone."""
        return "image" not in self.reads

    @property
    def order(self) -> str:
        """Return the SQL names of the columns by which its rows are ordered."""
        return "row, candidate" + {"caption": ", position", "judge": ", flipped"}.get(self.kind, "")


def row_key(*values: Any) -> str:
    """Return the key of a row from the digest of its stage and the values that it consumed (MD5, as DuckDB's ``md5`` has it)."""
    return hashlib.md5(SEPARATOR.join(str(v) for v in values).encode(), usedforsecurity=False).hexdigest()


def image_seed(run_seed: int, sample_id: str, candidate: int) -> int:
    """Return an image's seed (32 bits: torch's CPU generator uses no more), from run seed, sample id and candidate alone."""
    return int.from_bytes(hashlib.sha256(SEPARATOR.join((str(run_seed), sample_id, str(candidate))).encode()).digest()[:4], "big")


class RunDirectory:
    """A run on disk or on an object store."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.store = Store(root)
        self.root = os.fspath(root)
        self._damaged: set[str] = set()
        """Parts that ``check`` found damaged: they count no more for this object."""

    # -- the run's own record ------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, root: str | os.PathLike[str], *, seed: int | None = None) -> Self:
        """Open a run, or make it. Raises RunMismatch if it has another seed, RunError if the folder holds something else."""
        run = cls(root)
        record = run.store.read_json("run.json")
        if record is None:
            if run.store.list(""):
                raise RunError(f"{run.root} is not empty and holds no run", "choose a new folder with --out")
            run.store.put_json("run.json", {"format": FORMAT, "seed": seed or 0, "sources": []})
        elif seed is not None and record["seed"] != seed:
            raise RunMismatch(f"{run.root} was made with seed {record['seed']}, not {seed}", "keep its seed, or choose another --out")
        return run

    @classmethod
    def open(cls, root: str | os.PathLike[str]) -> Self:
        """Open an existing run; raises RunError if there is none."""
        run = cls(root)
        if run.store.read_json("run.json") is None:
            raise RunError(
                f"there is no run in {run.root}", "make one with: synthvlm synth CAPTIONS --out RUN, or synthvlm recaption IMAGES --out RUN"
            )
        return run

    @property
    def record(self) -> dict[str, Any]:
        """Return ``run.json``."""
        record = self.store.read_json("run.json") or {}
        if record.get("format", FORMAT) > FORMAT:
            raise RunError(f"{self.root} was made by a newer SynthVLM", "upgrade: pip install -U synthvlm")
        return record

    @property
    def seed(self) -> int:
        """Return the run's seed, from which every image's seed follows."""
        return int(self.record["seed"])

    # -- stages --------------------------------------------------------------------------------------------------------

    def stage_names(self) -> list[str]:
        """List the stages of the run."""
        return [n for n in self.store.list("") if self.store.exists(f"{n}/stage.json")]

    def stage(self, name: str) -> Stage:
        """Return a stage; raises RunError, naming those there are, if there is none of that name."""
        record = self.store.read_json(f"{name}/stage.json")
        if record is None:
            raise RunError(f"{self.root} has no stage {name!r}", f"it has: {', '.join(self.stage_names()) or 'none'}")
        return Stage(**record)

    def ensure_stage(self, wanted: Stage, overwrite: bool = False, dry: bool = False) -> Stage:
        """Return the stage of that name, made or brought up to date. Raises RunMismatch if its identity is another.

        Runtime settings are taken over. ``repeat`` only grows, and perspectives are only added or reworded: what is there stays of
        use. ``dry`` writes nothing.
        """
        record = self.store.read_json(f"{wanted.name}/stage.json")
        if record is not None:
            have = Stage(**record)
            if not overwrite:
                self._refuse_mismatch(have, wanted)
            wanted.shard_size = have.shard_size
            if have.digest == wanted.digest:
                wanted.repeat = max(wanted.repeat, have.repeat)
                wanted.columns, wanted.cards = have.columns, have.cards
                if not overwrite:
                    wanted.perspectives = have.perspectives | wanted.perspectives
        if record != asdict(wanted) and not dry:
            self.store.put_json(f"{wanted.name}/stage.json", asdict(wanted))
        return wanted

    def _refuse_mismatch(self, have: Stage, wanted: Stage) -> None:
        found = list(differences({**have.identity, "reads": have.reads}, {**wanted.identity, "reads": wanted.reads}))
        if found:
            what, old, new = found[0]
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise RunMismatch(
                f"stage {have.name!r} of {self.root} was made with {what}={old!r}, now asked for {new!r}{more}",
                "keep both: --as NAME makes another stage; or --overwrite replaces this one",
            )

    # -- samples, wanted and present keys ------------------------------------------------------------------------------

    def connect(self, threads: int | None = None) -> duckdb.DuckDBPyConnection:
        """Return a DuckDB connection that reads this run's files."""
        connection = duckdb.connect()
        if threads:
            connection.execute(f"SET threads = {int(threads)}")
        if not self.store.is_local:
            connection.register_filesystem(self.store.fs)
        return connection

    def sample_count(self) -> int:
        """Return how many samples the run has."""
        names = self.store.list("samples", ".parquet")
        if not names:
            return 0
        with self.connect(1) as c:
            last = self.read_sql([f"samples/{names[-1]}"])
            return (len(names) - 1) * SAMPLES_PER_FILE + c.execute(f"SELECT count(*) FROM {last}").fetchall()[0][0]

    def samples_sql(self, rows: tuple[int, int] | None = None) -> str:
        """Return SQL for the samples, or for those of the half-open range of rows."""
        names = self.store.list("samples", ".parquet")
        if rows is not None:
            names = names[rows[0] // SAMPLES_PER_FILE : -(-rows[1] // SAMPLES_PER_FILE)]
        where = "" if rows is None else f" WHERE row >= {rows[0]} AND row < {rows[1]}"
        texts = [(c, "string") for c in ("id", "caption", "image", "meta")]
        none = nothing([("row", "int64"), *texts, ("source", "int32"), ("image_uri", "string"), ("image_sha256", "string")])
        if not names:
            return f"({none})"
        # By name, beside no row at all: files that were written before images could be read lack their columns.
        return f"({none} UNION ALL BY NAME SELECT * FROM {self.read_sql(f'samples/{n}' for n in names)}{where})"

    def curated_sql(self, stage: Stage, rows: tuple[int, int] | None = None) -> str:
        """Return SQL for the samples that ``stage`` may take: all, or those whose caption, as it now is, its curation keeps.

        Raises RunError if that curation is not there.
        """
        name = stage.runtime.get("curation")
        if not name:
            return self.samples_sql(rows)
        if not self.store.exists(f"curation/{name}.parquet"):
            raise RunError(f"{self.root} has no curation {name!r}", "make it first: synthvlm curate RUN")
        within = "" if rows is None else f" AND row >= {rows[0]} AND row < {rows[1]}"
        kept = f"(SELECT row, caption_md5 FROM {self.read_sql([f'curation/{name}.parquet'])} WHERE keep{within})"
        return f"(SELECT s.* FROM {self.samples_sql(rows)} s SEMI JOIN {kept} k ON k.row = s.row AND k.caption_md5 = md5(s.caption))"

    def parts_sql(self, stage: Stage, rows: tuple[int, int] | None = None, columns: str = "*") -> str | None:
        """Return SQL for what stands in committed parts, stale rows included, or None if there is no part."""
        if stage.kind == "judge":
            rows = None  # pairs are numbered anew when they are drawn again, so a verdict may lie in any shard's part
        shards = None if rows is None else (rows[0] // stage.shard_size, max(rows[0], rows[1] - 1) // stage.shard_size)
        found = [p for p in parts.list_parts(self.store, stage.name, shards) if p.path not in self._damaged]
        if not found:
            return None
        return f"(SELECT {columns} FROM {self.read_sql(p.path for p in found)})"

    def read_sql(self, names: Iterable[str], more: str = "") -> str:
        """Return SQL that reads Parquet files of the run, by their names and no other: no globbing, no columns out of a path.

        ``more``: further settings of DuckDB's ``read_parquet``.
        """
        urls = ", ".join(quote(re.sub(r"([*?\[])", r"[\1]", self.store.url(n))) for n in names)
        return f"read_parquet([{urls}], union_by_name = true, hive_partitioning = false{', ' + more if more else ''})"

    def wanted_sql(self, stage: Stage, rows: tuple[int, int] | None = None) -> str:
        """Return SQL for the keys that ``stage`` wants, each with the values it consumes."""
        head = quote(stage.digest)
        if stage.kind == "generate":
            return f"""(SELECT md5(concat_ws(chr(31), {head}, id, caption, candidate)) AS key, row, id, candidate::INTEGER AS candidate, caption
                FROM {self.curated_sql(stage, rows)}, range({stage.repeat}) r(candidate) WHERE caption IS NOT NULL)"""
        if stage.kind == "caption":
            return caption_rows.wanted_sql(self, stage, rows)
        if stage.kind == "judge":
            return wanted.wanted_sql(self, stage, rows)
        if stage.reads.get("image", "samples") == "samples":
            image = "NULL::VARCHAR" if stage.reads_text else "image_sha256"
            return f"""(SELECT md5(concat_ws(chr(31), {head}, id, caption, {image})) AS key, row, id, 0::INTEGER AS candidate, caption,
                {image} AS sha256, image_uri, NULL::BIGINT AS bytes, true AS stored, NULL::VARCHAR AS tar, NULL::BIGINT AS "offset"
                FROM {self.curated_sql(stage, rows)} WHERE caption IS NOT NULL{"" if stage.reads_text else f" AND {image} IS NOT NULL"})"""
        images = self.table_sql(self.stage(stage.reads["image"]), rows)
        return f"""(SELECT md5(concat_ws(chr(31), {head}, id, caption, sha256, candidate)) AS key, row, id, candidate, caption,
                sha256, bytes, stored, tar, "offset" FROM {images} WHERE error IS NULL)"""

    def table_sql(self, stage: Stage, rows: tuple[int, int] | None = None) -> str:
        """Return SQL for the table: rows that are wanted and present, one per key, with their caption.

        Of several rows with one key (two workers on one shard, a failure tried again) a success wins, then the latest try.
        """
        present = self.parts_sql(stage, rows)
        beside = [("caption", "string"), *([("position", "int32")] if stage.kind == "caption" else [])]
        if present is None:
            return f"({nothing([*((f.name, str(f.type)) for f in stage.schema), *beside])})"
        stored = ", stored DESC" if stage.kind == "generate" else ""
        once = f"QUALIFY row_number() OVER (PARTITION BY key ORDER BY error IS NOT NULL{stored}, tries DESC) = 1"
        return f"""(SELECT p.* EXCLUDE (row), w.row, {", ".join(f"w.{name}" for name, _ in beside)} FROM {self.wanted_sql(stage, rows)} w
                JOIN (SELECT * FROM {present} {once}) p USING (key))"""

    def pending_sql(self, stage: Stage, rows: tuple[int, int] | None = None, retry_failed: bool = False) -> str:
        """Return SQL for the rows still to be made, with what making them takes."""
        settled = "key, tries, error"
        present = self.parts_sql(stage, rows, settled) or "(SELECT '' AS key, 0 AS tries, '' AS error WHERE false)"
        done = "WHERE error IS NULL" if retry_failed else ""
        # What reads an image whose pixels were not kept can no longer be made.
        at_hand = "WHERE stored" if stage.reads_pixels else ""
        tries = (
            f"(SELECT key, max(tries) AS tries FROM {present} GROUP BY key)"
            if retry_failed
            else "(SELECT '' AS key, 0 AS tries WHERE false)"
        )
        return f"""(SELECT w.*, coalesce(t.tries, 0) AS tries FROM (SELECT * FROM {self.wanted_sql(stage, rows)} {at_hand}) w
                LEFT JOIN {tries} t USING (key) ANTI JOIN (SELECT key FROM {present} {done}) d USING (key))"""

    def pending_shards(self, stage: Stage, retry_failed: bool = False) -> list[tuple[int, int]]:
        """Return (shard, rows to make) for every shard with work to do, in order."""

        def read() -> list[tuple[int, int]]:
            with self.connect() as c:
                pending = self.pending_sql(stage, None, retry_failed)
                return c.execute(
                    f"SELECT row // {stage.shard_size} AS shard, count(*) FROM {pending} GROUP BY shard ORDER BY shard"
                ).fetchall()

        return steadily(read)

    def pending_images(self, stage: Stage, retry_failed: bool = False) -> int:
        """Return of how many images rows are still to be made."""

        def read() -> int:
            with self.connect() as c:
                return c.execute(f"SELECT count(DISTINCT (row, candidate)) FROM {self.pending_sql(stage, None, retry_failed)}").fetchall()[
                    0
                ][0]

        return steadily(read)

    def pending_rows(
        self, connection: duckdb.DuckDBPyConnection, stage: Stage, shard: int, retry_failed: bool = False
    ) -> list[dict[str, Any]]:
        """Return the rows of one shard still to be made, in order of sample and candidate."""

        def read() -> list[dict[str, Any]]:  # the parts are listed at every try: another process may be merging them
            return fetch(connection, f"SELECT * FROM {self.pending_sql(stage, stage.rows(shard), retry_failed)} ORDER BY {stage.order}")

        return steadily(read)

    def tally(self, stage: Stage) -> dict[str, Any]:
        """Count a stage's rows: wanted, made, failed (by reason); ``without_pixels`` can no longer be made. Of captions also by perspective."""
        return steadily(lambda: self._tally(stage))

    def _tally(self, stage: Stage) -> dict[str, Any]:
        with self.connect() as c:
            wanted = c.execute(f"SELECT count(*) FROM {self.wanted_sql(stage)}").fetchall()[0][0]
            table = self.table_sql(stage)
            made, failed = c.execute(
                f"SELECT count(*) FILTER (error IS NULL), count(*) FILTER (error IS NOT NULL) FROM {table}"
            ).fetchall()[0]
            reasons = c.execute(
                f"SELECT error_class, count(*), min(error) FROM {table} WHERE error IS NOT NULL GROUP BY error_class ORDER BY count(*) DESC, error_class"
            ).fetchall()
            lost = 0
            if stage.reads_pixels:
                present = self.parts_sql(stage, columns="key") or "(SELECT '' AS key WHERE false)"
                lost = c.execute(
                    f"SELECT count(*) FROM {self.wanted_sql(stage)} w ANTI JOIN {present} USING (key) WHERE NOT stored"
                ).fetchall()[0][0]
            by = {"perspectives": caption_rows.by_perspective(c, self, stage)} if stage.kind == "caption" else {}
        failures = [{"class": c, "rows": n, "example": e} for c, n, e in reasons]
        return {"wanted": wanted - lost, "made": made, "failed": failed, "failures": failures, "without_pixels": lost} | by

    def check(self, thorough: bool = False) -> list[str]:
        """Return a line for each damaged part; nothing is touched, but from now on this object counts their rows as not made."""
        lines = []
        for name in self.stage_names():
            for part in parts.list_parts(self.store, name):
                problem = parts.damage(self.store, part, thorough)
                if problem:
                    self._damaged.add(part.path)
                    lines.append(f"part {part.path} is damaged ({problem}); the next run makes its rows again")
        return lines

    def repair(self, thorough: bool = False) -> list[str]:
        """Set damaged parts aside, so that their rows are wanted again; return a line for each."""
        return [
            f"part {p.path} is damaged ({problem}); set aside, its rows will be made again"
            for name in self.stage_names()
            for p, problem in parts.repair(self.store, name, thorough)
        ]


def steadily(read: Callable[[], T], tries: int = 6) -> T:
    """Return ``read()``, which lists parts and reads them; done again when another process merged some away in between."""
    for attempt in range(tries - 1):
        try:
            return read()
        except (duckdb.Error, OSError) as error:
            if not isinstance(error, FileNotFoundError) and not any(
                s in str(error) for s in ("No such file", "No files found", "not found")
            ):
                raise
            time.sleep(0.05 * 2**attempt)
    return read()


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted field, old value, new value) wherever two JSON-like trees differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            yield from differences(old.get(name), new.get(name), f"{path}.{name}" if path else name)
    elif old != new:
        yield path, old, new
