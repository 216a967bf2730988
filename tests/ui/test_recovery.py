"""After whatever went wrong the next request works, over HTTP, and what went wrong was one sentence."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Never

import gradio.routes
import httpx
import pytest

import ui.pictures
from core.errors import LoraFileBroken, OutOfMemory
from core.messages import Failed, Job, Message, Progress, StopFlag
from lora_catalog.errors import HubUnreachable
from lora_catalog.sources.bundled import BundledSource
from tests.conftest import Serve, Served
from tests.ui.fakes import FakeEngine
from tests.ui.test_line import answered, ask, health


class StumblingEngine(FakeEngine):
    """Ends its next run as it is told, once."""

    def __init__(self) -> None:
        super().__init__()
        self.stumble: Exception | None = None

    def run(self, job: Job, stop: StopFlag) -> Iterator[Message]:
        error, self.stumble = self.stumble, None
        if isinstance(error, LoraFileBroken | OutOfMemory):
            yield Progress("Drawing", 1, 20)
            yield Failed(error)
        elif error is not None:
            yield Progress("Drawing", 1, 20)
            raise error
        else:
            yield from super().run(job, stop)


@pytest.fixture(scope="module")
def stumbling(serve: Serve, loras: Path) -> Served:
    return serve(StumblingEngine(), loras)


def no_room(*_: object, **__: object) -> Never:
    raise OSError(errno.ENOSPC, "No space left on device", "/secret/path")


def works(server: Served) -> None:
    assert "event: complete" in answered(server, ask(server, loras=[{"ref": "bundled:pixel"}]))
    assert (health(server)["waiting"], health(server)["drawing"]) == (0, 0)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OutOfMemory("The device ran out of memory: ask for a smaller picture."), "smaller picture"),
        (LoraFileBroken("bundled:pixel cannot be used as a LoRA: a value is not finite."), "not finite"),
        (RuntimeError("CUDA error at /secret/path"), "Something broke on our side"),
        (OSError(errno.ENOSPC, "No space left on device", "/secret/path"), "The disk of this server is full"),
    ],
)
def test_a_run_that_fails_is_a_sentence_and_the_next_one_draws(stumbling: Served, error: Exception, words: str) -> None:
    stumbling.engine.stumble = error
    said = answered(stumbling, ask(stumbling))
    assert words in said
    assert "/secret" not in said
    works(stumbling)


def test_a_cache_on_a_full_disk_is_a_sentence(stumbling: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ui.pictures, "save_bytes_to_cache", no_room)
        said = answered(stumbling, ask(stumbling))
        assert "The disk of this server is full: try again later" in said
        assert "/secret" not in said
    works(stumbling)


def test_an_upload_to_a_full_disk_is_a_sentence(
    stumbling: Served, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def upload() -> httpx.Response:
        return httpx.post(f"{stumbling.url}/gradio_api/upload", files={"files": ("a.png", b"x")}, timeout=30)

    with monkeypatch.context() as patch:
        patch.setattr(gradio.routes, "upload_fn", no_room)
        assert upload().status_code == 507
        assert upload().json()["detail"].startswith("The disk of this server is full")
    assert upload().status_code == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_hub_that_dies_while_a_lora_is_fetched_is_a_sentence(
    stumbling: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(*_: Any) -> Never:
        raise HubUnreachable("the connection broke off")

    with monkeypatch.context() as patch:
        patch.setattr(BundledSource, "fetch", dead)
        said = answered(stumbling, ask(stumbling, loras=[{"ref": "bundled:pixel"}]))
        assert "event: error" in said
        assert "the connection broke off" in said
    works(stumbling)
