"""On ZeroGPU a run goes through spaces' own decorator and forked workers; GPU and scheduler are emulated."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

import app
from core.engine import LocalEngine
from core.errors import Internal, NoGpu
from core.gpu import ZeroEngine, _translated, seconds_of
from core.machine import Machine
from core.messages import Done, Drawn, Job
from core.request import request_from
from tests.core.zero_space import KEY, job

ROOT = Path(__file__).resolve().parents[2]


class Scheduler:
    """What spaces asks of ZeroGPU: a GPU for so many seconds, leave for a worker, and the end of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, list[str]]]] = []
        self.refusal: dict[str, Any] | None = None
        scheduler = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                address = urlsplit(self.path)
                scheduler.asked.append((address.path, parse_qs(address.query)))
                status, body = scheduler.answer(address.path)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: Any) -> None:
                """Nothing on the terminal."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def answer(self, path: str) -> tuple[int, Any]:
        if path == "/schedule" and self.refusal is not None:
            return 429, self.refusal
        if path == "/schedule":
            return 200, {"idle": True, "nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": "t"}
        return 200, {}

    def count(self, path: str) -> int:
        return sum(asked == path for asked, _ in self.asked)


class Space:
    """The process of tests/core/zero_space.py, asked line by line."""

    def __init__(self, scheduler: Scheduler, home: Path) -> None:
        self.scheduler = scheduler
        cgroup = home / "cgroup"
        cgroup.write_text("0::/space\n")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.core.zero_space"], cwd=ROOT, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {
                "SPACES_ZERO_GPU": "true", "ZEROGPU_PROC_SELF_CGROUP_PATH": str(cgroup), "HOME": str(home),
                "SPACES_ZERO_DEVICE_API_URL": f"http://127.0.0.1:{scheduler.server.server_port}",
            },
        )  # fmt: skip

    def ask(self, do: str, **more: Any) -> list[dict[str, Any]]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps({"do": do, **more}) + "\n")
        stdin.flush()
        for line in stdout:
            if line.startswith("SAID "):
                said: list[dict[str, Any]] = json.loads(line.removeprefix("SAID "))
                return said
        raise AssertionError("the Space has ended")

    def close(self) -> None:
        """By the end of its input: so it ends its workers, which would hold the pipe open."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    scheduler = Scheduler()
    threading.Thread(target=scheduler.server.serve_forever, daemon=True).start()
    space = Space(scheduler, tmp_path_factory.mktemp("space"))
    yield space
    space.close()
    scheduler.server.shutdown()
    scheduler.server.server_close()


def end(said: list[dict[str, Any]], name: str) -> Any:
    return said[-1][name]


def test_a_worker_draws_what_this_machine_draws_and_tells_of_every_step(space: Space) -> None:
    said = space.ask("draw")
    drawn = LocalEngine(Machine("cpu")).run(job(), threading.Event())
    mine = next(message for message in drawn if isinstance(message, Drawn))
    assert next(m["drawn"] for m in said if "drawn" in m) == hashlib.sha256(mine.raster.data).hexdigest()
    assert [m["done"] for m in said if m.get("progress") == "Drawing"] == [1, 2, 3, 4, 5, 6]
    assert any("preview" in m for m in said)
    assert end(said, "receipt") > 0


def test_the_drawing_is_done_in_a_worker_that_serves_the_next_run_too(space: Space) -> None:
    main = space.ask("who")[0]["mine"]
    first, second = end(space.ask("draw"), "done"), end(space.ask("draw", weight=0.3), "done")
    assert first == second != main


def test_another_weight_and_back_in_the_same_worker_gives_the_same_pixels(space: Space) -> None:
    def pixels(weight: float) -> str:
        return str(next(m["drawn"] for m in space.ask("draw", weight=weight) if "drawn" in m))

    assert pixels(0.8) != pixels(0.2)
    assert pixels(0.8) == pixels(0.8)


def test_closing_the_run_stops_the_worker_and_gives_the_gpu_back(space: Space) -> None:
    before = space.scheduler.count("/release")
    said = space.ask("close", steps=60)
    assert said[-1]["done"] == 2
    assert space.scheduler.count("/release") == before + 1
    assert end(space.ask("draw"), "receipt") > 0


def test_cancel_is_heard_within_a_step_though_the_flag_lies_in_another_process(space: Space) -> None:
    said = space.ask("cancel", steps=60)
    assert end(said, "kind") == "Cancelled"
    assert max(m.get("done", 0) for m in said) <= 3


