"""The Hub as a source: searched through the index, pinned, looked into, fetched, and shown to whom it may be."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lora_catalog.card import LoraCard
from lora_catalog.catalog import Catalog
from lora_catalog.curated import curated_cards
from lora_catalog.errors import (
    BadHeader,
    BadToken,
    Broken,
    CatalogError,
    FileGone,
    Flagged,
    Gated,
    HubUnreachable,
    NoSafetensors,
    NotShown,
    RevisionGone,
    SeveralFiles,
    TooLarge,
    UnknownRef,
)
from lora_catalog.header import FIRST_READ
from lora_catalog.hub import refresh
from lora_catalog.hub.api import HubApi
from lora_catalog.index import CardIndex
from lora_catalog.previews import PreviewShelf
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.sources.hub import FACTS_FRESH, HubSource
from lora_catalog.store import LoraStore
from lora_catalog.visitor import ANYONE, Visitor
from tests.hub import EmulatedHub, faults
from tests.lora_catalog.conftest import SD3_ATTENTION, drained, lora_bytes

SD3 = {SD3_ATTENTION.format(block=block, layer="to_q"): (192, 192) for block in range(6)}
WEIGHTS = lora_bytes(SD3)
ANN = Visitor("ann", "hf_of_ann")
BOB = Visitor("bob", "hf_of_bob")


@dataclass
class Clock:
    """Seconds since the epoch, as far as the catalogue knows."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Shop:
    """A catalogue over an emulated Hub, and the ways to begin it anew on the same disk."""

    hub: EmulatedHub
    home: Path
    clock: Clock
    curated: tuple[LoraCard, ...] = ()
    largest_file: int = 10_000_000
    patience: float = 10.0

    def open(self) -> Catalog:
        self.index = CardIndex(self.home / "catalog.sqlite")
        store = LoraStore(self.home / "store", largest_file=self.largest_file)
        api = HubApi(self.hub.endpoint, sleep=lambda seconds: None)
        source = HubSource(api, self.index, store, self.curated, self.clock, self.patience)
        previews = PreviewShelf(self.home / "previews")
        return Catalog([BundledSource(self.home / "none"), source], self.hub.endpoint, previews)

    def reopened(self) -> Catalog:
        self.index.close()
        return self.open()


@pytest.fixture
def shop(hub: EmulatedHub, tmp_path: Path) -> Iterator[Shop]:
    hub.add_user("hf_of_bob")
    shop = Shop(hub, tmp_path, Clock())
    yield shop
    shop.index.close()


@pytest.fixture
def catalog(shop: Shop) -> Catalog:
    return shop.open()


def add(hub: EmulatedHub, name: str = "weaver/neon", files: dict[str, bytes] | None = None, **more: Any) -> str:
    """A LoRA repo of a pocket family."""
    card = {"base_model": "lora-loom/pocket-sd3", "license": "mit", "instance_prompt": "neon lights"}
    more = {"card": card | more.pop("card", {}), "tags": ["lora"]} | more
    return hub.add_repo(name, {"neon.safetensors": WEIGHTS} if files is None else files, **more)


def refs(catalog: Catalog, **fields: Any) -> list[str]:
    return [card.ref for card in catalog.search(**fields).cards]


# Search ------------------------------------------------------------------------------------------------


def test_a_search_finds_what_the_hub_lists_with_what_its_card_says(hub: EmulatedHub, catalog: Catalog) -> None:
    widget = [{"text": "a cat", "output": {"url": "images/one.png"}}]
    add(hub, card={"widget": widget}, downloads=12, likes=3)
    (card,) = catalog.search("neon", family="pocket-sd3").cards
    assert (card.ref, card.family, card.licence, card.triggers) == (
        "weaver/neon",
        "pocket-sd3",
        "mit",
        ("neon lights",),
    )
    assert (card.downloads, card.likes, card.preview, card.source) == (12, 3, "images/one.png", "hub")


