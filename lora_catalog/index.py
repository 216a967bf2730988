"""CardIndex: cards seen on the Hub, found by any part of their words, and what the Hub was asked, in one SQLite file.

How a search stays fast: a full-text table holds each card's words cut into pieces of five letters, one from each letter
on. The pieces of a query's word, or the beginnings of pieces where it is shorter, name the cards that may hold it; the
text itself decides. Few candidates are sorted. Where there are many, the cards are walked in the order asked for, since
those wanted come soon.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import partial
from itertools import islice, zip_longest
from math import isqrt
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue, ValidationError

from lora_catalog.cache_file import CacheFile
from lora_catalog.card import LoraCard
from lora_catalog.errors import NoRoom
from lora_catalog.search import FAMILIES_OF, Search, Sort

log = logging.getLogger(__name__)

MOST_CARDS = 200_000
MOST_ASKED = 10_000  # questions
MOST_FACTS = 20_000

_NAME = "the index of LoRA cards"
_PIECE = 5  # letters: shorter ones name too many cards, longer ones make the file larger
_MOST_PIECES = 12  # of a query: more cost more than they rule out
_BATCH = 200  # cards written at a time: other writers wait for one batch at most, about 0.1 s
# Of N cards of which n are candidates and e are looked at, in microseconds: to sort the candidates takes 4·n, to try
# all cards against them n/4 + e·N/n/10, to read the cards' texts instead 3·e·N/n: the next is faster from √(these·e·N).
_FEW, _MANY = 0.025, 12

_COLUMNS: dict[Sort, str] = {"downloads": "downloads", "likes": "likes", "recent": "updated"}
_TABLES = (
    "CREATE TABLE cards (id INTEGER PRIMARY KEY, ref TEXT NOT NULL UNIQUE, family TEXT, licence TEXT, nsfw INTEGER,"
    " downloads INTEGER, likes INTEGER, updated TEXT, seen REAL)",
    *(f"CREATE INDEX by_{column} ON cards ({column} DESC, ref)" for column in _COLUMNS.values()),
    "CREATE INDEX by_seen ON cards (seen)",
    "CREATE TABLE bodies (id INTEGER PRIMARY KEY, folded BLOB, card BLOB)",
    "CREATE VIRTUAL TABLE pieces USING fts5"
    f" (piece, content='', detail=none, columnsize=0, prefix='{' '.join(map(str, range(1, _PIECE)))}', tokenize=ascii)",
    "CREATE TABLE asked (question TEXT PRIMARY KEY, at REAL, etag TEXT, next TEXT, cards INTEGER)",
    "CREATE INDEX asked_by_age ON asked (at)",
    # Facts outlive versions, since pins cannot be had again: they keep this shape.
    "CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT, at REAL, keep INTEGER)",
    "CREATE INDEX IF NOT EXISTS facts_by_age ON facts (keep, at)",
)
_DROPPED = ("cards", "bodies", "pieces", "asked")  # of another version's file
# A sum of all that decides how the file looks, so that nobody has to think of raising a number.
_VERSION = zlib.crc32(f"{_TABLES}{unicodedata.unidata_version}{LoraCard.model_json_schema()}".encode()) >> 1

# To FTS5's ascii tokenizer all that is not ASCII is a letter. Moved there, nothing parts words, and no text can be read
# as FTS5's query language. Nobody writes the code points that it moves to; those who do share one.
_MOVED = {code: 0xE000 + code for code in range(128)} | {0xE000 + code: 0xE080 for code in range(128)}
_NSFW = "nsfw"  # stands among a card's pieces, as its family and licence do: in ASCII, so like none of its letters


@dataclass(frozen=True, slots=True)
class Asked:
    """The Hub's answer to a question: when (seconds since the epoch), its ETag, its next page, the cards it gave."""

    at: float
    etag: str | None
    next: str | None
    cards: int


class Fact(NamedTuple):
    """What was remembered, and when (seconds since the epoch)."""

    value: JsonValue
    at: float