def test_a_torn_lora_is_refused_before_a_gpu_is_asked_for(space: Space, tmp_path: Path) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"nothing")
    before = space.scheduler.count("/schedule")
    assert end(space.ask("torn", path=str(torn)), "kind") == "LoraFileBroken"
    assert space.scheduler.count("/schedule") == before


def test_another_model_than_the_one_held_is_refused_without_a_run(space: Space) -> None:
    assert "LOOM_MODEL to sdxl" in space.ask("who")[0]["other"]


def test_the_time_asked_for_is_what_the_estimate_says(space: Space) -> None:
    space.ask("draw")
    asked = [query for path, query in space.scheduler.asked if path == "/schedule"][-1]
    assert int(asked["durationSeconds"][0]) >= seconds_of(job())


def test_a_used_up_quota_is_a_sentence_that_says_when_to_come_back(space: Space) -> None:
    space.scheduler.refusal = {"left": 3, "wait": 3600}
    try:
        said = space.ask("draw")
    finally:
        space.scheduler.refusal = None
    assert end(said, "kind") == "NoGpu"
    assert "quota" in end(said, "failed")


def test_the_app_loads_the_model_before_the_page_is_launched() -> None:
    engine, warm_up = app._engine(Machine("cpu"), KEY, lambda task, duration: task, None)
    assert isinstance(engine, ZeroEngine)
    assert engine._local.holds(job())
    warm_up()
    assert isinstance(list(engine.run(job(), threading.Event()))[-1], Done)


class Told(Exception):
    """As gr.Error is: a title and a message."""

    def __init__(self, title: str, message: str) -> None:
        super().__init__(message)
        self.title, self.message = title, message


@pytest.mark.parametrize(("title", "message", "words"), [
    (
        "ZeroGPU quota exceeded",
        "You have exceeded your free ZeroGPU quota (60s requested vs. 12s left). Try again in 3:22:11. ",
        "(60 s asked for, 12 s left): ask for fewer steps or pictures, log in to Hugging Face for more of it, or try "
        "again in 3:22:11.",
    ),
    ("ZeroGPU quota exceeded", "Space app has reached its GPU limit. ", "try again later."),
    ("ZeroGPU illegal duration", "The requested GPU duration (400s) is larger", "fewer pictures or steps"),
    ("ZeroGPU queue timeout", "No GPU was available after 60s. <a>", "within a minute"),
    ("ZeroGPU quota exceeded", "No GPU was available after 60s. Try re-running outside of examples", "within a minute"),
    ("ZeroGPU client error", "Expired ZeroGPU proxy token", "reload the page"),
    ("ZeroGPU pending credits exceeded", "You have too many", "at once"),
    ("ZeroGPU worker error", "GPU task aborted", "taken away"),
])  # fmt: skip
def test_what_spaces_says_becomes_a_sentence(title: str, message: str, words: str) -> None:
    error = _translated(Told(title, message))
    assert isinstance(error, NoGpu)
    assert words in str(error)


def test_spaces_still_has_the_titles_that_are_translated() -> None:
    found = find_spec("spaces")
    assert found is not None
    assert found.origin is not None
    text = "".join(path.read_text() for path in (Path(found.origin).parent / "zero").glob("*.py"))
    for title in ("quota exceeded", "illegal duration", "queue timeout", "client error", "worker error"):
        assert f'error("ZeroGPU {title}"' in text


def test_a_worker_that_failed_of_itself_is_a_bug_with_an_id() -> None:
    assert isinstance(_translated(Told("ZeroGPU worker error", "ValueError")), Internal)


def seconds(model: str, **more: Any) -> int:
    return seconds_of(Job(request_from({"prompt": "x", "model": model, **more}, model)))


def test_more_steps_pictures_pixels_and_guidance_ask_for_more_time() -> None:
    least = seconds("sd3.5-large")
    assert seconds("sd3.5-large", steps=40) > least
    assert seconds("sd3.5-large", images=2) > 1.5 * least
    assert seconds("sd3.5-large", width=1536) > least
    assert seconds("sd3.5-large", guidance=1.0) < least
    assert seconds("sd3.5-large", sampler="flow-heun") > 1.5 * least  # it asks the denoiser twice a step
    assert seconds("sd3.5-large", image="0" * 64, strength=0.25) < least  # and here a quarter of the steps is run
    assert seconds("sd3.5-large-turbo") < 15 < least < 60  # a visitor without an account has minutes a day