def test_the_same_search_asks_the_hub_once(hub: EmulatedHub, catalog: Catalog) -> None:
    add(hub)
    for _ in range(5):
        assert refs(catalog, query="neon") == ["weaver/neon"]
    assert len(hub.asked("/api/models")) == 1


def test_a_stale_answer_is_given_at_once_and_refreshed_behind_it(hub: EmulatedHub, shop: Shop) -> None:
    catalog = shop.open()
    add(hub)
    refs(catalog)
    shop.clock.now += refresh.FRESH + 1
    add(hub, "weaver/later")
    page = catalog.search()
    assert ([card.ref for card in page.cards], page.refreshing) == (["weaver/neon"], True)
    assert eventually(lambda: refs(catalog) == ["weaver/later", "weaver/neon"])


def test_an_unchanged_listing_costs_a_304(hub: EmulatedHub, shop: Shop) -> None:
    catalog = shop.open()
    add(hub)
    refs(catalog)
    shop.clock.now += refresh.FRESH + 1
    refs(catalog)
    assert eventually(lambda: not catalog.search().refreshing)
    assert [asked.headers.get("if-none-match") is not None for asked in hub.asked("/api/models")] == [False, True]


def test_paging_goes_on_as_far_as_the_hub_does(hub: EmulatedHub, catalog: Catalog, monkeypatch: Any) -> None:
    monkeypatch.setattr(refresh, "PAGE", 3)
    for number in range(8):
        add(hub, f"weaver/l{number}", downloads=100 - number)
    found: list[str] = []
    page = catalog.search(limit=2)
    while True:
        found += [card.ref for card in page.cards]
        if page.next is None:
            break
        page = catalog.search(limit=2, cursor=page.next)
    assert found == [f"weaver/l{number}" for number in range(8)]


def test_each_base_model_of_a_family_is_asked_for_with_licence_and_order(hub: EmulatedHub, catalog: Catalog) -> None:
    refs(catalog, family="sd3", licence="MIT", sort="recent", query="cat")
    asked = [request.query for request in hub.asked("/api/models")]
    bases = {tag for query in asked for tag in query["filter"] if tag.startswith("base_model:adapter:")}
    assert {"base_model:adapter:stabilityai/stable-diffusion-3.5-large"} < bases
    refs(catalog, licence="stabilityai-ai-community")
    assert "license:other" in hub.asked("/api/models")[-1].query["filter"]  # the Hub lists licences of that kind so
    assert all("license:mit" in query["filter"] and query["search"] == ["cat"] for query in asked)
    assert all(query["sort"] == ["lastModified"] for query in asked)


def test_a_search_does_not_wait_for_a_hub_that_stalls(hub: EmulatedHub, shop: Shop) -> None:
    shop.patience = 0.2
    catalog = shop.open()
    hub.fail("/api/models", faults.stalled(3), times=9)
    began = time.monotonic()
    assert catalog.search("neon").refreshing
    assert time.monotonic() - began < 2


def test_while_the_hub_is_down_the_index_answers_and_says_how_old_it_is(hub: EmulatedHub, shop: Shop) -> None:
    add(hub)
    refs(shop.open())
    hub.fail("/api/models", faults.status(500), times=99)
    shop.clock.now += 2 * 3600
    catalog = shop.reopened()
    catalog.search()
    assert eventually(lambda: catalog.search().note is not None)
    page = catalog.search()
    assert [card.ref for card in page.cards] == ["weaver/neon"]
    assert "it answered 2 hours ago" in str(page.note)
    hub.heal()
    shop.clock.now += refresh.PAUSE + 1
    assert eventually(lambda: catalog.search().note is None)


def test_an_index_that_cannot_be_opened_hides_no_other_source_and_comes_back(hub: EmulatedHub, shop: Shop) -> None:
    add(hub)
    (shop.home / "catalog.sqlite").mkdir()
    catalog = shop.open()
    page = catalog.search()
    assert (page.cards, "index of LoRA cards" in str(page.note)) == ((), True)
    assert catalog.inspect("weaver/neon", "pocket-sd3").fits == "yes"
    (shop.home / "catalog.sqlite").rmdir()
    assert refs(catalog) == ["weaver/neon"]


