"""The journal: what it keeps, whose it is, how it is found, and what of it is on the Hub."""

from __future__ import annotations

import json
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import BadRequest, JournalRefused, NotRecorded
from core.records import words
from core.records.journal import Journal, NoJournal
from core.records.schema import Counts, Record
from lora_catalog import sqlite_file

NOON = datetime(2026, 5, 4, 12, 30, 15, 250, UTC)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "data" / "journal.sqlite")
    yield journal
    journal.close()


def record(prompt: str = "a red circle", visitor: str = "ann", *refs: str, image: bytes | None = None) -> Record:
    loras = json.dumps([{"ref": ref} for ref in refs])
    small = b"thumbnail" if image else None
    return Record(uuid.uuid4().hex, NOON, visitor, prompt, "pocket-sd3", loras, '{"seed": 7}', image, small)


def kept(journal: Journal, *records: Record) -> tuple[Record, ...]:
    journal.keep(records)
    return records


def found(journal: Journal, visitor: str = "ann", **look: object) -> list[str]:
    return [record.prompt for record in journal.page(visitor, **look).records]  # type: ignore[arg-type]


def test_nothing_is_written_before_the_first_call(tmp_path: Path) -> None:
    Journal(tmp_path / "data" / "journal.sqlite").close()
    assert list(tmp_path.iterdir()) == []


def test_a_record_comes_back_as_it_was_kept(journal: Journal) -> None:
    (one,) = kept(journal, record("ein größeres Bild\n雪", "ann", "bundled:pixel", image=b"\x89PNG\x00\xff"))
    back = journal.record(one.id, "ann")
    assert back == Record(**{**one.__dict__, "pictured": True})
    assert journal.thumbnail(one.id, "ann") == b"thumbnail"


def test_a_page_is_newest_first_and_leaves_the_pictures_out(journal: Journal) -> None:
    kept(journal, record("first", image=b"png"), record("second"))
    newest, oldest = journal.page("ann").records
    assert (newest.prompt, newest.pictured) == ("second", False)
    assert (oldest.prompt, oldest.pictured, oldest.image, oldest.thumbnail) == ("first", True, None, None)


def test_records_of_one_call_are_kept_all_or_none(journal: Journal) -> None:
    (one,) = kept(journal, record())
    with pytest.raises(Exception, match="UNIQUE"):
        journal.keep([record(), one])
    assert journal.counts().here == 1


def test_a_visitor_sees_stars_and_deletes_only_their_own(journal: Journal) -> None:
    (one,) = kept(journal, record("of ann", image=b"png"))
    assert found(journal, "bob") == []
    assert journal.thumbnail(one.id, "bob") is None
    assert journal.delete([one.id], "bob") == 0
    for refused in (lambda: journal.record(one.id, "bob"), lambda: journal.star(one.id, "bob", True)):
        with pytest.raises(BadRequest, match="of your own"):
            refused()
    assert found(journal) == ["of ann"]
    assert not journal.record(one.id, "ann").starred


def test_what_belongs_to_nobody_is_shown_to_nobody(journal: Journal) -> None:
    (one,) = kept(journal, record("nobody's", visitor="", image=b"png"))
    assert found(journal, "") == []
    assert journal.thumbnail(one.id, "") is None
    assert journal.delete([one.id], "") == 0
    for refused in (lambda: journal.record(one.id, ""), lambda: journal.star(one.id, "", True)):
        with pytest.raises(BadRequest):
            refused()
    assert [each.id for each in journal.unsealed(10, 1000)] == [one.id]


def test_stars_are_kept_and_looked_for(journal: Journal) -> None:
    one, _ = kept(journal, record("one"), record("two"))
    journal.star(one.id, "ann", True)
    assert found(journal, starred=True) == ["one"]
    assert found(journal, starred=False) == ["two"]
    assert found(journal) == ["two", "one"]
    assert journal.record(one.id, "ann").starred
    journal.star(one.id, "ann", False)
    assert found(journal, starred=True) == []


