"""LoRAs in a folder of this machine, and uploads: found, kept, kept apart, and refused where they are no LoRAs."""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
import time
from pathlib import Path

import pytest

from lora_catalog.errors import BadHeader, BadRef, NoRoom, TooLarge, UnknownRef
from lora_catalog.reference import LoraRef
from lora_catalog.search import Search
from lora_catalog.sources import folder as module
from lora_catalog.sources.folder import FolderSource
from lora_catalog.visitor import ANYONE, Visitor
from tests.lora_catalog.conftest import SD3_ATTENTION, drained, write_lora

LAYERS = {SD3_ATTENTION.format(block=block, layer="to_q"): (192, 192) for block in range(6)}
ANN, BOB = Visitor("ann"), Visitor("bob")


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    """A file as it comes from an upload."""
    home = tmp_path / "uploads"
    home.mkdir()
    write_lora(home / "mine.safetensors", LAYERS)
    return home / "mine.safetensors"


@pytest.fixture
def home(tmp_path: Path) -> FolderSource:
    return FolderSource(tmp_path / "loras", public=False)


@pytest.fixture
def public(tmp_path: Path) -> FolderSource:
    return FolderSource(tmp_path / "loras", public=True)


def _home_of(visitor: Visitor) -> str:
    return hashlib.sha256(visitor.id.encode()).hexdigest()[:40]


def listed(source: FolderSource, visitor: Visitor = ANYONE) -> list[str]:
    return [card.ref for card in source.search(Search(), 0, 100, visitor).cards]


