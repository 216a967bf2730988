"""The index of cards: what a search finds and in which order, what is kept, and what becomes of a damaged file."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_catalog import cache_file
from lora_catalog import index as index_module
from lora_catalog.card import Family, LoraCard
from lora_catalog.errors import NoRoom
from lora_catalog.index import Asked, CardIndex, Fact
from lora_catalog.search import Search, Sort

ROOT = Path(__file__).parent.parent.parent


def card(ref: str = "user/repo", **fields: object) -> LoraCard:
    plain: dict[str, object] = {
        "title": "", "family": "sdxl", "licence": None, "triggers": (), "weight": 1, "downloads": 0, "likes": 0,
        "nsfw": False, "gated": False, "source": "hub", "base": None, "preview": None, "description": "",
        "author": None,
    }  # fmt: skip
    return LoraCard.model_validate({"ref": ref, **plain, **fields})


MOST_FIRST = {
    "downloads": lambda card: -card.downloads,
    "likes": lambda card: -card.likes,
    "recent": lambda card: [-ord(letter) for letter in card.updated or ""] or [1],
}


def brute_force(cards: Sequence[LoraCard], wanted: Search) -> list[LoraCard]:
    """What a search means, said in the plainest way."""
    by_ref = sorted((card for card in cards if wanted.matches(card)), key=lambda card: card.ref)
    return sorted(by_ref, key=MOST_FIRST[wanted.sort])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "catalog.sqlite"


@pytest.fixture
def index(path: Path) -> Iterator[CardIndex]:
    with closing(CardIndex(path)) as index:
        yield index


def refs(index: CardIndex, query: str = "", skip: int = 0, limit: int = 100, **fields: object) -> list[str]:
    return [card.ref for card in index.search(Search.read({"query": query, **fields}), skip, limit)]


FRAGMENTS = [
    "style", "styles", "sty", "Lora", "x", "xl", "é", "ß", "ss", "İ", "ﬁne", "猫", "猫の絵", "\N{FAMILY}", "AND", "OR",
    "NOT", "NEAR(", '"', "''", "*", "(", ")", ":", "^", "-", "+", "{", ";--", "%", "_", "\\", "\0", "\x1b", "\x1f",
    "\u2028", "\u00a0", "\ue061", "\ue080", "\U0010ffff", "nsfw", "f7364786c", "a_rather_long_word_without_space",
    " ", "\t",
]  # fmt: skip
texts = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=6).map("".join)
licences = st.none() | st.sampled_from(["mit", "MIT", "openrail++", "ß", ""])
counts = st.integers(0, 3) | st.just(2**70)
updates = st.none() | st.sampled_from(["2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z"])
cards = st.builds(
    card, st.text(max_size=4), title=texts, triggers=st.lists(texts, max_size=2), description=texts, licence=licences,
    family=st.sampled_from(get_args(Family)), nsfw=st.booleans(), downloads=counts, likes=counts, updated=updates,
)  # fmt: skip
searches = st.builds(
    Search, query=texts, family=st.none() | st.sampled_from([*get_args(Family), "sd3"]), licence=licences,
    sort=st.sampled_from(get_args(Sort)), nsfw=st.booleans(),
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(
    st.lists(cards, max_size=25, unique_by=lambda card: card.ref), st.lists(searches, min_size=1, max_size=8), st.data()
)
def test_a_search_finds_what_matches_in_the_order_asked_for_whatever_the_texts(
    held: list[LoraCard], asked: list[Search], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder, closing(CardIndex(Path(folder) / "catalog.sqlite")) as index:
        index.put(held, at=0.0)
        for wanted in asked:
            skip, limit = data.draw(st.integers(0, 3)), data.draw(st.sampled_from([1, 2, 50]))
            assert index.search(wanted, skip, limit) == brute_force(held, wanted)[skip : skip + limit]


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("abcde bcdef", "abcdef"),  # both its pieces
        ("abcdefghijklmnopqrstuvw", "abcdefghijklmnopqrstuvwxyz"),  # more pieces than are looked for
        ("a b c d e f g h i j k l m n", "a b c d e f g h i j k l m n o"),
    ],
)
def test_a_text_that_has_the_pieces_of_a_word_but_not_the_word_is_not_found(
    index: CardIndex, text: str, query: str
) -> None:
    index.put([card("0/0", description=text)], at=1.0)
    assert (refs(index, text), refs(index, query)) == (["0/0"], [])


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CardIndex, list[LoraCard]]]:
    """Cards of which some words stand in nearly all, some in many, some in few."""
    draw = random.Random(3)
    words = ["lora", "style", "anime", "portrait", "watercolour", "猫", "zorblax"]
    held = [
        card(
            f"user/{number}", title=" ".join(word for rank, word in enumerate(words) if draw.random() < 2.0**-rank),
            family=draw.choice(get_args(Family)), licence=draw.choice(["mit", None]), nsfw=draw.random() < 0.2,
            downloads=draw.randint(0, 9), likes=draw.randint(0, 99),
        )
        for number in range(600)
    ]  # fmt: skip
    with closing(CardIndex(tmp_path_factory.mktemp("many") / "catalog.sqlite")) as index:
        index.put(held, at=0.0)
        yield index, held


@pytest.mark.parametrize("query", ["", "lora", "style port", "watercolour", "ter a", "猫", "zorblax lora", "nobody"])
def test_common_and_rare_words_are_paged_without_gap_or_repetition(
    many: tuple[CardIndex, list[LoraCard]], query: str
) -> None:
    index, held = many
    for family, sort in product((None, "sdxl", "sd3"), get_args(Sort)):
        wanted = Search(query=query, family=family, sort=sort)
        expected = brute_force(held, wanted)
        for limit, end in ((3, 30), (50, len(held))):
            pages = [index.search(wanted, skip, limit) for skip in range(0, end, limit)]
            assert [card for page in pages for card in page] == expected[:end]
        assert index.search(wanted, 10**30, 20) == []


def test_a_card_is_found_by_its_newest_words_only(index: CardIndex) -> None:
    index.put([card("a/b", title="Neon lights", licence="mit")], at=1.0)
    index.put([card("a/b", title="Robots", nsfw=True, licence="apache-2.0", family="flux")], at=2.0)
    assert refs(index, "neon", nsfw=True) == refs(index, licence="mit", nsfw=True) == refs(index, "robots") == []
    assert refs(index, "robots", nsfw=True, licence="Apache-2.0", family="flux") == ["a/b"]


def test_new_counts_change_the_order(index: CardIndex) -> None:
    index.put([card("a/a", downloads=2), card("a/b", downloads=1, likes=9)], at=1.0)
    assert (refs(index), refs(index, sort="likes")) == (["a/a", "a/b"], ["a/b", "a/a"])
    index.put([card("a/b", downloads=3, likes=9)], at=2.0)
    assert refs(index) == ["a/b", "a/a"]


def test_a_card_comes_back_as_it_was_put_until_it_is_forgotten(index: CardIndex) -> None:
    full = card(
        "a/b:c.safetensors", title="T", triggers=("x, y", "z"), weight=-0.5, gated=True, private=True, source="curated",
        base="b", preview="p.png", description="d", author="a", updated="2026-01-01", checked=False,
    )  # fmt: skip
    index.put([full, card("a/c")], at=1.0)
    assert index.card(full.ref) == full
    index.forget(full.ref)
    index.forget("never/seen")
    assert index.card(full.ref) is None
    assert refs(index) == ["a/c"]
    assert refs(index, "safetensors", nsfw=True) == []


def test_of_too_many_cards_those_seen_longest_ago_go_first(path: Path) -> None:
    with closing(CardIndex(path, most_cards=3)) as index:
        for at, name in enumerate(["a/1", "a/2", "a/3", "a/1", "a/4"]):
            index.put([card(name)], at=float(at))
        assert refs(index) == ["a/1", "a/3", "a/4"]
        assert refs(index, "a/2") == []
        index.put([card(f"b/{number}") for number in range(500)], at=9.0)
        assert len(refs(index)) == 3


def test_the_newest_answer_to_a_question_and_the_newest_fact_are_kept(index: CardIndex, path: Path) -> None:
    assert (index.asked("q?"), index.recall("pin")) == (None, None)
    for answer in (Asked(1.0, None, "next", 100), Asked(2.5, '"etag"', None, 130)):
        index.note_asked("q?", answer)
        index.remember("pin", {"files": [1, 2.5, None, "é"]}, answer.at)
    index.close()
    with closing(CardIndex(path)) as again:
        assert again.asked("q?") == Asked(2.5, '"etag"', None, 130)
        assert again.recall("pin") == Fact({"files": [1, 2.5, None, "é"]}, 2.5)


def test_of_too_many_answers_and_facts_the_oldest_go_and_kept_facts_last(
    index: CardIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "MOST_ASKED", 2)
    monkeypatch.setattr(index_module, "MOST_FACTS", 2)
    index.remember("pin", "sha", at=0.0, keep=True)
    for name, at in (("first", 1.0), ("third", 3.0), ("second", 2.0)):
        index.note_asked(name, Asked(at, None, None, 0))
        index.remember(name, at, at)
    assert [name for name in ("first", "second", "third") if index.asked(name)] == ["second", "third"]
    assert [name for name in ("pin", "first", "second", "third") if index.recall(name)] == ["pin", "third"]


def test_nothing_is_made_before_the_first_call(path: Path) -> None:
    CardIndex(path).close()
    assert not path.parent.exists()


def test_nothing_is_left_open_after_closing_nor_by_calls_that_come_later(index: CardIndex, path: Path) -> None:
    index.put([card("a/b")], at=1.0)
    index.close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # SQLite's own go with the last connection
    assert refs(index) == ["a/b"]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def damage_head(path: Path) -> None:
    path.write_bytes(b"torn" * 1000)


def damage_length(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_all_but_head(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))


def put_another_programs_there(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (a)")


@pytest.mark.parametrize("damage", [damage_head, damage_length, damage_all_but_head, put_another_programs_there])
def test_a_torn_or_foreign_file_is_put_aside_and_a_new_one_begun(
    index: CardIndex, path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    index.put([card(f"a/{number}", description="word " * 50) for number in range(100)], at=1.0)
    index.close()
    damage(path)  # type: ignore[operator]
    damaged = path.read_bytes()
    with closing(CardIndex(path)) as again:
        assert refs(again, "word") == []
        again.put([card("b/new")], at=2.0)
        assert refs(again) == ["b/new"]
    assert path.with_name("catalog.sqlite.torn").read_bytes() == damaged
    assert "put aside as catalog.sqlite.torn" in caplog.text


def test_damage_that_shows_during_work_costs_the_cards_and_no_error(index: CardIndex, path: Path) -> None:
    index.put([card("a/b", title="word")], at=1.0)
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE pieces_data SET block = ?", (b"\xff" * 50,))
        other.commit()
    assert refs(index, "word") == []
    index.put([card("a/b", title="word")], at=2.0)
    assert refs(index, "word") == ["a/b"]


def test_a_torn_card_is_left_out_forgotten_and_leaves_no_gap(
    index: CardIndex, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index.put([card(f"a/{number}") for number in range(6)], at=1.0)
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE bodies SET card = x'7b22ff' WHERE id = 1")
        other.execute("UPDATE bodies SET card = '{}' WHERE id = 2")
        other.execute("UPDATE bodies SET card = NULL, folded = x'ff' WHERE id = 3")
        other.execute("DELETE FROM bodies WHERE id = 4")
        other.commit()
    assert refs(index, limit=2) == ["a/4", "a/5"]
    assert "3 damaged cards are dropped" in caplog.text
    assert refs(index, "a/", limit=2) == ["a/4", "a/5"]
    assert [index.card(f"a/{number}") for number in range(4)] == [None] * 4
    index.put([card("a/1", title="back")], at=2.0)
    assert refs(index, "back") == ["a/1"]


def test_torn_notes_and_texts_are_no_errors(index: CardIndex, path: Path) -> None:
    index.put([card("a/b", title="old")], at=1.0)
    index.note_asked("q?", Asked(1.0, "etag", None, 1))
    index.remember("pin", "sha", at=1.0)
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE cards SET licence = CAST(x'ff' AS TEXT)")
        other.execute("UPDATE asked SET etag = CAST(x'ff' AS TEXT)")
        other.execute("UPDATE facts SET value = CAST(x'22ff' AS TEXT)")
        other.commit()
    assert index.asked("q?") == Asked(1.0, "\N{REPLACEMENT CHARACTER}", None, 1)
    assert index.recall("pin") is None
    index.put([card("a/b", title="new")], at=2.0)
    assert refs(index, "new") == ["a/b"]


def test_of_another_versions_file_the_facts_stay(index: CardIndex, path: Path) -> None:
    index.put([card("a/b")], at=1.0)
    index.note_asked("q?", Asked(1.0, '"etag"', None, 1))
    index.remember("pin", "sha", at=1.0)
    index.close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 7")
    with closing(CardIndex(path)) as newer:
        assert (refs(newer), newer.asked("q?"), newer.recall("pin")) == ([], None, Fact("sha", 1.0))
        newer.put([card("a/b")], at=2.0)
        assert refs(newer) == ["a/b"]
    assert not path.with_name("catalog.sqlite.torn").exists()


def test_a_file_that_is_deleted_during_work_is_made_again(index: CardIndex, path: Path) -> None:
    index.put([card("a/b")], at=1.0)
    for file in path.parent.iterdir():
        file.unlink()
    assert refs(index) == []
    index.put([card("a/c")], at=1.0)
    assert refs(index) == ["a/c"]


def test_a_folder_that_cannot_be_made_is_one_sentence_without_a_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "catalog.sqlite", tmp_path):
        with closing(CardIndex(place)) as index, pytest.raises(NoRoom) as refused:
            index.search(Search(), 0, 20)
        assert str(tmp_path) not in str(refused.value)


def test_a_search_waits_for_no_writer_and_a_writer_says_when_it_gave_up(
    index: CardIndex, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_file, "_PATIENCE", 0.05)
    index.put([card("a/b"), card("a/torn")], at=1.0)
    index.close()
    with closing(CardIndex(path)) as other, closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("UPDATE bodies SET card = x'00' WHERE id = 2")
        writer.execute("BEGIN EXCLUSIVE")
        writer.execute("DELETE FROM cards")
        assert refs(other) == ["a/b"]  # what is torn is forgotten another time
        with pytest.raises(NoRoom, match="another program holds its file"):
            other.put([card("a/c")], at=2.0)
        writer.execute("ROLLBACK")
        other.put([card("a/c")], at=2.0)
        assert refs(other) == ["a/b", "a/c"]


def test_threads_search_while_others_put(index: CardIndex) -> None:
    def put(thread: int) -> None:
        for number in range(20):
            index.put([card(f"a/{thread}-{number}-{copy}", title="word") for copy in range(5)], at=1.0)

    def search(_: int) -> list[int]:
        return [len(refs(index, "word")) for _ in range(40)]

    with ThreadPoolExecutor(8) as pool:
        puts, searches = pool.map(put, range(2)), pool.map(search, range(6))
        list(puts)
        assert all(seen == sorted(seen) and not [count for count in seen if count % 5] for seen in searches)
    assert len(index.search(Search(), 0, 1000)) == 200


BEGIN_AND_FILL = """
import sys
from pathlib import Path
from lora_catalog.card import LoraCard
from lora_catalog.index import CardIndex
path, ref, card = sys.argv[1:]
index = CardIndex(Path(path))
sys.stdin.read()  # until all are here
for number in range(30):
    index.put([LoraCard.model_validate_json(card).model_copy(update={"ref": f"{ref}-{number}"})], at=1.0)
index.close()
"""


def test_processes_begin_and_fill_one_file_together(index: CardIndex, path: Path) -> None:
    arguments = [sys.executable, "-c", BEGIN_AND_FILL, str(path)]
    started = [
        subprocess.Popen(
            [*arguments, f"a/{name}", card(title="word").model_dump_json()], stdin=subprocess.PIPE, cwd=ROOT
        )
        for name in range(3)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait() for process in started] == [0, 0, 0]
    assert len(refs(index, "word")) == 90
    assert not path.with_name("catalog.sqlite.torn").exists()
