"""The page in a real Chromium: what a visitor types, clicks, sees and waits for."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.conftest import Served
from tests.ui.conftest import Visit
from tests.ui.fakes import FakeEngine


@pytest.fixture
def visit(open_page: Visit, server: Served, engine: FakeEngine) -> Visit:
    return partial(open_page, server.url)


def prompt(page: Page) -> str:
    return page.locator("#prompt textarea").input_value()


def draw(page: Page) -> None:
    page.locator("#stage .said").evaluate("node => { node.textContent = ''; }")  # what the last run said
    page.locator("#generate").click()
    expect(page.locator("#stage .said")).to_contain_text("carries its recipe")


def test_a_prompt_and_a_lora_become_a_picture_with_its_recipe(visit: Visit, tmp_path: Path) -> None:
    page = visit()
    page.locator("#prompt textarea").fill("a blue house")
    page.locator("#blend .card", has_text="Pixel").click()
    draw(page)
    recipe = page.locator("#recipe")
    expect(recipe).to_contain_text("a blue house")
    expect(recipe).to_contain_text("264 of 264 layers")
    expect(recipe).to_contain_text("× 0.8")
    with page.expect_download() as download:
        page.locator("#gallery button[aria-label=Download]").click()
    download.value.save_as(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        own = json.loads(picture.info["lora-loom"])
    assert (own["prompt"], own["loras"][0]["ref"]) == ("a blue house", "bundled:pixel")


def test_progress_is_told_in_steps_and_pictures_and_nothing_jumps(visit: Visit, engine: FakeEngine) -> None:
    engine.pause = 0.05
    page = visit()
    page.locator("#images input[type=number]").fill("2")
    page.locator("#images input[type=number]").blur()
    before = page.evaluate("document.querySelector('#settings').getBoundingClientRect().top + scrollY")
    page.locator("#generate").click()
    expect(page.locator("#stage .look")).to_be_visible()
    expect(page.locator("#stage .said")).to_contain_text("of 20")
    expect(page.locator("#stage .said")).to_contain_text("picture 2 of 2")
    assert int(page.locator("#stage [role=progressbar]").get_attribute("aria-valuenow") or 0) >= 50
    during = page.evaluate("document.querySelector('#settings').getBoundingClientRect().top + scrollY")
    assert during == pytest.approx(before, abs=2)
    expect(page.locator("#stage .said")).to_contain_text("2 pictures")


def test_cancel_stops_a_long_run_and_the_next_one_works(visit: Visit, engine: FakeEngine) -> None:
    engine.pause = 0.1
    page = visit()
    page.locator("#images input[type=number]").fill("8")
    page.locator("#images input[type=number]").blur()
    page.locator("#generate").click()
    expect(page.locator("#stage .look")).to_be_visible()
    page.locator("#cancel").click()
    expect(page.locator("#stage .said")).to_contain_text("Cancelled")
    assert engine.cancelled.is_set()
    engine.pause = 0.0
    draw(page)


def test_a_closed_tab_stops_its_run(visit: Visit, engine: FakeEngine) -> None:
    engine.pause = 0.1
    page = visit()
    page.locator("#images input[type=number]").fill("8")
    page.locator("#images input[type=number]").blur()
    page.locator("#generate").click()
    expect(page.locator("#stage .look")).to_be_visible()
    page.close()
    assert engine.cancelled.wait(20)


def test_ctrl_enter_generates(visit: Visit) -> None:
    page = visit()
    page.locator("#prompt textarea").fill("a red circle")
    page.locator("#prompt textarea").press("Control+Enter")
    expect(page.locator("#recipe")).to_contain_text("a red circle")


def test_trigger_words_follow_their_lora_in_and_out(visit: Visit) -> None:
    page = visit()
    page.locator("#prompt textarea").fill("a house")
    page.locator("#blend .card", has_text="Sketch").click()
    page.locator(".thread .chip", has_text="pencil sketch").click()
    assert prompt(page) == "a house, pencil sketch"
    page.get_by_role("button", name="Remove Sketch").click()
    assert prompt(page) == "a house"
    expect(page.locator(".thread")).to_have_count(0)


def test_words_and_examples_are_a_click_away(visit: Visit) -> None:
    page = visit()
    page.get_by_text("Words it understands").click()
    page.locator("#examples .chip").nth(1).click()
    assert prompt(page) == "a yellow house under a starry night sky"
    page.locator("#words .vocabulary .chip", has_text="circle").click()
    assert prompt(page).endswith("night sky circle")


def test_the_box_takes_more_than_the_slider_and_muting_keeps_the_row(visit: Visit, engine: FakeEngine) -> None:
    page = visit()
    page.locator("#blend .card", has_text="Pixel").click()
    page.locator(".thread input[type=number]").fill("-4.5")
    page.locator("#blend .card", has_text="Neon").click()
    page.get_by_role("button", name="Mute Neon").click()
    draw(page)
    weights = {lora.ref: (lora.weight, lora.muted) for lora in engine.jobs[-1].request.loras}
    assert weights == {"bundled:pixel": (-4.5, False), "bundled:neon": (1.0, True)}


def test_a_weight_out_of_range_is_refused_in_words(visit: Visit) -> None:
    page = visit()
    page.locator("#blend .card", has_text="Pixel").click()
    page.locator(".thread input[type=number]").fill("7")
    page.locator("#generate").click()
    expect(page.locator(".thread .fault")).to_have_text("Weight must be a number from -5 to 5.")
    expect(page.locator(".thread input[type=number]")).to_be_focused()
    expect(page.locator("#generate")).to_be_visible()


def test_a_rows_other_controls_are_behind_more_and_the_recipe_tells_them(visit: Visit, engine: FakeEngine) -> None:
    page = visit()
    page.locator("#blend .card", has_text="Pixel").click()
    more = page.locator(".thread summary")
    expect(more).to_have_text("More")
    expect(page.locator(".thread .field")).to_have_count(0)
    more.click()
    for label, value in (
        ("Text encoder weight of Pixel", "0.5"), ("Start of Pixel", "0.25"), ("End of Pixel", "0.5"),
        ("Blocks 0-1 of Pixel", "0"), ("Single blocks of Pixel", "5: 2"),
    ):  # fmt: skip
        page.get_by_label(label).fill(value)
    expect(more).to_have_text("More · text 0.5 · steps 0.25 to 0.5 · 0-1: 0, 5: 2")
    page.get_by_label("Keep total strength").check()
    page.get_by_label("Total strength: what").fill("1.6")
    page.locator("#blend .card", has_text="Neon").click()
    expect(page.get_by_label("Single blocks of Pixel")).to_have_value("5: 2")
    page.get_by_role("button", name="Mute Neon").click()
    draw(page)
    request = engine.jobs[-1].request
    pixel = request.loras[0]
    assert (pixel.text_encoder, pixel.start, pixel.end, pixel.blocks) == (0.5, 0.25, 0.5, {"0-1": 0, "5": 2})
    assert (request.total_strength, engine.jobs[-1].loras[0].weight) == (1.6, 1.6)
    expect(page.locator("#recipe")).to_contain_text(
        "text encoder 0.5, steps 6 to 10 of 20, blocks 0-1: 0, 5: 2, 264 of"
    )
    expect(page.locator("#recipe")).to_contain_text("Total strength1.6")
    page.get_by_label("Text encoder weight of Pixel").fill("")
    page.get_by_label("Start of Pixel").fill("0.5")
    page.get_by_label("Keep total strength").uncheck()
    page.locator("#generate").click()
    expect(page.locator(".thread .fault")).to_have_text("Start must be less than end, not 0.5 and 0.5.")
    page.get_by_label("End of Pixel").fill("")
    draw(page)
    request = engine.jobs[-1].request
    assert (request.loras[0].text_encoder, request.loras[0].end, request.total_strength) == (None, 1.0, None)


def test_a_unets_blocks_are_in_mid_and_out(visit: Visit, engine: FakeEngine) -> None:
    page = visit()
    choose(page, "Pocket SDXL + LCM")
    page.locator("#blend .card", has_text="Pixel XL").click()
    page.locator(".thread summary").click()
    page.get_by_label("Blocks mid of Pixel XL").fill("0.5")
    draw(page)
    assert engine.jobs[-1].request.loras[0].blocks == {"mid": 0.5}


def choose(page: Page, title: str) -> None:
    page.locator("#model input").click()
    page.get_by_role("option", name=title).click()


def test_another_model_brings_its_defaults_and_keeps_what_does_not_fit(visit: Visit, engine: FakeEngine) -> None:
    page = visit()
    page.locator("#blend .card", has_text="Pixel").click()
    choose(page, "Pocket SDXL + LCM")
    expect(page.locator("#steps input[type=number]")).to_have_value("4")
    expect(page.locator(".thread .why-not")).to_contain_text("Made for pocket-sd3")
    expect(page.locator("#negative-prompt textarea")).to_be_disabled()
    expect(page.get_by_placeholder("Not used: this mode draws without guidance")).to_be_visible()
    expect(page.locator("#guidance-note")).to_have_text("LCM draws without guidance: above 1 each step is drawn twice.")
    expect(page.locator("#blend .card")).to_have_text(["Pixel XL"])
    draw(page)
    request = engine.jobs[-1].request
    assert (request.model, request.steps, request.loras) == ("pocket-sdxl-lcm", 4, ())
    choose(page, "Pocket SD3")
    expect(page.locator(".thread .why-not")).to_have_count(0)
    expect(page.locator("#guidance-note")).to_be_hidden()
    expect(page.locator("#negative-prompt textarea")).to_be_enabled()


def test_a_guidance_without_a_choice_is_locked_and_says_why(visit: Visit) -> None:
    page = visit()
    choose(page, "SDXL Turbo · not on this machine")
    expect(page.locator("#guidance input[type=number]")).to_be_disabled()
    expect(page.locator("#guidance input[type=number]")).to_have_value("1")
    expect(page.locator("#guidance-note")).to_contain_text("made for one step without guidance")
    choose(page, "Pocket SD3")
    expect(page.locator("#guidance input[type=number]")).to_be_enabled()


def test_partial_loras_are_allowed_by_a_tick_that_the_request_carries(visit: Visit, engine: FakeEngine) -> None:
    page = visit()
    page.locator("#blend .card", has_text="Pixel").click()
    page.get_by_label("Allow partial LoRAs").check()
    page.locator("#blend .card", has_text="Neon").click()
    expect(page.get_by_label("Allow partial LoRAs")).to_be_checked()
    draw(page)
    assert engine.jobs[-1].request.allow_partial is True
    page.get_by_label("Allow partial LoRAs").uncheck()
    draw(page)
    assert engine.jobs[-1].request.allow_partial is False


def test_a_model_that_cannot_run_says_why(visit: Visit) -> None:
    page = visit()
    choose(page, "SDXL 1.0 · not on this machine")
    expect(page.locator("#model-note")).to_contain_text("needs a GPU")
    page.locator("#generate").click()
    expect(page.locator("#model .fault")).to_contain_text("SDXL 1.0 needs a GPU")


def test_the_last_seed_can_be_used_again(visit: Visit, engine: FakeEngine) -> None:
    page = visit()
    draw(page)
    seed = str(engine.jobs[-1].request.seed)
    page.locator("#recycle").click()
    expect(page.locator("#seed input")).to_have_value(seed)
    page.locator("#dice").click()
    expect(page.locator("#seed input")).to_have_value("-1")


def test_one_visitor_never_sees_anothers_pictures(visit: Visit) -> None:
    first = visit()
    draw(first)
    second = visit()
    expect(second.locator("#stage")).to_contain_text("will be woven here")
    expect(second.locator("#gallery img")).to_have_count(0)
    second.locator("#recycle").click()
    expect(second.locator("#seed input")).to_have_value("-1")


def test_a_phone_gets_one_column_with_generate_in_reach(visit: Visit) -> None:
    page = visit(390, 844)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.mouse.wheel(0, 3000)
    box = page.locator("#generate").bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= 844
    draw(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_dark_mode_is_dark(visit: Visit) -> None:
    page = visit(dark=True)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert all(int(part) < 60 for part in background.strip("rgb()").split(","))