def test_nsfw_cards_are_left_out_unless_asked_for(hub: EmulatedHub, catalog: Catalog) -> None:
    add(hub, tags=["lora", "not-for-all-audiences"])
    assert refs(catalog) == []
    assert refs(catalog, nsfw=True) == ["weaver/neon"]


def test_private_repos_never_enter_the_index(hub: EmulatedHub, catalog: Catalog) -> None:
    add(hub, private=True, readers=[ANN.token])
    catalog.inspect("weaver/neon", "pocket-sd3", ANN)
    assert refs(catalog) == []


@pytest.mark.parametrize(
    "card",
    [
        {"instance_prompt": {"a": 1}, "widget": "x", "license": ["mit"], "base_model": 7, "tags": "lora"},
        {"instance_prompt": "\x00<script>\n" * 999, "widget": [{"output": {"url": "../../etc/passwd.png"}}, None, 3]},
        {"widget": [{"output": {"url": "http://evil.example/x.png"}}], "license_name": 5, "description": [1]},
    ],
)
def test_odd_cards_are_shown_without_what_is_odd(hub: EmulatedHub, catalog: Catalog, card: dict[str, Any]) -> None:
    add(hub, card=card)
    (shown,) = catalog.search().cards
    assert shown.preview is None
    assert all(text.isprintable() and len(text) <= 300 for text in (*shown.triggers, shown.title, shown.description))


# One LoRA ------------------------------------------------------------------------------------------------


def test_a_preflight_reads_the_header_alone(hub: EmulatedHub, catalog: Catalog) -> None:
    big = lora_bytes(SD3, rank=2048)
    assert len(big) > 2 * FIRST_READ
    sha = add(hub, files={"neon.safetensors": big})
    preflight = catalog.inspect("weaver/neon", "pocket-sd3")
    assert preflight.ref == f"weaver/neon@{sha}:neon.safetensors"
    assert (preflight.fits, preflight.rank, preflight.bytes) == ("yes", 2048, len(big))
    assert [asked.headers["range"] for asked in hub.asked("/resolve/")] == [f"bytes=0-{FIRST_READ - 1}"]
    catalog.inspect("weaver/neon", "pocket-sd3")
    assert len(hub.asked("/resolve/")) == 1


def test_a_long_header_costs_one_more_request_for_the_rest(hub: EmulatedHub, catalog: Catalog) -> None:
    add(hub, files={"neon.safetensors": lora_bytes(SD3, metadata={"ss_tag_frequency": "x" * 2 * FIRST_READ})})
    assert catalog.inspect("weaver/neon", "pocket-sd3").fits == "yes"
    _, second = hub.asked("/resolve/")
    assert second.headers["range"].startswith(f"bytes={FIRST_READ}-")


def test_a_lora_of_another_family_is_refused_by_its_header_whatever_its_card_says(
    hub: EmulatedHub, catalog: Catalog
) -> None:
    add(hub, card={"base_model": "lora-loom/pocket-sdxl"})
    assert catalog.inspect("weaver/neon", "pocket-sdxl").fits == "no"
    assert len(hub.asked("/resolve/")) == 1


def test_several_files_are_listed_and_each_can_be_named(hub: EmulatedHub, catalog: Catalog) -> None:
    files = {"a.safetensors": WEIGHTS, "b/c.safetensors": WEIGHTS, "unet/diffusion_pytorch_model.safetensors": b"x"}
    add(hub, files=files)
    with pytest.raises(SeveralFiles) as told:
        catalog.inspect("weaver/neon")
    assert told.value.files == ("a.safetensors", "b/c.safetensors")
    assert catalog.inspect("weaver/neon:b/c.safetensors").ref.endswith(":b/c.safetensors")


