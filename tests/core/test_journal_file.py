"""The journal's file: durable through kills, shared, migrated, put aside when torn, bounded, on full disks."""

from __future__ import annotations

import hashlib
import logging
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from core.errors import JournalRefused, NotRecorded
from core.records.journal import Journal
from core.records.journal_file import JournalFile
from core.records.schema import MIGRATIONS, Counts
from tests.core.test_journal import kept, record

ROOT = Path(__file__).parents[2]

# Keeps records for ever, and says the ids only once `keep` has returned. A picture is its id's hash, many times.
WRITER = """
import hashlib, sys, uuid
from datetime import UTC, datetime
from pathlib import Path
from core.records.journal import Journal
from core.records.schema import Record

journal = Journal(Path(sys.argv[1]))
while True:
    ids = [uuid.uuid4().hex for _ in range(2)]
    images = [hashlib.sha256(id.encode()).digest() * 10_000 for id in ids]
    records = [Record(i, datetime.now(UTC), "ann", "a cat", "m", "[]", "{}", png) for i, png in zip(ids, images)]
    journal.keep(records)
    print(*ids, sep="\\n", flush=True)
"""


def writer(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def lines_until_killed(process: subprocess.Popen[str], lines: int, pause: float) -> list[str]:
    """The whole lines that it printed: kills it at some moment after it printed the given number."""
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(lines)]
    threading.Event().wait(pause)
    process.send_signal(signal.SIGKILL)
    said += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    return [line.strip() for line in said if line.endswith("\n")]


