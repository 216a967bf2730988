"""Search over the Hub: through the index, fresh or behind; curated cards and previews among it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from lora_catalog.catalog import Catalog
from lora_catalog.curated import curated_cards
from lora_catalog.errors import (
    FileGone,
    UnknownRef,
)
from lora_catalog.hub import refresh
from tests.hub import EmulatedHub, faults
from tests.lora_catalog.conftest import lora_bytes
from tests.lora_catalog.hub_shop import ANN, PICTURE, SD3, WEIGHTS, Shop, add, eventually, refs

pytest_plugins = ("tests.lora_catalog.hub_shop",)


@pytest.fixture
def catalog(shop: Shop) -> Catalog:
    return shop.open()


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


def test_a_pinned_commit_that_is_gone_is_replaced_for_good(hub: EmulatedHub, curated: Catalog, shop: Shop) -> None:
    first = add(hub)
    curated.inspect("weaver/neon:neon.safetensors")
    second = hub.commit("weaver/neon", {"neon.safetensors": lora_bytes(SD3, rank=8)})
    hub.drop_revision("weaver/neon", first)
    assert shop.reopened().inspect("weaver/neon:neon.safetensors").ref == f"weaver/neon@{second}:neon.safetensors"
    third = hub.commit("weaver/neon", {"neon.safetensors": lora_bytes(SD3, rank=2)})
    assert third not in shop.reopened().inspect("weaver/neon:neon.safetensors").ref


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
