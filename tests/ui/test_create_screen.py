"""Create as people meet it: one screen, by keys alone, in both lights, on a phone, and as they left it."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from core.recipe import permalink
from tests.conftest import Served
from tests.core.recipes import recipe
from tests.ui.conftest import Visit
from tests.ui.fakes import FakeEngine

CONTRAST = (Path(__file__).parent / "contrast.js").read_text("utf-8")
CIRCLE = "a red circle on a blue background"
MAIN = ("#prompt textarea", "#model", "#blend", "#details", "#gallery", "#recipe-fold")
CONTROLS = {"button", "textbox", "searchbox", "slider", "spinbutton", "combobox", "checkbox", "radio", "link", "tab"}
TABS = ("Create", "LoRAs", "Compare", "History")
PLACES = """(names) => names.map((name) => {
  const box = document.querySelector(name).getBoundingClientRect();
  return [name, Math.round(box.left + scrollX), Math.round(box.top + scrollY), Math.round(box.width)];
})"""


@pytest.fixture
def visit(open_page: Visit, server: Served, engine: FakeEngine) -> Visit:
    return partial(open_page, server.url)


def drawn(page: Page) -> None:
    expect(page.locator("#stage .said")).to_contain_text("carries its recipe")


def places(page: Page) -> Any:
    return page.evaluate(PLACES, [*MAIN, "#generate"])


def weave(page: Page, *titles: str) -> None:
    for title in titles:
        page.locator("#blend .card", has_text=title).click()


def test_all_that_matters_is_on_one_screen_and_stays_where_it_is_while_it_draws(
    visit: Visit, engine: FakeEngine
) -> None:
    page = visit(folded=True)
    weave(page, "Pixel", "Sketch")
    for name in ("#prompt", "#generate", "#model", "#blend .thread >> nth=1", "#stage .loom"):
        box = page.locator(name).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 900, name
    expect(page.locator("#steps")).to_be_hidden()
    before = places(page)
    engine.pause = 0.05
    page.locator("#generate").click()
    expect(page.locator("#stage .look")).to_be_visible()
    at_cancel = [*MAIN, "#cancel"]
    assert [row[1:] for row in page.evaluate(PLACES, at_cancel)] == [row[1:] for row in before]
    drawn(page)
    expect(page.locator("#blend .thread .receipt").first).to_have_text("264 of 264 layers")
    expect(page.locator("#estimate")).to_have_text("about 0.1 s a picture on this machine")
    assert places(page) == before


def test_a_phone_never_scrolls_sideways_and_keeps_its_places_while_drawing(visit: Visit, engine: FakeEngine) -> None:
    page = visit(390, 844, folded=True)
    before = page.evaluate(PLACES, MAIN)
    box = page.get_by_role("button", name="Open a recipe").bounding_box()
    assert box is not None
    assert box["y"] < 300
    engine.pause = 0.03
    page.locator("#generate").click()
    expect(page.locator("#stage .look")).to_be_visible()
    assert page.evaluate(PLACES, MAIN) == before
    drawn(page)
    assert page.evaluate(PLACES, MAIN) == before
    assert page.locator("#stage .status").is_visible()
    for tab in TABS:
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab


def test_keys_generate_from_anywhere_cancel_and_walk_through_pictures_and_cards(
    visit: Visit, engine: FakeEngine
) -> None:
    page = visit()
    page.get_by_role("tab", name="History").click()
    page.keyboard.press("Control+Enter")
    drawn(page)
    engine.pause = 0.1
    page.locator("#images input[type=number]").fill("3")
    page.locator("#images input[type=number]").press("Control+Enter")
    expect(page.locator("#stage .look")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#stage .said")).to_contain_text("Cancelled")
    engine.pause = 0.0
    page.locator("#prompt textarea").press("Control+Enter")
    expect(page.locator("#stage .said")).to_contain_text("3 pictures")
    seed = int((page.locator("#gallery .caption").inner_text()).removeprefix("seed "))
    page.locator("#generate").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#gallery .caption")).to_have_text(f"seed {seed + 1}")
    page.locator("#blend .card", has_text="Neon").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#blend .card", has_text="Pixel")).to_be_focused()
    box = page.locator("#prompt textarea")
    box.fill("a house <lora:bundled:pixel:0.8>")
    box.press("ArrowLeft")
    box.press("Control+ArrowUp")
    assert box.input_value() == "a house <lora:bundled:pixel:0.85>"
    box.fill("a house ")
    box.press_sequentially("<")
    expect(page.get_by_role("option")).to_have_text(["Neon", "Pixel", "Sketch", "Snail"])
    box.press_sequentially("pi")
    expect(page.get_by_role("option")).to_have_text(["Pixel"])
    box.press("Enter")
    assert box.input_value() == "a house <lora:bundled:pixel:0.8>"
    expect(page.get_by_role("option")).to_have_count(0)


def test_a_refresh_keeps_the_form_and_a_link_wins_over_it(visit: Visit, server: Served) -> None:
    page = visit(folded=True)
    page.get_by_role("button", name="Size, steps, seed, pictures").click()
    page.locator("#model input").click()
    page.get_by_role("option", name="Pocket SDXL · 25 steps").click()
    expect(page.locator("#steps input[type=number]")).to_have_value("25")
    weave(page, "Pixel XL")
    page.locator(".thread input[type=number]").fill("0.35")
    page.locator("#prompt textarea").fill("my own words")
    page.locator("#negative-prompt textarea").fill("fog")
    for name, value in (("steps", "7"), ("seed", "1234"), ("width", "64")):
        page.locator(f"#{name} input[type=number]").fill(value)
        page.locator(f"#{name} input[type=number]").blur()
    page.reload()
    expect(page.locator("#prompt textarea")).to_have_value("my own words")
    expect(page.locator(".thread input[type=number]")).to_have_value("0.35")
    expect(page.locator("#steps input[type=number]")).to_be_visible()  # unfolded, as it was left
    values = {name: page.locator(f"#{name} input[type=number]").input_value() for name in ("steps", "seed", "width")}
    assert values == {"steps": "7", "seed": "1234", "width": "64"}
    assert page.locator("#negative-prompt textarea").input_value() == "fog"
    expect(page.locator("#model input")).to_have_value(re.compile("^Pocket SDXL · 25 steps"))
    page.goto(server.url + permalink(recipe("pocket-sd3", steps=12, prompt="of the link", loras=())))
    expect(page.locator("#prompt textarea")).to_have_value("of the link")
    expect(page.locator(".thread")).to_have_count(0)


@pytest.mark.parametrize(
    ("stored", "prompt"),
    [
        ("{torn", CIRCLE),
        (json.dumps({"version": 99, "model": "pocket-sd3", "prompt": "of tomorrow"}), CIRCLE),
        (
            json.dumps({
                "version": 1, "model": "gone/model@1", "prompt": "still mine", "steps": 9000, "seed": "x",
                "blend": {"rows": [{"ref": "bundled:pixel", "title": "Pixel", "family": "pocket-sd3", "weight": 1}]},
            }),
            "still mine",
        ),
    ],
)  # fmt: skip
def test_what_another_version_stored_does_not_break_the_page(visit: Visit, stored: str, prompt: str) -> None:
    page = visit()
    page.evaluate("(text) => localStorage.setItem('loom-form', text)", stored)
    page.reload()
    expect(page.locator("#prompt textarea")).to_have_value(prompt)
    expect(page.locator("#model input")).to_have_value(re.compile("^Pocket SD3"))
    page.locator("#generate").click()
    drawn(page)


def test_an_error_stands_beside_its_field_which_gets_the_focus_until_it_is_mended(visit: Visit) -> None:
    page = visit(folded=True)
    page.evaluate("document.querySelector('#details').dispatchEvent(new CustomEvent('loom:unfold'))")
    page.locator("#seed input").fill("-5")
    page.get_by_role("button", name="Size, steps, seed, pictures").click()
    page.locator("#generate").click()
    fault = page.locator("#seed .fault")
    expect(fault).to_contain_text("Seed must be a whole number from -1 (random) to")
    expect(page.locator("#seed input")).to_be_focused()
    expect(page.locator("#seed input")).to_have_attribute("aria-describedby", "fault")
    expect(page.locator("#notice")).to_be_hidden()
    page.locator("#seed input").fill("5")
    expect(fault).to_have_count(0)
    page.locator("#prompt textarea").fill("<lora:bundled:gone:1> a bug, please")
    page.locator("#generate").click()
    expect(page.locator("#notice")).to_contain_text("There is no LoRA “bundled:gone”")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_can_be_read_and_every_control_has_a_name(visit: Visit, dark: bool) -> None:
    page = visit(dark=dark)
    weave(page, "Pixel", "Sketch")
    page.locator(".thread summary").first.click()
    page.get_by_role("button", name="Mute Sketch").click()
    page.locator("#generate").click()
    drawn(page)
    for name in ("words", "over", "save-blend", "about"):
        page.locator(f"#{name} .fold").click()
    for tab in TABS:
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(300)  # colours move for a moment
        assert page.evaluate(CONTRAST) == [], tab
        assert unnamed(page) == [], tab


def unnamed(page: Page) -> list[str]:
    """The roles of controls that a screen reader has no words for."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    return [
        node["role"]["value"]
        for node in nodes
        if not node["ignored"]
        and node["role"]["value"] in CONTROLS
        and not node.get("name", {}).get("value", "").strip()
    ]