def test_kill_9_loses_nothing_acknowledged_and_keeps_nothing_by_half(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    draw = random.Random(0)
    for _ in range(10):
        acknowledged += lines_until_killed(writer(tmp_path / "journal.sqlite"), 4, draw.random() / 20)
    journal = Journal(tmp_path / "journal.sqlite")
    records = {record.id: record for record in journal.unsealed(10**6, 10**12)}
    journal.close()
    assert len(acknowledged) >= 40
    assert set(acknowledged) <= set(records)
    assert len(records) % 2 == 0
    for record_id, each in records.items():
        assert each.image == hashlib.sha256(record_id.encode()).digest() * 10_000


def test_several_processes_keep_records_in_one_file_that_is_not_there_yet(tmp_path: Path) -> None:
    writers = [writer(tmp_path / "data" / "journal.sqlite") for _ in range(4)]
    acknowledged = [line for process in writers for line in lines_until_killed(process, 6, 0)]
    journal = Journal(tmp_path / "data" / "journal.sqlite")
    assert set(acknowledged) <= {record.id for record in journal.unsealed(10**6, 10**12)}
    journal.close()


class Interrupted(sqlite3.Connection):
    """Lets something happen before its second statement."""

    statements = 0
    then: Callable[[], object]

    def execute(self, *statement: Any) -> sqlite3.Cursor:
        self.statements += 1
        if self.statements == 2:
            self.then()
        return super().execute(*statement)


def test_a_file_that_another_process_makes_at_this_moment_is_not_taken_for_somebody_elses(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    ours, other = JournalFile(path, MIGRATIONS, lambda: datetime.now(UTC), lambda db: None), Journal(path)
    db = sqlite3.connect(path, isolation_level=None, factory=Interrupted)
    db.then = lambda: kept(other, record())
    ours._prepare(db)
    assert db.execute("SELECT count(*) FROM records").fetchone() == (1,)
    db.close()
    other.close()


def test_a_look_and_a_writer_wait_for_each_other_in_no_way(tmp_path: Path) -> None:
    journal, other = Journal(tmp_path / "journal.sqlite"), Journal(tmp_path / "journal.sqlite")

    def look(db: sqlite3.Connection) -> tuple[int, int]:
        before = db.execute("SELECT count(*) FROM records").fetchone()[0]
        kept(other, record())
        return before, db.execute("SELECT count(*) FROM records").fetchone()[0]

    assert journal._file.read(look) == (0, 0)
    assert journal.counts().here == 1
    journal.close()
    other.close()


def test_a_commit_waits_for_the_disk(tmp_path: Path) -> None:
    """No kill shows this: only a power cut would."""
    journal = Journal(tmp_path / "journal.sqlite")
    full = 2  # SQLite's number for it
    assert journal._file.read(lambda db: db.execute("PRAGMA synchronous").fetchone()) == (full,)
    journal.close()


def test_a_file_of_an_older_version_is_migrated_with_its_rows(tmp_path: Path) -> None:
    old = Journal(tmp_path / "journal.sqlite", migrations=MIGRATIONS[:1])
    (one,) = kept(old, record("of version 1", image=b"png"))
    old.close()
    added = ("ALTER TABLE records ADD COLUMN mood TEXT NOT NULL DEFAULT 'calm'",)
    new = Journal(tmp_path / "journal.sqlite", migrations=(*MIGRATIONS, added))
    assert new.record(one.id, "ann").image == b"png"
    kept(new, record("of the newest"))
    new.close()
    with sqlite3.connect(tmp_path / "journal.sqlite") as db:
        assert db.execute("SELECT mood FROM records").fetchall() == [("calm",), ("calm",)]
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)


def test_a_migration_that_fails_leaves_the_old_version_whole(tmp_path: Path) -> None:
    old = Journal(tmp_path / "journal.sqlite")
    kept(old, record("kept"))
    broken = ("ALTER TABLE records ADD COLUMN mood TEXT", "ALTER TABLE nowhere ADD COLUMN mood TEXT")
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        Journal(tmp_path / "journal.sqlite", migrations=(*MIGRATIONS, broken)).counts()
    assert [each.prompt for each in old.page("ann").records] == ["kept"]
    old.close()


def test_a_file_of_a_newer_version_is_refused_in_a_sentence_and_left_alone(tmp_path: Path) -> None:
    newer = Journal(tmp_path / "journal.sqlite", migrations=(*MIGRATIONS, ("CREATE TABLE more (x)",)))
    kept(newer, record())
    newer.close()
    with sqlite3.connect(tmp_path / "journal.sqlite") as db:
        db.execute("PRAGMA journal_mode = DELETE")  # who knows what a newer version uses
    before = (tmp_path / "journal.sqlite").read_bytes()
    journal = Journal(tmp_path / "journal.sqlite")
    with pytest.raises(NotRecorded, match=r"^Not recorded: the journal was written by a newer version .*\.$"):
        journal.keep([record()])
    with pytest.raises(JournalRefused, match="newer version"):
        journal.page("ann")
    assert (tmp_path / "journal.sqlite").read_bytes() == before


def pictured(journal: Journal) -> set[str]:
    return {each.prompt for each in journal.page("ann").records if each.pictured}


TORN: dict[str, Callable[[bytes], bytes]] = {
    "no database": lambda whole: b"all that was here is gone" * 1000,
    "cut": lambda whole: whole[: len(whole) // 2],
    "overwritten": lambda whole: whole[:100] + bytes(len(whole) - 100),
    "somebody else's": lambda whole: whole[:68] + b"else" + whole[72:],
}


@pytest.mark.parametrize("how", TORN)
def test_a_torn_file_is_set_aside_whole_and_a_new_one_begun(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal.sqlite"
    journal = Journal(path)
    kept(journal, record(image=bytes(100_000)))
    journal.close()
    torn = TORN[how](path.read_bytes())
    path.write_bytes(torn)
    again = Journal(path)
    with caplog.at_level(logging.WARNING):
        kept(again, record("after"))
    assert [each.prompt for each in again.page("ann").records] == ["after"]
    again.close()
    (aside,) = tmp_path.glob("journal.sqlite.torn-*")
    assert aside.read_bytes() == torn
    assert f"put aside as {aside.name}" in caplog.text


def test_a_second_torn_file_does_not_replace_the_first(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    for text in (b"first" * 1000, b"second" * 1000):
        path.write_bytes(text)
        journal = Journal(path)
        kept(journal, record())
        journal.close()
    assert len(list(tmp_path.glob("journal.sqlite.torn-*"))) == 2


def test_what_stands_on_the_hub_makes_room_oldest_first_and_starred_last(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite", largest=3_000_000)
    starred, old, young, unsent = kept(journal, *(record(name, image=bytes(600_000)) for name in "abcd"))
    journal.star(starred.id, "ann", True)
    journal.seal("s1", [starred.id, old.id, young.id])
    journal.on_hub("s1")
    kept(journal, record("e", image=bytes(600_000)))
    assert pictured(journal) == {"a", "c", "d", "e"}
    kept(journal, record("f", image=bytes(600_000)))
    assert pictured(journal) == {"a", "d", "e", "f"}
    kept(journal, record("g", image=bytes(600_000)))
    assert pictured(journal) == {"d", "e", "f", "g"}
    with pytest.raises(NotRecorded, match="the journal is full"):
        journal.keep([record("h", image=bytes(600_000))])
    assert pictured(journal) == {"d", "e", "f", "g"}
    assert journal.record(unsent.id, "ann").image == bytes(600_000)
    journal.close()
    assert (tmp_path / "journal.sqlite").stat().st_size < 4_000_000


def test_rows_go_where_no_picture_is_left_to_go(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite", largest=600_000)
    records = kept(journal, *(record("x" * 3000) for _ in range(20)))
    journal.star(records[0].id, "ann", True)
    journal.seal("s1", [each.id for each in records])
    journal.on_hub("s1")
    kept(journal, record("new", image=bytes(400_000)))
    left = [each.id for each in journal.page("ann").records]
    assert records[0].id in left
    assert 1 < len(left) < 21
    assert left[1:-1] == [each.id for each in reversed(records[-len(left) + 2 :])]
    assert journal.counts() == Counts(here=len(left), on_hub=20)
    journal.close()


ON_A_FULL_DISK = """
import resource, signal, sys, threading
from pathlib import Path
from core.records.journal import Journal
from core.studio import Studio
from lora_catalog.catalog import Catalog
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.visitor import Visitor
from tests.ui.fakes import FakeEngine

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))  # bytes that any file may have
catalog, journal = Catalog([BundledSource(Path("nowhere"))]), Journal(Path(sys.argv[1]))
studio = Studio(FakeEngine(), catalog, "pocket-sd3", journal, "picture")
for seed in range(int(sys.argv[2])):
    raw = {"prompt": "a cat " * 600, "seed": seed, "images": 8, "width": 64, "height": 64, "steps": 1}
    *_, generated = studio.generate(raw, Visitor("ann"), threading.Event())
    assert len(generated.pictures) == 8
    print(generated.recorded)
print(len(studio.history({"limit": 100}, Visitor("ann")).records))
"""


def test_a_full_disk_costs_the_record_but_not_the_picture(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ON_A_FULL_DISK, str(tmp_path / "journal.sqlite"), "12"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    *said, records = done.stdout.splitlines()
    ok = said.count("Kept here: pictures and recipes.")
    assert ok > 0
    assert said.count("Not recorded: the disk takes no more, or is faulty.") == len(said) - ok > 0
    assert int(records) == 8 * ok
    journal = Journal(tmp_path / "journal.sqlite")  # and where there is room again
    kept(journal, record())
    assert journal.counts().here == 8 * ok + 1
    journal.close()


def test_sqlites_own_word_for_a_full_disk_is_told(tmp_path: Path) -> None:
    """A file system that says ENOSPC; a bound on the file's pages makes SQLite say the same."""
    journal = Journal(tmp_path / "journal.sqlite")
    journal._file.write(lambda db: db.execute("PRAGMA max_page_count = 60").fetchone())
    with pytest.raises(NotRecorded, match=r"^Not recorded: the disk is full\.$"):
        journal.keep([record(image=bytes(2_000_000))])
    kept(journal, record())
    journal.close()


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotRecorded, match="its folder cannot be made"):
        Journal(tmp_path / "file" / "journal.sqlite").keep([record()])
