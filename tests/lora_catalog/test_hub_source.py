"""One LoRA of the Hub: pinned, looked into, fetched, and shown to whom it may be."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from lora_catalog.catalog import Catalog
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
)
from lora_catalog.header import FIRST_READ
from lora_catalog.sources.hub import FACTS_FRESH
from lora_catalog.visitor import ANYONE, Visitor
from tests.hub import EmulatedHub, faults
from tests.lora_catalog.conftest import drained, lora_bytes
from tests.lora_catalog.hub_shop import ANN, BOB, SD3, WEIGHTS, Shop, add, refs

pytest_plugins = ("tests.lora_catalog.hub_shop",)


@pytest.fixture
def catalog(shop: Shop) -> Catalog:
    return shop.open()


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


def test_of_many_revisions_those_used_last_are_kept_for_when_the_hub_is_down(hub: EmulatedHub, shop: Shop) -> None:
    commits = [add(hub)]
    commits += [hub.commit("weaver/neon", {"neon.safetensors": lora_bytes(SD3, rank=rank)}) for rank in range(5, 12)]
    catalog = shop.open()
    newest, *pinned, last = ["weaver/neon", *(f"weaver/neon@{commit}" for commit in commits[:-1])]
    for ref in (newest, *pinned, newest, last):
        drained(catalog.fetch(ref))
        shop.clock.now += FACTS_FRESH + 1
    hub.fail("/", faults.status(500), times=999)
    again = shop.reopened()
    assert again.inspect(newest).ref.startswith(f"weaver/neon@{commits[-1]}")
    with pytest.raises(HubUnreachable):
        again.inspect(pinned[0])


def test_what_another_version_kept_of_a_repo_is_no_bug(hub: EmulatedHub, shop: Shop) -> None:
    add(hub)
    shop.open().inspect("weaver/neon")
    shop.index.remember(f"{hub.endpoint} repo weaver/neon", {"": {"repo": "weaver/neon", "old": 1}}, shop.clock.now)
    hub.fail("/", faults.status(500), times=999)
    with pytest.raises(HubUnreachable):
        shop.reopened().inspect("weaver/neon")


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
