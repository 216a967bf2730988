"""One page for all tests of the UI, with an engine that draws plain colours, and browsers to look at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect

from tests.conftest import UNFOLDED, Serve, Served
from tests.ui.fakes import FakeEngine, bundled_loras
from ui.words import PocketWords

PATIENCE = 30_000  # ms; two busy cores are slow to start a page
expect.set_options(timeout=PATIENCE)

Visit = Callable[..., Page]

WORDS = PocketWords(
    things=("circle", "house"),
    colours=("red", "blue"),
    examples=("a red circle on a blue background", "a yellow house under a starry night sky"),
)


@pytest.fixture(scope="session")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundled_loras(tmp_path_factory.mktemp("loras"))


@pytest.fixture(scope="session")
def server(serve: Serve, loras: Path) -> Served:
    return serve(FakeEngine(), loras, WORDS)


@pytest.fixture
def engine(server: Served) -> Iterator[FakeEngine]:
    """The engine behind `server`, quick again after each test."""
    engine: FakeEngine = server.engine
    engine.cancelled.clear()
    yield engine
    engine.pause = 0.0


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Visit]:
    """Opens a page as a new visitor; at the end nothing may have been asked of any other host, or gone wrong."""
    contexts: list[BrowserContext] = []
    ours = ["data:", "blob:"]
    asked_for: list[str] = []
    wrong: list[str] = []

    def opened(
        url: str, width: int = 1400, height: int = 900, dark: bool = False, folded: bool = False, **more: Any
    ) -> Page:
        size: ViewportSize = {"width": width, "height": height}
        context = browser.new_context(viewport=size, color_scheme="dark" if dark else "light", **more)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        if not folded:
            page.add_init_script(UNFOLDED)
        page.on("request", lambda asked: asked_for.append(asked.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        ours.append(url)
        page.goto(url)
        expect(page.locator("#blend .card").first).to_be_visible()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [address for address in asked_for if not address.startswith(tuple(ours))] == []
    assert wrong == []