class CardIndex:
    """Safe to call from several threads; several processes may use one file. A search waits for no writer.

    The file and its folder are made at the first call. They are a cache: a torn or foreign file is put aside (*.torn)
    for a new one, and of another version's file only the facts are kept. Any call may raise NoRoom, where the disk
    refuses.
    """

    def __init__(self, path: Path, most_cards: int = MOST_CARDS) -> None:
        self._file = CacheFile(path, _NAME, _VERSION, _TABLES, _DROPPED)
        self._most_cards = most_cards

    def put(self, cards: Iterable[LoraCard], at: float) -> None:
        """Adds cards, or replaces those of the same ref; of more than `most_cards` the least recently seen go.

        `at` is when they were seen, in seconds since the epoch.
        """
        rows = map(_Row.of, cards)
        while batch := list(islice(rows, _BATCH)):
            self._file.write(partial(_put, rows=batch, at=at, most=self._most_cards))

    def forget(self, ref: str) -> None:
        """Drops the card, if it is there."""
        self._file.write(lambda db: _drop(db, _numbers_of(db, ref)))

    def card(self, ref: str) -> LoraCard | None:
        cards, torn = _readable(self._file.read(lambda db: _bodies(db, _numbers_of(db, ref))))
        self._forget_torn(torn)
        return next(iter(cards), None)

    def search(self, wanted: Search, skip: int, limit: int) -> list[LoraCard]:
        """At most `limit` cards that `wanted.matches`, less the first `skip`: by `wanted.sort`, then by ref."""
        found: list[LoraCard] = []
        all_torn: list[int] = []
        while True:
            page = self._file.read(partial(_page, wanted=wanted, skip=skip, limit=limit - len(found)))
            cards, torn = _readable(page)
            found += cards
            all_torn += torn
            if not torn:
                break
            skip += len(page)
        self._forget_torn(all_torn)
        return found

    def asked(self, question: str) -> Asked | None:
        sql = "SELECT at, etag, next, cards FROM asked WHERE question = ?"
        row = self._file.read(lambda db: db.execute(sql, (question,)).fetchone())
        return None if row is None else Asked(*row)

    def note_asked(self, question: str, asked: Asked) -> None:
        """Replaces an earlier answer; of more than MOST_ASKED the oldest go."""

        def note(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR REPLACE INTO asked VALUES (?, ?, ?, ?, ?)", (question, *astuple(asked)))
            beyond = "SELECT rowid FROM asked ORDER BY at DESC LIMIT -1 OFFSET ?"
            db.execute(f"DELETE FROM asked WHERE rowid IN ({beyond})", (MOST_ASKED,))

        self._file.write(note)

    def recall(self, key: str) -> Fact | None:
        """What was last remembered at `key`."""
        row = self._file.read(lambda db: db.execute("SELECT value, at FROM facts WHERE key = ?", (key,)).fetchone())
        try:
            return None if row is None else Fact(json.loads(row[0]), row[1])
        except ValueError:
            return None  # torn: as good as never remembered

    def remember(self, key: str, value: JsonValue, at: float, keep: bool = False) -> None:
        """Replaces what was remembered at `key`; of more than MOST_FACTS the oldest go, those to `keep` last."""

        def note(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?)", (key, json.dumps(value), at, keep))
            beyond = "SELECT rowid FROM facts ORDER BY keep DESC, at DESC LIMIT -1 OFFSET ?"
            db.execute(f"DELETE FROM facts WHERE rowid IN ({beyond})", (MOST_FACTS,))

        self._file.write(note)

    def close(self) -> None:
        """Closes the file. A later call opens it for its own time only."""
        self._file.close()

    def _forget_torn(self, numbers: Sequence[int]) -> None:
        if numbers:
            log.warning("%d damaged cards are dropped from %s", len(numbers), _NAME)
            with suppress(NoRoom):  # then the next search finds them again
                self._file.write(partial(_drop, numbers=numbers))


# Cards in the tables -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    """A card as the tables hold it. Every word of a query is looked for in `folded`, as `Search.matches` would."""

    ref: str
    family: str
    licence: str
    nsfw: bool
    downloads: int
    likes: int
    updated: str
    folded: bytes
    card: bytes

    @classmethod
    def of(cls, card: LoraCard) -> _Row:
        return cls(
            ref=card.ref,
            family=card.family,
            licence=(card.licence or "").casefold(),
            nsfw=card.nsfw,
            downloads=min(card.downloads, 2**63 - 1),
            likes=min(card.likes, 2**63 - 1),
            updated=card.updated or "",
            folded=" ".join([card.ref, card.title, *card.triggers, card.description]).casefold().encode(),
            card=card.model_dump_json().encode(),
        )


def _put(db: sqlite3.Connection, rows: Sequence[_Row], at: float, most: int) -> None:
    for row in rows:
        old = db.execute(
            "SELECT id, family, licence, nsfw, coalesce(folded, x''), card FROM cards LEFT JOIN bodies USING (id)"
            " WHERE ref = ?",
            (row.ref,),
        ).fetchone()
        if old and old[5] == row.card:
            db.execute("UPDATE cards SET seen = ? WHERE id = ?", (at, old[0]))
            continue
        new_words = (row.family, row.licence, row.nsfw, row.folded)
        if old and old[1:5] != new_words:
            _cut_out(db, *old[:5])
        (number,) = db.execute(
            "INSERT INTO cards (ref, family, licence, nsfw, downloads, likes, updated, seen)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (ref) DO UPDATE SET family = excluded.family,"
            " licence = excluded.licence, nsfw = excluded.nsfw, downloads = excluded.downloads, likes = excluded.likes,"
            " updated = excluded.updated, seen = excluded.seen RETURNING id",
            (row.ref, row.family, row.licence, row.nsfw, row.downloads, row.likes, row.updated, at),
        ).fetchone()
        db.execute("INSERT OR REPLACE INTO bodies VALUES (?, ?, ?)", (number, row.folded, row.card))
        if not old or old[1:5] != new_words:
            db.execute("INSERT INTO pieces (rowid, piece) VALUES (?, ?)", (number, _pieces(*new_words)))
    (held,) = db.execute("SELECT count(*) FROM cards").fetchone()
    beyond = db.execute("SELECT id FROM cards ORDER BY seen, id LIMIT ?", (max(0, held - most),))
    _drop(db, [number for (number,) in beyond])


def _drop(db: sqlite3.Connection, numbers: Sequence[int]) -> None:
    for number in numbers:
        old = db.execute(
            "SELECT family, licence, nsfw, coalesce(folded, x'') FROM cards LEFT JOIN bodies USING (id) WHERE id = ?",
            (number,),
        ).fetchone()
        if old:
            _cut_out(db, number, *old)
        db.execute("DELETE FROM cards WHERE id = ?", (number,))
        db.execute("DELETE FROM bodies WHERE id = ?", (number,))


def _cut_out(db: sqlite3.Connection, number: int, family: str, licence: str, nsfw: bool, folded: bytes) -> None:
    """The full-text table keeps no texts: it must be told what it was given."""
    pieces = _pieces(family, licence, nsfw, folded)
    db.execute("INSERT INTO pieces (pieces, rowid, piece) VALUES ('delete', ?, ?)", (number, pieces))


def _pieces(family: str, licence: str, nsfw: bool, folded: bytes) -> str:
    """All that a card is found by, parted by spaces."""
    found = {_family_mark(family), _licence_mark(licence)}
    if nsfw:
        found.add(_NSFW)
    for word in set(folded.decode(errors="replace").split()):
        moved = word.translate(_MOVED)
        found.update(moved[start : start + _PIECE] for start in range(len(moved)))
    return " ".join(found)


def _family_mark(family: str) -> str:
    return f"f{family.encode().hex()}"


def _licence_mark(licence: str) -> str:
    return f"l{licence.encode().hex()}"


def _numbers_of(db: sqlite3.Connection, ref: str) -> list[int]:
    return [number for (number,) in db.execute("SELECT id FROM cards WHERE ref = ?", (ref,))]


def _bodies(db: sqlite3.Connection, numbers: Iterable[int]) -> list[tuple[int, bytes]]:
    """Cards as JSON, with their numbers; empty where one is lost."""
    sql = "SELECT card FROM bodies WHERE id = ?"
    return [(number, (db.execute(sql, (number,)).fetchone() or (b"",))[0]) for number in numbers]


def _readable(bodies: Iterable[tuple[int, bytes]]) -> tuple[list[LoraCard], list[int]]:
    """The cards, and the numbers of those that are torn."""
    cards, torn = [], []
    for number, body in bodies:
        try:
            cards.append(LoraCard.model_validate_json(body))
        except ValidationError:
            torn.append(number)
    return cards, torn


# The search ----------------------------------------------------------------------------------------------------------


def _page(db: sqlite3.Connection, wanted: Search, skip: int, limit: int) -> list[tuple[int, bytes]]:
    held = db.execute("SELECT max(id) FROM cards").fetchone()[0] or 0  # at most: to count them would take longest
    if skip >= held:
        return []
    words = list(dict.fromkeys(wanted.query.casefold().split()))
    column = _COLUMNS[wanted.sort]
    sought = _sought(words, wanted)
    few, many = (min(held, isqrt(int(factor * (skip + limit) * held))) for factor in (_FEW, _MANY))
    counted = "SELECT count(*) FROM (SELECT 1 FROM pieces WHERE pieces MATCH ? LIMIT ?)"
    candidates = db.execute(counted, (sought, many + 1)).fetchone()[0] if sought else held
    if candidates <= many and sought:
        condition, values = "id IN (SELECT rowid FROM pieces WHERE pieces MATCH ?)", [sought]
    else:
        condition, values = _filters(wanted)
    holds, texts = _holds(words)
    # Not indexed, the candidates are sorted; else SQLite goes through all cards in order, until it has enough.
    way = "NOT INDEXED" if candidates <= few else f"INDEXED BY by_{column}"
    numbers = db.execute(
        f"SELECT id FROM cards {way} CROSS JOIN bodies USING (id) WHERE {condition} AND {holds}"
        f" ORDER BY {column} DESC, ref LIMIT ? OFFSET ?",
        (*values, *texts, limit, skip),
    )
    return _bodies(db, [number for (number,) in numbers])


def _sought(words: Sequence[str], wanted: Search) -> str:
    """The query for the full-text table that all matching cards answer; empty where it would name nearly all cards."""
    parts = []
    if wanted.family is not None:
        parts.append(" OR ".join(map(_family_mark, FAMILIES_OF[wanted.family])))
    if wanted.licence is not None:
        parts.append(_licence_mark(wanted.licence.casefold()))
    in_turn = [piece for pieces in zip_longest(*map(_pieces_sought, words)) for piece in pieces if piece is not None]
    parts += in_turn[:_MOST_PIECES]
    sought = " AND ".join(f"({part})" for part in parts)
    return f"({sought}) NOT {_NSFW}" if sought and not wanted.nsfw else sought


def _pieces_sought(word: str) -> Iterator[str]:
    moved = word.translate(_MOVED)
    if len(moved) < _PIECE:
        yield f'"{moved}"*'
    yield from (f'"{moved[start : start + _PIECE]}"' for start in range(len(moved) - _PIECE + 1))


def _filters(wanted: Search) -> tuple[str, list[str]]:
    """A condition on `cards`, and its values."""
    conditions, values = ["TRUE"], list[str]()
    if not wanted.nsfw:
        conditions.append("NOT nsfw")
    if wanted.family is not None:
        conditions.append("family IN (SELECT value FROM json_each(?))")
        values.append(json.dumps(sorted(FAMILIES_OF[wanted.family])))
    if wanted.licence is not None:
        conditions.append("licence = ?")
        values.append(wanted.licence.casefold())
    return " AND ".join(conditions), values


def _holds(words: Sequence[str]) -> tuple[str, list[bytes]]:
    """A condition on `bodies`, and its values: the longest word, which most often fails, first."""
    return (
        " AND ".join(["TRUE"] + ["instr(folded, ?)"] * len(words)),
        [word.encode() for word in sorted(words, key=len, reverse=True)],
    )
