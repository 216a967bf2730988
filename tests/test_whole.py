"""The whole, as a stranger meets it: the page in Chromium and the Gradio client, on the pocket models that ship."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client
from PIL import Image, ImageChops, ImageStat
from playwright.sync_api import Browser, Page, expect

from core.base_models import POCKET
from core.engine import LocalEngine
from core.machine import Machine
from tests.conftest import UNFOLDED, Serve, Served
from ui.examples import FOLDER
from ui.words import PocketWords

PATIENCE = 60_000  # ms
CIRCLE = "a red circle on a blue background"


@pytest.fixture(scope="module")
def whole(serve: Serve) -> Served:
    return serve(LocalEngine(Machine("cpu")), POCKET / "loras", PocketWords.read(POCKET / "words.json"))


@pytest.fixture(scope="module")
def client(whole: Served) -> Client:
    return Client(whole.url, verbose=False)


def generate(client: Client, **fields: Any) -> tuple[list[Image.Image], dict[str, Any]]:
    gallery, recipe = client.predict(api_name="/generate", **fields)
    return [Image.open(item["image"]).convert("RGB") for item in gallery], recipe


def test_a_stranger_needs_only_a_prompt(client: Client) -> None:
    (picture,), recipe = generate(client, prompt=CIRCLE)
    assert picture.size == (128, 128)
    assert (recipe["model"]["key"], recipe["steps"], recipe["prompt"]) == ("pocket-sd3", 20, CIRCLE)


def test_a_recipe_makes_the_same_pixels_again(client: Client) -> None:
    loras = [{"ref": "bundled:pocket-sdxl-dots", "weight": 0.7}, {"ref": "bundled:pocket-sdxl-pastel"}]
    pictures, recipe = generate(client, prompt=CIRCLE, model="pocket-sdxl-lcm", loras=loras, images=2, seed=5)
    again, _ = generate(client, recipe=recipe)
    assert [p.tobytes() for p in again] == [p.tobytes() for p in pictures]
    assert all(lora["receipt"]["applied"] == lora["receipt"]["total"] > 0 for lora in recipe["loras"])


def test_the_models_and_loras_on_offer_are_the_ones_that_work(client: Client) -> None:
    models = {model["key"]: model for model in client.predict(api_name="/models")}
    assert [key for key, model in models.items() if model["available"]] == [
        "pocket-sd3", "pocket-sdxl", "pocket-sdxl-lcm",
    ]  # fmt: skip
    assert "needs a GPU" in models["sdxl"]["why_not"]
    for family in ("pocket-sd3", "pocket-sdxl"):
        cards = client.predict(family=family, api_name="/search_loras")["cards"]
        assert len({card["ref"] for card in cards}) >= 6
        for card in cards:
            _, recipe = generate(client, prompt="a cat", model=family, steps=1, loras=[{"ref": card["ref"]}])
            assert recipe["loras"][0]["receipt"]["skipped"] == []


@pytest.fixture
def page(browser: Browser, whole: Served) -> Any:
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.add_init_script(UNFOLDED)
    page.goto(whole.url)
    expect(page.locator("#blend .card").first).to_be_visible(timeout=PATIENCE)
    yield page
    context.close()


def said(page: Page, words: str) -> None:
    expect(page.locator("#stage .said")).to_contain_text(words, timeout=PATIENCE)


def test_a_visitor_types_adds_a_lora_draws_and_reads_the_recipe(page: Page, tmp_path: Path) -> None:
    page.locator("#prompt textarea").fill(CIRCLE + " in the middle")
    page.locator("#blend .card").first.click()
    page.locator("#generate").click()
    said(page, "carries its recipe")
    expect(page.locator("#recipe")).to_contain_text("layers")
    with page.expect_download() as download:
        page.locator("#gallery button[aria-label=Download]").click()
    download.value.save_as(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        recipe = json.loads(picture.info["lora-loom"])
        assert "Steps: 20" in picture.info["parameters"]
    assert len(recipe["loras"]) == 1


def test_a_visitor_cancels_a_long_run_and_draws_again(page: Page) -> None:
    page.locator("#prompt textarea").fill(CIRCLE)
    page.locator("#steps input[type=number]").fill("100")
    page.locator("#images input[type=number]").fill("8")
    page.locator("#images input[type=number]").blur()
    page.locator("#generate").click()
    expect(page.locator("#stage .look")).to_be_visible(timeout=PATIENCE)
    page.locator("#cancel").click()
    said(page, "Cancelled")
    page.locator("#steps input[type=number]").fill("4")
    page.locator("#images input[type=number]").fill("1")
    page.locator("#images input[type=number]").blur()
    page.locator("#prompt textarea").press("Control+Enter")
    said(page, "carries its recipe")


def test_a_first_click_on_an_example_leads_to_the_picture_on_its_card(page: Page, tmp_path: Path) -> None:
    expect(page.locator(".example")).to_have_count(5)
    page.locator(".example", has_text="Cat in big pixels").click()
    expect(page.locator("#prompt textarea")).to_have_value("a black cat in front of a sunset, pixel art")
    expect(page.locator(".thread .title")).to_have_text("Pixel blocks")
    expect(page.locator("#generate")).to_be_focused()
    page.keyboard.press("Enter")
    said(page, "carries its recipe")
    expect(page.locator(".example").first).to_be_hidden()
    with page.expect_download() as download:
        page.locator("#gallery button[aria-label=Download]").click()
    download.value.save_as(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as drawn, Image.open(FOLDER / "sd3-cat.webp") as shown:
        apart = ImageStat.Stat(ImageChops.difference(drawn.convert("RGB"), shown.convert("RGB"))).mean
    assert max(apart) < 6  # of 255: the card is a WebP of a few kB
    page.locator("#show-blends button").click()
    expect(page.locator(".example").first).to_be_visible()
