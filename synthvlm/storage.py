"""The only code that writes into a run. Files appear whole or not at all: temporary name, fsync, rename; one PUT on object stores."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from synthvlm.errors import RunError, RunLocked

log = logging.getLogger("synthvlm")
_TMP = ".tmp"
LOCK_STALE = 120.0
"""Seconds after which a lock that its holder does not touch is taken over."""
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)


class Store:
    """Files under one root, which is a local directory or any fsspec URL. All paths are relative, with ``/``."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.fs, path = fsspec.core.url_to_fs(os.fspath(root))
        self.root = path.rstrip("/")
        self.is_local = isinstance(self.fs, LocalFileSystem)

    def path(self, name: str) -> str:
        """Return the full path, as the file system wants it."""
        return f"{self.root}/{name}" if name else self.root

    def url(self, name: str) -> str:
        """Return what a reader outside this class (DuckDB) opens."""
        return self.path(name) if self.is_local else self.fs.unstrip_protocol(self.path(name))

    @contextlib.contextmanager
    def writer(self, name: str) -> Iterator[IO[bytes]]:
        """Open ``name`` for writing; it appears, complete, when the block ends without an error."""
        target = self.path(name)
        if not self.is_local:
            # An fsspec file is uploaded on close, whatever happened before: only whole files may get that far.
            with tempfile.TemporaryFile() as whole:
                yield whole
                whole.seek(0)
                with self.fs.open(target, "wb") as out:
                    shutil.copyfileobj(whole, out, 1 << 20)
            return
        head, tail = os.path.split(target)
        temporary = f"{head}/.{tail}.{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}{_TMP}"
        try:
            os.makedirs(head, exist_ok=True)
            with open(temporary, "wb") as out:
                yield out
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, target)
            _fsync_directory(head)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise RunError(
                    f"the disk is full: {target} could not be written", "free some space and run the same command again: it resumes"
                ) from error
            if isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename is not None:
                raise RunError(f"{target} cannot be written: {error.strerror}", "choose another --out or mend its permissions") from error
            raise

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Write a whole file."""
        if not self.is_local:
            self.fs.pipe_file(self.path(name), bytes(data))
            return
        with self.writer(name) as out:
            out.write(data)

    def put_json(self, name: str, data: Any) -> None:
        """Write ``data`` as readable JSON."""
        self.put(name, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())

    def read(self, name: str, offset: int = 0, size: int | None = None) -> bytes:
        """Return a file's bytes, or ``size`` of them from ``offset``. Raises FileNotFoundError."""
        if self.is_local:
            with open(self.path(name), "rb") as f:
                f.seek(offset)
                return f.read() if size is None else f.read(size)
        return self.fs.cat_file(self.path(name), start=offset, end=None if size is None else offset + size)

    def read_json(self, name: str) -> Any | None:
        """Return a JSON file's content, or None if there is no such file."""
        try:
            return json.loads(self.read(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError as error:
            raise RunError(
                f"{self.path(name)} cannot be read: {error.strerror}", "mend its permissions, or choose another --out"
            ) from error
        except json.JSONDecodeError as error:
            raise RunError(
                f"{self.path(name)} is damaged: {error}", "restore it from a copy, or begin a new run with another --out"
            ) from error

    def exists(self, name: str = "") -> bool:
        """Say whether a file or folder is there."""
        return os.path.exists(self.path(name)) if self.is_local else self.fs.exists(self.path(name))

    def list(self, folder: str, suffix: str = "") -> list[str]:
        """List the names right under ``folder``, sorted, without unfinished files; empty if there is no such folder."""
        try:
            if self.is_local:
                names = os.listdir(self.path(folder))
            else:
                names = [p["name"].rstrip("/").rsplit("/", 1)[-1] for p in self.fs.ls(self.path(folder), detail=True, refresh=True)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(n for n in names if n.endswith(suffix) and not n.endswith(_TMP))

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, or None if it is not there."""
        try:
            return os.stat(self.path(name)).st_size if self.is_local else int(self.fs.size(self.path(name)))
        except FileNotFoundError:
            return None

    def modified(self, name: str) -> float:
        """Return when a file was written, in seconds since the epoch."""
        if self.is_local:
            return os.stat(self.path(name)).st_mtime
        return float(self.fs.modified(self.path(name)).timestamp())

    def remove(self, name: str) -> None:
        """Delete a file if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    def move(self, old: str, new: str) -> None:
        """Rename a file within the store."""
        if self.is_local:
            os.makedirs(os.path.dirname(self.path(new)), exist_ok=True)
            os.replace(self.path(old), self.path(new))
        else:
            self.fs.mv(self.path(old), self.path(new))

    def sweep(self, folder: str, deep: bool = True) -> int:
        """Delete the unfinished files that dead processes of this host left under ``folder``, or (not ``deep``) right in it; return how many."""
        if not self.is_local:
            return 0
        swept = 0
        for directory, folders, names in os.walk(self.path(folder)):
            if not deep:
                folders.clear()
            for name in names:
                # `.NAME.HOST-PID-TOKEN.tmp`; a host's name may have dots and dashes of its own.
                head, _, rest = name.removesuffix(_TMP).rpartition(f".{socket.gethostname()}-")
                pid = rest.partition("-")[0]
                if head.startswith(".") and name.endswith(_TMP) and pid.isdigit() and not alive(int(pid)):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(os.path.join(directory, name))
                        swept += 1
        return swept

    @contextlib.contextmanager
    def lock(self, what: str, wait: float = 0.0) -> Iterator[None]:
        """Hold the run for an exclusive step; raises RunLocked, naming host and pid, if another process holds it after ``wait`` seconds.

        The lock of a process of this host that is no longer alive is taken over; so is another host's that its holder has not
        touched for two minutes.
        """
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "what": what, "token": uuid.uuid4().hex}
        began = time.monotonic()
        told, seen, since = False, None, began
        while not self._try_lock(mine):
            holder = self.read_json("lock.json")
            if not holder:
                continue
            touched = (holder["token"], self._touched())
            if touched != seen:
                seen, since = touched, time.monotonic()
            dead = not alive(holder["pid"]) if holder["host"] == mine["host"] else time.monotonic() - since > LOCK_STALE
            if dead and self.is_local:
                self._break_lock(holder)
                continue
            who = f"{holder['what']} (pid {holder['pid']} on {holder['host']})"
            way_on = f"wait for it; if it is dead, delete {self.path('lock.json')}"
            if time.monotonic() - began >= wait:
                raise RunLocked(f"the run is held by another process: {who}", way_on)
            if not told and time.monotonic() - began > 2:
                told = True
                log.warning("waiting: the run is held by another process: %s; %s", who, way_on)
            time.sleep(0.1)
        released = threading.Event()
        threading.Thread(target=self._keep_touching, args=(released,), daemon=True).start()
        try:
            yield
        finally:
            released.set()
            if (self.read_json("lock.json") or {}).get("token") == mine["token"]:
                self.remove("lock.json")

    def _touched(self) -> float | None:
        try:
            return self.modified("lock.json")
        except (OSError, NotImplementedError):
            return None

    def _keep_touching(self, released: threading.Event) -> None:
        while self.is_local and not released.wait(LOCK_STALE / 8):
            with contextlib.suppress(OSError):
                os.utime(self.path("lock.json"))

    def _try_lock(self, mine: dict[str, Any]) -> bool:
        if not self.is_local:  # object stores have no exclusive create everywhere; the holder's token tells who won
            if not self.exists("lock.json"):
                self.put_json("lock.json", mine)
                time.sleep(0.2)
            return (self.read_json("lock.json") or {}).get("token") == mine["token"]
        os.makedirs(self.root, exist_ok=True)
        temporary = f"{self.root}/.lock.{mine['host']}-{mine['pid']}-{mine['token'][:8]}{_TMP}"
        Path(temporary).write_text(json.dumps(mine))
        try:
            os.link(temporary, self.path("lock.json"))  # fails if it exists, and is never seen half written
            return True
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)

    def _break_lock(self, holder: dict[str, Any]) -> None:
        """Remove a dead holder's lock, if it is still that one.

        Of several waiters one at a time looks and removes: to move the file aside and look then would take it, for a
        moment, from a waiter that was faster and holds it now.
        """
        folder = os.open(self.root, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # some network file systems lock no folders
                fcntl.flock(folder, fcntl.LOCK_EX)
            if (self.read_json("lock.json") or {}).get("token") == holder["token"]:
                with contextlib.suppress(FileNotFoundError):
                    self.remove("lock.json")
        finally:
            os.close(folder)


def alive(pid: int) -> bool:
    """Say whether a process of this host lives."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # a zombie has ended, though its parent has not noticed yet
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return True


def _fsync_directory(path: str) -> None:
    """Make a rename durable; some file systems cannot, and need not."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
