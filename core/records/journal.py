"""Journal: the records on this machine, durable, each visitor's own, found by words, and what of them is on the Hub."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from core.errors import BadRequest, JournalRefused, NotRecorded
from core.records import words
from core.records.journal_file import JournalFile
from core.records.room import forget, make_room
from core.records.schema import MIGRATIONS, Counts, HistoryPage, Migration, Record
from lora_catalog.sqlite_file import Work

LARGEST = 20 * 10**9  # bytes
_COLUMNS = "r.id, r.created_at, r.visitor, r.prompt, r.model, r.loras, r.recipe, r.starred, r.image_bytes"


_Result = TypeVar("_Result")


def _now() -> datetime:
    return datetime.now(UTC)


class Journal:
    """Safe to call from several threads; several processes may use one file. `largest` bounds the file, in bytes.

    The file and its folder are made at the first call. A torn file is put aside and a new one begun; one of a newer
    version is left alone. Any call may raise JournalRefused. A visitor without an id has no records. What is kept
    while `for_dataset` is false never goes to a dataset: nobody had been told of one.
    """

    def __init__(
        self,
        path: Path,
        *,
        largest: int = LARGEST,
        for_dataset: bool = True,
        clock: Callable[[], datetime] = _now,
        migrations: Sequence[Migration] = MIGRATIONS,
    ) -> None:
        self._file, self._largest, self._for_dataset = JournalFile(path, migrations, clock, _mend), largest, for_dataset

    def close(self) -> None:
        """Closes the file; later calls open it for their own time only."""
        self._file.close()

    def keep(self, records: Sequence[Record]) -> None:
        """All of them, or none; when it returns they are on the disk. Raises NotRecorded.

        Where the journal is full, pictures and rows that are on the Hub go: the oldest first, the starred ones last.
        """
        try:
            self._file.write(partial(_keep, records=records, for_dataset=self._for_dataset, largest=self._largest))
        except JournalRefused as error:
            raise NotRecorded(error.reason) from error

    def page(
        self,
        visitor: str,
        query: str = "",
        lora: str = "",
        starred: bool | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> HistoryPage:
        """The visitor's records, newest first, without their pictures: those in which every word of `query` begins a
        word of the prompt or of a LoRA's name, and that used a LoRA in whose name the words of `lora` follow each
        other. `cursor` is an earlier page's `next`."""
        if not visitor:
            return HistoryPage((), None)
        wanted = words.expression(visitor, query, lora, starred)
        rows = self._file.read(
            lambda db: db.execute(
                f"SELECT words.rowid, {_COLUMNS} FROM words JOIN records r ON r.n = words.rowid"
                " WHERE words MATCH ? AND words.rowid < ? ORDER BY words.rowid DESC LIMIT ?",
                (wanted, _FIRST if cursor is None else int(cursor), limit + 1),
            ).fetchall()
        )
        more = len(rows) > limit
        return HistoryPage(tuple(_record(row[1:]) for row in rows[:limit]), str(rows[limit - 1][0]) if more else None)

    def record(self, record_id: str, visitor: str) -> Record:
        """The visitor's record with its picture and thumbnail. Raises BadRequest if they have none of that id."""
        sql = (
            f"SELECT {_COLUMNS}, png, webp FROM records r LEFT JOIN images USING (n) LEFT JOIN thumbnails USING (n)"
            " WHERE id = ? AND visitor = ? AND visitor <> ''"
        )
        row = self._file.read(lambda db: db.execute(sql, (record_id, visitor)).fetchone())
        if row is None:
            raise _unknown()
        return _record(row)

    def thumbnail(self, record_id: str, visitor: str) -> bytes | None:
        """The small WebP of the visitor's record; None where there is none."""
        sql = "SELECT webp FROM records JOIN thumbnails USING (n) WHERE id = ? AND visitor = ? AND visitor <> ''"
        row = self._file.read(lambda db: db.execute(sql, (record_id, visitor)).fetchone())
        return None if row is None else row[0]

    def star(self, record_id: str, visitor: str, starred: bool) -> None:
        """Raises BadRequest if the visitor has no record of that id."""
        self._file.write(partial(_star, record_id=record_id, visitor=visitor, starred=starred))

    def delete(self, ids: Iterable[str], visitor: str) -> int:
        """Deletes those of `ids` that are the visitor's, and says how many; what stands in a shard is noted for the
        sync to take out there."""
        deleted = self._file.write(partial(_delete, ids=json.dumps(list(ids)), visitor=visitor))
        if deleted:
            # FTS5 only notes that words are gone: they stand in the file until a merge meets a committed note.
            self._file.write(lambda db: db.execute(f"INSERT INTO words (words, rank) VALUES ('merge', {-_MERGED})"))
            self._file.empty_log()
        return deleted

    def unsealed(self, most_rows: int, most_bytes: int) -> list[Record]:
        """Records for a dataset that are in no shard, oldest first, with their pictures: as many as fit, but one at
        least if there is one."""
        return self._file.read(partial(_unsealed, most_rows=most_rows, most_bytes=most_bytes))

    def seal(self, shard: str, ids: Sequence[str]) -> None:
        """These records now belong to the shard; those deleted meanwhile are noted as erasures. Again: no change.

        Raises JournalRefused, and changes nothing, if one belongs to another shard.
        """
        self._file.write(partial(_seal, shard=shard, ids=ids))

    def sealed(self) -> list[str]:
        """Shards not yet verified on the Hub, oldest first."""
        sql = "SELECT name FROM shards WHERE NOT on_hub ORDER BY n"
        return [name for (name,) in self._file.read(lambda db: db.execute(sql).fetchall())]

    def on_hub(self, shard: str) -> None:
        """Verified there: the bytes of its records may go where room is short."""
        sql = "UPDATE shards SET on_hub = 1 WHERE name = ?"
        self._file.write(lambda db: db.execute(sql, (shard,)) and None)

    def counts(self) -> Counts:
        sql = "SELECT (SELECT count(*) FROM records), (SELECT coalesce(sum(rows), 0) FROM shards WHERE on_hub)"
        return Counts(*self._file.read(lambda db: db.execute(sql).fetchone()))

    def erasures(self) -> list[tuple[str, tuple[str, ...]]]:
        """(shard, ids of records that people deleted and that still stand in it), oldest shard first."""
        sql = "SELECT shard, json_group_array(id) FROM erasures JOIN shards ON name = shard GROUP BY shard ORDER BY n"
        rows = self._file.read(lambda db: db.execute(sql).fetchall())
        return [(shard, tuple(json.loads(ids))) for shard, ids in rows]

    def erased(self, shard: str, ids: Sequence[str], replacement: str | None) -> None:
        """Done: the records of `shard` but `ids` stand in `replacement`; again: no change.

        None: nothing stands there any more, and what is still here of its records is in no shard again.
        """
        self._file.write(partial(_erased, shard=shard, ids=ids, replacement=replacement))

    def remembered(self, key: str) -> str | None:
        """A small fact, as it was remembered last."""
        sql = "SELECT value FROM facts WHERE key = ?"
        row = self._file.read(lambda db: db.execute(sql, (key,)).fetchone())
        return None if row is None else row[0]

    def remember(self, key: str, value: str) -> None:
        """Replaces what was remembered."""
        sql = "INSERT OR REPLACE INTO facts VALUES (?, ?)"
        self._file.write(lambda db: db.execute(sql, (key, value)) and None)


