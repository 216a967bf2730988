"""A recipe back into the form, in a real Chromium: by its buttons, a link, a dropped picture, a pasted text."""

from __future__ import annotations

import io
import json
import re
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from core.base_models import BASE_MODELS
from core.fine_tunes import FineTune
from core.recipe import permalink
from tests.conftest import Served
from tests.core.recipes import recipe
from tests.ui.conftest import Visit
from tests.ui.fakes import FakeEngine

DROP = """([name, bytes]) => {
  const brought = new DataTransfer();
  brought.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
  for (const type of ["dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer: brought }));
  }
}"""


@pytest.fixture
def visit(open_page: Visit, server: Served, engine: FakeEngine) -> Visit:
    return partial(open_page, server.url)


def number(page: Page, name: str) -> str:
    return page.locator(f"#{name} input[type=number]").input_value()


def rows(page: Page) -> list[str]:
    return page.locator("#blend .thread .title").all_text_contents()


def draw(page: Page) -> None:
    page.locator("#generate").click()
    expect(page.locator("#stage .said")).to_contain_text("carries its recipe")


def drawn_with_pixel(page: Page) -> str:
    """A picture with every part of the form away from its default; gives the address of its recipe."""
    page.locator("#prompt textarea").fill("a blue house, pixel art")
    page.locator("#blend .card", has_text="Pixel").click()
    page.locator("#blend .weight input[type=number]").fill("0.35")
    page.locator("#blend details.controls summary").click()
    page.get_by_label("End of Pixel, a share of the steps").fill("0.5")
    page.get_by_label("Single blocks of Pixel").fill("0: 0.25")
    for name, value in (("steps", "7"), ("guidance", "2.5"), ("seed", "1234"), ("width", "64")):
        page.locator(f"#{name} input[type=number]").fill(value)
        page.locator(f"#{name} input[type=number]").blur()
    draw(page)
    return page.locator(".take-away a").get_attribute("href") or ""


def spoilt(page: Page) -> None:
    """The form as far from the recipe as a visitor can take it."""
    page.locator("#model input").click()
    page.get_by_role("option", name="Pocket SDXL · 25 steps").click()
    expect(page.locator("#blend .card", has_text="Pixel XL")).to_be_visible()
    page.locator("#blend .card", has_text="Pixel XL").click()
    page.locator("#prompt textarea").fill("something else")
    page.locator("#seed input").fill("-1")
    page.locator("#seed input").blur()


def expect_the_recipe(page: Page) -> None:
    expect(page.locator("#prompt textarea")).to_have_value("a blue house, pixel art")
    expect(page.locator("#blend .thread")).to_have_count(1)
    assert rows(page) == ["Pixel"]
    assert page.locator("#blend .weight input[type=number]").input_value() == "0.35"
    assert page.locator("#blend details.controls summary").inner_text() == "More · steps 0 to 0.5 · 0: 0.25"
    expect(page.locator("#model input")).to_have_value(re.compile("^Pocket SD3 · 20 steps"))
    found = {name: number(page, name) for name in ("steps", "guidance", "seed", "width", "height")}
    assert found == {"steps": "7", "guidance": "2.5", "seed": "1234", "width": "64", "height": "128"}


def colour(png: bytes) -> object:
    with Image.open(io.BytesIO(png)) as picture:
        return picture.getpixel((0, 0))


