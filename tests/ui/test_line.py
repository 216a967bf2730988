"""The line over real HTTP: its caps, what others can do meanwhile, and that nothing stays of those who go."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import expect

from core.messages import Job, Message, Progress, StopFlag
from core.studio import Studio
from tests.conftest import Serve, Served
from tests.ui.conftest import Visit
from tests.ui.fakes import FakeEngine
from tests.ui.test_api import INPUTS
from ui.fair_queue import MOST_UNREAD

PATIENCE = 30.0


class HeldEngine(FakeEngine):
    """Draws nothing before it is told to, and counts how many draw at once."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.running, self.most = threading.Event(), 0, 0

    def run(self, job: Job, stop: StopFlag) -> Iterator[Message]:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            yield Progress("Held")
            while not self.free.wait(0.02) and not stop.is_set():
                pass
            yield from super().run(job, stop)
        finally:
            self.running -= 1


@pytest.fixture(scope="module")
def held(serve: Serve, loras: Path) -> Served:
    return serve(HeldEngine(), loras)


@pytest.fixture
def engine(held: Served) -> Iterator[HeldEngine]:
    engine: HeldEngine = held.engine
    engine.free.clear()
    engine.most = 0
    engine.jobs.clear()
    yield engine
    engine.free.set()
    until(lambda: health(held)["waiting"] + health(held)["drawing"] == 0)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def health(server: Served) -> dict[str, Any]:
    answer = httpx.get(f"{server.url}/healthz", timeout=PATIENCE)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def ask(server: Served, name: str = "generate", **fields: Any) -> str:
    """The event that a call over plain HTTP is answered in."""
    given = {"prompt": "x", "steps": 2, **fields}
    data = [given.get(field) for field in INPUTS] if name == "generate" else []
    called = httpx.post(f"{server.url}/gradio_api/call/{name}", json={"data": data}, timeout=PATIENCE)
    assert called.status_code == 200, called.text
    event: str = called.json()["event_id"]
    return event


def answered(server: Served, event: str, name: str = "generate") -> str:
    return httpx.get(f"{server.url}/gradio_api/call/{name}/{event}", timeout=PATIENCE).text


def standing(server: Served, waiting: int) -> None:
    until(lambda: health(server)["waiting"] == waiting)


def test_a_visitors_fifth_picture_is_refused_at_once_and_others_get_theirs(held: Served, engine: HeldEngine) -> None:
    own = [ask(held, visitor="ann") for _ in range(4)]
    standing(held, 3)
    asked = time.monotonic()
    refused = answered(held, ask(held, visitor="ann"))
    assert "You have 4 pictures under way already: wait until one is done, or cancel one." in refused
    assert time.monotonic() - asked < PATIENCE / 3  # within a second on a machine with nothing else to do
    others = [ask(held) for _ in range(3)]  # without a visitor or a session each call is a visitor of its own
    standing(held, 6)
    engine.free.set()
    for event in own + others:
        assert "event: complete" in answered(held, event)
    assert engine.most == 1


