"""A generation through the page, kill -9 after the answer, a start anew: the picture is in the dataset exactly once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradio_client import Client
from playwright.sync_api import Browser, expect

from tests.conftest import UNFOLDED
from tests.core.dataset_parts import REPO, TOKEN, loaded, rows
from tests.hub import EmulatedHub, faults
from tests.own_process import Started, started

ROOT = Path(__file__).parent.parent
PATIENCE = 60  # seconds


@contextmanager
def sending(hub: EmulatedHub, data_dir: Path) -> Iterator[Started]:
    """An app that sends whole pictures to the dataset."""
    environ = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN}
    with started(data_dir, "--log-dataset", REPO, "--consent", "picture", environ=environ) as app:
        yield app


def arrived(address: str, count: int) -> str:
    """The status line, as soon as so many records are on the Hub."""
    client, until = Client(address, verbose=False), time.monotonic() + PATIENCE
    while (status := client.predict(api_name="/records_status"))["on_hub"] < count:
        assert time.monotonic() < until, status
        time.sleep(0.2)
    return str(status["said"])


def test_a_picture_answered_before_kill_9_is_in_the_dataset_once(
    hub: EmulatedHub, browser: Browser, tmp_path: Path
) -> None:
    hub.add_user(TOKEN, "me")
    hub.fail("/commit/main", faults.status(503), times=99, done=False)
    with sending(hub, tmp_path / "data") as app:
        page = browser.new_page()
        page.add_init_script(UNFOLDED)
        page.goto(app.url)
        expect(page.locator("#consent")).to_contain_text(f"and in the dataset {REPO}")
        page.locator("#prompt textarea").fill("a red circle on a blue background")
        page.locator("#steps input[type=number]").fill("2")
        page.locator("#steps input[type=number]").blur()
        page.locator("#generate").click()
        expect(page.locator("#stage .said")).to_contain_text("carries its recipe", timeout=PATIENCE * 1000)
        app.kill()
        page.close()
    hub.heal()
    with sending(hub, tmp_path / "data") as app:
        assert arrived(app.url, 1).startswith("1 saved here, 1 on the Hub")
        Client(app.url, verbose=False).predict(prompt="a cat", steps=1, api_name="/generate")
    assert app.process.returncode == 0
    assert [*rows(hub).values()] == [1, 1]
    found = sorted(loaded(hub, tmp_path), key=lambda row: str(row["created_at"]))
    assert [row["prompt"] for row in found] == ["a red circle on a blue background", "a cat"]
    assert [row["size"] for row in found] == [[128, 128], [128, 128]]
