"""What the whole suite shares: a server for any engine, and one browser."""

from __future__ import annotations

import json
import os

from tests.hub.fixtures import CLIENT_SETTINGS, hub

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads it at import
os.environ.update(CLIENT_SETTINGS)  # huggingface_hub too

import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from core.messages import Engine

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM_ARGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip

# What most tests are about lies open, as if the visitor had left it so; a new visitor finds it folded.
FOLDS = dict.fromkeys(("opening", "details", "together", "kept", "recipe-fold"), True)
UNFOLDED = f"localStorage.setItem('loom-folds', '{json.dumps(FOLDS)}')"


@dataclass(frozen=True)
class Served:
    """A running page: its address and the engine behind it."""

    url: str
    engine: Any


__all__ = ["hub"]
Serve = Callable[..., Served]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts whole apps comes first: its few long files at the end would leave one of two processes idle."""
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)


def beside_the_browser(call: Callable[..., Any], *inputs: Any) -> Any:
    """Calls what begins an event loop: playwright, once it has started, keeps its own in the thread of the tests."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call, *inputs).result()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def serve() -> Iterator[Serve]:
    """Serves the real page over HTTP, closed at the end.

    `serve(engine, loras)` takes a folder of bundled LoRAs or a whole catalogue; words, model, journal, tools and names
    beside localhost may be chosen.
    """
    from core.records.journal import Journal
    from core.studio import Studio
    from lora_catalog.catalog import Catalog
    from lora_catalog.sources.bundled import BundledSource
    from ui.hosts import Hosts
    from ui.page import build_page
    from ui.runs import Runs
    from ui.visitors import Visitors
    from ui.words import PocketWords

    pages = []

    def started(
        engine: Engine,
        loras: Path | Catalog,
        words: PocketWords | None = None,
        model: str = "pocket-sd3",
        journal: Journal | None = None,
        mcp: bool = False,
        names: frozenset[str] = frozenset(),
    ) -> Served:
        catalog = Catalog([BundledSource(loras)]) if isinstance(loras, Path) else loras
        studio = Studio(engine, catalog, model, journal, "picture" if journal else "none")
        page = build_page(studio, words or PocketWords(), Runs(), Visitors(), hosts=Hosts(names))
        port = free_port()
        page.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, **page.launch_options(mcp))
        pages.append(page)
        return Served(f"http://127.0.0.1:{port}", engine)

    yield started
    for page in pages:
        page.close(verbose=False)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium; tests without one are skipped, but never on CI."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must run the browser tests: install chromium.")
        pytest.skip("no chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGS)
        yield browser
        browser.close()
