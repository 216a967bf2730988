"""JournalFile: one SQLite file for several threads and processes, durable at each commit, led to the newest version."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from core.errors import JournalRefused
from core.records.schema import Migration
from lora_catalog.sqlite_file import TRIES, Foreign, Identity, Result, SqliteFile, Torn, Work, primary_code

log = logging.getLogger(__name__)

_PATIENCE = 10.0  # seconds that a writer waits for those of other processes
_PATIENCE_WITH_READERS = 1.0  # seconds, during which nobody writes
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
_ALONE = (
    f"PRAGMA busy_timeout = {_PATIENCE_WITH_READERS * 1000:.0f}",
    f"PRAGMA busy_timeout = {_PATIENCE * 1000:.0f}",
)

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


class JournalFile(SqliteFile):
    """Lends a connection to each piece of work, in a transaction.

    A torn or foreign file is put aside as *.torn-TIME, and a new one begun. One of a newer version is left alone.
    Where no more than the search index is damaged, `mend` makes it anew. Every call may raise JournalRefused.
    """

    def __init__(
        self, path: Path, migrations: Sequence[Migration], clock: Callable[[], datetime], mend: Work[None]
    ) -> None:
        super().__init__(path, _PATIENCE)
        self._migrations, self._clock, self._mend = migrations, clock, mend

    def read(self, work: Work[Result]) -> Result:
        """What `work` returns; all that it reads was true at one time, and it waits for no writer."""
        return self._do(_READ, work)

    def write(self, work: Work[Result]) -> Result:
        """What `work` returns, once all that it wrote is on the disk; where it raises, nothing stays."""
        with self._turn:
            return self._do(_WRITE, work)

    def empty_log(self) -> None:
        """Leaves nothing in SQLite's log of what stood there, where nobody reads; else the next call does, or the end
        of the last program that uses the file."""
        with self._turn:
            self._do(_ALONE, lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())

    def _do(self, about: tuple[str, str], work: Work[Result]) -> Result:
        try:
            for _ in range(TRIES):
                try:
                    return self._once(*about, work)
                except Torn as torn:
                    if torn.code != sqlite3.SQLITE_CORRUPT_VTAB or not self._mended():
                        self._begin_anew(torn.identity)
        except sqlite3.Error as error:
            if primary_code(error) not in _REFUSED:
                raise
            raise JournalRefused(_REFUSED[primary_code(error)]) from error
        raise JournalRefused("its file is damaged again and again")

    def _mended(self) -> bool:
        """Whether the search index could be made anew."""
        log.warning("the journal's search index is damaged: it is made anew from the records")
        try:
            self._once(*_WRITE, self._mend)
        except Torn:
            return False
        return True

    def _refusal(self, why: str) -> JournalRefused:
        return JournalRefused(why)

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
            raise Foreign
        if version > len(self._migrations):
            raise JournalRefused("the journal was written by a newer version of LoRA Loom: update this one")
        return version

    def _begin_anew(self, identity: Identity | None) -> None:
        aside = f"{self._path.name}.torn-{self._clock():%Y%m%d-%H%M%S-%f}"
        if self._put_aside(identity, aside):
            log.warning("the journal is damaged, or not one: it is put aside as %s and a new one begun", aside)
