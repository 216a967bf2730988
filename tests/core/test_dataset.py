"""The dataset sync: what arrives on the Hub, how often it asks, and what it says."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.records.dataset import HubDataset
from core.records.journal import Journal
from core.records.pace import Pace
from core.records.sync import DatasetSync, dataset_sync
from tests.core.dataset_parts import (
    REPO,
    TOKEN,
    Clock,
    client,
    commits,
    ids,
    journal_in,
    loaded,
    record,
    rows,
    shards,
    sync_of,
    turns,
)
from tests.hub import EmulatedHub, faults
from tests.hub.troubles import TROUBLES


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = journal_in(tmp_path)
    yield journal
    journal.close()


@pytest.fixture
def sync(journal: Journal, hub: EmulatedHub, tmp_path: Path, clock: Clock) -> Iterator[DatasetSync]:
    """Without a thread: its turns are taken by the tests."""
    sync = sync_of(journal, hub, tmp_path, clock)
    yield sync
    sync.close()


def once(numbers: range) -> Counter[str]:
    return Counter(ids(numbers))


def test_records_load_with_datasets_as_they_were_kept(
    journal: Journal, sync: DatasetSync, hub: EmulatedHub, clock: Clock, tmp_path: Path
) -> None:
    journal.keep([record(1), record(2, picture=False)])
    turns(sync, clock)
    journal.keep([record(3, picture=False)])
    turns(sync, clock)
    found = sorted(loaded(hub, tmp_path), key=lambda row: str(row["id"]))
    assert [row["id"] for row in found] == ids(range(1, 4))
    assert [row["size"] for row in found] == [[1, 1], None, None]
    assert {name: found[0][name] for name in ("created_at", "prompt", "model", "loras", "recipe")} == {
        "created_at": "2026-11-20T12:00:01+00:00",
        "prompt": "a cat, number 1",
        "model": "pocket-sd3",
        "loras": '[{"ref":"bundled:pocket-sd3-dots"}]',
        "recipe": '{"version":1,"seed":1}',
    }


def test_the_repo_is_private_and_says_what_it_holds(
    journal: Journal, sync: DatasetSync, hub: EmulatedHub, clock: Clock
) -> None:
    journal.keep([record(1)])
    turns(sync, clock)
    repo = hub.repo(REPO, "datasets")
    card = repo.head.files["README.md"].data.decode()
    assert repo.private
    assert all(f"| `{name}` |" in card for name in ("id", "created_at", "prompt", "model", "loras", "recipe", "image"))
    assert "## Licence" in card


def test_an_owners_own_card_is_left_alone(journal: Journal, sync: DatasetSync, hub: EmulatedHub, clock: Clock) -> None:
    own = {"README.md": b"Mine."}
    hub.add_repo(REPO, own, kind="datasets", readers={TOKEN}, writers={TOKEN})
    journal.keep([record(1)])
    turns(sync, clock)
    assert hub.repo(REPO, "datasets").head.files["README.md"].data == b"Mine."
    assert rows(hub) == once(range(1, 2))


def test_nothing_in_the_dataset_says_who_made_a_picture(
    journal: Journal, sync: DatasetSync, hub: EmulatedHub, clock: Clock
) -> None:
    journal.keep([record(1, visitor="visitor-4711")])
    turns(sync, clock)
    assert not any(b"visitor-4711" in asked.body for asked in hub.requests)


def test_what_is_on_the_hub_is_dropped_here_and_not_before(
    journal: Journal, sync: DatasetSync, hub: EmulatedHub, clock: Clock, tmp_path: Path
) -> None:
    hub.fail("/paths-info/", faults.status(500), done=False)
    journal.keep([record(1)])
    sync.turn()
    assert (len([*(tmp_path / "sealed").glob("*.parquet")]), journal.counts().on_hub) == (1, 0)
    turns(sync, clock)
    assert ([*(tmp_path / "sealed").glob("*.parquet")], journal.counts().on_hub) == ([], 1)


@pytest.mark.parametrize("trouble", TROUBLES)
def test_whatever_the_hub_does_each_record_arrives_once(
    trouble: str, journal: Journal, sync: DatasetSync, hub: EmulatedHub, clock: Clock
) -> None:
    TROUBLES[trouble](hub)
    for number in range(3):
        journal.keep([record(2 * number), record(2 * number + 1)])
        clock.now += max(sync.turn(), 0.1)
    turns(sync, clock)
    assert rows(hub) == once(range(6))
    assert hub.asked(site="elsewhere") == []


def test_a_lost_answer_is_looked_up_and_not_committed_again(
    journal: Journal, sync: DatasetSync, hub: EmulatedHub, clock: Clock
) -> None:
    journal.keep([record(1)])
    turns(sync, clock)
    hub.fail("/commit/main", faults.cut(None))
    journal.keep([record(2)])
    before = commits(hub)
    turns(sync, clock)
    assert commits(hub) == before + 1


def test_records_follow_each_other_within_a_minute_in_one_commit_each_forty_seconds(
    journal: Journal, hub: EmulatedHub, tmp_path: Path, clock: Clock
) -> None:
    sync = sync_of(journal, hub, tmp_path, clock, every=40, per_hour=100)
    journal.keep([record(0)])
    assert sync.turn() == 0  # the first ones at once
    journal.keep([record(1)])
    assert sync.turn() == pytest.approx(40)
    journal.keep([record(2)])
    clock.now += 40
    before = commits(hub)
    sync.turn()
    assert (rows(hub), commits(hub)) == (once(range(3)), before + 1)


def test_an_hour_has_a_few_commits_and_a_restart_forgets_none(
    journal: Journal, hub: EmulatedHub, tmp_path: Path, clock: Clock
) -> None:
    for number in range(4):
        journal.keep([record(number)])
        sync = sync_of(journal, hub, tmp_path, clock, per_hour=4)  # the card is one
        sync.turn()
        wait = sync.turn()
        sync.close()
    assert (rows(hub), commits(hub)) == (once(range(3)), 4)
    assert wait == pytest.approx(3600)
    assert "trying again in 1 h" in sync.status().said
    clock.now += 3600
    turns(sync_of(journal, hub, tmp_path, clock, per_hour=4), clock)
    assert rows(hub) == once(range(4))


def test_unless_told_otherwise_the_hundred_and_first_commit_of_an_hour_waits(
    journal: Journal, hub: EmulatedHub, tmp_path: Path, clock: Clock
) -> None:
    hub.add_user(TOKEN, "me")
    earlier = Pace(journal, clock, 0, 1000)
    for _ in range(98):
        earlier.note()
    clock.now += 1000
    sync = DatasetSync(journal, HubDataset(REPO, hub.endpoint, TOKEN, client()), tmp_path / "sealed", clock)
    journal.keep([record(1)])
    sync.turn()  # commits the card and the record
    journal.keep([record(2)])
    assert sync.turn() == pytest.approx(2600)
    assert (rows(hub), commits(hub)) == (once(range(1, 2)), 2)
    clock.now += 2600
    sync.turn()
    assert rows(hub) == once(range(1, 3))
    sync.close()


def test_the_card_waits_for_its_time_as_any_commit(
    journal: Journal, hub: EmulatedHub, tmp_path: Path, clock: Clock
) -> None:
    sync = sync_of(journal, hub, tmp_path, clock, per_hour=1)
    Pace(journal, clock, 0, 1).note()
    journal.keep([record(1)])
    assert sync.turn() == pytest.approx(3600)
    assert commits(hub) == 0
    turns(sync, clock)
    assert (rows(hub), commits(hub)) == (once(range(1, 2)), 2)
    sync.close()


def test_a_long_backlog_goes_in_large_shards_of_few_commits(
    journal: Journal, sync: DatasetSync, hub: EmulatedHub, clock: Clock
) -> None:
    journal.keep([record(number, picture=False) for number in range(2500)])
    turns(sync, clock)
    assert (len(shards(hub)), commits(hub)) == (3, 2)  # one for the card


def test_a_full_folder_is_followed_by_one_for_the_day(
    journal: Journal, sync: DatasetSync, hub: EmulatedHub, clock: Clock
) -> None:
    full = {f"data/{number}.txt": b"" for number in range(8000)}
    hub.add_repo(REPO, full, kind="datasets", readers={TOKEN}, writers={TOKEN})
    journal.keep([record(1)])
    turns(sync, clock)
    assert [path.rpartition("/")[0] for path in shards(hub)] == ["data/2026-11-20"]


@pytest.mark.parametrize("fault", [faults.too_many("90"), faults.rate_limited(90)])
def test_the_hub_is_left_alone_as_long_as_it_asks(
    fault: object, journal: Journal, sync: DatasetSync, hub: EmulatedHub, clock: Clock
) -> None:
    hub.fail("/commit/main", fault, done=False)  # type: ignore[arg-type]
    journal.keep([record(1)])
    assert 90 <= sync.turn() <= 91
    assert sync.status().said == "1 saved here, 0 on the Hub; the Hub asks to wait; trying again in 1 min"
    before = len(hub.requests)
    clock.now += 80
    sync.turn()
    assert len(hub.requests) == before
    clock.now += 12
    sync.turn()
    assert rows(hub) == once(range(1, 2))


@pytest.mark.parametrize("code", [401, 403])
def test_a_refused_token_is_said_once_and_does_not_make_a_storm(
    code: int, journal: Journal, sync: DatasetSync, hub: EmulatedHub, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    hub.fail("/commit/main", faults.status(code), times=99, done=False)
    journal.keep([record(1)])
    for _ in range(100):
        sync.turn()
        clock.now += 60
    assert commits(hub) == 2  # one an hour
    assert [entry.levelname for entry in caplog.records] == ["ERROR"]
    assert "HF_TOKEN" in caplog.text
    assert TOKEN not in caplog.text
    assert "HF_TOKEN; trying again in" in sync.status().said


def test_pauses_grow_to_minutes_while_the_hub_is_down_and_end_when_it_is_back(
    journal: Journal, hub: EmulatedHub, tmp_path: Path, clock: Clock
) -> None:
    sync = sync_of(journal, hub, tmp_path, clock)
    journal.keep([record(1)])
    hub.fail("/", faults.cut(None), times=999, done=False)
    waits = []
    for _ in range(12):
        waits.append(sync.turn())
        clock.now += waits[-1]
    assert 1 <= waits[0] <= 2
    assert 150 <= waits[-1] <= 300
    assert "1 saved here, 0 on the Hub; the Hub does not answer; trying again in" in sync.status().said
    hub.heal()
    turns(sync, clock)
    assert sync.status().said == "1 saved here, 1 on the Hub, last just now"
    clock.now += 200
    assert sync.status().said == "1 saved here, 1 on the Hub, last 3 min ago"


def test_two_writers_share_a_repo(hub: EmulatedHub, tmp_path: Path) -> None:
    def write(first: int) -> None:
        folder, clock = tmp_path / str(first), Clock()
        journal = journal_in(folder)
        sync = sync_of(journal, hub, folder, clock)
        for number in range(first, first + 100, 10):
            journal.keep([record(n, picture=False) for n in range(number, number + 10)])
            sync.turn()
        turns(sync, clock)

    writers = [threading.Thread(target=write, args=(first,)) for first in (0, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert rows(hub) == once(range(200))


def test_of_two_senders_on_one_folder_the_second_waits_until_the_first_ends(
    journal: Journal, sync: DatasetSync, hub: EmulatedHub, tmp_path: Path, clock: Clock
) -> None:
    journal.keep([record(1)])
    sync.turn()
    journal.keep([record(2)])
    other = sync_of(journal_in(tmp_path), hub, tmp_path, clock)
    other.turn()
    assert "another LoRA Loom in this data folder sends the records" in other.status().said
    sync.close()
    turns(other, clock)
    assert rows(hub) == once(range(1, 3))


def test_a_flush_sends_what_waits_for_its_time(journal: Journal, hub: EmulatedHub, tmp_path: Path) -> None:
    sync = sync_of(journal, hub, tmp_path, every=3600)
    sync.start()
    journal.keep([record(1)])
    assert sync.flush(30)
    journal.keep([record(2)])
    assert sync.flush(30)
    sync.close()
    assert rows(hub) == once(range(1, 3))


def test_a_flush_ends_in_time_when_the_hub_stalls_and_the_next_start_sends_the_rest(
    journal: Journal, hub: EmulatedHub, tmp_path: Path
) -> None:
    hub.fail("/", faults.stalled(60), times=99, done=False)
    sync = sync_of(journal, hub, tmp_path)
    sync.start()
    journal.keep([record(1)])
    assert not sync.flush(0.2)
    sync.close()
    hub.heal()
    clock = Clock()
    turns(sync_of(journal, hub, tmp_path / "other", clock), clock)
    assert rows(hub) == once(range(1, 2))


def test_without_a_dataset_or_a_token_the_line_says_so(journal: Journal, tmp_path: Path, hub: EmulatedHub) -> None:
    journal.keep([record(1), record(2)])

    def line(repo: str | None, token: str | None) -> str:
        sync = dataset_sync(journal, repo, tmp_path / "sealed", hub.endpoint, token, None)  # type: ignore[arg-type]
        sync.start()
        sync.flush(1)
        sync.close()
        return sync.status().said

    assert line(None, TOKEN) == "2 saved here"
    assert line(REPO, None).startswith("2 saved here; nothing goes to the dataset me/log: set HF_TOKEN")
    assert hub.requests == []
