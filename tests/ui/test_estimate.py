"""Where GPU time is a visitor's quota, the page says beside Generate how much of it the picture takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from core.request import GenerationRequest, request_from
from core.studio import Studio
from lora_catalog.catalog import Catalog
from lora_catalog.sources.bundled import BundledSource
from tests.conftest import UNFOLDED, Serve
from tests.ui.fakes import FakeEngine
from ui.estimate import Estimate

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


class MeteredEngine(FakeEngine):
    """A second of quota for each step of each picture."""

    def seconds(self, request: GenerationRequest) -> int:
        return request.steps * request.images


@pytest.fixture
def page(browser: Browser, serve: Serve, tmp_path: Path) -> Page:
    page = browser.new_page()
    page.add_init_script(UNFOLDED)
    page.goto(serve(MeteredEngine(), tmp_path).url)
    return page


def test_the_line_follows_what_decides_on_the_time(page: Page) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#quota")).to_have_text("About 20 s of your GPU quota.")
    page.locator("#images input[type=number]").fill("3")
    page.locator("#images input[type=number]").press("Tab")
    expect(page.locator("#quota")).to_have_text("About 60 s of your GPU quota.")


def test_without_a_quota_there_is_no_line(browser: Browser, serve: Serve, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    page = browser.new_page()
    page.goto(serve(FakeEngine(), tmp_path).url)
    expect(page.locator("#generate")).to_be_visible()
    expect(page.locator("#quota")).to_have_count(0)


@pytest.mark.parametrize(
    ("second_pass", "said"),
    [
        ({}, "about 10 s a picture"),
        ({"upscale": 1.0, "upscale_strength": 0.5}, "about 10 s a picture"),  # 1 is off
        ({"upscale": 2.0, "upscale_strength": 1.0}, "about 50 s a picture"),  # four times the pixels, all steps again
        ({"upscale": 2.0, "upscale_strength": 0.5}, "about 30 s a picture"),
        ({"upscale": 2.0, "upscale_strength": 0.0}, ""),  # which is refused
    ],
)
def test_a_second_pass_takes_its_time_too(tmp_path: Path, second_pass: dict[str, float], said: str) -> None:
    studio = Studio(FakeEngine(), Catalog([BundledSource(tmp_path)]), "pocket-sd3")
    model = {"prompt": "", "model": "pocket-sd3"}
    studio.timings.note(request_from(model, "pocket-sd3"), 10.0)
    line = Estimate(studio).said({"model": "pocket-sd3", "images": 1, "batch": "one", **second_pass})
    assert re.sub("<.*?>", "", line).startswith(said)
    assert bool(line) == bool(said)


def test_the_pictures_that_a_prompt_asks_for_are_counted(tmp_path: Path) -> None:
    studio = Studio(FakeEngine(), Catalog([BundledSource(tmp_path)]), "pocket-sd3")
    studio.timings.note(request_from({"prompt": "", "model": "pocket-sd3"}, "pocket-sd3"), 10.0)
    values = {"model": "pocket-sd3", "images": 1, "batch": "one", "prompt": "a [[red, blue, green]] circle"}
    assert "a picture on this machine, 3 in 30 s" in Estimate(studio).said(values)
    assert Estimate(studio).said(values | {"prompt": "[[" + "a, " * 200 + "]]"}) == ""  # which is refused
