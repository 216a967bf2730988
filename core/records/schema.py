"""What a record is, and the tables that hold records, version by version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Record:
    """One logged picture.

    `id` is a uuid4 in hex, `created_at` in UTC, `visitor` a random id (empty: nobody's), `model` a key, `loras` and
    `recipe` JSON texts, `image` a PNG with its recipe inside, `thumbnail` a small WebP. Pages leave both of these out:
    `pictured` says whether the journal holds the picture.
    """

    id: str
    created_at: datetime
    visitor: str
    prompt: str
    model: str
    loras: str
    recipe: str
    image: bytes | None = None
    thumbnail: bytes | None = None
    starred: bool = False
    pictured: bool = False


@dataclass(frozen=True)
class HistoryPage:
    """Records, newest first, and the cursor that asks for those behind them: None where these were the last."""

    records: tuple[Record, ...]
    next: str | None


@dataclass(frozen=True)
class Counts:
    """How many records the journal holds, and how many stand in the dataset, verified."""

    here: int
    on_hub: int


Migration = Sequence[str]  # SQL statements that lead from one version to the next

# Never changed once released: a change of the tables is one more entry.
MIGRATIONS: tuple[Migration, ...] = (
    (
        # n orders records and is never used twice, since cursors name it.
        "CREATE TABLE records (n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, created_at TEXT NOT NULL,"
        " visitor TEXT NOT NULL, prompt TEXT NOT NULL, model TEXT NOT NULL, loras TEXT NOT NULL, recipe TEXT NOT NULL,"
        " starred INTEGER NOT NULL DEFAULT 0, image_bytes INTEGER NOT NULL DEFAULT 0,"
        " for_dataset INTEGER NOT NULL, shard TEXT)",
        "CREATE INDEX unsealed ON records (n) WHERE shard IS NULL AND for_dataset",
        "CREATE INDEX by_shard ON records (shard) WHERE shard IS NOT NULL",
        "CREATE INDEX by_star ON records (starred, n)",
        "CREATE INDEX pictured ON records (starred, n) WHERE image_bytes > 0",
        # Apart from the rows, so that reading those touches no picture.
        "CREATE TABLE images (n INTEGER PRIMARY KEY, png BLOB NOT NULL)",
        "CREATE TABLE thumbnails (n INTEGER PRIMARY KEY, webp BLOB NOT NULL)",
        # The rowid is n of records; whose it is and whether it is starred are words too (core/records/words.py).
        "CREATE VIRTUAL TABLE words USING fts5 (marks, prompt, loras, prefix='1 2 3 4 5 6', tokenize=ascii)",
        "CREATE TABLE shards (n INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, rows INTEGER NOT NULL,"
        " on_hub INTEGER NOT NULL DEFAULT 0)",
        "CREATE TABLE erasures (shard TEXT NOT NULL, id TEXT NOT NULL, PRIMARY KEY (shard, id))",
        "CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    ),
)