def test_files_that_the_owner_puts_there_are_listed_and_fetched(home: FolderSource, tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    write_lora(tmp_path / "loras" / "my look.safetensors", LAYERS)
    assert listed(home) == ["local:my look.safetensors"]
    fetched = drained(home.fetch(LoraRef("local", "my look.safetensors"), ANYONE))
    assert fetched.path.read_bytes() == (tmp_path / "loras" / "my look.safetensors").read_bytes()
    assert (fetched.card.family, fetched.card.title, len(fetched.sha256)) == ("pocket-sd3", "my look", 64)


def test_a_source_without_its_folder_is_empty(home: FolderSource, tmp_path: Path) -> None:
    assert listed(home) == []
    with pytest.raises(UnknownRef):
        home.card(LoraRef("local", "mine.safetensors"), ANYONE)
    assert not (tmp_path / "loras").exists()


def test_an_upload_is_kept_under_its_name_and_once(home: FolderSource, upload: Path) -> None:
    ref = home.add(upload, upload.name, ANYONE)
    assert str(ref) == "local:mine.safetensors"
    assert home.add(upload, upload.name, ANYONE) == ref
    assert listed(home) == ["local:mine.safetensors"]


def test_another_file_of_the_same_name_gets_a_number(home: FolderSource, upload: Path) -> None:
    home.add(upload, upload.name, ANYONE)
    write_lora(upload, LAYERS, rank=8)
    assert str(home.add(upload, upload.name, ANYONE)) == "local:mine-2.safetensors"


@pytest.mark.parametrize(
    "name",
    ["../../etc/x.safetensors", "a:b*c?.safetensors", "C:\\x.safetensors", "\x00\n.safetensors", "..", "",
     "-" * 400 + ".safetensors", "ünï.safetensors", ".hidden.safetensors"],
)  # fmt: skip
def test_any_name_becomes_one_that_a_ref_takes(home: FolderSource, upload: Path, tmp_path: Path, name: str) -> None:
    ref = home.add(upload, name, ANYONE)
    assert LoraRef.parse(str(ref)) == ref
    assert [path.parent for path in tmp_path.rglob("*.safetensors") if path != upload] == [tmp_path / "loras"]


def test_on_a_public_server_uploads_belong_to_one_visitor(public: FolderSource, upload: Path) -> None:
    ref = public.add(upload, upload.name, ANN)
    assert (listed(public, ANN), listed(public, BOB), listed(public)) == (["local:mine.safetensors"], [], [])
    for stranger in (BOB, ANYONE):
        for ask in (public.pin, public.card, public.header, lambda r, v: drained(public.fetch(r, v))):
            with pytest.raises(UnknownRef):
                ask(ref, stranger)


def test_on_a_public_server_the_owners_files_are_for_all(public: FolderSource, tmp_path: Path, upload: Path) -> None:
    (tmp_path / "loras").mkdir()
    write_lora(tmp_path / "loras" / "house.safetensors", LAYERS)
    public.add(upload, upload.name, ANN)
    assert listed(public, BOB) == ["local:house.safetensors"]
    assert listed(public, ANN) == ["local:house.safetensors", "local:mine.safetensors"]


def test_nobody_in_particular_uploads_nothing_to_a_public_server(public: FolderSource, upload: Path) -> None:
    with pytest.raises(BadRef, match="needs a visitor"):
        public.add(upload, upload.name, ANYONE)


def test_a_visitor_has_so_much_room(public: FolderSource, upload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES_OF_ONE", upload.stat().st_size * 3 // 2)
    public.add(upload, "one.safetensors", ANN)
    with pytest.raises(NoRoom, match="all the room"):
        public.add(upload, "two.safetensors", ANN)
    public.add(upload, "two.safetensors", BOB)


def test_many_uploads_at_once_share_the_room_and_equal_ones_are_one(
    public: FolderSource, upload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES_OF_ONE", upload.stat().st_size * 3 // 2)
    other = tmp_path / "other.safetensors"
    write_lora(other, LAYERS, rank=3)
    outcomes: list[str] = []

    def add(file: Path, number: int) -> None:
        try:
            outcomes.append(str(public.add(file, f"{number % 2}.safetensors", ANN)))
        except NoRoom:
            outcomes.append("no room")

    threads = [threading.Thread(target=add, args=((upload, other)[n % 2], n)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = set(outcomes) - {"no room"}
    assert len(kept) == 1  # whichever came first, the others were the same file or found no room


def test_uploads_of_strangers_make_room_for_newer_ones(
    public: FolderSource, upload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES_OF_ALL", upload.stat().st_size * 5 // 2)
    for number, visitor in enumerate((ANN, BOB, Visitor("cyd"))):
        public.add(upload, upload.name, visitor)
        (path,) = public._folder.glob(f".visitors/{_home_of(visitor)}/*")
        os.utime(path, (time.time() - 60 + number,) * 2)
    assert [listed(public, who) != [] for who in (ANN, BOB, Visitor("cyd"))] == [False, True, True]


def test_what_is_no_safetensors_file_leaves_nothing_behind(home: FolderSource, upload: Path, tmp_path: Path) -> None:
    upload.write_bytes(pickle.dumps({"state_dict": [1, 2, 3]}))
    with pytest.raises(BadHeader, match=r"“mine\.safetensors” is not a readable safetensors file"):
        home.add(upload, upload.name, ANYONE)
    assert not (tmp_path / "loras").exists()


def test_a_file_above_the_cap_is_refused_with_both_sizes(tmp_path: Path, upload: Path) -> None:
    with pytest.raises(TooLarge, match=r"has 0\.0 MB, and at most 0\.0 MB"):
        FolderSource(tmp_path / "loras", public=False, largest_file=100).add(upload, upload.name, ANYONE)


def test_links_and_devices_are_not_opened(home: FolderSource, tmp_path: Path, upload: Path) -> None:
    loras = tmp_path / "loras"
    loras.mkdir()
    (loras / "link.safetensors").symlink_to(upload)
    (loras / "folder.safetensors").mkdir()
    os.mkfifo(loras / "pipe.safetensors")
    assert listed(home) == []
    for name in ("link", "folder", "pipe"):
        with pytest.raises(UnknownRef):
            home.header(LoraRef("local", f"{name}.safetensors"), ANYONE)


def test_a_file_that_cannot_be_read_hides_no_other(home: FolderSource, tmp_path: Path, upload: Path) -> None:
    home.add(upload, upload.name, ANYONE)
    (tmp_path / "loras" / "torn.safetensors").write_bytes(b"\x10")
    assert listed(home) == ["local:mine.safetensors"]
    with pytest.raises(BadHeader):
        home.header(LoraRef("local", "torn.safetensors"), ANYONE)


def test_a_file_that_changes_is_read_again(home: FolderSource, tmp_path: Path, upload: Path) -> None:
    ref = home.add(upload, upload.name, ANYONE)
    before = drained(home.fetch(ref, ANYONE)).sha256
    write_lora(tmp_path / "loras" / "mine.safetensors", LAYERS, rank=8)
    assert drained(home.fetch(ref, ANYONE)).sha256 != before
    assert len(home.header(ref, ANYONE).tensors) == 2 * len(LAYERS)
