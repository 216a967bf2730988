"""The LoRAs tab in a real Chromium, beside an emulated Hub: what a visitor searches, picks, pastes and uploads."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from lora_catalog.card import LoraCard
from lora_catalog.catalog import Catalog
from lora_catalog.hub.api import HubApi
from lora_catalog.index import CardIndex
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.sources.folder import FolderSource
from lora_catalog.sources.hub import HubSource
from lora_catalog.store import LoraStore
from tests.conftest import Serve, Served
from tests.hub import EmulatedHub, faults
from tests.lora_catalog.conftest import SD3_ATTENTION, SDXL_ATTENTION, lora_bytes
from tests.ui.conftest import WORDS, Visit
from tests.ui.fakes import FakeEngine

SD3 = {SD3_ATTENTION.format(block=0, layer="to_q"): (192, 192)}
SDXL = {SDXL_ATTENTION.format(layer="attn2.to_k"): (320, 64)}
HOSTILE = "<img src=x onerror=alert(1)>${alert(2)}{{constructor}}</script><script>alert(3)</script>"
CURATED = LoraCard(
    ref="weaver/picked:picked.safetensors", title="Picked by hand", family="pocket-sd3", licence="mit",
    triggers=("handmade",), weight=0.6, downloads=0, likes=0, nsfw=False, gated=False, source="curated",
    base="lora-loom/pocket-sd3", preview=None, description="", author="weaver", checked=False,
)  # fmt: skip


def a_picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (640, 480), "teal").save(out, "PNG")
    return out.getvalue()


def stock(hub: EmulatedHub) -> None:
    """LoRAs of every kind that a visitor may meet."""
    shown = {"lora.safetensors": lora_bytes(SD3), "glow.png": a_picture()}
    told = {"base_model": "lora-loom/pocket-sd3", "widget": [{"text": "a cat", "output": {"url": "glow.png"}}]}
    plain = {"base_model": "lora-loom/pocket-sd3"}
    several = {"portrait.safetensors": lora_bytes(SD3), "profile.safetensors": lora_bytes(SD3, rank=8)}
    add = partial(hub.add_repo, tags=["lora"])
    add("weaver/glow", shown, told | {"license": "mit", "instance_prompt": "glowing"}, downloads=12_345, likes=67)
    add("weaver/night", shown, told | {"tags": ["not-for-all-audiences"]}, downloads=9)
    add("weaver/many-faces", several, plain, downloads=8)
    add("weaver/disguised", {"lora.safetensors": lora_bytes(SDXL)}, plain, downloads=7)
    add("weaver/puzzle", {"lora.safetensors": lora_bytes({"transformer.riddle": (7, 9)})}, plain, downloads=6)
    add("lab/gated", {"lora.safetensors": lora_bytes(SD3)}, plain, downloads=5, gated="manual", readers=["hf_of_ann"])
    add("mallory/evil", {"lora.safetensors": lora_bytes(SD3)}, plain | {"license": HOSTILE, "instance_prompt": HOSTILE})


def catalogue(hub: EmulatedHub, loras: Path, home: Path) -> Catalog:
    uploads = FolderSource(home / "loras", public=True)
    index, store = CardIndex(home / "catalog.sqlite"), LoraStore(home / "store")
    live = HubSource(HubApi(hub.endpoint), index, store, [CURATED])
    return Catalog([BundledSource(loras), uploads, live], hub.endpoint, uploads=uploads)


@pytest.fixture(scope="module")
def stocked() -> Iterator[EmulatedHub]:
    hub = EmulatedHub()
    with hub.running():
        stock(hub)
        yield hub


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def shop(
    serve: Serve, stocked: EmulatedHub, engine: FakeEngine, loras: Path, tmp_path_factory: pytest.TempPathFactory
) -> Served:
    return serve(engine, catalogue(stocked, loras, tmp_path_factory.mktemp("shop")), WORDS)


def turn_to_loras(page: Page) -> Page:
    page.get_by_role("button", name="Find more LoRAs").click()
    expect(page.locator(".lora").first).to_be_visible()
    return page


@pytest.fixture
def visit(open_page: Visit, shop: Served) -> Callable[..., Page]:
    """Opens the page and turns to its LoRAs."""
    return lambda **options: turn_to_loras(open_page(shop.url, **options))


def card(page: Page, title: str) -> Locator:
    return page.locator(f'.lora[aria-label="{title}"]')


def pick(page: Page, title: str) -> Locator:
    """Clicks the card where its picture is, as people do."""
    card(page, title).locator(".pick").click(position={"x": 60, "y": 60})
    return card(page, title)


def look_at(page: Page, ref: str) -> Locator:
    page.get_by_label("Paste its ref").fill(ref)
    page.get_by_role("button", name="Look", exact=True).click()
    return page.locator(".panel")


def upload(page: Page, name: str, data: bytes) -> Locator:
    file: Any = {"name": name, "mimeType": "application/octet-stream", "buffer": data}
    page.locator("#loras input[type=file]").set_input_files(file)
    return page.locator(".panel")


def back_to_create(page: Page) -> None:
    page.get_by_role("button", name="Back to Create").click()


def draw(page: Page) -> None:
    page.locator("#generate").click()
    expect(page.locator("#stage .said")).to_contain_text("carries its recipe")


def test_a_search_finds_a_lora_of_the_hub_and_shows_all_that_a_choice_needs(visit: Visit) -> None:
    page = visit()
    page.get_by_role("searchbox").fill("glow")
    expect(page.locator(".lora")).to_have_count(1)
    glow = card(page, "glow")
    for said in ("by weaver", "Pocket SD3", "Hub", "12.3k downloads · 67 likes", "mit", "“glowing”"):
        expect(glow).to_contain_text(said)
    expect(glow.locator("img")).to_have_js_property("naturalWidth", 384)
    assert page.evaluate("scrollX") == 0


def test_a_hand_picked_card_is_marked_until_it_was_seen_on_the_hub(visit: Visit) -> None:
    expect(card(visit(), "Picked by hand")).to_contain_text("not checked yet")


def test_a_click_weaves_a_lora_in_and_another_takes_it_out(visit: Visit, engine: FakeEngine) -> None:
    page = visit()
    pick(page, "glow")
    expect(page.locator(".tray")).to_contain_text("Added to the blend: 1 LoRA")
    back_to_create(page)
    page.locator(".thread .chip", has_text="glowing").click()
    draw(page)
    (lora,) = engine.jobs[-1].loras
    assert lora.ref.startswith("weaver/glow@")
    assert "glowing" in engine.jobs[-1].request.prompt
    page.get_by_role("tab", name="LoRAs").click()
    expect(card(page, "glow").locator(".pick")).to_have_attribute("aria-pressed", "true")
    pick(page, "glow")
    expect(page.locator(".tray")).to_be_hidden()
    page.get_by_role("tab", name="Create").click()
    expect(page.locator(".thread")).to_have_count(0)
    expect(page.locator("#prompt textarea")).to_have_value(WORDS.examples[0])


def test_the_preferred_weight_comes_along_and_muting_keeps_the_row(visit: Visit, engine: FakeEngine) -> None:
    page = visit()
    pick(page, "Pixel")
    expect(page.locator(".tray")).to_contain_text("1 LoRA")  # rows stand in the order in which the server answers
    pick(page, "glow")
    expect(page.locator(".tray")).to_contain_text("2 LoRAs")
    back_to_create(page)
    page.get_by_role("button", name="Mute glow").click()
    draw(page)
    pixel, glow = engine.jobs[-1].request.loras
    assert (pixel.ref, pixel.weight, pixel.muted, glow.muted) == ("bundled:pixel", 0.8, False, True)


def test_the_keyboard_picks_too(visit: Visit) -> None:
    page = visit()
    page.get_by_role("button", name="Add glow to the blend").press("Enter")
    expect(page.get_by_role("button", name="Remove glow from the blend")).to_be_focused()


def test_what_does_not_fit_says_so_and_stays_out(visit: Visit) -> None:
    page = visit()
    expect(pick(page, "disguised").locator(".said")).to_contain_text("made for pocket-sdxl")
    expect(page.locator(".tray")).to_be_hidden()


def test_what_nobody_can_tell_is_added_with_a_caution(visit: Visit) -> None:
    page = visit()
    pick(page, "puzzle")
    back_to_create(page)
    expect(page.locator(".thread .caution")).to_contain_text("cannot be told")


def choose(page: Page, title: str) -> None:
    page.locator("#model input").click()
    page.get_by_role("option", name=title).click()


def test_another_model_disables_with_a_reason_and_the_search_follows_it(visit: Visit) -> None:
    page = visit()
    pick(page, "glow")
    back_to_create(page)
    choose(page, "Pocket SDXL + LCM")
    expect(page.locator(".thread .why-not")).to_contain_text("Made for pocket-sd3")
    expect(page.locator(".thread input").first).to_be_disabled()
    page.get_by_role("tab", name="LoRAs").click()
    expect(page.get_by_role("combobox", name="Family").locator("option:checked")).to_have_text("For Pocket SDXL + LCM")
    expect(page.locator(".lora .title")).to_have_text(["LCM", "Pixel XL"])
    page.get_by_role("combobox", name="Family").select_option(label="All families")
    expect(card(page, "glow")).to_have_class("lora picked")


def test_a_repo_with_several_files_offers_each(visit: Visit) -> None:
    page = visit()
    pick(page, "many faces")
    page.locator(".panel .chip", has_text="profile.safetensors").click()
    expect(page.locator(".panel dl")).to_contain_text(":profile.safetensors")
    expect(page.locator(".panel dl")).to_contain_text("Rank8")
    page.get_by_role("button", name="Add to the blend", exact=True).click()
    back_to_create(page)
    expect(page.locator(".thread .title")).to_have_text("many faces, profile")


def test_a_file_that_is_not_there_is_said_with_those_that_are(visit: Visit) -> None:
    panel = look_at(visit(), "weaver/many-faces:portrai.safetensors")
    expect(panel).to_contain_text("has no file “portrai.safetensors”")
    expect(panel.locator(".chip")).to_have_text(["portrait.safetensors", "profile.safetensors"])


def test_a_gated_lora_says_where_to_ask(visit: Visit, stocked: EmulatedHub) -> None:
    page = visit()
    said = pick(page, "gated").locator(".said")
    expect(said).to_contain_text("“lab/gated” is gated: accept its terms at")
    expect(said.get_by_role("link")).to_have_attribute("href", f"{stocked.endpoint}/lab/gated")


def test_a_visitor_brings_a_token_of_their_own_for_one_visit(
    visit: Visit, stocked: EmulatedHub, engine: FakeEngine
) -> None:
    page = visit()
    page.locator(".gate summary").click()
    page.get_by_label("Your Hub token").fill("hf_of_ann")
    pick(page, "gated")
    expect(page.locator(".tray")).to_contain_text("1 LoRA")
    back_to_create(page)
    draw(page)
    assert engine.jobs[-1].loras[0].ref.startswith("lab/gated@")
    assert "hf_of_ann" not in page.evaluate("JSON.stringify(localStorage) + document.cookie")
    stranger = visit()
    expect(pick(stranger, "gated").locator(".said")).to_contain_text("come back with your own Hub token")


def test_the_accelerator_of_a_model_is_not_added_to_it(visit: Visit) -> None:
    page = visit()
    page.get_by_role("tab", name="Create").click()
    choose(page, "Pocket SDXL + LCM")
    expect(page.locator("#steps input[type=number]")).to_have_value("4")
    expect(look_at(turn_to_loras(page), "bundled:pocket-sdxl-lcm")).to_contain_text("has this LoRA in it already")


@pytest.mark.parametrize("written", ["weaver/glow", "{hub}/weaver/glow/resolve/main/lora.safetensors"])
def test_a_pasted_ref_or_address_is_looked_into(visit: Visit, stocked: EmulatedHub, written: str) -> None:
    page = visit()
    panel = look_at(page, written.format(hub=stocked.endpoint))
    expect(panel).to_contain_text("It fits Pocket SD3.")
    for fact in ("weaver/glow@", "diffusers", "1 in the transformer", "0.0 MB", "“glowing”"):
        expect(panel.locator("dl")).to_contain_text(fact)
    page.get_by_role("button", name="Add to the blend", exact=True).click()
    expect(page.locator(".tray")).to_contain_text("1 LoRA")


def test_what_is_no_ref_is_refused_in_words(visit: Visit) -> None:
    expect(look_at(visit(), "../../etc/passwd")).to_contain_text("is not a LoRA ref")


def test_an_upload_is_told_of_and_drawn_with(visit: Visit, engine: FakeEngine) -> None:
    page = visit()
    expect(upload(page, "mine.safetensors", lora_bytes(SD3))).to_contain_text("It fits Pocket SD3.")
    expect(card(page, "mine")).to_contain_text("yours")
    page.get_by_role("button", name="Add to the blend", exact=True).click()
    back_to_create(page)
    draw(page)
    assert [lora.ref for lora in engine.jobs[-1].loras] == ["local:mine.safetensors"]


def test_an_upload_is_nobody_elses(visit: Visit) -> None:
    page = visit()
    upload(page, "secret.safetensors", lora_bytes(SD3))
    expect(card(page, "secret")).to_be_visible()
    stranger = visit()
    expect(look_at(stranger, "local:secret.safetensors")).to_contain_text("There is no LoRA")
    expect(card(stranger, "secret")).to_have_count(0)


def test_an_upload_that_is_no_safetensors_file_is_refused_in_words(visit: Visit) -> None:
    page = visit()
    panel = upload(page, "trap.safetensors", pickle.dumps({"weights": print}))
    expect(panel).to_contain_text("“trap.safetensors” is not a readable safetensors file")
    expect(card(page, "trap")).to_have_count(0)


def test_whatever_authors_wrote_is_shown_and_never_run(visit: Visit) -> None:
    page = visit()
    expect(card(page, "evil")).to_contain_text(HOSTILE)
    titled = {"modelspec.title": HOSTILE, "modelspec.description": HOSTILE}
    panel = upload(page, "evil.safetensors", lora_bytes(SD3, metadata=titled))
    expect(panel.locator("h3")).to_have_text(HOSTILE)
    page.get_by_role("button", name="Add to the blend", exact=True).click()
    pick(page, "evil")
    expect(page.locator(".tray")).to_contain_text("2 LoRAs")
    back_to_create(page)
    expect(page.locator(".thread .title").first).to_have_text(HOSTILE)
    page.locator(".thread .chip").click()
    choose(page, "Pocket SDXL + LCM")
    expect(page.locator(".thread .why-not")).to_have_count(2)
    assert page.locator("img[src=x]").count() == 0


def test_nsfw_is_hidden_until_asked_for_and_then_blurred(visit: Visit) -> None:
    page = visit()
    expect(card(page, "glow")).to_be_visible()
    expect(card(page, "night")).to_have_count(0)
    page.get_by_label("Show NSFW").check()
    image = card(page, "night").locator("img")
    expect(image).not_to_have_css("filter", "none")
    card(page, "night").get_by_role("button", name="Show the picture").click()
    expect(image).to_have_css("filter", "none")


def test_a_search_that_finds_nothing_says_what_to_do(visit: Visit) -> None:
    page = visit()
    page.get_by_role("combobox", name="Licence").select_option("cc0-1.0")
    expect(page.locator(".note")).to_contain_text("No LoRA matches: try fewer words")


def test_the_cards_stay_while_the_hub_is_down(
    serve: Serve, hub: EmulatedHub, open_page: Visit, loras: Path, tmp_path: Path
) -> None:
    stock(hub)
    page = turn_to_loras(open_page(serve(FakeEngine(), catalogue(hub, loras, tmp_path), WORDS).url))
    expect(card(page, "glow")).to_be_visible()
    hub.fail("", faults.status(503), times=1000)
    page.get_by_role("searchbox").fill("glow")
    expect(page.locator(".note")).to_contain_text("The Hub cannot be used now")
    expect(page.locator(".lora .title")).to_have_text(["glow"])
    expect(pick(page, "glow").locator(".said")).to_contain_text("The Hub cannot be used now")


def test_more_pages_come_when_asked_for(
    serve: Serve, hub: EmulatedHub, open_page: Visit, loras: Path, tmp_path: Path
) -> None:
    for number in range(40):
        hub.add_repo(f"weaver/lora-{number}", {}, {"base_model": "lora-loom/pocket-sd3"}, ["lora"], downloads=number)
    page = turn_to_loras(open_page(serve(FakeEngine(), catalogue(hub, loras, tmp_path), WORDS).url))
    expect(page.locator(".lora")).to_have_count(24)
    page.get_by_role("button", name="More", exact=True).click()
    expect(page.locator(".lora")).to_have_count(45)
    expect(page.get_by_role("button", name="More", exact=True)).to_be_hidden()


def test_a_phone_shows_two_cards_beside_each_other(visit: Visit) -> None:
    page = visit(width=390, height=844)
    look_at(page, "weaver/glow")
    expect(page.locator(".panel dl")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    tops = page.locator(".lora").evaluate_all("cards => cards.map((card) => card.getBoundingClientRect().top)")
    assert tops[0] == tops[1] < tops[2]


ODD: tuple[Any, ...] = (
    None, 5, "x", [], {"query": 5}, {"query": "\ud800"}, {"limit": "all"}, {"nsfw": "yes"}, {"cursor": "x" * 2000},
    {"visitor": {"id": 1}}, {"ref": {"a": 1}}, {"ref": "weaver/glow", "model": []}, {"ref": "local:\ud800.safetensors"},
)  # fmt: skip


@pytest.mark.parametrize("called", ["search", "inspect"])
@pytest.mark.parametrize("asked", ODD, ids=repr)
def test_a_stranger_may_ask_anything_and_gets_an_answer(
    shop: Served, called: str, asked: object, caplog: pytest.LogCaptureFixture
) -> None:
    components = httpx.get(f"{shop.url}/config").json()["components"]
    (tab,) = (part["id"] for part in components if part["props"].get("elem_id") == "loras")
    body = json.dumps({"data": asked, "component_id": tab, "fn_name": called, "session_hash": "stranger"})
    kind = {"content-type": "application/json"}
    answer = httpx.post(f"{shop.url}/gradio_api/component_server/", content=body, headers=kind)
    assert answer.status_code == 200
    assert answer.json().keys() & {"error", "cards", "ref"}
    assert "bug" not in caplog.text
