"""A worker process, ``python -m synthvlm.worker IN OUT``: the only code on a device. Loads once, then does shards.

It reads commands and writes events, JSON lines both, on two private pipes; whatever plugins print goes to the log. When the
parent goes away, or says stop, everything that is finished is committed before it leaves.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from synthvlm import parts
from synthvlm.cards import refuse
from synthvlm.errors import SynthVLMError
from synthvlm.plugins import discover
from synthvlm.run import RunDirectory, Stage, steadily
from synthvlm.stages.batching import DeviceLost
from synthvlm.stages.writer import PartWriter

log = logging.getLogger("synthvlm.worker")
GRACE = 3.0
"""Seconds that the batch in flight gets to finish after a stop."""
_BACKLOG = 4


class Context:
    """What a stage's code needs of its worker: the run, writers, work in the background, and word to the parent."""

    def __init__(self, job: dict[str, Any], tell: Callable[..., None]) -> None:
        self.run = RunDirectory.open(job["run"])
        self.connection = self.run.connect(threads=1)
        self.threads = int(job.get("threads") or 1)
        self._job, self._tell = job, tell
        self._stop = threading.Event()
        self.ended = threading.Event()
        """Everything is done and committed: there is nothing left to see to."""
        self._writers: dict[str, PartWriter] = {}
        self._background = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._pending: list[Future[None]] = []
        self.versions: dict[str, str] = {}
        self.skip: set[str] = set()
        """Rows that were given up: they killed their workers."""
        self.remake = frozenset(job.get("remake", ()))
        self.commit_lock = threading.RLock()
        self._looking, self._looked_at = threading.Lock(), set[str]()
        self.shard = -1
        """The shard at work; the one before may still be on its way to the disk."""

    def pending(self, stage: Stage, shard: int) -> list[dict[str, Any]]:
        """Return the shard's rows still to be made, as the run directory has it now."""
        rows = self.run.pending_rows(self.connection, stage, shard, self._job.get("retry_failed", False))
        return [r for r in rows if r["key"] not in self.skip]

    def pending_table(self, stage: Stage, shard: int) -> Any:
        """Return the same as an Arrow table, for stages whose rows come by the thousand; given-up rows are in it."""

        def read() -> Any:  # the parts are listed at every try: another process may be merging them
            sql = self.run.pending_sql(stage, stage.rows(shard), self._job.get("retry_failed", False))
            return self.connection.sql(f"SELECT * FROM {sql} ORDER BY {stage.order}").to_arrow_table()

        return steadily(read)

    def writer(self, stage: Stage) -> PartWriter:
        """Return the stage's writer."""
        if stage.name not in self._writers:
            seconds = float(self._job.get("commit_seconds", 60))
            self._writers[stage.name] = PartWriter(
                self.run, stage, seconds, self._info, lambda name, rows: self._tell("committed", stage=name, rows=rows)
            )
        return self._writers[stage.name]

    def _info(self) -> dict[str, Any]:
        device = self._job.get("device_name") or ",".join(self._job["devices"])
        return {"host": socket.gethostname(), "pid": os.getpid(), "device": device, "threads": self.threads, "versions": self.versions}

    def begin(self, keys: Sequence[str], shard: int | None = None) -> None:
        """Tell the parent which rows are in flight, of the shard at work or of ``shard``."""
        self._tell("begin", shard=self.shard if shard is None else shard, keys=list(keys))

    def done(self, shard: int) -> None:
        """Tell the parent that everything of a shard that can be made is committed."""
        self._tell("shard_done", shard=shard)

    def measured(self, stage: str, rows: int) -> None:
        """Tell the parent of so many finished rows, none of which failed."""
        self._tell("rows", stage=stage, made=rows, failed=[])

    def progress(self, stage: str, rows: Sequence[dict[str, Any]]) -> None:
        """Tell the parent of finished rows."""
        failed = [{"class": r["error_class"], "error": r["error"], "id": r["id"]} for r in rows if r.get("error")]
        self._tell("rows", stage=stage, made=len(rows) - len(failed), failed=failed)

    def damaged(self, row: dict[str, Any]) -> None:
        """Set aside the part whose pixels do not match their digest, and tell the parent."""
        with self._looking:
            if row["tar"] in self._looked_at:
                return
            self._looked_at.add(row["tar"])
            stage = self.run.stage(row["tar"].split("/", 1)[0])
            shard = row["row"] // stage.shard_size
            for part in parts.list_parts(self.run.store, stage.name, (shard, shard)):
                with contextlib.suppress(FileNotFoundError):
                    if parts.part_info(self.run.store, part).get("tar") == row["tar"] and parts.damage(self.run.store, part, thorough=True):
                        parts.set_aside(self.run.store, part)
                        self._tell("damaged", part=part.path)

    def relocate(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """Return the row with the place where its pixels are now, or None if nothing else holds them."""
        stage = self.run.stage(row["tar"].split("/", 1)[0])

        def read() -> list[tuple[str, int]]:
            found = self.run.parts_sql(stage, (row["row"], row["row"] + 1), 'sha256, id, tar, "offset"')
            if found is None:
                return []
            with self.run.connect(threads=1) as db:
                return db.execute(
                    f'SELECT tar, "offset" FROM {found} WHERE sha256 = ? AND id = ? AND tar != ?', [row["sha256"], row["id"], row["tar"]]
                ).fetchall()

        places = steadily(read)
        return row | {"tar": places[0][0], "offset": places[0][1]} if places else None

    def stopping(self) -> bool:
        """Say whether to stop after this batch."""
        return self._stop.is_set()

    def later(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do ``work`` in the background, in order. What went wrong there is raised here, at the next call."""
        while self._pending and (self._pending[0].done() or len(self._pending) >= _BACKLOG):
            self._pending.pop(0).result()
        self._pending.append(self._background.submit(work, *arguments))

    def wait(self) -> None:
        """Wait until the background has nothing to do."""
        while self._pending:
            self._pending.pop(0).result()

    def stop(self) -> None:
        """Ask the stage's code to return after its batch."""
        self._stop.set()

    def close(self) -> None:
        """Commit everything that is finished and let go of the run."""
        self.wait()
        self.flush()
        self.connection.close()

    def flush(self) -> None:
        """Commit everything that is finished: scores first, since images whose losers were dropped need them."""
        with self.commit_lock:
            for writer in sorted(self._writers.values(), key=lambda w: w.of_images):
                writer.flush()

    def salvage(self) -> None:
        """Commit what can be, after a failure."""
        for work in self._pending:
            with contextlib.suppress(Exception):
                work.result()
        with contextlib.suppress(Exception):
            self.flush()


class Commands:
    """The shards to do, as the parent tells of them."""

    def __init__(self, inbox: queue.Queue[dict[str, Any] | None], context: Context) -> None:
        self._inbox, self._context, self._ended = inbox, context, False

    def wait(self) -> tuple[int, frozenset[str]] | None:
        """Return the next shard and its suspects, waiting for it; None when there are no more."""
        return None if self._ended else self._taken(self._inbox.get())

    def poll(self) -> tuple[int, frozenset[str]] | None:
        """Return the next shard if it is at hand."""
        try:
            return None if self._ended else self._taken(self._inbox.get_nowait())
        except queue.Empty:
            return None

    def _taken(self, command: dict[str, Any] | None) -> tuple[int, frozenset[str]] | None:
        if command is None:
            self._ended = True
            return None
        self._context.shard = command["shard"]
        self._context.skip.update(command.get("skip", ()))
        return command["shard"], frozenset(command.get("suspects", ()))


def main(arguments: Sequence[str]) -> int:
    """Run a worker on the pipes whose file descriptors are given."""
    commands = os.fdopen(int(arguments[0]), "r", encoding="utf-8")
    events = os.fdopen(int(arguments[1]), "w", encoding="utf-8")
    os.dup2(2, 1)  # a plugin that prints writes to the log, not into the protocol
    sys.setswitchinterval(0.0005)  # seconds, not 0.005: threads that decode and write give way to the one that feeds the device
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which says stop
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    lock = threading.Lock()

    def tell(event: str, **facts: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ValueError), lock:
            events.write(json.dumps({"event": event, **facts}) + "\n")
            events.flush()

    job = json.loads(commands.readline() or "null")
    if job is None:
        return 0
    inbox: queue.Queue[dict[str, Any] | None] = queue.Queue()
    try:
        context = Context(job, tell)
        listener = threading.Thread(target=_listen, args=(commands, inbox, context), daemon=True)
        listener.start()
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=_leave, args=(inbox, context), daemon=True).start())
        work = _load(job, context)
    except SynthVLMError as error:
        tell("load_failed", error=error.message, hint=error.hint)
        return 2
    except Exception as error:
        log.exception("loading failed")
        tell("load_failed", error=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", hint=None)
        return 2
    try:
        work(Commands(inbox, context))
        context.close()
        context.ended.set()
        listener.join(1)  # a thread that still holds DuckDB at the end makes it complain in the log
    except DeviceLost as error:
        log.error("the device is lost: %s", error)
        context.salvage()
        return 4
    except SynthVLMError as error:
        context.salvage()
        tell("fatal", error=error.message, hint=error.hint)
        return 2
    except Exception as error:
        log.exception("the worker failed")
        context.salvage()
        tell("fatal", error=f"the worker failed: {type(error).__name__}: {error}", hint=None)
        return 1
    return 0


def _listen(commands: Any, inbox: queue.Queue[dict[str, Any] | None], context: Context) -> None:
    """Pass commands on; at a stop, or when the parent is gone, see to it that this process ends soon."""
    for line in commands:
        command = json.loads(line)
        if command.get("stop"):
            break
        inbox.put(command if "shard" in command else None)
    _leave(inbox, context)


def _leave(inbox: queue.Queue[dict[str, Any] | None], context: Context) -> None:
    """Have the work end; commit what is finished, give the batch in flight its grace, and go: it may take minutes."""
    context.stop()
    inbox.put(None)
    for pause in (GRACE, 0.0):
        with contextlib.suppress(Exception):
            context.flush()
        if context.ended.wait(pause):
            return
    os._exit(0)


def _load(job: dict[str, Any], context: Context) -> Callable[[Commands], None]:
    """Load the job's models; return what does the shards."""
    from synthvlm.stages.best import best_shard
    from synthvlm.stages.generate import generate_shard
    from synthvlm.stages.remake import remake_shard
    from synthvlm.stages.score import Scorers, score_shard
    from synthvlm.stages.texts import by_columns, measure_shard

    started = time.monotonic()
    registry = discover()
    stages = [Stage(**record) for record in job["stages"]]
    devices = job["devices"]
    objects: dict[str, Any] = {}
    for stage in stages:
        kind = {"generate": "generator", "score": "scorer"}.get(stage.kind, "captioner")
        loaded = [registry.create(kind, p["name"], p["options"]).load(devices) for p in job["plugins"][stage.name]]
        objects[stage.name] = Scorers(loaded) if kind == "scorer" else loaded[0]
    pa.array([""])  # pyarrow imports pandas, where there is one, at its first list: not in the middle of the work
    context.versions = versions_in_use()
    cards = {s.name: objects[s.name].cards for s in stages if s.kind == "score"}
    columns = {s.name: objects[s.name].columns for s in stages if s.kind == "score"}
    scores = [s for s in stages if s.kind == "score"]
    warnings = [line for s in scores for line in refuse(f"stage {s.name!r}", s.cards, cards[s.name])]
    context._tell("ready", seconds=round(time.monotonic() - started, 2), cards=cards, columns=columns, warnings=warnings)
    for stage in stages:  # columns and cards are known only once a scorer is loaded
        if stage.kind == "score":
            stage.columns, stage.cards = columns[stage.name], cards[stage.name]
    first, loaded = stages[0], objects[stages[0].name]
    if first.kind in ("caption", "judge"):
        return lambda commands: _caption(context, first, loaded, commands)

    def one(shard: int, suspects: frozenset[str]) -> None:
        if len(stages) == 2:
            best_shard(context, first, loaded, stages[1], objects[stages[1].name], shard, suspects)
        elif context.remake:
            remake_shard(context, first, loaded, shard, suspects)
        elif first.kind == "generate":
            generate_shard(context, first, loaded, shard, suspects)
        elif first.reads_text and by_columns(loaded):
            measure_shard(context, first, loaded, shard, suspects)
        else:
            score_shard(context, first, loaded, shard, suspects)

    return lambda commands: _each(context, one, commands, list(objects.values()))


def _caption(context: Context, stage: Stage, captioner: Any, commands: Commands) -> None:
    """Do one shard into the next, and let go of the captioner at the end."""
    from synthvlm.stages.caption import Captioning
    from synthvlm.stages.judge import Judging

    (Judging if stage.kind == "judge" else Captioning)(context, stage, captioner).run(commands)
    context.wait()
    if close := getattr(captioner, "close", None):
        close()


def _each(context: Context, work: Callable[[int, frozenset[str]], None], commands: Commands, loaded: Sequence[Any]) -> None:
    """Do one shard after another, and let go of what was loaded at the end."""
    while (command := commands.wait()) is not None and not context.stopping():
        work(*command)
        if context.stopping():
            break
        context.later(context.done, command[0])
    context.wait()
    for one in loaded:
        if close := getattr(one, "close", None):
            close()


def versions_in_use() -> dict[str, str]:
    """Return the versions of the libraries that are in use, for the record."""
    names = ("torch", "diffusers", "transformers", "vllm", "openai", "open_clip", "PIL", "numpy", "synthvlm")
    found = {n: str(getattr(sys.modules[n], "__version__", "?")) for n in names if n in sys.modules}
    return found | {"python": platform.python_version()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
