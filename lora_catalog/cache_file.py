"""CacheFile: one SQLite file for several threads and processes, begun anew when it is torn or not ours."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from lora_catalog.errors import NoRoom

log = logging.getLogger(__name__)

_PATIENCE = 5.0  # seconds that a writer waits for those of other processes
_KEPT_OPEN = 4  # connections
_TRIES = 3  # to use the file, where it has to be put aside

_OURS = 0x4C6F7261  # the application id in the file: "Lora"
_SETTINGS = (
    "PRAGMA synchronous = NORMAL",  # what a power cut takes, the Hub gives again
    "PRAGMA cache_size = -16000",  # kB
    "PRAGMA secure_delete = OFF",
)

_TORN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_REFUSED = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_BUSY: "another program holds its file",
    sqlite3.SQLITE_READONLY: "its file may only be read",
    sqlite3.SQLITE_CANTOPEN: "its file cannot be opened",
    sqlite3.SQLITE_IOERR: "its file cannot be read or written",
}

_Result = TypeVar("_Result")
_Work = Callable[[sqlite3.Connection], _Result]
_Identity = tuple[int, int]  # device and inode: tells files apart that stand at one path one after the other


class CacheFile:
    """Lends a connection to each piece of work, in a transaction; opens, makes and replaces the file as needed.

    The file and its folder are made at the first work. It holds `tables` (SQL that makes them) of `version` (31 bits);
    of one that holds another version `dropped` tables are made anew, the others stay. A torn or foreign file is put
    aside, as *.torn. `name` is how messages call it.
    """

    def __init__(self, path: Path, name: str, version: int, tables: Sequence[str], dropped: Sequence[str]) -> None:
        self._path, self._name = path, name
        self._version, self._tables, self._dropped = version, tables, dropped
        self._idle: list[_Connection] = []
        self._most_idle = _KEPT_OPEN
        self._lock = threading.Lock()  # guards these two
        self._turn = threading.Lock()  # of this process' writers: SQLite, which polls, has to keep apart processes only

    def read(self, work: _Work[_Result]) -> _Result:
        """What `work` returns; all that it reads was true at one time, and it waits for no writer. Raises NoRoom."""
        return self._do("BEGIN", work)

    def write(self, work: _Work[_Result]) -> _Result:
        """What `work` returns; all that it wrote stays, or nothing. Raises NoRoom where the disk refuses."""
        with self._turn:
            return self._do("BEGIN IMMEDIATE", work)

    def close(self) -> None:
        """Closes the file. Work that comes later opens it for its own time only."""
        with self._lock:
            self._most_idle = 0
        self._close_idle()

    def _do(self, begin: str, work: _Work[_Result]) -> _Result:
        for _ in range(_TRIES):
            try:
                return self._once(begin, work)
            except _Torn as torn:
                self._put_aside(torn.identity)
            except sqlite3.Error as error:
                if _code(error) not in _REFUSED:
                    raise
                raise NoRoom(self._name, _REFUSED[_code(error)]) from error
        raise NoRoom(self._name, "its file is damaged again and again")

    def _once(self, begin: str, work: _Work[_Result]) -> _Result:
        connection = self._borrow()
        try:
            if not connection.ready:
                self._prepare(connection)
                connection.ready = True
            connection.execute(begin)
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException as error:
            connection.close()  # rolls back
            if isinstance(error, sqlite3.Error) and _code(error) in _TORN:
                raise _Torn(connection.identity) from error
            raise
        self._give_back(connection)
        return result

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
            raise NoRoom(self._name, "its folder cannot be made") from error
        connection = sqlite3.connect(
            self._path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False, factory=_Connection
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

    def _identity(self) -> _Identity | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Makes the tables, unless they are there. Raises sqlite3.Error."""
        db.text_factory = _lenient
        for setting in _SETTINGS:
            db.execute(setting)
        if _signs(db) != (_OURS, self._version):
            db.execute("BEGIN IMMEDIATE")
            owner, version = _signs(db)  # again: now nobody else can be making them
            if owner != _OURS and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise _Foreign
            if (owner, version) != (_OURS, self._version):
                for table in self._dropped:
                    db.execute(f"DROP TABLE IF EXISTS {table}")
                for table in self._tables:
                    db.execute(table)
                db.execute(f"PRAGMA application_id = {_OURS}")
                db.execute(f"PRAGMA user_version = {self._version}")
            db.execute("COMMIT")
        db.execute("PRAGMA journal_mode = WAL")

    def _put_aside(self, identity: _Identity | None) -> None:
        """Moves the file away, unless somebody else did; SQLite's own files first, lest a new file finds them."""
        self._close_idle()
        with self._lock:
            if identity != self._identity():
                return
            aside = f"{self._path.name}.torn"
            log.warning("%s is damaged, or not one: it is put aside as %s and begun anew", self._name, aside)
            try:
                for suffix in ("-wal", "-shm", ""):
                    with suppress(FileNotFoundError):
                        self._path.with_name(self._path.name + suffix).replace(self._path.with_name(aside + suffix))
            except OSError as error:
                raise NoRoom(self._name, "its file is damaged and cannot be put aside") from error


class _Connection(sqlite3.Connection):
    identity: _Identity | None  # of its file
    ready = False  # for work


class _Foreign(sqlite3.DatabaseError):
    """A database, but none of ours."""

    sqlite_errorcode = sqlite3.SQLITE_NOTADB


class _Torn(Exception):
    """The file of this identity is not one to work with."""

    def __init__(self, identity: _Identity | None) -> None:
        super().__init__(identity)
        self.identity = identity


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for errors that are not SQLite's."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _lenient(text: bytes) -> str:
    """A torn text is one that nobody looks for; as an error it would stop those who look for others."""
    return text.decode(errors="replace")


def _signs(db: sqlite3.Connection) -> tuple[int, int]:
    """The file's application id and version."""
    return db.execute("PRAGMA application_id").fetchone()[0], db.execute("PRAGMA user_version").fetchone()[0]
