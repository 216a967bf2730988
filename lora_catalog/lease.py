"""Keeps a file from being dropped while it is read, by whatever thread or process.

The locks are the kernel's (flock): they bind other processes too, and die with their owner. Windows has none, but there
an open file cannot be deleted, which is all that a lease needs.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType

from lora_catalog.errors import NoRoom

if sys.platform == "win32":

    def lock(file: int, shared: bool = False, wait: bool = True) -> None:
        """Nothing."""

    def unlock(file: int) -> None:
        """Nothing."""

else:
    import fcntl

    def lock(file: int, shared: bool = False, wait: bool = True) -> None:
        """Raises BlockingIOError if somebody else holds it and `wait` is false."""
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))

    def unlock(file: int) -> None:
        """Closing is not enough: a child forked meanwhile has the same file open, and would hold the lock for good."""
        fcntl.flock(file, fcntl.LOCK_UN)


class Lease(AbstractContextManager["Lease"]):
    """While it is entered anywhere, its file is not dropped. Re-entrant, and safe to share between threads.

    It arrives taken, so that nothing can drop a file between its fetch and its use: that first hold ends with the first
    use, or when the lease is forgotten. Entered again later it is taken again, or raises NoRoom if the file has gone.
    """

    def __init__(self, path: Path, name: str, file: int, now: Callable[[], int]) -> None:
        self._path, self._name, self._now = path, name, now
        self._mutex = threading.Lock()
        self._uses = 0
        self._hold(file)

    def __enter__(self) -> Lease:
        with self._mutex:
            if not self._held.alive:
                file = open_kept(self._path, None)
                if file is None:
                    raise NoRoom(self._name, "it was dropped since to make room for others: fetch it again")
                self._hold(file)
            self._uses += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._mutex:
            self._uses -= 1
            if not self._uses:
                self._touch()
                self._held()

    def _hold(self, file: int) -> None:
        self._held = weakref.finalize(self, _let_go, file, os.getpid())
        self._held.atexit = False
        self._touch()

    def _touch(self) -> None:
        with suppress(OSError):  # a folder that was made read-only can still be read from
            now = self._now()
            os.utime(self._path, ns=(now, now))


def _let_go(file: int, owner: int) -> None:
    if os.getpid() == owner:  # a forked child's copy of a lease is not its to end
        unlock(file)
    os.close(file)


def open_kept(path: Path, size: int | None) -> int | None:
    """The file, open and locked against being dropped; None if it is not there, or not of `size` bytes."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    lock(file, shared=True)
    found = os.fstat(file)
    if found.st_nlink and size in (None, found.st_size):  # no link left: it was dropped between the two lines above
        return file
    _let_go(file, os.getpid())
    return None


def drop(path: Path) -> bool:
    """Deletes the file unless somebody holds it; whether it is gone."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        lock(file, wait=False)
        path.unlink(missing_ok=True)
    except (BlockingIOError, PermissionError):  # the latter is Windows' way to say that it is open
        return False
    finally:
        _let_go(file, os.getpid())
    return True
