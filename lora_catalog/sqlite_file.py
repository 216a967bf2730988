"""SqliteFile: one SQLite file for several threads and processes; lends connections, and puts a torn file aside."""

from __future__ import annotations

import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

TRIES = 3  # to use the file, where it has to be put aside
_KEPT_OPEN = 4  # connections: whoever closes the last one writes the whole log back
_TORN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

Result = TypeVar("Result")
Work = Callable[[sqlite3.Connection], Result]
Identity = tuple[int, int]  # device and inode: tells files apart that stand at one path one after the other


class SqliteFile(ABC):
    """What a file holds, and how a refusal is called, subclasses say. The file and its folder are made at the first
    work. `patience` are the seconds that a writer waits for those of other processes."""

    def __init__(self, path: Path, patience: float) -> None:
        self._path, self._patience = path, patience
        self._idle: list[_Connection] = []
        self._most_idle = _KEPT_OPEN
        self._lock = threading.Lock()  # guards these two
        self._turn = threading.Lock()  # of this process' writers: SQLite, which polls, has to keep apart processes only

    def close(self) -> None:
        """Closes the file. Work that comes later opens it for its own time only."""
        with self._lock:
            self._most_idle = 0
        self._close_idle()

    @abstractmethod
    def _prepare(self, db: sqlite3.Connection) -> None:
        """Makes of a file that was just opened one to work with. Raises sqlite3.Error, Foreign among them."""

    @abstractmethod
    def _refusal(self, why: str) -> Exception:
        """What is raised where the file cannot be used."""

    def _once(self, begin: str, end: str, work: Work[Result]) -> Result:
        """What `work` returns. Raises Torn, another sqlite3.Error, or a refusal."""
        connection = self._borrow()
        try:
            if not connection.ready:
                self._prepare(connection)
                connection.ready = True
            connection.execute(begin)
            result = work(connection)
            connection.execute(end)
        except BaseException as error:
            connection.close()  # rolls back
            if isinstance(error, sqlite3.Error) and primary_code(error) in _TORN:
                raise Torn(connection.identity, error.sqlite_errorcode) from error
            raise
        self._give_back(connection)
        return result

    def _put_aside(self, identity: Identity | None, aside: str) -> bool:
        """Moves the file away under the name `aside`, unless somebody else did; SQLite's own files first, lest a new
        file finds them."""
        self._close_idle()
        with self._lock:
            if identity != self._identity():
                return False
            try:
                for suffix in ("-wal", "-shm", ""):
                    with suppress(FileNotFoundError):
                        self._path.with_name(self._path.name + suffix).replace(self._path.with_name(aside + suffix))
            except OSError as error:
                raise self._refusal("its file is damaged and cannot be put aside") from error
        return True

    def _borrow(self) -> _Connection:
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if connection.identity == self._identity():
                    return connection
                connection.close()  # another process put its file aside, or somebody deleted it
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._refusal("its folder cannot be made") from error
        connection = sqlite3.connect(
            self._path, timeout=self._patience, isolation_level=None, check_same_thread=False, factory=_Connection
        )
        connection.identity = self._identity()
        return connection

    def _give_back(self, connection: _Connection) -> None:
        with self._lock:
            if len(self._idle) < self._most_idle:
                self._idle.append(connection)
                return
        connection.close()

    def _close_idle(self) -> None:
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def _identity(self) -> Identity | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino


class _Connection(sqlite3.Connection):
    identity: Identity | None  # of its file
    ready = False  # for work


class Foreign(sqlite3.DatabaseError):
    """A database, but none of ours."""

    sqlite_errorcode = sqlite3.SQLITE_NOTADB


class Torn(Exception):
    """The file of this identity is not one to work with, by SQLite's extended result code."""

    def __init__(self, identity: Identity | None, code: int) -> None:
        super().__init__(identity, code)
        self.identity, self.code = identity, code


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for errors that are not SQLite's."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
