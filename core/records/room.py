"""Room in a full journal: what is verified on the Hub goes, the oldest first and the starred ones last."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from core.errors import JournalRefused


def make_room(db: sqlite3.Connection, largest: int) -> None:
    """Frees pages until those in use take at most `largest` bytes. Raises JournalRefused if nothing more may go."""
    for starred in (0, 1):
        for oldest, drop in _MAY_GO:
            while _used(db) > largest:
                row = db.execute(oldest, (starred,)).fetchone()
                if row is None:
                    break
                drop(db, *row)
    if _used(db) > largest:
        raise JournalRefused("the journal is full: delete records that you no longer need")


def forget(db: sqlite3.Connection, n: int) -> None:
    """Takes record `n` out of all tables."""
    for table, key in (("images", "n"), ("thumbnails", "n"), ("words", "rowid"), ("records", "n")):
        db.execute(f"DELETE FROM {table} WHERE {key} = ?", (n,))


def _drop_picture(db: sqlite3.Connection, n: int) -> None:
    db.execute("DELETE FROM images WHERE n = ?", (n,))
    db.execute("UPDATE records SET image_bytes = 0 WHERE n = ?", (n,))


_OLDEST = (
    "SELECT records.n FROM records JOIN shards ON name = shard"
    " WHERE on_hub AND starred = ?{} ORDER BY records.n LIMIT 1"
)  # fmt: skip
# Pictures first: they take the room, and a row without one can still be found, drawn again and deleted everywhere.
_MAY_GO: tuple[tuple[str, Callable[[sqlite3.Connection, int], None]], ...] = (
    (_OLDEST.format(" AND image_bytes > 0"), _drop_picture),
    (_OLDEST.format(""), forget),
)


def _used(db: sqlite3.Connection) -> int:
    """Bytes of the pages in use; those freed are filled again before the file grows."""
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
