"""The second pass, batches and shortcuts on the page: what the engine is asked for, and what a recipe brings back."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from core.messages import Drawn, Progress, Raster
from core.recipe import RecipeUpscale
from tests.conftest import Served
from tests.core.recipes import recipe
from tests.ui.conftest import Visit
from tests.ui.fakes import FakeEngine
from ui.differences import differences
from ui.form import raw_request
from ui.recipe_view import recipe_html
from ui.stage import Stage


def number(page: Page, name: str) -> Locator:
    return page.locator(f"#{name} input[type=number]")


def test_the_page_asks_for_a_second_pass_a_batch_and_a_shortcut_and_recalls_them(
    server: Served, engine: FakeEngine, open_page: Visit
) -> None:
    page = open_page(server.url)
    page.get_by_text("Second pass, and faster ways").click()
    number(page, "upscale").fill("1.5")
    number(page, "upscale").blur()
    number(page, "images").fill("2")
    number(page, "images").blur()
    page.locator("#batch input").click()
    page.get_by_role("option", name="together").click()
    page.get_by_label("Attention in every other step").check()
    page.locator("#generate").click()
    expect(page.locator("#recipe")).to_contain_text("to 192 × 192, strength 0.35: the last 7 steps")
    request = engine.jobs[-1].request
    assert (request.upscale, request.upscale_strength, request.batch, request.lossy) == (1.5, 0.35, 2, ("pab",))
    expect(page.locator("#recipe")).to_contain_text("2 at a time")
    number(page, "upscale").fill("1")
    number(page, "upscale").blur()
    page.get_by_label("Attention in every other step").uncheck()
    page.locator("#use-everything").click()
    expect(number(page, "upscale")).to_have_value("1.5")
    expect(page.get_by_label("Attention in every other step")).to_be_checked()
    expect(page.locator("#batch input")).to_have_value("together: faster on a GPU, last bits may differ")


@pytest.mark.parametrize(
    ("values", "asked"),
    [
        ({"upscale": 1, "upscale_strength": 0.5, "batch": "one", "lossy": []}, {}),
        ({"upscale": 2, "upscale_strength": 0.5, "batch": "one", "lossy": []}, {"upscale": 2, "upscale_strength": 0.5}),
        ({"upscale": 1, "batch": "all", "images": 3, "lossy": ["pab"]}, {"batch": 3, "lossy": ["pab"]}),
        ({"upscale": 1, "batch": 4, "images": 1}, {"batch": 4}),
    ],
)
def test_what_is_off_on_the_page_is_left_out(values: dict[str, Any], asked: dict[str, Any]) -> None:
    raw = raw_request(values)
    names = ("upscale", "upscale_strength", "batch", "lossy")
    assert {name: raw[name] for name in names if raw[name] is not None} == asked


def test_a_recipe_is_shown_and_told_apart_by_what_it_adds() -> None:
    plain = recipe("pocket-sd3")
    plan = plain.plan.model_copy(update={"batch": 4})
    larger = recipe("pocket-sd3", version=2, upscale=RecipeUpscale(factor=1.5, strength=0.5), plan=plan, lossy=("pab",))
    html = recipe_html(larger)
    for words in ("to 192 × 192, strength 0.5: the last 10 steps", "4 at a time", "Attention in every other step"):
        assert words in html
        assert words not in recipe_html(plain)
    assert {name for name, _, _ in differences(plain, larger)} == {"Second pass", "Drawn together", "Shortcuts"}


def test_the_stage_counts_the_steps_of_pictures_drawn_together() -> None:
    stage = Stage(5)
    stage.follow(Progress("Drawing", 8, 100, together=4))
    assert "step 2 of 20 · pictures 1 to 4 of 5" in stage.drawing()
    for index in range(4):
        stage.follow(Drawn(index, index, Raster(1, 1, b"123")))
    assert "step 2 of 20 · pictures 1 to 4 of 5" in stage.drawing()
    stage.follow(Progress("Second pass", 83, 100))
    assert "Second pass · step 3 of 20 · picture 5 of 5" in stage.drawing()


def test_a_model_of_few_steps_offers_no_shortcut(server: Served, open_page: Visit) -> None:
    page = open_page(server.url)
    page.get_by_text("Second pass, and faster ways").click()
    expect(page.locator("#lossy")).to_be_visible()
    page.locator("#model input").click()
    page.get_by_role("option", name="LCM").first.click()
    expect(page.locator("#lossy")).to_be_hidden()


def test_a_refresh_keeps_a_second_pass_unless_it_cannot_be(server: Served, open_page: Visit) -> None:
    page = open_page(server.url)
    page.get_by_text("Second pass, and faster ways").click()
    factor, strength = (page.locator(f"#{name} input[type=number]") for name in ("upscale", "upscale-strength"))
    for box, value in ((factor, "1.5"), (strength, "0.6")):
        box.fill(value)
        box.blur()
    page.locator("#lossy input").check()
    kept = (
        "() => { const { upscale, lossy } = JSON.parse(localStorage.getItem('loom-form')); return [upscale, lossy]; }"
    )
    page.wait_for_function(f"JSON.stringify(({kept})()) === '[1.5,[\"pab\"]]'")
    page.reload()
    expect(factor).to_have_value("1.5")
    expect(strength).to_have_value("0.6")
    expect(page.locator("#lossy input")).to_be_checked()
    page.add_init_script("""{
      const left = { ...JSON.parse(localStorage.getItem("loom-form")), upscale: 9 };
      localStorage.setItem("loom-form", JSON.stringify(left));
    }""")  # before the page reads it, and after all that the one before has kept
    page.reload()
    expect(page.locator("#blend .card").first).to_be_visible()
    expect(factor).to_have_value("1")
    expect(page.locator("#lossy input")).not_to_be_checked()


def test_an_error_of_the_second_pass_stands_beside_its_field(server: Served, open_page: Visit) -> None:
    page = open_page(server.url)
    page.get_by_text("Second pass, and faster ways").click()
    for name, value in (("upscale", "1.5"), ("upscale-strength", "0.01")):
        page.locator(f"#{name} input[type=number]").fill(value)
        page.locator(f"#{name} input[type=number]").blur()
    page.get_by_text("Second pass, and faster ways").click()
    page.locator("#generate").click()
    expect(page.locator("#upscale-strength .fault")).to_contain_text("Upscale strength must be at least 0.05")
    expect(page.locator("#upscale-strength input[type=number]")).to_be_focused()