def downloaded(page: Page, button: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.locator(button).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_everything_restores_the_form_and_clears_loras_the_recipe_did_not_use(visit: Visit) -> None:
    page = visit()
    drawn_with_pixel(page)
    spoilt(page)
    page.locator("#use-everything").click()
    expect_the_recipe(page)


def test_the_seed_alone_leaves_all_else_and_a_remix_leaves_the_seed(visit: Visit) -> None:
    page = visit()
    drawn_with_pixel(page)
    spoilt(page)
    page.locator("#use-seed").click()
    expect(page.locator("#seed input")).to_have_value("1234")
    assert page.locator("#prompt textarea").input_value() == "something else"
    page.locator("#use-remix").click()
    expect(page.locator("#prompt textarea")).to_have_value("a blue house, pixel art")
    expect(page.locator("#seed input")).to_have_value("-1")


def test_the_seed_of_the_chosen_picture_of_several_is_taken(visit: Visit) -> None:
    page = visit()
    page.locator("#seed input").fill("50")
    page.locator("#images input[type=number]").fill("3")
    page.locator("#images input[type=number]").blur()
    draw(page)
    page.locator("#gallery .thumbnails button").nth(2).click()
    expect(page.locator("#gallery .caption")).to_contain_text("seed 52")
    page.locator("#use-seed").click()
    expect(page.locator("#seed input")).to_have_value("52")


def test_a_link_opens_with_the_form_filled_and_draws_the_same_pixels_only_on_a_click(
    visit: Visit, server: Served, tmp_path: Path
) -> None:
    link = drawn_with_pixel(page := visit())
    first = downloaded(page, "#gallery button[aria-label=Download]", tmp_path).read_bytes()
    asked = len(server.engine.jobs)
    other = visit()
    other.goto(f"{server.url}/{link}")
    expect(other.locator("#opened")).to_contain_text("The form is filled from the recipe")
    expect_the_recipe(other)
    assert "recipe=" not in other.url
    assert len(server.engine.jobs) == asked
    draw(other)
    assert server.engine.jobs[-1].request == server.engine.jobs[asked - 1].request
    assert colour(downloaded(other, "#gallery button[aria-label=Download]", tmp_path).read_bytes()) == colour(first)


def test_what_is_said_of_a_recipe_stands_below_the_links_over_the_prompt(visit: Visit, server: Served) -> None:
    link = drawn_with_pixel(visit())
    page = visit(folded=True)
    page.goto(f"{server.url}/{link}")
    said = page.locator("#opened p")
    expect(said).to_contain_text("The form is filled from the recipe")
    link_box, said_box = page.get_by_role("button", name="Open a recipe").bounding_box(), said.bounding_box()
    assert link_box is not None
    assert said_box is not None
    assert link_box["y"] + link_box["height"] <= said_box["y"]


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_a_saved_picture_dropped_on_the_page_restores_everything(visit: Visit, tmp_path: Path, ending: str) -> None:
    page = visit()
    drawn_with_pixel(page)
    button = {"png": "#gallery button[aria-label=Download]"}.get(ending, f"#save-{ending}")
    saved = downloaded(page, button, tmp_path)
    assert saved.suffix == f".{ending}"
    spoilt(page)
    page.evaluate(DROP, [saved.name, list(saved.read_bytes())])
    expect(page.locator("#opened")).to_contain_text("The form is filled from the recipe")
    expect_the_recipe(page)


@pytest.mark.parametrize("what", ["link", "json"])
def test_a_pasted_link_or_recipe_restores_everything(visit: Visit, server: Served, tmp_path: Path, what: str) -> None:
    page = visit()
    text = f"{server.url}/{drawn_with_pixel(page)}"
    if what == "json":
        with Image.open(downloaded(page, "#gallery button[aria-label=Download]", tmp_path)) as picture:
            text = picture.info["lora-loom"]
    spoilt(page)
    page.locator("#recipe-text textarea").fill(text)
    page.locator("#recipe-open").click()
    expect(page.locator("#opened")).to_contain_text("The form is filled from the recipe")
    expect_the_recipe(page)


def test_a_picture_without_a_recipe_is_one_sentence_and_the_form_stays(visit: Visit, tmp_path: Path) -> None:
    page = visit()
    page.locator("#prompt textarea").fill("my own words")
    page.locator("#blend .card", has_text="Neon").click()
    Image.new("RGB", (8, 8)).save(tmp_path / "bare.png")
    page.evaluate(DROP, ["bare.png", list((tmp_path / "bare.png").read_bytes())])
    expect(page.locator("#opened [role=alert]")).to_be_visible()
    assert page.locator("#opened").inner_text().count(".") == 1
    assert (page.locator("#prompt textarea").input_value(), rows(page)) == ("my own words", ["Neon"])


def test_what_is_not_here_is_named_and_the_rest_of_the_form_is_filled(visit: Visit, tmp_path: Path) -> None:
    page = visit()
    drawn_with_pixel(page)
    with Image.open(downloaded(page, "#gallery button[aria-label=Download]", tmp_path)) as picture:
        recipe = json.loads(picture.info["lora-loom"])
    recipe["loras"][0]["ref"] = "bundled:long-gone"
    page.locator("#recipe-text textarea").fill(json.dumps(recipe))
    page.locator("#recipe-open").click()
    expect(page.locator("#opened li", has_text="long-gone")).to_be_visible()
    assert rows(page) == ["bundled:long-gone"]


def test_code_and_link_are_copied_by_a_click(visit: Visit) -> None:
    page = visit()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    link = drawn_with_pixel(page)
    page.locator(".take-away p button").click()
    assert page.evaluate("navigator.clipboard.readText()").endswith(link)
    page.locator(".take-away summary", has_text="As Python").click()
    page.locator(".take-away details[open] button").click()
    assert "gradio_client" in page.evaluate("navigator.clipboard.readText()")


def test_a_recipe_of_a_fine_tune_brings_its_model_into_the_form(
    visit: Visit, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = FineTune(
        repo="painter/oils", commit="c" * 40, base="sdxl", variant=None, t5=False, unused=(), gated=False, licence="mit"
    )
    monkeypatch.setattr(BASE_MODELS, "_all", {**BASE_MODELS, found.entry().key: found.entry()})
    page = visit()
    page.goto(server.url + permalink(recipe(found.entry().key, steps=12)))
    expect(page.locator("#model input")).to_have_value("painter/oils · not on this machine")
    expect(page.locator("#steps input[type=number]")).to_have_value("12")
    expect(page.locator("#model-note")).to_contain_text("painter/oils needs a GPU")
    page.locator("#generate").click()
    expect(page.locator("#notice")).to_contain_text("painter/oils needs a GPU")
