"""The README's pictures: python -m bench.shots [--out docs] [--only create]. Real drawings, fixed seeds, real Chromium.

Wide (1400 px), on a phone (390 px) and in the dark: Create, and wide the other tabs as the tour goes through them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.chromium import opened
from bench.served import ROOT, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MODEL = "pocket-sd3"
PROMPT = "a red house in a meadow"
LORAS = ("Soft pastel",)
SEED = "7"
PATIENCE = 120_000  # ms
WIDE, PHONE = (1400, 1000), (390, 844)
DONE = "carries its recipe"


@contextmanager
def visit(browser: Browser, url: str, size: tuple[int, int], dark: bool = False) -> Iterator[Page]:
    """A new visitor who has drawn the tour's picture."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light",
        device_scale_factor=1, reduced_motion="reduce",
    )  # fmt: skip
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(url)
    page.locator("#blend .card").first.wait_for()
    page.locator("#prompt textarea").fill(PROMPT)
    for name in LORAS:
        page.locator("#blend .card", has_text=name).first.click()
    draw(page, SEED)
    yield page
    context.close()


def draw(page: Page, seed: str) -> None:
    """Draws what the form says and waits for it."""
    settings = page.locator("#details .fold")  # folded, as a new visitor finds it, and folded again
    settings.click()
    page.locator("#seed input").first.fill(seed)
    page.locator("#seed input").first.blur()
    settings.click()
    page.locator("#generate").click()
    page.locator("#stage .said", has_text=DONE).wait_for()
    page.wait_for_timeout(1000)  # the picture itself, and fonts


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()
    page.wait_for_timeout(1500)


def create(browser: Browser, url: str, out: Path) -> None:
    for name, size, dark in (
        ("create.png", WIDE, False), ("create-dark.png", WIDE, True), ("create-phone.png", PHONE, False),
    ):  # fmt: skip
        with visit(browser, url, size, dark) as page:
            page.evaluate("window.scrollTo(0, 0)")
            page.wait_for_timeout(300)
            page.screenshot(path=out / name)


def others(browser: Browser, url: str, out: Path) -> None:
    with visit(browser, url, WIDE) as page:
        tab(page, "LoRAs")
        page.locator(".lora").first.wait_for()
        page.wait_for_timeout(1500)
        page.screenshot(path=out / "loras.png")
        tab(page, "Compare")
        page.locator("#compare-button").click()
        page.locator("#compare-sheet").wait_for()
        page.wait_for_timeout(1000)
        page.screenshot(path=out / "compare.png")
        tab(page, "Create")
        for seed in ("8", "9"):
            draw(page, seed)
        tab(page, "History")
        page.locator(".kept").first.wait_for()
        page.wait_for_timeout(1000)
        page.screenshot(path=out / "history.png")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder for the pictures")
    parser.add_argument("--only", choices=["create"], help="the Create tab alone: wide, dark and on a phone")
    asked = parser.parse_args(arguments)
    from playwright.sync_api import sync_playwright

    with (
        tempfile.TemporaryDirectory() as name,
        served(Path(name), "--model", MODEL) as app,
        sync_playwright() as playwright,
        opened(playwright) as browser,
    ):
        create(browser, app.url, asked.out)
        if asked.only is None:
            others(browser, app.url, asked.out)


if __name__ == "__main__":
    main()
