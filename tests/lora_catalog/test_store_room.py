"""The store's room: never more bytes than allowed, what was used longest ago goes first, and nothing that is in use."""

from __future__ import annotations

import gc
import shutil
import tempfile
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lora_catalog.errors import NoRoom
from lora_catalog.store import Held, LoraStore
from tests.lora_catalog.origin import Origin, ended, fetch, fetching, kept, left_over, lora, sha


@pytest.fixture
def store(tmp_path: Path) -> LoraStore:
    return LoraStore(tmp_path / "store", most_bytes=30_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_a_lora_in_use_is_never_dropped(store: LoraStore, folder: Path) -> None:
    first = fetch(store, lora(1))
    with first.in_use:
        with first.in_use:
            pass
        for number in range(2, 9):
            fetch(store, lora(number))
    assert sha(lora(1)) in kept(folder)
    for number in range(2, 9):
        fetch(store, lora(number))
    assert sha(lora(1)) not in kept(folder)


def test_when_all_are_in_use_there_is_no_room(store: LoraStore, folder: Path) -> None:
    with ExitStack() as uses:
        for number in range(3):
            uses.enter_context(fetch(store, lora(number)).in_use)
        with pytest.raises(NoRoom, match="in use"):
            fetch(store, lora(9))
        assert len(left_over(folder)) == 6
    assert fetch(store, lora(9)).path.exists()


def test_between_its_fetch_and_its_use_a_file_is_not_dropped(folder: Path) -> None:
    store = LoraStore(folder, most_bytes=10_000)
    first = fetch(store, lora(1))
    with pytest.raises(NoRoom):
        fetch(store, lora(2))
    assert first.path.exists()
    del first
    gc.collect()
    assert fetch(store, lora(2)).path.exists()


def test_each_of_two_visitors_keeps_the_file_for_itself(folder: Path) -> None:
    store = LoraStore(folder, most_bytes=10_000)
    one, two = fetch(store, lora(1)), fetch(store, lora(1))
    with one.in_use:
        pass
    with pytest.raises(NoRoom):
        fetch(store, lora(2))
    with two.in_use:
        pass
    assert fetch(store, lora(2)).path.exists()


def test_a_lease_may_be_entered_again_until_the_file_is_dropped(folder: Path) -> None:
    store = LoraStore(folder, most_bytes=10_000)
    first = fetch(store, lora(1))
    for _ in range(2):
        with first.in_use:
            assert first.path.exists()
    fetch(store, lora(2))
    with pytest.raises(NoRoom, match="dropped since"), first.in_use:
        pass


def test_a_download_under_way_counts_with_its_whole_size(store: LoraStore, folder: Path) -> None:
    origin = Origin(lora(1, 25_000), held_back=True)
    steps = fetching(store, lora(1, 25_000), origin=origin)
    next(steps)
    with pytest.raises(NoRoom):
        fetch(store, lora(2))
    origin.go.set()
    ended(steps)
    assert kept(folder) == {sha(lora(1, 25_000))}


class Uses(RuleBasedStateMachine):
    """Fetches, finds, enters and leaves six LoRAs where three or four fit; a list in order of use says what stays."""

    SIZES = (5_000, 6_000, 7_000, 8_000, 9_000, 10_000)
    MOST = 25_000
    loras = st.integers(0, 5)

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = LoraStore(self.folder, self.MOST, now=count(1).__next__)
        self.data = [lora(number, size) for number, size in enumerate(self.SIZES)]
        self.order: list[int] = []
        self.entered: dict[int, Held] = {}

    @rule(number=loras)
    def fetch(self, number: int) -> None:
        fits = self.expect(number)
        try:
            fetch(self.store, self.data[number])
        except NoRoom:
            assert not fits
        else:
            assert fits

    @rule(number=loras)
    def find(self, number: int) -> None:
        held = self.store.held(f"ann/l@c:{sha(self.data[number])}")
        assert (held is not None) == (number in self.order)
        if held:
            self.used(number)

    @precondition(lambda self: len(self.order) > len(self.entered))
    @rule(choice=st.randoms(use_true_random=False))
    def enter(self, choice: Any) -> None:
        number = choice.choice([number for number in self.order if number not in self.entered])
        self.entered[number] = fetch(self.store, self.data[number])
        self.entered[number].in_use.__enter__()
        self.used(number)

    @precondition(lambda self: bool(self.entered))
    @rule(choice=st.randoms(use_true_random=False))
    def leave(self, choice: Any) -> None:
        number = choice.choice(sorted(self.entered))
        self.entered.pop(number).in_use.__exit__(None, None, None)
        self.used(number)

    def used(self, number: int) -> None:
        self.order = [other for other in self.order if other != number] + [number]

    def expect(self, number: int) -> bool:
        """Whether the LoRA fits once the oldest that are not entered have gone."""
        if number not in self.order:
            for oldest in list(self.order):
                if self.bytes + self.SIZES[number] > self.MOST and oldest not in self.entered:
                    self.order.remove(oldest)
            if self.bytes + self.SIZES[number] > self.MOST:
                return False
        self.used(number)
        return True

    @property
    def bytes(self) -> int:
        return sum(self.SIZES[number] for number in self.order)

    @invariant()
    def what_was_used_last_is_there(self) -> None:
        assert kept(self.folder) == {sha(self.data[number]) for number in self.order}

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


Uses.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestWhatWasUsedLongestAgoGoesFirst = Uses.TestCase
