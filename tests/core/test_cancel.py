"""Whenever a run is given up, it ends at the next step, the engine is free, and the next picture is as ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import core.drawing
from core.base_models import BASE_MODELS
from core.engine import LocalEngine
from core.errors import Cancelled
from core.loading import load_pipeline
from core.machine import Machine
from core.messages import Done, Drawn, Failed, Job, Message, Progress
from core.request import request_from

KEY = "pocket-sd3"


def job(**fields: Any) -> Job:
    return Job(request_from({"prompt": "a cat", "steps": 2, "seed": 7, "width": 64, "height": 64} | fields, KEY))


@pytest.fixture
def engine(random_pocket: object) -> LocalEngine:
    return LocalEngine(Machine("cpu"))


def pictures(engine: LocalEngine) -> list[bytes]:
    *_, done = engine.run(job(), threading.Event())
    assert isinstance(done, Done), done
    return [one.raster.data for one in done.pictures]


def watched(engine: LocalEngine, part: str, then: Callable[[], Any]) -> list[str]:
    """Does `then` as a part of the pipeline begins its work, and gives the list that names each time."""
    pictures(engine)
    assert engine._easel is not None
    asked: list[str] = []

    def began(*_: Any) -> None:
        asked.append(part)
        then()

    module = engine._easel.pipeline.vae.decoder if part == "decoder" else getattr(engine._easel.pipeline, part)
    module.register_forward_pre_hook(began)
    return asked


def cancelled(messages: list[Message]) -> bool:
    return isinstance(messages[-1], Failed) and isinstance(messages[-1].error, Cancelled)


def test_while_the_model_is_loaded(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    messages: list[Message] = []
    for message in engine.run(job(), stop):
        messages.append(message)
        if message == Progress("Loading Pocket SD3"):
            stop.set()
    assert cancelled(messages)
    assert not any(isinstance(message, Progress) and message.total for message in messages)
    easel = engine._easel
    assert pictures(engine)
    assert engine._easel is easel  # what was loaded is there for the next one


def test_while_the_words_are_read(engine: LocalEngine) -> None:
    stop = threading.Event()
    watched(engine, "text_encoder", stop.set)
    steps = watched(engine, "transformer", lambda: None)
    assert cancelled(list(engine.run(job(prompt="other words"), stop)))
    assert steps == []
    stop.clear()
    assert pictures(engine)


def test_between_two_steps(engine: LocalEngine) -> None:
    before, stop = pictures(engine), threading.Event()
    steps = watched(engine, "transformer", stop.set)
    assert cancelled(list(engine.run(job(steps=40), stop)))
    assert len(steps) == 1
    engine._easel.pipeline.transformer._forward_pre_hooks.clear()  # type: ignore[union-attr]
    assert pictures(engine) == before


def test_while_a_picture_is_decoded_the_next_one_is_not_begun(engine: LocalEngine) -> None:
    stop = threading.Event()
    decoded = watched(engine, "decoder", stop.set)
    messages = list(engine.run(job(images=3), stop))
    assert cancelled(messages)
    assert len(decoded) == 1
    assert [message.index for message in messages if isinstance(message, Drawn)] == [0]


def test_while_the_last_picture_is_decoded_it_comes_all_the_same(engine: LocalEngine) -> None:
    stop = threading.Event()
    watched(engine, "decoder", stop.set)
    assert isinstance(list(engine.run(job(), stop))[-1], Done)


def test_a_closed_stream_ends_the_run_within_a_step(engine: LocalEngine) -> None:
    """As a closed tab does: nobody reads on, and no flag is set."""
    before = pictures(engine)
    steps = watched(engine, "transformer", lambda: None)
    stream = engine.run(job(steps=60, images=2), threading.Event())
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    reached = len(steps)
    with engine._lock:  # free as soon as the run has ended
        assert len(steps) <= reached + 1
    assert pictures(engine) == before


def test_who_comes_while_the_model_is_loaded_early_is_told_that(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, told = threading.Event(), threading.Event()

    def slow(*given: Any) -> Any:
        loading.set()
        assert told.wait(30)
        return load_pipeline(*given)

    monkeypatch.setattr(core.drawing, "load_pipeline", slow)
    warming = threading.Thread(target=engine.warm_up, args=(KEY,))
    warming.start()
    assert loading.wait(30)
    messages = engine.run(job(), threading.Event())
    assert next(messages) == Progress(f"Loading {BASE_MODELS[KEY].title}")
    told.set()
    rest = list(messages)
    warming.join()
    assert isinstance(rest[-1], Done)
    assert Progress("Waiting for the picture before yours") not in rest


def test_who_comes_while_another_draws_is_told_to_wait(engine: LocalEngine) -> None:
    pictures(engine)
    with engine._lock:
        waiting = engine.run(job(), threading.Event())
        assert next(waiting) == Progress("Waiting for the picture before yours")
    assert isinstance(list(waiting)[-1], Done)
    with engine._lock:
        stop = threading.Event()
        waiting = engine.run(job(), stop)
        next(waiting)
        stop.set()
        assert cancelled(list(waiting))