def test_the_focus_goes_as_one_reads(visit: Visit) -> None:
    page = visit()
    weave(page, "Pixel")
    order = ("#prompt textarea", "#generate", "#gallery", "#recipe-fold .fold", "#model input", "#blend .card",
             "#blend .weight input", "#details .fold", "#steps input", "#words .fold", "#about .fold")  # fmt: skip
    in_document = """(names) => {
      const nodes = names.map((name) => document.querySelector(name));
      const follows = (one, other) => one.compareDocumentPosition(other) & Node.DOCUMENT_POSITION_FOLLOWING;
      return nodes.slice(1).every((node, at) => follows(nodes[at], node));
    }"""
    assert page.evaluate(in_document, list(order))
    assert page.locator("[tabindex]:not([tabindex='0']):not([tabindex='-1'])").count() == 0


@pytest.mark.parametrize(("key", "there"), [("Tab", "#model-note a >> nth=0"), ("Shift+Tab", "#recipe-fold .fold")])
def test_tab_goes_on_from_the_model_whose_list_has_opened(visit: Visit, key: str, there: str) -> None:
    page = visit()
    page.wait_for_function("window.loom?.visitor")  # the page's own script runs last
    page.locator("#model input").focus()
    expect(page.get_by_role("option").first).to_be_visible()
    page.keyboard.press(key)
    expect(page.locator(there)).to_be_focused()
    expect(page.get_by_role("option")).to_have_count(0)


