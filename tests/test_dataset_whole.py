"""A generation through the page, kill -9 after the answer, a start anew: the picture is in the dataset exactly once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradio_client import Client
from playwright.sync_api import Browser, expect

from tests.conftest import UNFOLDED, free_port
from tests.core.dataset_parts import REPO, TOKEN, loaded, rows
from tests.hub import EmulatedHub, faults

ROOT = Path(__file__).parent.parent
PATIENCE = 60  # seconds


@contextmanager
def started(hub: EmulatedHub, data_dir: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`python app.py` that sends whole pictures to the dataset; killed at the end if it still runs."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    flags = ["--log-dataset", REPO, "--consent", "picture", "--port", str(port), "--data-dir", str(data_dir)]
    environ = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN}
    process = subprocess.Popen(
        [sys.executable, "app.py", *flags], cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True
    )
    reaper = threading.Timer(150, process.kill)
    reaper.start()
    try:
        assert process.stdout is not None
        assert any(address in line for line in process.stdout)
        yield address, process
    finally:
        reaper.cancel()
        process.kill()
        process.communicate()


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
    with started(hub, tmp_path / "data") as (address, process):
        page = browser.new_page()
        page.add_init_script(UNFOLDED)
        page.goto(address)
        expect(page.locator("#consent")).to_contain_text(f"and in the dataset {REPO}")
        page.locator("#prompt textarea").fill("a red circle on a blue background")
        page.locator("#steps input[type=number]").fill("2")
        page.locator("#steps input[type=number]").blur()
        page.locator("#generate").click()
        expect(page.locator("#stage .said")).to_contain_text("carries its recipe", timeout=PATIENCE * 1000)
        process.send_signal(signal.SIGKILL)
        process.wait()
        page.close()
    hub.heal()
    with started(hub, tmp_path / "data") as (address, process):
        assert arrived(address, 1).startswith("1 saved here, 1 on the Hub")
        Client(address, verbose=False).predict(prompt="a cat", steps=1, api_name="/generate")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert [*rows(hub).values()] == [1, 1]
    found = sorted(loaded(hub, tmp_path), key=lambda row: str(row["created_at"]))
    assert [row["prompt"] for row in found] == ["a red circle on a blue background", "a cat"]
    assert [row["size"] for row in found] == [[128, 128], [128, 128]]
