"""CacheFile: one SQLite file for several threads and processes, begun anew when it is torn or not ours."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from lora_catalog.errors import NoRoom
from lora_catalog.sqlite_file import TRIES, Foreign, Result, SqliteFile, Torn, Work, primary_code

log = logging.getLogger(__name__)

_PATIENCE = 5.0  # seconds

_OURS = 0x4C6F7261  # the application id in the file: "Lora"
_SETTINGS = (
    "PRAGMA synchronous = NORMAL",  # what a power cut takes, the Hub gives again
    "PRAGMA cache_size = -16000",  # kB
    "PRAGMA secure_delete = OFF",
)

_REFUSED = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_BUSY: "another program holds its file",
    sqlite3.SQLITE_READONLY: "its file may only be read",
    sqlite3.SQLITE_CANTOPEN: "its file cannot be opened",
    sqlite3.SQLITE_IOERR: "its file cannot be read or written",
}


class CacheFile(SqliteFile):
    """Lends a connection to each piece of work, in a transaction; opens, makes and replaces the file as needed.

    It holds `tables` (SQL that makes them) of `version` (31 bits); of one that holds another version `dropped` tables
    are made anew, the others stay. A torn or foreign file is put aside, as *.torn. `name` is how messages call it.
    """

    def __init__(self, path: Path, name: str, version: int, tables: Sequence[str], dropped: Sequence[str]) -> None:
        super().__init__(path, _PATIENCE)
        self._name, self._version, self._tables, self._dropped = name, version, tables, dropped

    def read(self, work: Work[Result]) -> Result:
        """What `work` returns; all that it reads was true at one time, and it waits for no writer. Raises NoRoom."""
        return self._do("BEGIN", work)

    def write(self, work: Work[Result]) -> Result:
        """What `work` returns; all that it wrote stays, or nothing. Raises NoRoom where the disk refuses."""
        with self._turn:
            return self._do("BEGIN IMMEDIATE", work)

    def _do(self, begin: str, work: Work[Result]) -> Result:
        for _ in range(TRIES):
            try:
                return self._once(begin, "COMMIT", work)
            except Torn as torn:
                aside = f"{self._path.name}.torn"
                if self._put_aside(torn.identity, aside):
                    log.warning("%s is damaged, or not one: it is put aside as %s and begun anew", self._name, aside)
            except sqlite3.Error as error:
                if primary_code(error) not in _REFUSED:
                    raise
                raise self._refusal(_REFUSED[primary_code(error)]) from error
        raise self._refusal("its file is damaged again and again")

    def _refusal(self, why: str) -> NoRoom:
        return NoRoom(self._name, why)

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.text_factory = _lenient
        for setting in _SETTINGS:
            db.execute(setting)
        if _signs(db) != (_OURS, self._version):
            db.execute("BEGIN IMMEDIATE")
            owner, version = _signs(db)  # again: now nobody else can be making them
            if owner != _OURS and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise Foreign
            if (owner, version) != (_OURS, self._version):
                for table in self._dropped:
                    db.execute(f"DROP TABLE IF EXISTS {table}")
                for table in self._tables:
                    db.execute(table)
                db.execute(f"PRAGMA application_id = {_OURS}")
                db.execute(f"PRAGMA user_version = {self._version}")
            db.execute("COMMIT")
        db.execute("PRAGMA journal_mode = WAL")


def _lenient(text: bytes) -> str:
    """A torn text is one that nobody looks for; as an error it would stop those who look for others."""
    return text.decode(errors="replace")


def _signs(db: sqlite3.Connection) -> tuple[int, int]:
    """The file's application id and version."""
    return db.execute("PRAGMA application_id").fetchone()[0], db.execute("PRAGMA user_version").fetchone()[0]