class NoJournal(Journal):
    """For a studio that keeps nothing: what it is asked to keep or to show, it refuses."""

    def __init__(self) -> None:
        self._file, self._largest, self._for_dataset = _NoFile(), 0, False


class _NoFile(JournalFile):
    def __init__(self) -> None:
        """Of no path."""
        super().__init__(Path(), (), _now, _mend)

    def _do(self, about: Sequence[str], work: Work[_Result]) -> _Result:
        raise JournalRefused("this studio has no journal")

    def close(self) -> None:
        """Nothing is open."""


_MERGED = 1000  # pages of 4 kB, all there are with up to 10,000 records: 0.1 s
_FOUND_BY = "INSERT INTO words (rowid, marks, prompt, loras) VALUES (?, ?, ?, ?)"
_FIRST = 2**63 - 1  # the newest of all comes before it


def _unknown() -> BadRequest:
    return BadRequest("id", "id must be that of a record of your own: you have none of this id here.")


def _record(row: Sequence[Any]) -> Record:
    """From _COLUMNS, and the PNG and WebP where these were read."""
    record_id, created_at, visitor, prompt, model, loras, recipe, starred, image_bytes, *read = row
    image, thumbnail = read or (None, None)
    at = datetime.fromisoformat(created_at)
    texts = (visitor, prompt, model, loras, recipe)
    return Record(record_id, at, *texts, image, thumbnail, bool(starred), pictured=image_bytes > 0)


