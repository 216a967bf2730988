"""JournalFile: one SQLite file for several threads and processes, durable at each commit, led to the newest version."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from core.errors import JournalRefused
from core.records.schema import Migration

log = logging.getLogger(__name__)

_PATIENCE = 10.0  # seconds that a writer waits for those of other processes
_PATIENCE_WITH_READERS = 1.0  # seconds, during which nobody writes
_KEPT_OPEN = 4  # connections: whoever closes the last one writes the whole log back
_TRIES = 3  # to use the file, where it has to be set aside
_OURS = 0x4C6F6F6D  # the application id in the file: "Loom"
_PAGE = 8192  # bytes: pictures take half as many pages as with SQLite's default
_SETTINGS = (
    f"PRAGMA page_size = {_PAGE}",  # of a new file
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # a commit returns when the disk has it
    "PRAGMA secure_delete = ON",  # deleted means gone
    "PRAGMA wal_autocheckpoint = 1000",  # pages
    f"PRAGMA journal_size_limit = {64 * 2**20}",  # bytes
)

# What begins a piece of work, and what ends it.
_READ = ("BEGIN", "COMMIT")
_WRITE = ("BEGIN IMMEDIATE", "COMMIT")
_ALONE = tuple(f"PRAGMA busy_timeout = {patience * 1000:.0f}" for patience in (_PATIENCE_WITH_READERS, _PATIENCE))

_TORN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_REFUSED = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_BUSY: "another program holds the journal",
    sqlite3.SQLITE_LOCKED: "another program holds the journal",
    sqlite3.SQLITE_PROTOCOL: "another program holds the journal",
    sqlite3.SQLITE_READONLY: "the journal may only be read",
    sqlite3.SQLITE_CANTOPEN: "the journal cannot be opened",
    sqlite3.SQLITE_IOERR: "the disk takes no more, or is faulty",
    sqlite3.SQLITE_NOMEM: "this machine has too little memory left",
    sqlite3.SQLITE_TOOBIG: "the picture or its recipe is too large",
}

_Result = TypeVar("_Result")
Work = Callable[[sqlite3.Connection], _Result]
_Identity = tuple[int, int]  # device and inode: tells files apart that stand at one path one after the other


class JournalFile:
    """Lends a connection to each piece of work, in a transaction. The file and its folder are made at the first.

    A torn or foreign file is set aside as *.torn-TIME, and a new one begun. One of a newer version is left alone.
    Where no more than the search index is damaged, `mend` makes it anew. Every call may raise JournalRefused.
    """

    def __init__(
        self, path: Path, migrations: Sequence[Migration], clock: Callable[[], datetime], mend: Work[None]
    ) -> None:
        self._path, self._migrations, self._clock, self._mend = path, migrations, clock, mend
        self._idle: list[_Connection] = []
        self._most_idle = _KEPT_OPEN
        self._lock = threading.Lock()  # guards these two
        self._turn = threading.Lock()  # of this process' writers: SQLite, which polls, has to keep apart processes only

    def read(self, work: Work[_Result]) -> _Result:
        """What `work` returns; all that it reads was true at one time, and it waits for no writer."""
        return self._do(_READ, work)

    def write(self, work: Work[_Result]) -> _Result:
        """What `work` returns, once all that it wrote is on the disk; where it raises, nothing stays."""
        with self._turn:
            return self._do(_WRITE, work)

    def empty_log(self) -> None:
        """Leaves nothing in SQLite's log of what stood there, where nobody reads; else the next call does, or the end
        of the last program that uses the file."""
        with self._turn:
            self._do(_ALONE, lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())

    def close(self) -> None:
        """Closes the file. Work that comes later opens it for its own time only."""
        with self._lock:
            self._most_idle = 0
        self._close_idle()

    def _do(self, about: Sequence[str], work: Work[_Result]) -> _Result:
        try:
            for _ in range(_TRIES):
                try:
                    return self._once(about, work)
                except _Torn as torn:
                    if not (torn.index_alone and self._mended()):
                        self._set_aside(torn.identity)
        except sqlite3.Error as error:
            if _code(error) not in _REFUSED:
                raise
            raise JournalRefused(_REFUSED[_code(error)]) from error
        raise JournalRefused("its file is damaged again and again")

    def _mended(self) -> bool:
        """Whether the search index could be made anew."""
        log.warning("the journal's search index is damaged: it is made anew from the records")
        try:
            self._once(_WRITE, self._mend)
        except _Torn:
            return False
        return True

    def _once(self, about: Sequence[str], work: Work[_Result]) -> _Result:
        begin, end = about
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
            if isinstance(error, sqlite3.Error) and _code(error) in _TORN:
                raise _Torn(connection.identity, error.sqlite_errorcode == sqlite3.SQLITE_CORRUPT_VTAB) from error
            raise
        self._give_back(connection)
        return result

    def _borrow(self) -> _Connection:
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if connection.identity == self._identity():
                    return connection
                connection.close()  # another process set its file aside, or somebody deleted it
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JournalRefused("its folder cannot be made") from error
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
        """Leads the file to the newest version. Raises JournalRefused for one that is newer, before it touches it."""
        newest = len(self._migrations)
        self._check(db)
        for setting in _SETTINGS:
            db.execute(setting)
        if self._check(db) == newest:
            return
        db.execute("BEGIN IMMEDIATE")
        for migration in self._migrations[self._check(db) :]:  # again: now nobody else can be at it
            for statement in migration:
                db.execute(statement)
        db.execute(f"PRAGMA application_id = {_OURS}")
        db.execute(f"PRAGMA user_version = {newest}")
        db.execute("COMMIT")

    def _check(self, db: sqlite3.Connection) -> int:
        """The file's version: 0 for an empty one."""
        # In this order: where another process makes the tables meanwhile, it signs them in the same moment.
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        owner = db.execute("PRAGMA application_id").fetchone()[0]
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        if tables and owner != _OURS:
            raise _Foreign
        if version > len(self._migrations):
            raise JournalRefused("the journal was written by a newer version of LoRA Loom: update this one")
        return version

    def _set_aside(self, identity: _Identity | None) -> None:
        """Moves the file away, unless somebody else did; SQLite's own files first, lest a new file finds them."""
        self._close_idle()
        with self._lock:
            if identity != self._identity():
                return
            aside = f"{self._path.name}.torn-{self._clock():%Y%m%d-%H%M%S-%f}"
            log.warning("the journal is damaged, or not one: it is set aside as %s and a new one begun", aside)
            try:
                for suffix in ("-wal", "-shm", ""):
                    with suppress(FileNotFoundError):
                        self._path.with_name(self._path.name + suffix).rename(self._path.with_name(aside + suffix))
            except OSError as error:
                raise JournalRefused("its file is damaged and cannot be set aside") from error


class _Connection(sqlite3.Connection):
    identity: _Identity | None  # of its file
    ready = False  # for work


class _Foreign(sqlite3.DatabaseError):
    """A database, but none of ours."""

    sqlite_errorcode = sqlite3.SQLITE_NOTADB


class _Torn(Exception):
    """The file of this identity is not one to work with; `index_alone`: but for what finds words, it is."""

    def __init__(self, identity: _Identity | None, index_alone: bool) -> None:
        super().__init__(identity, index_alone)
        self.identity, self.index_alone = identity, index_alone


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for errors that are not SQLite's."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