def test_a_repo_of_pickles_is_refused_and_nothing_of_it_fetched(hub: EmulatedHub, catalog: Catalog) -> None:
    add(hub, files={"pytorch_lora_weights.bin": b"\x80\x04"})
    with pytest.raises(NoSafetensors, match="can run code"):
        drained(catalog.fetch("weaver/neon"))
    assert hub.asked("/resolve/") == []


def test_a_pickle_named_safetensors_is_refused_and_not_kept(hub: EmulatedHub, catalog: Catalog, tmp_path: Path) -> None:
    add(hub, files={"neon.safetensors": b"\x80\x04\x95" + bytes(1000)})
    for ask in (catalog.inspect, lambda ref: drained(catalog.fetch(ref))):
        with pytest.raises(BadHeader):
            ask("weaver/neon")
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_what_the_hubs_scan_calls_unsafe_is_not_fetched(hub: EmulatedHub, catalog: Catalog) -> None:
    add(hub, security={"neon.safetensors": "unsafe"})
    for ask in (catalog.inspect, lambda ref: drained(catalog.fetch(ref))):
        with pytest.raises(Flagged, match="unsafe"):
            ask("weaver/neon")
    assert hub.asked("/resolve/") == []


def test_a_file_that_is_not_there_lists_those_that_are(hub: EmulatedHub, catalog: Catalog) -> None:
    add(hub)
    with pytest.raises(FileGone, match="its LoRA files are “neon"):
        catalog.inspect("weaver/neon:other.safetensors")


def test_a_revision_is_pinned_to_its_commit(hub: EmulatedHub, catalog: Catalog) -> None:
    first = add(hub)
    hub.tag("weaver/neon", "v1", first)
    hub.commit("weaver/neon", {"neon.safetensors": lora_bytes(SD3, rank=8)})
    assert catalog.inspect("weaver/neon@v1").ref == f"weaver/neon@{first}:neon.safetensors"
    assert catalog.inspect("weaver/neon").rank == 8
    with pytest.raises(RevisionGone):
        catalog.inspect("weaver/neon@v2")


def test_an_address_of_the_hub_is_a_ref(hub: EmulatedHub, catalog: Catalog) -> None:
    sha = add(hub)
    address = f"{hub.endpoint}/weaver/neon/resolve/main/neon.safetensors?download=true"
    assert catalog.inspect(address).ref == f"weaver/neon@{sha}:neon.safetensors"


# Fetching ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cdn", [False, True])
def test_a_fetch_gives_the_file_pinned_and_is_not_repeated(hub: EmulatedHub, catalog: Catalog, cdn: bool) -> None:
    hub.cdn = cdn
    sha = add(hub)
    fetched = drained(catalog.fetch("weaver/neon"))
    with fetched.in_use:
        assert fetched.path.read_bytes() == WEIGHTS
    assert str(fetched.ref) == f"weaver/neon@{sha}:neon.safetensors"
    assert drained(catalog.fetch("weaver/neon")).sha256 == fetched.sha256
    assert len(hub.asked("/resolve/", method="GET", site="hub")) == 1


def test_what_was_fetched_works_without_the_hub(hub: EmulatedHub, shop: Shop) -> None:
    sha = add(hub)
    drained(shop.open().fetch("weaver/neon"))
    hub.fail("/", faults.status(500), times=999)
    catalog = shop.reopened()
    for ref in ("weaver/neon", f"weaver/neon@{sha}:neon.safetensors"):
        assert catalog.inspect(ref, "pocket-sd3").fits == "yes"
        assert drained(catalog.fetch(ref)).path.is_file()
    with pytest.raises(HubUnreachable):
        catalog.inspect("weaver/other")


