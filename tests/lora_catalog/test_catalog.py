"""The catalogue over the bundled LoRAs: search, card, inspect and fetch, and what each refuses."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_catalog.catalog import Catalog
from lora_catalog.errors import BadField, BadRef, CatalogError, FileTorn, NotAvailable, UnknownRef
from lora_catalog.reference import LoraRef
from lora_catalog.search import Search
from lora_catalog.sources.base import FetchedLora
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.visitor import ANYONE, Visitor
from tests.lora_catalog.conftest import drained

NEON = LoraRef("bundled", "pocket-sd3-neon")


def fetched_by(catalog: Catalog) -> Callable[[LoraRef | str], FetchedLora]:
    return lambda ref: drained(catalog.fetch(ref))


def titles(catalog: Catalog, **fields: object) -> list[str]:
    return [card.ref.removeprefix("bundled:pocket-") for card in catalog.search(**fields).cards]  # type: ignore[arg-type]


def all_pages(catalog: Catalog, limit: int) -> list[list[str]]:
    page = catalog.search(limit=limit)
    pages = [page]
    while page.next:
        page = catalog.search(limit=limit, cursor=page.next)
        pages.append(page)
    return [[card.ref for card in page.cards] for page in pages]


def test_a_search_without_wishes_finds_all_by_title(catalog: Catalog) -> None:
    assert titles(catalog) == ["sd3-robot", "sd3-neon", "sdxl-neon"]


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"query": "NEON"}, ["sd3-neon", "sdxl-neon"]),
        ({"query": "sd3 neon"}, ["sd3-neon"]),
        ({"query": "zorblax"}, ["sd3-robot"]),
        ({"query": "glowing"}, ["sd3-neon"]),
        ({"query": "nothing such"}, []),
        ({"family": "pocket-sdxl"}, ["sdxl-neon"]),
        ({"family": "sd3"}, []),
        ({"licence": "CC-BY-4.0"}, ["sd3-robot"]),
        ({"query": "neon", "family": "pocket-sd3", "licence": "mit"}, []),
        ({"family": "", "licence": "", "cursor": ""}, ["sd3-robot", "sd3-neon", "sdxl-neon"]),
        ({"sort": "likes", "nsfw": True, "limit": 100}, ["sd3-robot", "sd3-neon", "sdxl-neon"]),
    ],
)
def test_a_search_keeps_what_it_is_told(catalog: Catalog, fields: dict[str, object], found: list[str]) -> None:
    assert titles(catalog, **fields) == found


def test_pages_follow_each_other_without_gap_or_repetition(catalog: Catalog) -> None:
    assert all_pages(catalog, limit=1) == [[card.ref] for card in catalog.search().cards]
    assert [len(page) for page in all_pages(catalog, limit=2)] == [2, 1]
    assert [len(page) for page in all_pages(catalog, limit=3)] == [3]


def test_a_page_goes_on_where_one_source_ends_and_the_next_begins(catalog: Catalog, folder: Path) -> None:
    second = BundledSource(folder)
    second.name = "local"  # another source of the same three LoRAs
    pages = all_pages(Catalog([BundledSource(folder), second]), limit=2)
    first, middle, last = (card.ref for card in catalog.search().cards)
    assert pages == [[first, middle], [last, first], [middle, last]]


def test_a_source_gives_no_more_cards_than_it_is_asked_for(folder: Path) -> None:
    assert len(BundledSource(folder).search(Search(), skip=1, limit=1, visitor=ANYONE).cards) == 1


def test_nsfw_cards_come_only_where_they_are_wanted(catalog: Catalog) -> None:
    card = catalog.card(NEON).model_copy(update={"nsfw": True})
    assert Search(nsfw=True).matches(card)
    assert not Search().matches(card)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("query", 7, "at most 200 letters"),
        ("query", "x" * 201, "at most 200 letters"),
        ("family", "sd4", "pocket-sdxl, sd3"),
        ("family", ["sd3"], "pocket-sdxl, sd3"),
        ("sort", "stars", "downloads, likes, recent"),
        ("licence", 1, "at most 100 letters"),
        ("nsfw", "yes", "true or false"),
        ("limit", 0, "from 1 to 100"),
        ("limit", 101, "from 1 to 100"),
        ("limit", 2.5, "from 1 to 100"),
        ("limit", float("nan"), "from 1 to 100"),
        ("limit", "5", "from 1 to 100"),
        ("limit", True, "from 1 to 100"),
        ("cursor", 5, "next"),
        ("cursor", "nonsense", "next"),
        ("cursor", "WyJodWIiLCAwXQ", "next"),  # ["hub", 0]: a source that is not there
        ("cursor", "WyJidW5kbGVkIiwgLTFd", "next"),  # ["bundled", -1]
    ],
)
def test_a_wrong_search_field_is_refused_by_name_and_range(
    catalog: Catalog, field: str, value: object, allowed: str
) -> None:
    with pytest.raises(BadField, match=allowed) as refused:
        catalog.search(**{field: value})  # type: ignore[arg-type]
    assert refused.value.field == field
    assert f"“{field}”" in str(refused.value)


def test_a_card_tells_what_its_file_says(catalog: Catalog) -> None:
    card = catalog.card(NEON)
    assert (card.title, card.family, card.licence, card.weight) == ("Neon", "pocket-sd3", "apache-2.0", 0.8)
    assert (card.ref, card.source, card.preview) == (str(NEON), "bundled", "preview.png")
    assert catalog.card(LoraRef("bundled", "pocket-sd3-robot")).triggers == ("zorblax",)


def test_a_fetched_lora_is_the_file_with_its_sum(catalog: Catalog, folder: Path) -> None:
    fetched = drained(catalog.fetch(NEON))
    assert fetched.path == folder / "pocket-sd3-neon" / "pocket-sd3-neon.safetensors"
    assert fetched.sha256 == hashlib.sha256(fetched.path.read_bytes()).hexdigest()
    assert (fetched.ref, fetched.card) == (NEON, catalog.card(NEON))


def test_a_file_that_changed_after_a_fetch_is_noticed(catalog: Catalog) -> None:
    path = drained(catalog.fetch(NEON)).path
    changed = path.read_bytes()[:-1] + b"\x01"  # of the same size
    path.write_bytes(changed)
    os.utime(path, ns=(1, 1))
    with pytest.raises(FileTorn, match=r"pocket-sd3-neon.*damaged.*git checkout"):
        drained(catalog.fetch(NEON))


def test_a_missing_file_and_a_missing_card_say_how_to_restore_them(catalog: Catalog, folder: Path) -> None:
    home = folder / "pocket-sd3-neon"
    (home / "pocket-sd3-neon.safetensors").unlink()
    for ask in (fetched_by(catalog), catalog.inspect):
        with pytest.raises(FileTorn, match=r"git checkout -- '\*/pocket-sd3-neon/\*'"):
            ask(NEON)
    (home / "card.json").unlink()
    with pytest.raises(FileTorn, match="card is missing"):
        catalog.card(NEON)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"weight": 9}, "weight"),
        ({"family": "sd9"}, "family"),
        ({"sha256": "00"}, "sha256"),
        ({"colour": "red"}, "colour"),
        ({"title": ""}, "title"),
    ],
)
def test_a_damaged_card_is_named_and_hides_no_other(
    catalog: Catalog, folder: Path, changes: dict[str, object], field: str
) -> None:
    path = folder / "pocket-sd3-neon" / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(FileTorn, match=field):
        catalog.card(NEON)
    assert titles(catalog) == ["sd3-robot", "sdxl-neon"]


def test_an_inspection_tells_what_the_header_holds(catalog: Catalog, folder: Path) -> None:
    preflight = catalog.inspect(NEON, "pocket-sd3")
    assert (preflight.ref, preflight.family, preflight.format) == (str(NEON), "pocket-sd3", "diffusers")
    assert (preflight.rank, preflight.layers, preflight.fits, preflight.why_not) == (4, 6, "yes", None)
    assert preflight.bytes == (folder / "pocket-sd3-neon" / "pocket-sd3-neon.safetensors").stat().st_size
    assert (preflight.licence, preflight.gated) == ("apache-2.0", False)


def test_an_inspection_says_why_a_lora_does_not_fit(catalog: Catalog) -> None:
    preflight = catalog.inspect(NEON, "pocket-sdxl")
    assert preflight.fits == "no"
    assert preflight.why_not == "This LoRA was made for pocket-sd3, and the model is pocket-sdxl."
    assert catalog.inspect(NEON).fits == "unknown"


@pytest.mark.parametrize("text", ["user/repo", "user/repo@main:x.safetensors", "local:x.safetensors"])
def test_a_ref_of_a_source_that_is_not_there_says_so(catalog: Catalog, text: str) -> None:
    for ask in (catalog.card, catalog.inspect, fetched_by(catalog)):
        with pytest.raises(NotAvailable, match="only bundled LoRAs"):
            ask(text)


def test_a_name_that_is_not_bundled_is_unknown(catalog: Catalog) -> None:
    for ask in (catalog.card, catalog.inspect, fetched_by(catalog)):
        with pytest.raises(UnknownRef, match="bundled:pocket-sd3-moon"):
            ask(LoraRef("bundled", "pocket-sd3-moon"))


def test_a_folder_that_is_not_there_is_an_empty_catalogue(tmp_path: Path) -> None:
    assert Catalog([BundledSource(tmp_path / "nowhere")]).search().cards == ()


def test_addresses_are_read_on_the_endpoint_of_the_catalogue(folder: Path) -> None:
    catalog = Catalog([BundledSource(folder)], endpoint="http://127.0.0.1:9000")
    with pytest.raises(NotAvailable, match="“user/repo”"):
        drained(catalog.fetch("http://127.0.0.1:9000/user/repo"))
    with pytest.raises(BadRef):
        drained(catalog.fetch("http://127.0.0.1:9001/user/repo"))


def test_no_message_holds_a_path_of_the_server(catalog: Catalog, folder: Path) -> None:
    (folder / "pocket-sd3-neon" / "card.json").write_text("{")
    for ref in (NEON, LoraRef("bundled", "nobody"), LoraRef("hub", "user/repo")):
        with pytest.raises(CatalogError) as refused:
            drained(catalog.fetch(ref))
        assert str(folder) not in str(refused.value)
        assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)


def test_a_visitors_token_is_never_printed() -> None:
    visitor = Visitor.new(token="hf_secret")
    assert "hf_secret" not in f"{visitor} {visitor!r}"
    assert visitor.id != Visitor.new().id