def test_pages_follow_each_other_while_new_records_come(journal: Journal) -> None:
    kept(journal, *(record(str(number)) for number in range(5)))
    first = journal.page("ann", limit=2)
    kept(journal, record("new"))
    second = journal.page("ann", limit=2, cursor=first.next)
    third = journal.page("ann", limit=2, cursor=second.next)
    assert [r.prompt for page in (first, second, third) for r in page.records] == ["4", "3", "2", "1", "0"]
    assert third.next is None


def test_words_are_found_by_their_beginnings_whatever_case_and_accents(journal: Journal) -> None:
    kept(journal, record("Ein schönes CAFÉ, bei Nacht"), record("雪の夜"), record("x" * 4000))
    assert found(journal, query="schon cafe") == ["Ein schönes CAFÉ, bei Nacht"]
    assert found(journal, query="夜") == ["雪の夜"]
    assert found(journal, query="x" * 150) == ["x" * 4000]
    assert found(journal, query="afé") == []
    assert len(found(journal, query=" ,.! ")) == 3


def test_a_query_is_only_ever_words(journal: Journal) -> None:
    kept(journal, record("a red circle"))
    for query in ('" OR 1', "red NOT circle", "NEAR(red circle)", "marks : of", "red*", "(", "red AND", "prompt:red"):
        assert set(found(journal, query=query)) <= {"a red circle"}
    assert found(journal, query="of" + "0" * 32) == []
    assert found(journal, query="starred") == []


def test_a_lora_is_found_by_its_ref_pinned_or_not_and_by_parts_of_its_name(journal: Journal) -> None:
    pinned = "weaver/Glow@" + "a" * 40 + ":glow.safetensors"
    kept(journal, record("one", "ann", pinned, "bundled:pixel"), record("two", "ann", "bundled:pixel-xl"))
    for lora in (pinned, "weaver/glow", "weaver/Glow@" + "b" * 40, "glow", "weav"):
        assert found(journal, lora=lora) == ["one"], lora
    assert found(journal, lora="bundled:pixel-xl") == ["two"]
    assert found(journal, query="pixel") == ["two", "one"]
    assert found(journal, lora="glow pixel") == []  # not one name: two LoRAs' that follow each other
    assert found(journal, lora="glow bundled") == []
    assert found(journal, query="aaaa") == []


ALPHABET = "abcAB é_雪か가-'\"*ß1"
TEXTS = st.text(ALPHABET, max_size=12)
LOOKS = st.tuples(st.sampled_from(["ann", "bob"]), TEXTS, st.sampled_from([None, True, False]), st.integers(1, 4))
ROWS = st.lists(st.tuples(st.sampled_from(["ann", "bob"]), TEXTS, st.booleans()), max_size=10)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, looks=st.lists(LOOKS, min_size=5, max_size=10))
def test_any_look_gives_what_a_plain_loop_would(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, bool]], looks: list[tuple[str, str, bool, int]]
) -> None:
    journal = Journal(tmp_path_factory.mktemp("any") / "journal.sqlite")
    journal.keep([record(prompt, visitor) for visitor, prompt, _ in rows])
    for one, (_, _, starred) in zip(journal.unsealed(100, 10**6), rows, strict=True):
        if starred:
            journal.star(one.id, one.visitor, True)
    for visitor, query, starred, limit in looks:
        expected = [
            prompt for owner, prompt, star in reversed(rows)
            if owner == visitor and starred in (None, star) and all(
                any(word.startswith(wanted) for word in words.words_of(prompt)) for wanted in words.words_of(query)
            )
        ]  # fmt: skip
        given_back, cursor = [], None
        while True:
            page = journal.page(visitor, query, starred=starred, limit=limit, cursor=cursor)
            given_back += [each.prompt for each in page.records]
            cursor = page.next
            if cursor is None:
                break
        assert given_back == expected
    journal.close()


