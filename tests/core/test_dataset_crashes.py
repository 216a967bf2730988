"""The dataset sync, ended at any step and begun again: no record is lost, and none is there twice."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from core.records.dataset import HubDataset
from core.records.journal import Journal
from core.records.sync import DatasetSync
from tests.core.dataset_parts import REPO, TOKEN, Clock, client, ids, journal_in, record, rows, sent, sync_of, turns
from tests.hub import EmulatedHub

HOME = Path(__file__).parents[2]
SENDS = """
import sys, httpx2
from pathlib import Path
from core.records.journal import Journal
from core.records.dataset import HubDataset
from core.records.sync import DatasetSync
folder, endpoint = Path(sys.argv[1]), sys.argv[2]
journal = Journal(folder / "journal.sqlite")
sync = DatasetSync(journal, HubDataset("me/log", endpoint, "hf_me", httpx2.Client(timeout=5)), folder / "sealed",
                   every=0, per_hour=10**6)
print("sends", flush=True)
sync.start()
sys.stdin.read()
"""


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


CHANGES = {"seal", "on_hub", "erased", "remember", "write", "drop", "sweep", "create", "store", "commit", "squash"}


class Fuse:
    """Kills after the `left`-th step that changes something, in the journal, in the folder or on the Hub."""

    def __init__(self, left: int) -> None:
        self.left = left

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed

    def on(self, part: Any) -> Any:
        """The part, some calls of which are such steps."""
        return _Fused(part, self)


class _Fused:
    def __init__(self, part: Any, fuse: Fuse) -> None:
        self._part, self._fuse = part, fuse

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        return self._step(found) if name in CHANGES else found

    def _step(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            done = call(*args, **options)
            self._fuse.burn()
            return done

        return step


def doomed(journal: Journal, hub: EmulatedHub, folder: Path, clock: Clock, fuse: Fuse) -> DatasetSync:
    """A sync each of whose steps may be its last."""
    hub.add_user(TOKEN, "me")
    dataset = fuse.on(HubDataset(REPO, hub.endpoint, TOKEN, client()))
    sync = DatasetSync(fuse.on(journal), dataset, folder / "sealed", clock, every=0, per_hour=10**6)
    sync._folder = sync._erasing._folder = fuse.on(sync._folder)
    return sync


def ended_at(step: int, journal: Journal, hub: EmulatedHub, folder: Path, clock: Clock) -> bool:
    """Whether the sync was killed at that step; else it had no more to do."""
    sync = doomed(journal, hub, folder, clock, Fuse(step))
    try:
        turns(sync, clock)
    except Killed:
        return True
    finally:
        sync.close()  # as the kernel lets go of a dead process' lock
    return False


def test_a_kill_at_any_step_of_sending_loses_and_doubles_nothing(hub: EmulatedHub, tmp_path: Path) -> None:
    clock, step, total = Clock(), 0, 0
    journal = journal_in(tmp_path)
    killed = True
    while killed:
        step += 1
        journal.keep([record(total), record(total + 1)])
        total += 2
        killed = ended_at(step, journal, hub, tmp_path, clock)
        if step % 3 == 0:
            sent(journal, hub, tmp_path, clock)
            assert [file.name for file in (tmp_path / "sealed").iterdir()] == [".lock"]
            assert rows(hub) == Counter(ids(range(total)))
    assert step > 10


def test_a_kill_at_any_step_of_erasing_loses_and_doubles_nothing(hub: EmulatedHub, tmp_path: Path) -> None:
    clock, step, kept = Clock(), 0, Counter[str]()
    journal = journal_in(tmp_path)
    killed = True
    while killed:
        step += 1
        first = 3 * step
        journal.keep([record(first + n) for n in range(3)])
        sent(journal, hub, tmp_path, clock)
        journal.delete(ids(range(first, first + 1)), "ann")
        kept += Counter(ids(range(first + 1, first + 3)))
        clock.now += 2 * 86400
        killed = ended_at(step, journal, hub, tmp_path, clock)
        sent(journal, hub, tmp_path, clock)
        clock.now += 2 * 86400
        sent(journal, hub, tmp_path, clock)
        assert rows(hub) == kept
        assert journal.erasures() == []
        assert len(hub.repo(REPO, "datasets").commits) == 1
    assert step > 10


def test_a_process_killed_at_random_loses_and_doubles_nothing(hub: EmulatedHub, tmp_path: Path) -> None:
    chance, journal, total = random.Random(4), journal_in(tmp_path), 0
    hub.add_user(TOKEN, "me")
    for _ in range(5):
        command = [sys.executable, "-c", SENDS, str(tmp_path), hub.endpoint]
        sender = subprocess.Popen(command, cwd=HOME, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert sender.stdout is not None
            assert sender.stdout.readline() == "sends\n"
            until = len(hub.requests) + chance.randint(1, 14)
            while len(hub.requests) < until:
                journal.keep([record(total, picture=False)])
                total += 1
                time.sleep(0.01)  # the sender's own pace decides when it is killed
            sender.send_signal(signal.SIGKILL)
        finally:
            sender.kill()
            sender.wait()
    clock = Clock()
    sent(journal, hub, tmp_path, clock)
    assert rows(hub) == Counter(ids(range(total)))


def test_bytes_that_somebody_took_away_are_made_again(hub: EmulatedHub, tmp_path: Path) -> None:
    clock, journal = Clock(), journal_in(tmp_path)
    journal.keep([record(1)])
    killed = next(step for step in range(1, 60) if not_sent(step, journal, hub, tmp_path, clock))
    assert killed
    for file in (tmp_path / "sealed").glob("*.parquet"):
        file.unlink()
    sent(journal, hub, tmp_path, clock)
    assert rows(hub) == Counter(ids(range(1, 2)))


def not_sent(step: int, journal: Journal, hub: EmulatedHub, folder: Path, clock: Clock) -> bool:
    """Whether a kill at that step left a record that is sealed and not sent."""
    return ended_at(step, journal, hub, folder, clock) and bool(journal.sealed()) and not rows(hub)


@pytest.mark.parametrize("fault", [httpx2.ReadError("x"), RuntimeError("a bug")])
def test_the_thread_outlives_whatever_is_raised_in_it(fault: Exception, hub: EmulatedHub, tmp_path: Path) -> None:
    journal, clock = journal_in(tmp_path), Clock()
    sync = sync_of(journal, hub, tmp_path, clock)
    journal.keep([record(1)])
    held, sync._dataset.held = sync._dataset.held, _raises(fault)  # type: ignore[method-assign]
    sync.turn()
    assert "a fault of LoRA Loom" in sync.status().said
    sync._dataset.held = held  # type: ignore[method-assign]
    turns(sync, clock)
    assert rows(hub) == Counter(ids(range(1, 2)))


def _raises(fault: Exception) -> Callable[..., Any]:
    def raises(*_: Any) -> Any:
        raise fault

    return raises
