"""The store: one download for all who wait, and nothing but whole safetensors files as the Hub lists them."""

from __future__ import annotations

import pickle
import resource
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lora_catalog.errors import BadHeader, Broken, CatalogError, HubBusy, NoRoom, TooLarge
from lora_catalog.lease import lock
from lora_catalog.sources.base import Downloading
from lora_catalog.store import Held, LoraStore
from tests.lora_catalog.origin import PATIENCE, Origin, ended, fetch, fetching, left_over, lora, settle, sha

PICKLE = pickle.dumps({"weights": list(range(5000))})


@pytest.fixture
def store(tmp_path: Path) -> LoraStore:
    return LoraStore(tmp_path / "store", most_bytes=30_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_nothing_is_written_before_the_first_fetch(store: LoraStore, folder: Path) -> None:
    assert store.held("ann/l@c:x.safetensors") is None
    assert not folder.exists()


def test_a_fetched_file_is_still_there_after_a_restart(store: LoraStore, folder: Path) -> None:
    data = lora(1)
    held = fetch(store, data, "ann/l@c:l.safetensors")
    assert (held.path, held.sha256) == (folder / f"{sha(data)}.safetensors", sha(data))
    assert held.path.read_bytes() == data
    again = LoraStore(folder).held("ann/l@c:l.safetensors")
    assert again is not None
    assert (again.path, again.sha256) == (held.path, held.sha256)


@pytest.mark.parametrize("sha256", [sha(lora(1)), None])
def test_what_is_here_is_not_downloaded_again(store: LoraStore, sha256: str | None) -> None:
    fetch(store, lora(1), "k")
    origin = Origin(lora(1))
    ended(store.fetch("k", "l", sha256, None, origin))
    assert origin.opened == 0


def test_a_file_may_come_without_its_size_and_sha256(store: LoraStore) -> None:
    data = lora(1)
    assert ended(store.fetch("k", "l", None, None, Origin(data))).path.read_bytes() == data


def test_32_requests_make_one_download(store: LoraStore) -> None:
    origin = Origin(lora(1), held_back=True)
    waiting, found = threading.Barrier(33, timeout=PATIENCE), list[Held]()

    def visitor() -> None:
        steps = fetching(store, lora(1), origin=origin)
        next(steps)
        waiting.wait()
        found.append(ended(steps))

    threads = [threading.Thread(target=visitor) for _ in range(32)]
    for thread in threads:
        thread.start()
    waiting.wait()
    origin.go.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert origin.opened == 1
    assert {held.path.read_bytes() for held in found} == {lora(1)}
    assert len(found) == 32


def test_progress_is_told_in_bytes(store: LoraStore) -> None:
    origin = Origin(lora(1), piece=4000, held_back=True)
    steps = fetching(store, lora(1), origin=origin)
    said = next(step for step in steps if step.done)
    assert said == Downloading("l.safetensors", 4000, 10_000)
    origin.go.set()
    ended(steps)


def test_a_visitor_who_leaves_does_not_stop_it_for_the_others(store: LoraStore) -> None:
    origin = Origin(lora(1), held_back=True)
    first, second = (fetching(store, lora(1), origin=origin) for _ in range(2))
    next(first), next(second)
    first.close()
    origin.go.set()
    assert ended(second).path.read_bytes() == lora(1)
    assert origin.opened == 1


def test_when_the_last_visitor_leaves_the_download_stops_and_leaves_nothing(store: LoraStore, folder: Path) -> None:
    origin = Origin(lora(1), held_back=True)
    visitors = [fetching(store, lora(1), origin=origin) for _ in range(3)]
    for steps in visitors:
        next(steps)
    for steps in visitors:
        steps.close()
    origin.go.set()
    assert origin.closed.wait(PATIENCE)
    settle()
    assert origin.given <= 2
    assert left_over(folder) == []


def test_who_comes_after_the_last_has_left_starts_anew(store: LoraStore) -> None:
    given_up, anew = Origin(lora(1), held_back=True), Origin(lora(1))
    steps = fetching(store, lora(1), origin=given_up)
    next(steps)
    steps.close()
    assert fetch(store, lora(1), origin=anew).path.read_bytes() == lora(1)
    given_up.go.set()
    settle()


def test_too_large_is_refused_before_the_first_byte(folder: Path) -> None:
    origin = Origin(lora(1))
    with pytest.raises(TooLarge, match=r"0\.0 MB"):
        fetch(LoraStore(folder, largest_file=9_999), lora(1), origin=origin)
    assert origin.opened == 0
    assert not folder.exists()


@pytest.mark.parametrize(
    ("data", "said", "sha256", "error", "sentence"),
    [
        (lora(1, 9_000) + b"hidden", 9_000, None, Broken, "more came than the 9000 bytes"),
        (lora(1, 10_000), 9_000, None, BadHeader, "cut short"),
        (lora(1, 10_000), 11_000, None, BadHeader, "more bytes than its tensors"),
        (lora(1)[:9_000], 10_000, None, Broken, "ended after 9000 of 10000"),
        (lora(1), 10_000, sha(lora(2)), Broken, "sha256 differs"),
        (lora(1, 30_000), None, None, TooLarge, "at most"),
        (PICKLE, len(PICKLE), sha(PICKLE), BadHeader, "“l.safetensors” is not a readable safetensors"),
        (PICKLE, None, None, BadHeader, "header"),
        (b"<!doctype html><html></html>", None, None, BadHeader, "header"),
        (b"", 0, None, BadHeader, "too short"),
        (lora(1) + b"hidden", None, None, BadHeader, "more bytes than its tensors"),
    ],
)
def test_anything_but_the_listed_safetensors_file_is_refused_and_nothing_stays(
    folder: Path, data: bytes, said: int | None, sha256: str | None, error: type[CatalogError], sentence: str
) -> None:
    store = LoraStore(folder, largest_file=20_000)
    with pytest.raises(error, match=sentence):
        ended(store.fetch("k", "l.safetensors", sha256, said, Origin(data)))
    assert left_over(folder) == []
    assert store.held("k") is None


def test_a_pickle_is_refused_at_its_first_piece(store: LoraStore) -> None:
    origin = Origin(PICKLE, piece=100)
    with pytest.raises(BadHeader):
        fetch(store, PICKLE, origin=origin)
    assert origin.given == 1


def test_a_sha256_that_is_a_path_leads_nowhere(store: LoraStore, folder: Path) -> None:
    folder.mkdir()
    (folder.parent / "secret.safetensors").write_bytes(lora(1))
    with pytest.raises(Broken):
        ended(store.fetch("k", "l", "../secret", 10_000, Origin(lora(1))))


def test_an_error_of_the_download_reaches_everybody_who_waits(store: LoraStore, folder: Path) -> None:
    go = threading.Event()

    @contextmanager
    def busy() -> Generator[Iterator[bytes]]:
        go.wait(PATIENCE)
        raise HubBusy(7)
        yield iter(())

    visitors = [fetching(store, lora(1), origin=busy) for _ in range(3)]
    for steps in visitors:
        next(steps)
    go.set()
    for steps in visitors:
        with pytest.raises(HubBusy, match="7 s"):
            ended(steps)
    assert left_over(folder) == []


def test_a_full_disk_is_told_and_nothing_stays(folder: Path) -> None:
    store, data = LoraStore(folder), lora(1, 9_000_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, before[1]))
    try:
        for size in (len(data), None):
            with pytest.raises(NoRoom, match="disk of this server is full"):
                ended(store.fetch("k", "l", None, size, Origin(data, 1_000_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert left_over(folder) == []


def test_the_same_content_under_two_keys_is_stored_once(store: LoraStore, folder: Path) -> None:
    unneeded = Origin(lora(1))
    paths = [
        fetch(store, lora(1), "ann/l@c:l.safetensors").path,
        fetch(store, lora(1), "bob/l@d:l.safetensors", unneeded).path,
        ended(store.fetch("eve/l@e:l.safetensors", "l", None, None, Origin(lora(1)))).path,
    ]
    assert set(paths) == {folder / f"{sha(lora(1))}.safetensors"}
    assert unneeded.opened == 0
    again = LoraStore(folder)
    assert all(again.held(f"{key}:l.safetensors") for key in ("ann/l@c", "bob/l@d", "eve/l@e"))


def test_a_file_whose_size_changed_is_fetched_again(store: LoraStore) -> None:
    path = fetch(store, lora(1), "k").path
    path.write_bytes(b"torn")
    assert store.held("k") is None
    assert fetch(store, lora(1), "k").path.read_bytes() == lora(1)


def test_what_is_dropped_while_we_reach_for_it_is_not_here(store: LoraStore) -> None:
    path = fetch(store, lora(1), "k").path
    found = list[Held | None]()
    reaching = threading.Thread(target=lambda: found.append(store.held("k")))
    with path.open("rb") as dropping:
        lock(dropping.fileno())
        reaching.start()
        time.sleep(0.2)  # lets it open the file; without this the test would pass for another reason
        path.unlink()
    reaching.join(PATIENCE)
    assert found == [None]


def test_a_torn_key_is_no_key(store: LoraStore, folder: Path) -> None:
    fetch(store, lora(1), "k")
    for key in (folder / "keys").iterdir():
        key.write_bytes(b'{"sha256": "..')
    assert store.held("k") is None
    assert LoraStore(folder).held("k") is None
    assert list((folder / "keys").iterdir()) == []