def test_the_longest_query_is_answered(journal: Journal) -> None:
    kept(journal, record("a b c"))
    assert found(journal, query=" ".join(map(str, range(60)))) == []
    assert found(journal, query="".join(map(chr, range(0x4E00, 0x4E00 + 200)))) == []


def test_what_was_kept_before_there_was_a_dataset_never_goes_to_one(tmp_path: Path) -> None:
    for at_home, prompt in ((True, "before"), (False, "with a dataset"), (True, "without again")):
        journal = Journal(tmp_path / "journal.sqlite", for_dataset=not at_home)
        kept(journal, record(prompt))
        journal.close()
    journal = Journal(tmp_path / "journal.sqlite", for_dataset=True)
    assert [each.prompt for each in journal.unsealed(10, 10**6)] == ["with a dataset"]
    assert len(found(journal)) == 3
    journal.close()


def test_unsealed_records_come_oldest_first_within_bounds_but_always_one(journal: Journal) -> None:
    one, two, three = kept(journal, *(record(image=bytes(1000)) for _ in range(3)))
    assert [each.id for each in journal.unsealed(2, 10**6)] == [one.id, two.id]
    assert [each.id for each in journal.unsealed(10, 2500)] == [one.id, two.id]
    assert [each.image for each in journal.unsealed(10, 1)] == [bytes(1000)]
    journal.seal("s1", [one.id])
    assert [each.id for each in journal.unsealed(10, 10**6)] == [two.id, three.id]


def test_shards_are_sealed_once_and_then_stand_on_the_hub(journal: Journal) -> None:
    one, two = kept(journal, record(), record())
    journal.seal("s1", [one.id])
    journal.seal("s2", [two.id])
    journal.seal("s1", [one.id])  # after a crash
    assert journal.sealed() == ["s1", "s2"]
    assert journal.counts() == Counts(here=2, on_hub=0)
    journal.on_hub("s1")
    assert journal.sealed() == ["s2"]
    assert journal.counts() == Counts(here=2, on_hub=1)
    with pytest.raises(JournalRefused, match="another shard"):
        journal.seal("s3", [two.id])
    assert journal.sealed() == ["s2"]


def test_a_deleted_record_leaves_nothing_but_a_note_to_erase_it_from_its_shard(journal: Journal) -> None:
    one, two, three = kept(journal, *(record(prompt, image=b"png") for prompt in ("one", "two", "three")))
    journal.seal("s1", [one.id, two.id])
    assert journal.delete([one.id, three.id, "f" * 32], "ann") == 2
    assert found(journal) == ["two"]
    assert journal.thumbnail(one.id, "ann") is None
    assert journal.erasures() == [("s1", (one.id,))]
    journal.on_hub("s1")
    assert journal.counts() == Counts(here=1, on_hub=2)
    journal.delete([two.id], "ann")  # while the shard is written anew without the first
    journal.erased("s1", [one.id], "s2")
    assert journal.erasures() == [("s2", (two.id,))]
    assert journal.counts() == Counts(here=0, on_hub=1)
    journal.erased("s2", [two.id], None)
    assert (journal.erasures(), journal.sealed(), journal.counts()) == ([], [], Counts(here=0, on_hub=0))


def test_what_was_erased_is_counted_once_however_often_it_is_told(journal: Journal) -> None:
    one, two, three = kept(journal, record(), record(), record())
    journal.seal("s1", [one.id, two.id, three.id])
    journal.on_hub("s1")
    journal.delete([one.id, two.id], "ann")
    for _ in range(2):
        journal.erased("s1", [one.id, two.id], "s1")
    journal.erased("s1", [], "s1")
    assert (journal.counts(), journal.erasures()) == (Counts(here=1, on_hub=1), [])


