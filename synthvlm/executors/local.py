"""One worker process per device of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from synthvlm.errors import WorkerError
from synthvlm.executors.schedule import Job, Schedule

STOP_SECONDS = 4.5
"""From a stop to the last process gone: the worker's grace and its commit fit in."""
_AHEAD = 2
_MAX_BARREN_RESTARTS = 5

Listener = Callable[[str, dict[str, Any]], None]


def gpus() -> list[str]:
    """List this machine's usable GPUs by index, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [v.strip() for v in visible.split(",") if v.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.stdout.split()


class _Worker:
    """The parent's end of one worker process."""

    def __init__(self, number: int, device: str, job: Job, logs: Path, inbox: queue.Queue[tuple[_Worker, dict[str, Any] | None]]) -> None:
        self.number, self.device = number, device
        self.shards: list[int] = []
        self.in_flight: list[str] = []
        self.at_work = -1
        """The shard of the rows in flight."""
        self.log = logs / f"{'-'.join(s['name'] for s in job.stages)}-{number}.log"
        commands_out, commands_in = os.pipe()
        events_out, events_in = os.pipe()
        python = job.python or sys.executable
        try:
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    [python, "-m", "synthvlm.worker", str(commands_out), str(events_in)],
                    pass_fds=(commands_out, events_in),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=_environment(device, job),
                    start_new_session=True,  # Ctrl-C is for the parent, which says stop
                )
        except OSError as error:
            for fd in (commands_in, events_out):
                os.close(fd)
            raise WorkerError(
                f"{python} cannot be run: {error.strerror}", "give --python the path of a Python that has synthvlm installed"
            ) from error
        finally:
            os.close(commands_out)
            os.close(events_in)
        self._commands = os.fdopen(commands_in, "w", encoding="utf-8")
        self._events = os.fdopen(events_out, "r", encoding="utf-8")
        devices = ["cpu"] if device == "cpu" else [f"cuda:{n}" for n in range(len(device.split(",")))]
        self.send(job.message() | {"devices": devices, "device_name": device if device == "cpu" else f"gpu{device}"})
        self.reader = threading.Thread(target=self._read, args=(inbox,), daemon=True)
        self.reader.start()

    def _read(self, inbox: queue.Queue[tuple[_Worker, dict[str, Any] | None]]) -> None:
        with self._events:
            for line in self._events:
                with contextlib.suppress(json.JSONDecodeError):  # the last line of a killed worker may be cut
                    inbox.put((self, json.loads(line)))
        self.process.wait()
        inbox.put((self, None))

    def send(self, message: dict[str, Any]) -> None:
        """Send a command; a dead worker is noticed by its reader."""
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._commands.write(json.dumps(message) + "\n")
            self._commands.flush()

    def close(self) -> None:
        """Close the pipe: an idle worker leaves at once, a busy one commits first."""
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._commands.close()

    def tail(self) -> str:
        """Return the last line of the log that says something."""
        with contextlib.suppress(OSError):
            lines = [x.strip() for x in self.log.read_text(errors="replace").splitlines() if x.strip()]
            return lines[-1][:300] if lines else ""
        return ""


def _environment(device: str, job: Job) -> dict[str, str]:
    env = dict(os.environ)
    if job.python:
        env.pop("PYTHONHOME", None)  # of this Python, which the other one has no use for
    env["CUDA_VISIBLE_DEVICES"] = "" if device == "cpu" else device
    threads = str(job.threads)
    env |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
    env.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # nvidia-smi's order, from which the indices come
    env["PYTHONSAFEPATH"] = "1"  # a random.py in the user's folder is no module of ours
    # Checkpoints were fetched before: a worker that reaches for the network would do so once per device.
    env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONUNBUFFERED": "1"}
    return env