@pytest.mark.parametrize("visitor", ["ann", None])
def test_a_program_is_refused_before_anything_of_its_call_is_read(
    held: Served, engine: HeldEngine, visitor: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(held.url, verbose=False)
    own = [client.submit(prompt="x", steps=2, visitor=visitor, api_name="/generate") for _ in range(4)]
    standing(held, 3)
    with monkeypatch.context() as patched:
        patched.setattr(Studio, "generate", lambda *_: pytest.fail("the call came in"))
        for name in ("/generate", "/compare_loras"):
            with pytest.raises(AppError, match=r"^You have 4 pictures under way already"):
                client.predict(prompt="x", visitor=visitor, api_name=name)
    odd = answered(held, ask(held, visitor={"not": "a text"}))
    assert "visitor must be a text" in odd
    engine.free.set()
    assert all(job.result(PATIENCE) for job in own)


def test_a_session_that_reads_nothing_takes_no_memory_without_end(held: Served, engine: HeldEngine) -> None:
    data = [{"prompt": "x", "steps": 2, "visitor": "ann"}.get(field) for field in INPUTS]
    functions = httpx.get(f"{held.url}/config", timeout=PATIENCE).json()["dependencies"]
    place = next(function for function in functions if function["api_name"] == "generate")
    called = {"data": data, "fn_index": place["id"], "session_hash": "deaf"}
    with httpx.Client(base_url=held.url, timeout=PATIENCE) as http:
        said = [http.post("/gradio_api/queue/join", json=called) for _ in range(MOST_UNREAD + 50)]
        assert [answer.status_code for answer in said[:5]] == [200] * 5
        assert said[-1].status_code == 503
        assert "try again in a moment" in said[-1].text
        engine.free.set()  # what has ended and was never read is forgotten: the session is not shut out for ever
        until(lambda: health(held)["waiting"] + health(held)["drawing"] == 0)
        until(lambda: http.post("/gradio_api/queue/join", json=called).status_code == 200)


def test_many_who_come_at_once_all_get_a_place_or_are_told_why(held: Served, engine: HeldEngine) -> None:
    with ThreadPoolExecutor(90) as clients:
        events = list(clients.map(lambda number: ask(held, visitor=f"v{number}"), range(90)))
        standing(held, 64)
        engine.free.set()
        answers = list(clients.map(lambda event: answered(held, event), events))
    assert sum("event: complete" in answer for answer in answers) == 65
    assert sum("All 64 places in the line are taken: try again" in answer for answer in answers) == 25


def test_a_flooder_delays_others_by_one_job(held: Served, engine: HeldEngine) -> None:
    for number in range(4):
        ask(held, visitor="flooder", seed=number)
        standing(held, number)
    ask(held, visitor="ann", seed=100)
    standing(held, 4)
    engine.free.set()
    until(lambda: len(engine.jobs) == 5)
    assert [job.request.seed for job in engine.jobs][:2] == [0, 100]


def test_sixty_four_wait_the_next_is_refused_and_everything_else_works(held: Served, engine: HeldEngine) -> None:
    with httpx.Client(timeout=PATIENCE) as client:
        body = {"data": [{"prompt": "x", "steps": 1}.get(field) for field in INPUTS]}
        for _number in range(65):
            assert client.post(f"{held.url}/gradio_api/call/generate", json=body).status_code == 200
    standing(held, 64)
    assert "All 64 places in the line are taken: try again in" in answered(held, ask(held))
    assert "pocket-sd3" in answered(held, ask(held, "models"), "models")
    assert httpx.get(held.url, timeout=PATIENCE).status_code == 200
    assert health(held) | {"uptime_s": 0, "drawn": 0} == {
        "status": "ok", "model": "pocket-sd3", "doing": "drawing", "waiting": 64, "drawing": 1, "drawn": 0,
        "uptime_s": 0, "version": "0.2.0",
    }  # fmt: skip
    engine.free.set()
    standing(held, 0)


def test_a_client_that_goes_away_leaves_the_line_and_stops_its_drawing(held: Served, engine: HeldEngine) -> None:
    events = [ask(held), ask(held)]
    standing(held, 1)
    for event, waiting in zip(reversed(events), (0, 0), strict=True):
        with httpx.stream("GET", f"{held.url}/gradio_api/call/generate/{event}", timeout=PATIENCE):
            pass
        standing(held, waiting)
    until(lambda: health(held)["drawing"] == 0)


def test_a_cancel_of_one_who_waits_frees_the_place(held: Served, engine: HeldEngine) -> None:
    drawing = ask(held)
    until(lambda: health(held)["drawing"] == 1)
    waiting = Client(held.url, verbose=False).submit(prompt="y", steps=1, api_name="/generate")
    standing(held, 1)
    waiting.cancel()
    standing(held, 0)
    engine.free.set()
    assert "event: complete" in answered(held, drawing)
    assert [job.request.prompt for job in engine.jobs] == ["x"]


def test_the_page_tells_the_place_in_line_and_cancel_leaves_it(
    held: Served, engine: HeldEngine, open_page: Visit
) -> None:
    ask(held)
    until(lambda: health(held)["drawing"] == 1)
    page = open_page(held.url)
    page.locator("#generate").click()
    expect(page.locator("#stage .said")).to_contain_text("1st in line")
    page.locator("#cancel").click()
    expect(page.locator("#stage .said")).to_contain_text("Cancelled")
    standing(held, 0)


def test_others_draw_between_the_pictures_of_a_comparison(held: Served, engine: HeldEngine) -> None:
    fields = {"prompt": "x", "steps": 1, "seed": 5, "columns": {"field": "steps", "values": [1, 2, 3]}}
    client = Client(held.url, verbose=False)
    comparison = client.submit(**fields, baseline=False, api_name="/compare_grid")
    until(lambda: health(held)["drawing"] == 1)
    ask(held, visitor="ann", seed=100)
    standing(held, 1)
    engine.free.set()
    comparison.result(PATIENCE)
    assert [job.request.seed for job in engine.jobs] == [5, 100, 5, 5]


def test_the_way_around_the_queue_is_closed_in_words(held: Served) -> None:
    body = {"data": [None] * len(INPUTS)}
    answer = httpx.post(f"{held.url}/gradio_api/run/generate", json=body, timeout=PATIENCE)
    assert answer.status_code == 404
    assert "join the queue" in answer.json()["detail"]


def test_each_job_leaves_one_line_without_what_was_asked_for(
    held: Served, engine: HeldEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.free.set()
    with caplog.at_level("INFO", logger="loom.jobs"):
        answered(
            held, ask(held, prompt="a secret prompt", visitor="a-secret-visitor", loras=[{"ref": "bundled:pixel"}])
        )
        answered(held, ask(held, prompt="a secret prompt", steps=0))
        bug = answered(held, ask(held, prompt="a bug, please"))
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "loom.jobs"]
    assert [(line["event"], line["error"]) for line in lines] == [
        ("done", None), ("refused", "BadRequest"), ("failed", "Internal"),
    ]  # fmt: skip
    assert set(lines[0]) == {
        "at", "job", "event", "model", "images", "steps", "size", "waited_s", "drew_s", "error",
    }  # fmt: skip
    assert (lines[0]["model"], lines[0]["steps"], lines[0]["size"]) == ("pocket-sd3", 2, "128x128")
    assert lines[2]["job"] in bug
    for secret in ("secret", "pixel", "127.0.0.1"):
        assert secret not in json.dumps(lines)