def test_records_of_a_shard_that_is_no_more_are_in_none_again(journal: Journal) -> None:
    one, two = kept(journal, record("one"), record("two"))
    journal.seal("s1", [one.id, two.id])
    journal.delete([one.id], "ann")
    journal.erased("s1", [], None)
    assert [each.prompt for each in journal.unsealed(10, 1000)] == ["two"]
    assert (journal.sealed(), journal.erasures()) == ([], [])


def test_a_record_deleted_while_its_shard_was_written_is_noted_as_soon_as_that_is_sealed(journal: Journal) -> None:
    one, two = kept(journal, record("one"), record("two"))
    journal.delete([one.id], "ann")
    journal.seal("s1", [one.id, two.id])
    assert journal.erasures() == [("s1", (one.id,))]


class Careless(sqlite_file._Connection):
    """As SQLite is where whoever built it did not choose otherwise."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.execute("PRAGMA secure_delete = OFF")


def test_what_is_deleted_stands_in_no_file_from_then_on(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "_Connection", Careless)
    for padding in (0, 30):  # in pages of its own, and among other records
        kept(journal, *(record("speakable") for _ in range(padding)))
        (one,) = kept(journal, record("unspeakable", image=b"unspeakable" * 1000))
        kept(journal, record("another"))
        journal.delete([one.id], "ann")
        files = [file.read_bytes() for file in (tmp_path / "data").iterdir()]
        assert len(files) == 3  # with SQLite's own two
        assert not any(b"unspeakable" in data for data in files)


def test_a_deletion_during_a_look_leaves_the_log_to_the_next(journal: Journal, tmp_path: Path) -> None:
    one, two = kept(journal, record("unspeakable"), record("two"))

    def look(db: sqlite3.Connection) -> int:
        db.execute("SELECT count(*) FROM records").fetchone()
        return journal.delete([one.id], "ann")

    assert journal._file.read(look) == 1
    journal.delete([two.id], "ann")
    assert not any(b"unspeakable" in file.read_bytes() for file in (tmp_path / "data").iterdir())


def test_small_facts_are_remembered(journal: Journal) -> None:
    assert journal.remembered("squashed") is None
    journal.remember("squashed", "yesterday")
    journal.remember("squashed", "today")
    assert journal.remembered("squashed") == "today"


def test_several_threads_keep_and_look_at_once(journal: Journal) -> None:
    def work() -> None:
        for _ in range(10):
            kept(journal, record(image=bytes(1000)))
            journal.page("ann")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert journal.counts().here == 40


DAMAGED = {
    "its structure": "DELETE FROM words_data WHERE id = 10",
    "its leaves": "DELETE FROM words_data WHERE id > 10",
}


@pytest.mark.parametrize("what", DAMAGED)
@pytest.mark.parametrize("call", ["keep", "star", "delete", "page"])
def test_a_damaged_search_index_is_made_anew_and_costs_no_record(
    journal: Journal, tmp_path: Path, what: str, call: str
) -> None:
    one, two = kept(journal, record("a red circle"), record("a blue house", image=b"png"))
    journal._file.write(lambda db: db.execute(DAMAGED[what]))
    again = Journal(tmp_path / "data" / "journal.sqlite")
    calls: dict[str, Callable[[], object]] = {
        "keep": lambda: kept(again, record("a grey cat")),
        "star": lambda: again.star(two.id, "ann", True),
        "delete": lambda: again.delete([one.id], "ann"),
        "page": lambda: found(again, query="blue"),
    }
    calls[call]()
    assert found(again, query="hous") == ["a blue house"]
    assert found(again, starred=True) == (["a blue house"] if call == "star" else [])
    assert again.record(two.id, "ann").image == b"png"
    again.close()
    assert not [*(tmp_path / "data").glob("*torn*")]


def test_no_journal_refuses_in_words() -> None:
    with pytest.raises(NotRecorded, match="this studio has no journal"):
        NoJournal().keep([])
    with pytest.raises(JournalRefused, match="this studio has no journal"):
        NoJournal().page("ann")