def _keep(db: sqlite3.Connection, records: Sequence[Record], for_dataset: bool, largest: int) -> None:
    for record in records:
        n = db.execute(
            "INSERT INTO records (id, created_at, visitor, prompt, model, loras, recipe, starred, image_bytes,"
            " for_dataset) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                record.id, record.created_at.isoformat(), record.visitor, record.prompt, record.model, record.loras,
                record.recipe, record.starred, len(record.image or b""), for_dataset,
            ),
        ).lastrowid  # fmt: skip
        db.execute(_FOUND_BY, (n, *words.indexed(record.visitor, record.starred, record.prompt, record.loras)))
        if record.image is not None:
            db.execute("INSERT INTO images VALUES (?, ?)", (n, record.image))
        if record.thumbnail is not None:
            db.execute("INSERT INTO thumbnails VALUES (?, ?)", (n, record.thumbnail))
    make_room(db, largest)


def _mend(db: sqlite3.Connection) -> None:
    """Makes the table of words anew from the records."""
    ((made,),) = db.execute("SELECT sql FROM sqlite_master WHERE name = 'words'").fetchall()
    # FTS5 opens no table whose first two blocks are damaged, not even to drop it: here as in an empty one.
    db.execute("REPLACE INTO words_data VALUES (1, x''), (10, x'00000000000000')")
    db.execute("DROP TABLE words")
    db.execute(made)
    for n, *record in db.execute("SELECT n, visitor, starred, prompt, loras FROM records"):
        db.execute(_FOUND_BY, (n, *words.indexed(*record)))


def _star(db: sqlite3.Connection, record_id: str, visitor: str, starred: bool) -> None:
    sql = "UPDATE records SET starred = ? WHERE id = ? AND visitor = ? AND visitor <> '' RETURNING n"
    row = db.execute(sql, (starred, record_id, visitor)).fetchone()
    if row is None:
        raise _unknown()
    db.execute("UPDATE words SET marks = ? WHERE rowid = ?", (words.marks(visitor, starred), *row))


def _delete(db: sqlite3.Connection, ids: str, visitor: str) -> int:
    sql = (
        "SELECT n, id, shard FROM records"
        " WHERE id IN (SELECT value FROM json_each(?)) AND visitor = ? AND visitor <> ''"
    )
    rows = db.execute(sql, (ids, visitor)).fetchall()
    for n, record_id, shard in rows:
        if shard is not None:
            db.execute("INSERT OR IGNORE INTO erasures VALUES (?, ?)", (shard, record_id))
        forget(db, n)
    return len(rows)


def _unsealed(db: sqlite3.Connection, most_rows: int, most_bytes: int) -> list[Record]:
    sql = (
        f"SELECT {_COLUMNS}, png, webp FROM records r LEFT JOIN images USING (n) LEFT JOIN thumbnails USING (n)"
        " WHERE r.shard IS NULL AND r.for_dataset ORDER BY r.n LIMIT ?"
    )
    found: list[Record] = []
    size = 0
    for row in db.execute(sql, (most_rows,)):
        record = _record(row)
        size += len(record.image or b"") + len(record.recipe) + len(record.prompt) + len(record.loras)
        if found and size > most_bytes:
            break
        found.append(record)
    return found


def _seal(db: sqlite3.Connection, shard: str, ids: Sequence[str]) -> None:
    if db.execute("SELECT 1 FROM shards WHERE name = ?", (shard,)).fetchone():
        return
    named = json.dumps(list(ids))
    rows = db.execute("SELECT id, shard FROM records WHERE id IN (SELECT value FROM json_each(?))", (named,)).fetchall()
    if any(other is not None for _, other in rows):
        raise JournalRefused("some of these records were sealed in another shard meanwhile")
    db.execute("UPDATE records SET shard = ? WHERE id IN (SELECT value FROM json_each(?))", (shard, named))
    db.execute("INSERT INTO shards (name, rows) VALUES (?, ?)", (shard, len(ids)))
    gone = set(ids).difference(here for here, _ in rows)
    db.executemany("INSERT OR IGNORE INTO erasures VALUES (?, ?)", [(shard, each) for each in gone])


def _erased(db: sqlite3.Connection, shard: str, ids: Sequence[str], replacement: str | None) -> None:
    noted = db.executemany("DELETE FROM erasures WHERE shard = ? AND id = ?", [(shard, each) for each in ids]).rowcount
    if replacement is None:
        db.execute("DELETE FROM erasures WHERE shard = ?", (shard,))
        db.execute("DELETE FROM shards WHERE name = ?", (shard,))
    else:
        db.execute("UPDATE erasures SET shard = ? WHERE shard = ?", (replacement, shard))
        sql = "UPDATE shards SET name = ?, rows = rows - ? WHERE name = ?"  # its place in the order stays
        db.execute(sql, (replacement, max(noted, 0), shard))
    db.execute("UPDATE records SET shard = ? WHERE shard = ?", (replacement, shard))
