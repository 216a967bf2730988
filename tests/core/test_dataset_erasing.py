"""What people delete leaves the dataset: its shards at once or the day after, and the history with it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from core.records.erasing import DAY
from core.records.journal import Journal
from core.records.sync import DatasetSync, dataset_sync
from tests.core.dataset_parts import (
    REPO,
    Clock,
    client,
    ids,
    journal_in,
    record,
    rows,
    sent,
    shards,
    sync_of,
    turns,
)
from tests.hub import EmulatedHub, faults


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
    """Three records of ann's are on the Hub, in two shards."""
    sync = sync_of(journal, hub, tmp_path, clock)
    journal.keep([record(1), record(2)])
    turns(sync, clock)
    journal.keep([record(3)])
    turns(sync, clock)
    yield sync
    sync.close()


def delete(journal: Journal, *numbers: int) -> None:
    assert journal.delete([ids(range(n, n + 1))[0] for n in numbers], "ann") == len(numbers)


def once(*numbers: int) -> Counter[str]:
    return Counter(ids(range(n, n + 1))[0] for n in numbers)


def squashes(hub: EmulatedHub) -> int:
    return len(hub.asked("/super-squash/"))


def test_a_shard_is_written_anew_without_the_row_and_the_history_forgets_it(
    journal: Journal, sync: DatasetSync, hub: EmulatedHub, clock: Clock
) -> None:
    before = shards(hub)
    delete(journal, 1)
    turns(sync, clock)
    assert rows(hub) == once(2, 3)
    assert len({*before} & {*shards(hub)}) == 1
    assert [{*commit.files} for commit in hub.repo(REPO, "datasets").commits.values()] == [
        {".gitattributes", "README.md", *shards(hub)}
    ]
    assert (journal.erasures(), journal.counts().on_hub) == ([], 2)


def test_a_shard_of_which_nothing_is_left_goes(
    journal: Journal, sync: DatasetSync, hub: EmulatedHub, clock: Clock
) -> None:
    delete(journal, 3)
    turns(sync, clock)
    assert (rows(hub), len(shards(hub))) == (once(1, 2), 1)


def test_the_history_is_squashed_at_most_once_a_day_even_over_a_restart(
    journal: Journal, sync: DatasetSync, hub: EmulatedHub, clock: Clock, tmp_path: Path
) -> None:
    delete(journal, 1)
    turns(sync, clock)
    delete(journal, 2)
    sync.close()
    sync = sync_of(journal, hub, tmp_path, clock)
    clock.now += DAY - 60
    turns(sync, clock)
    assert (rows(hub), squashes(hub)) == (once(2, 3), 1)
    clock.now += 60
    turns(sync, clock)
    assert (rows(hub), squashes(hub)) == (once(3), 2)


def test_what_is_deleted_before_it_is_sent_never_reaches_the_hub(
    journal: Journal, sync: DatasetSync, hub: EmulatedHub, clock: Clock
) -> None:
    hub.fail("/objects/batch", faults.status(500), done=False)
    journal.keep([record(4), record(5)])
    clock.now += sync.turn()
    assert len(journal.sealed()) == 1
    delete(journal, 4)
    turns(sync, clock)
    assert rows(hub) == once(1, 2, 3, 5)
    assert not any(ids(range(4, 5))[0].encode() in asked.body for asked in hub.requests)
    assert squashes(hub) == 0


def folder_holds(folder: Path, number: int) -> bool:
    for file in (folder / "sealed").glob("*.parquet"):
        try:
            if ids(range(number, number + 1))[0] in pq.read_table(file)["id"].to_pylist():
                return True
        except FileNotFoundError:
            continue  # dropped this moment by a sync in its own thread
    return False


@pytest.mark.parametrize("fault", [faults.cut(None), faults.status(401), faults.too_many("3000")])
def test_what_is_deleted_while_the_hub_is_away_leaves_the_sealed_shard_here(
    fault: object, journal: Journal, sync: DatasetSync, hub: EmulatedHub, tmp_path: Path
) -> None:
    hub.fail("/objects/batch", fault, times=99, done=False)  # type: ignore[arg-type]
    journal.keep([record(4), record(5)])
    sync.turn()
    assert folder_holds(tmp_path, 4)
    delete(journal, 4)
    hub.fail("/", faults.cut(None), times=99, done=False)
    sync.turn()
    assert not folder_holds(tmp_path, 4)
    assert folder_holds(tmp_path, 5)