def test_a_page_loaded_anew_while_it_drew_says_what_became_of_the_picture(visit: Visit, engine: FakeEngine) -> None:
    """Gradio does so too, once a lost connection is back."""
    engine.pause = 0.1
    page = visit()
    said = page.locator("#stage .said")
    page.wait_for_function("window.loom?.visitor")
    page.locator("#generate").click()
    expect(page.locator("#stage [role=progressbar]")).to_be_visible()
    page.reload()
    expect(said).to_contain_text("The page was loaded anew while it drew")
    engine.pause = 0.0
    page.wait_for_function("window.loom?.visitor")
    page.locator("#generate").click()
    expect(said).to_contain_text("Each PNG carries its recipe")
    expect(page.locator("#generate")).to_be_visible()
    page.wait_for_function("sessionStorage.getItem('loom-drawing') === null")
    page.reload()
    expect(said).to_have_text("Say what to draw, then press Generate.")


def test_nothing_moves_by_itself_for_those_who_ask_for_rest(visit: Visit, engine: FakeEngine) -> None:
    engine.pause = 0.1
    page = visit(reduced_motion="reduce")
    page.locator("#generate").click()
    expect(page.locator("#stage [role=progressbar]")).to_be_visible()
    moving = (
        "document.getAnimations().filter((one) => one.playState === 'running' && one.effect.getTiming().iterations > 1)"
    )
    assert page.evaluate(f"{moving}.length") == 0
    page.keyboard.press("Escape")
    expect(page.locator("#stage .said")).to_contain_text("Cancelled")


@pytest.mark.parametrize("width", [862, 1000, 1160, 1280])
def test_a_small_window_of_two_columns_leaves_the_picture_room(server: Served, open_page: Visit, width: int) -> None:
    page = open_page(server.url, width, 800)
    picture = page.locator("#stage .loom").bounding_box()
    assert picture is not None
    assert picture["width"] > 0.35 * width
    for example in page.locator(".blends .example").all():
        card = example.bounding_box()
        assert card is not None
        assert card["width"] > 80