def test_thirty_two_visitors_make_one_download(hub: EmulatedHub, catalog: Catalog) -> None:
    hub.fail("/resolve/", faults.throttled(len(WEIGHTS) * 2), times=99)
    add(hub)
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(drained(catalog.fetch("weaver/neon")).sha256)) for _ in range(32)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(found), len(set(found))) == (32, 1)
    assert len(hub.asked("/resolve/", method="GET")) == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (faults.cut(1000), Broken),
        (faults.other_content(lora_bytes(SD3, rank=5)), Broken),
        (faults.gone(), FileGone),
        (faults.lying_length(100), Broken),
    ],
    ids=["cut", "other content", "gone", "lying length"],
)
def test_a_broken_download_leaves_nothing_and_can_be_tried_again(
    hub: EmulatedHub, catalog: Catalog, tmp_path: Path, fault: Any, error: type[CatalogError]
) -> None:
    add(hub)
    hub.fail("/resolve/", fault)
    with pytest.raises(error):
        drained(catalog.fetch("weaver/neon"))
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file() and path.stat().st_size] == []
    assert drained(catalog.fetch("weaver/neon")).path.is_file()


def test_a_file_above_the_cap_is_refused_before_its_first_byte(hub: EmulatedHub, shop: Shop) -> None:
    shop.largest_file = 1000
    add(hub)
    with pytest.raises(TooLarge):
        drained(shop.open().fetch("weaver/neon"))
    assert hub.asked("/resolve/") == []


# Who may see what ------------------------------------------------------------------------------------------------


def test_a_gated_file_is_served_only_to_whom_the_hub_accepts(hub: EmulatedHub, catalog: Catalog) -> None:
    add(hub, gated="manual", readers=[ANN.token])
    refs(catalog)
    assert drained(catalog.fetch("weaver/neon", ANN)).path.is_file()  # and lies in the store from now on
    for stranger in (ANYONE, BOB):
        for ask in (catalog.inspect, lambda ref, **who: drained(catalog.fetch(ref, **who))):
            with pytest.raises(Gated):
                ask("weaver/neon", visitor=stranger)
    (card,) = catalog.search().cards  # everyone sees that it is there
    assert card.gated


def test_a_private_repo_is_there_for_its_readers_only(hub: EmulatedHub, shop: Shop) -> None:
    catalog = shop.open()
    add(hub, private=True, readers=[ANN.token])
    assert drained(catalog.fetch("weaver/neon", ANN)).card.private
    hub.fail("/api/models", faults.status(500), times=9)  # not even what was kept for when the Hub is down
    for stranger in (ANYONE, BOB):
        with pytest.raises((NotShown, HubUnreachable)):
            drained(catalog.fetch("weaver/neon", stranger))


def test_a_repo_that_was_closed_is_gone_at_every_commit_even_while_the_hub_is_down(
    hub: EmulatedHub, shop: Shop
) -> None:
    sha = add(hub)
    drained(shop.open().fetch("weaver/neon"))
    hub.repo("weaver/neon").private = True
    with pytest.raises(NotShown):
        shop.reopened().inspect("weaver/neon")
    hub.fail("/", faults.status(500), times=999)
    for ref in ("weaver/neon", f"weaver/neon@{sha}:neon.safetensors"):
        with pytest.raises(HubUnreachable):
            drained(shop.reopened().fetch(ref))


def test_the_owners_worn_out_token_hides_nothing_that_is_open_to_all(hub: EmulatedHub, catalog: Catalog) -> None:
    add(hub)
    assert catalog.inspect("weaver/neon", "pocket-sd3", Visitor("me", "hf_expired", lent=True)).fits == "yes"
    with pytest.raises(BadToken):
        catalog.inspect("weaver/neon", "pocket-sd3", Visitor("ann", "hf_mistyped"))


def test_a_right_that_was_withdrawn_ends(hub: EmulatedHub, shop: Shop) -> None:
    catalog = shop.open()
    add(hub, gated="auto", readers=[ANN.token])
    drained(catalog.fetch("weaver/neon", ANN))
    hub.repo("weaver/neon").readers.clear()
    shop.clock.now += FACTS_FRESH + 1
    with pytest.raises(Gated):
        drained(catalog.fetch("weaver/neon", ANN))