class LocalExecutor:
    """Runs a job's shards on this machine: the next shard is handed out before the last is done, a dead worker is restarted."""

    def __init__(self, job: Job, logs: str | os.PathLike[str], listener: Listener, set_aside: Callable[[int, str, str], None]) -> None:
        """Take a job; ``listener`` hears of events, ``set_aside(shard, key, reason)`` records a row that kills its workers."""
        self._job, self._logs = job, Path(logs)
        self._listener, self._set_aside = listener, set_aside
        self._inbox: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        self._workers: list[_Worker] = []
        self._given_up: set[str] = set()
        self._restarts = 0

    def run(self, shards: list[int]) -> None:
        """Do all shards. Raises WorkerError, TooManyFailures, or what a worker reported; KeyboardInterrupt passes after a stop."""
        self._logs.mkdir(parents=True, exist_ok=True)
        schedule = Schedule(shards, self._job.max_failures)
        try:
            for number, device in enumerate(self._job.devices[: max(1, len(shards))]):
                self._workers.append(_Worker(number, device, self._job, self._logs, self._inbox))
            for worker in list(self._workers):
                self._feed(worker, schedule)
            while self._workers:
                worker, event = self._inbox.get()
                if event is None:
                    self._ended(worker, schedule)
                else:
                    self._heard(worker, event, schedule)
        finally:
            with _deaf_to_interrupts():
                self._stop()

    def _feed(self, worker: _Worker, schedule: Schedule) -> None:
        # One ahead, so that a device never waits for us; but not of the last shards, which others could begin with at once.
        while len(worker.shards) < (_AHEAD if len(schedule) > len(self._workers) else 1) and (shard := schedule.next()) is not None:
            worker.shards.append(shard)
            worker.send({"shard": shard, "suspects": schedule.suspects(), "skip": sorted(self._given_up)})
        if not worker.shards:
            worker.close()

    def _heard(self, worker: _Worker, event: dict[str, Any], schedule: Schedule) -> None:
        kind = event.pop("event")
        if kind == "begin":
            worker.in_flight, worker.at_work = event["keys"], event["shard"]
        elif kind == "rows":
            self._restarts = 0
            self._listener("rows", event | {"device": worker.device})
            schedule.record(event["made"], event["failed"])
        elif kind == "shard_done":
            worker.shards.remove(event["shard"])
            if worker.at_work == event["shard"]:
                worker.in_flight = []
            self._listener(kind, event | {"device": worker.device})
            self._feed(worker, schedule)
        elif kind in ("load_failed", "fatal"):
            raise WorkerError(event["error"], event["hint"] or f"the log has more: {worker.log}")
        else:
            self._listener(kind, event | {"device": worker.device})

    def _ended(self, worker: _Worker, schedule: Schedule) -> None:
        """See to a worker whose process is gone: as it should be, or it died and its shards go back."""
        self._workers.remove(worker)
        worker.close()
        if not worker.shards:
            return
        code = worker.process.returncode
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if not worker.in_flight:
            self._restarts += 1
        if self._restarts > _MAX_BARREN_RESTARTS:
            there = f"; {self._job.python} needs synthvlm and the model's plugin installed" if self._job.python else ""
            raise WorkerError(f"workers keep dying ({how}) before they do anything: {worker.tail()}", f"the log: {worker.log}{there}")
        for key in schedule.died(worker.shards, worker.in_flight):
            reason = f"its worker died of it repeatedly ({how}); log: {worker.log.name}"
            self._given_up.add(key)
            self._set_aside(worker.at_work, key, reason)
            facts = {"made": 0, "failed": [{"class": "WorkerDied", "error": reason, "id": key}], "device": worker.device}
            self._listener("rows", facts)
            schedule.record(0, facts["failed"])
        self._listener("died", {"device": worker.device, "how": how, "log": str(worker.log)})
        fresh = _Worker(worker.number, worker.device, self._job, self._logs, self._inbox)
        self._workers.append(fresh)
        self._feed(fresh, schedule)

    def _stop(self) -> None:
        """Leave no process behind: each worker commits what is finished, the slow ones are killed."""
        for worker in self._workers:
            worker.send({"stop": True})
            worker.close()
        deadline = time.monotonic() + STOP_SECONDS
        for worker in self._workers:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(worker.process.pid, signal.SIGKILL)
                worker.process.wait()
            worker.reader.join(1)
        self._workers.clear()


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Ignore an impatient second Ctrl-C, which would cut the commit short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [(s, signal.signal(s, signal.SIG_IGN)) for s in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    finally:
        for s, handler in before:
            signal.signal(s, handler)
