"""Cards with scripts in them, in real Chromium, on every place of the page where a card or a recipe shows."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.chromium import opened
from tests.hub import EmulatedHub
from tests.lora_catalog.conftest import SD3_ATTENTION, lora_bytes

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from bench.attack_target import Target

HOSTILE = (
    '<img src=x onerror="window.stolen=1"><svg onload="window.stolen=2">"\'><script>window.stolen=3</script></script>'
    "${window.stolen=4}{{constructor.constructor('window.stolen=5')()}}[x](javascript:window.stolen=6)"
)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="window.stolen=7"><script>window.stolen=8</script></svg>'
LAYERS = {SD3_ATTENTION.format(block=0, layer="to_q"): (192, 192)}
PATIENCE = 60_000  # ms


def stock(hub: EmulatedHub, folder: Path) -> None:
    """LoRAs whose every text and picture is hostile: on the Hub, and a file whose own header says such things."""
    card = {
        "base_model": "lora-loom/pocket-sd3", "license": HOSTILE, "instance_prompt": HOSTILE, "description": HOSTILE,
        "widget": [{"text": HOSTILE, "output": {"url": "show.png"}}],
    }  # fmt: skip
    hub.add_repo("mallory/evil", {"lora.safetensors": lora_bytes(LAYERS), "show.png": SVG}, card, tags=["lora"])
    content = lora_bytes(LAYERS)
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = {
        "modelspec.title": HOSTILE,
        "modelspec.trigger_phrase": HOSTILE,
        "ss_output_name": HOSTILE,
    }
    written = json.dumps(header).encode()
    written += b" " * (-len(written) % 8)
    folder.joinpath("evil.safetensors").write_bytes(struct.pack("<Q", len(written)) + written + content[8 + length :])


def cards(target: Target) -> None:
    """Notes for each place whether a script ran, a dialog opened, or another host was asked."""
    from playwright.sync_api import sync_playwright

    with suppress(FileNotFoundError), sync_playwright() as playwright, opened(playwright) as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(PATIENCE)
        wrong: list[str] = []
        page.on("dialog", lambda dialog: wrong.append(f"dialog {dialog.message}"))
        ours = (target.url, "data:", "blob:")
        page.on("request", lambda asked: None if asked.url.startswith(ours) else wrong.append(asked.url))
        page.goto(target.url)
        for place, go in PLACES:
            reached = "reached"
            try:
                go(page)
                page.wait_for_timeout(700)
            except Exception as error:  # noqa: BLE001 - a place that cannot be reached was not attacked: a finding
                reached = f"not reached: {str(error).splitlines()[0]}"
            stolen = page.evaluate("window.stolen ?? null")
            raw = page.locator("img[src='x'], svg[onload], a[href^='javascript:']").count()
            fine = stolen is None and not raw and not wrong and reached == "reached"
            target.note(
                f"cards with scripts: {place}",
                "shown as text",
                f"{reached}, ran: {stolen}, {raw} elements, {wrong[:2]}",
                fine,
            )
            wrong.clear()


def _tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def _search(page: Page) -> None:
    _tab(page, "LoRAs")
    page.locator(".lora", has_text="window.stolen").first.wait_for()


def _look(page: Page, ref: str) -> None:
    page.get_by_label("Paste its ref").fill(ref)
    page.get_by_role("button", name="Look", exact=True).click()
    page.locator(".panel h3", has_text="window.stolen" if ref.startswith("local:") else "evil").wait_for()


def _pick(page: Page) -> None:
    page.locator(".lora", has_text="window.stolen").first.locator(".pick").click(position={"x": 60, "y": 60})
    page.locator(".tray").wait_for()


def _rows(page: Page) -> None:
    _tab(page, "Create")
    page.locator(".thread").first.wait_for()
    for chip in page.locator(".thread .chip").all():
        chip.click()


def _draw(page: Page) -> None:
    page.locator("#prompt textarea").fill(f"a red circle {HOSTILE}")
    page.locator("#generate").click()
    page.locator("#stage .said", has_text="recipe").wait_for()
    page.locator("#recipe").wait_for()


def _compare(page: Page) -> None:
    _tab(page, "Compare")
    page.locator("#compare-button").click()
    page.locator("#compare-sheet").wait_for()


def _history(page: Page) -> None:
    _tab(page, "History")
    page.locator(".kept .open").first.click()
    page.locator(".viewer .recipe").wait_for()


def _link(page: Page) -> None:
    page.goto(page.url.partition("?")[0] + "?recipe=" + "PHNjcmlwdD53aW5kb3cuc3RvbGVuPTk8L3NjcmlwdD4")
    page.locator("#blend .card").first.wait_for()


PLACES: tuple[tuple[str, Callable[[Any], None]], ...] = (
    ("search", _search), ("the panel of a file", partial(_look, ref="local:evil.safetensors")),
    ("the panel of a repo", partial(_look, ref="mallory/evil")), ("picking", _pick),
    ("blend rows and trigger words", _rows), ("under the picture", _draw), ("Compare", _compare), ("History", _history),
    ("a link with a script for a recipe", _link),
)  # fmt: skip