def test_a_repo_that_is_gone_leaves_the_index(hub: EmulatedHub, catalog: Catalog) -> None:
    add(hub)
    refs(catalog)
    hub.delete("weaver/neon")
    with pytest.raises(NotShown):
        catalog.inspect("weaver/neon")
    assert refs(catalog) == []


# Curated ------------------------------------------------------------------------------------------------


@pytest.fixture
def curated(shop: Shop) -> Catalog:
    card = curated_cards()[0].model_copy(
        update={
            "ref": "weaver/neon:neon.safetensors", "title": "Neon, by hand", "family": "pocket-sd3", "checked": False,
            "triggers": ("glow",), "weight": 0.7, "licence": None, "base": "lora-loom/pocket-sd3",
        }
    )  # fmt: skip
    shop.curated = (card,)
    return shop.open()


def test_curated_cards_are_found_while_the_hub_is_down(hub: EmulatedHub, curated: Catalog) -> None:
    hub.fail("/", faults.status(500), times=99)
    (card,) = curated.search("by hand").cards
    assert (card.ref, card.source, card.checked) == ("weaver/neon:neon.safetensors", "curated", False)


def test_a_curated_card_stands_once_with_the_hubs_figures_and_our_words(hub: EmulatedHub, curated: Catalog) -> None:
    add(hub, downloads=99)
    (card,) = curated.search("neon").cards
    assert (card.title, card.triggers, card.weight, card.downloads) == ("Neon, by hand", ("glow",), 0.7, 99)
    assert card.licence == "mit"


def test_a_curated_lora_is_checked_and_pinned_at_its_first_use(hub: EmulatedHub, curated: Catalog, shop: Shop) -> None:
    first = add(hub)
    preflight = curated.inspect("weaver/neon:neon.safetensors", "pocket-sd3")
    assert (preflight.triggers, preflight.weight) == (("glow",), 0.7)
    hub.commit("weaver/neon", {"neon.safetensors": lora_bytes(SD3, rank=8)})
    again = shop.reopened()
    assert again.inspect("weaver/neon:neon.safetensors").ref == f"weaver/neon@{first}:neon.safetensors"
    assert [card.checked for card in again.search("by hand").cards] == [True]
    assert again.inspect("weaver/neon@main").rank == 8


def test_a_curated_file_that_the_hub_does_not_have_is_told(hub: EmulatedHub, curated: Catalog) -> None:
    add(hub, files={"renamed.safetensors": WEIGHTS})
    with pytest.raises(FileGone, match=r"renamed\.safetensors"):
        curated.inspect("weaver/neon:neon.safetensors")


# Previews ------------------------------------------------------------------------------------------------


def test_a_preview_comes_from_the_repo_and_only_for_cards_that_are_known(hub: EmulatedHub, catalog: Catalog) -> None:
    widget = [{"output": {"url": f"{hub.endpoint}/weaver/neon/resolve/main/images/one.png"}}]
    add(hub, files={"neon.safetensors": WEIGHTS, "images/one.png": PICTURE}, card={"widget": widget})
    with pytest.raises(UnknownRef):
        catalog.preview("weaver/neon")
    assert hub.asked("images/one.png") == []
    refs(catalog)
    for _ in range(2):
        assert (catalog.preview("weaver/neon") or b"")[8:12] == b"WEBP"
    assert len(hub.asked("images/one.png")) == 1


def test_a_preview_is_shown_as_anyone_may_see_it(hub: EmulatedHub, catalog: Catalog) -> None:
    files = {"neon.safetensors": WEIGHTS, "one.png": PICTURE}
    add(hub, files=files, card={"widget": [{"output": {"url": "one.png"}}]}, gated="auto", readers=[ANN.token])
    refs(catalog)
    assert catalog.preview("weaver/neon") is None


def eventually(holds: Any, seconds: float = 10.0) -> bool:
    """Whether something comes true within bounds that no healthy run meets."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def _picture() -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 40, 40)).save(out, "PNG")
    return out.getvalue()


PICTURE = _picture()