def test_a_sync_that_rests_takes_out_what_is_deleted_too(
    journal: Journal, sync: DatasetSync, hub: EmulatedHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fail("/objects/batch", faults.too_many("3000"), times=99, done=False)
    journal.keep([record(4)])
    sync.turn()
    monkeypatch.setattr("core.records.sync.IDLE", 0.01)
    sync.start()
    delete(journal, 4)
    until = time.monotonic() + 20
    while folder_holds(tmp_path, 4):
        assert time.monotonic() < until


def test_where_nothing_is_sent_any_more_no_sealed_shard_stays_and_none_is_lost_or_doubled(
    journal: Journal, sync: DatasetSync, hub: EmulatedHub, clock: Clock, tmp_path: Path
) -> None:
    hub.fail("/paths-info/", faults.cut(None), done=False)  # after the commit: nobody knows that it came
    journal.keep([record(4), record(5)])
    sync.turn()
    hub.heal()
    hub.fail("/objects/batch", faults.status(500), done=False)
    journal.keep([record(6), record(7)])
    clock.now += 400
    sync.turn()
    sync.close()
    delete(journal, 4, 6)
    nowhere = dataset_sync(journal, None, tmp_path / "sealed", hub.endpoint, None, client())
    nowhere.start()
    assert not [*(tmp_path / "sealed").glob("*.parquet")]
    clock.now += DAY
    sent(journal, hub, tmp_path, clock)
    assert rows(hub) == once(1, 2, 3, 5, 7)


def test_the_squash_is_one_of_the_commits_that_an_hour_may_have(
    journal: Journal, sync: DatasetSync, hub: EmulatedHub, clock: Clock, tmp_path: Path
) -> None:
    sync.close()
    clock.now += 4000
    delete(journal, 1)
    sync = sync_of(journal, hub, tmp_path, clock, per_hour=2)
    turns(sync, clock)  # takes out the row, and squashes
    journal.keep([record(4)])
    assert sync.turn() == pytest.approx(3600)
    sync.close()


def test_what_a_stalled_commit_may_still_bring_is_taken_out_once_it_is_there(
    journal: Journal, sync: DatasetSync, hub: EmulatedHub, clock: Clock
) -> None:
    hub.fail("/commit/main", faults.status(500), done=False)
    journal.keep([record(4), record(5)])
    clock.now += sync.turn()
    delete(journal, 4)
    turns(sync, clock)
    assert rows(hub) == once(1, 2, 3, 5)
    assert squashes(hub) == 1  # so it came whole, and was written anew


@pytest.mark.parametrize("path", ["/resolve/", "/commit/main", "/objects/batch", "/super-squash/", "/paths-info/"])
@pytest.mark.parametrize("done", [True, False])
def test_a_fault_in_between_leaves_it_for_the_next_turn(
    path: str, done: bool, journal: Journal, sync: DatasetSync, hub: EmulatedHub, clock: Clock
) -> None:
    delete(journal, 1, 3)
    hub.fail(path, faults.status(500), done=done, times=2)
    turns(sync, clock)
    assert rows(hub) == once(2)
    assert len(hub.repo(REPO, "datasets").commits) == 1


def test_a_shard_that_the_owner_took_away_stays_away(
    journal: Journal, sync: DatasetSync, hub: EmulatedHub, clock: Clock
) -> None:
    hub.commit(REPO, dict.fromkeys(shards(hub)), kind="datasets")
    delete(journal, 1)
    turns(sync, clock)
    assert (rows(hub), journal.erasures()) == (Counter(), [])


def test_a_file_that_is_no_shard_any_more_is_left_alone_and_said_in_the_log(
    journal: Journal, sync: DatasetSync, hub: EmulatedHub, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    changed: dict[str, bytes | None] = dict.fromkeys(shards(hub), b"edited by hand")
    hub.commit(REPO, changed, kind="datasets")
    delete(journal, 1)
    turns(sync, clock)
    assert shards(hub) == changed
    assert "by hand" in caplog.text
