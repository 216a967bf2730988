"""LocalEngine: one model at a time on this machine, one lock, a blend, pictures, previews, cancel and recovery."""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from core.base_models import BASE_MODELS
from core.errors import Cancelled, Internal, LoomError, ModelUnavailable, OutOfMemory
from core.machine import Machine
from core.messages import Done, Failed, Job, Message, Progress, StopFlag

if TYPE_CHECKING:
    from core.drawing import Easel

log = logging.getLogger(__name__)


class LocalEngine:
    """An Engine in this process. torch is imported by the first run or `warm_up`, not by importing this module."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._lock = threading.Lock()
        self._easel: Easel | None = None

    def availability(self, key: str) -> str | None:
        return self._machine.why_not(BASE_MODELS[key])

    def warm_up(self, key: str) -> None:
        """Loads a model before anyone asks; what goes wrong is logged and met again by the first run."""
        try:
            with self._lock:
                self._easel_for(key)
        except Exception:
            log.exception("Warming up %s failed", key)

    def run(self, job: Job, stop: StopFlag) -> Iterator[Message]:
        """Messages as they come. Closing the iterator stops the run within a step."""
        messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        abandoned = threading.Event()

        def stopped() -> bool:
            return abandoned.is_set() or stop.is_set()

        threading.Thread(target=self._work, args=(job, stopped, messages.put), name="draw", daemon=True).start()
        try:
            while True:
                message = messages.get()
                yield message
                if isinstance(message, Done | Failed):
                    return
        finally:
            abandoned.set()

    def _work(self, job: Job, stopped: Callable[[], bool], emit: Callable[[Message], None]) -> None:
        try:
            self._await_turn(stopped, emit)
            try:
                emit(self._drawn(job, stopped, emit))
            finally:
                self._lock.release()
        except LoomError as error:
            emit(Failed(error))
        except Exception as error:  # noqa: BLE001 (the seam: nothing raises across it)
            emit(Failed(_in_words(error)))

    def _await_turn(self, stopped: Callable[[], bool], emit: Callable[[Message], None]) -> None:
        if self._lock.acquire(blocking=False):
            return
        emit(Progress("Waiting for the picture before yours"))
        while not self._lock.acquire(timeout=0.1):
            if stopped():
                raise Cancelled("Cancelled before it began.")

    def _drawn(self, job: Job, stopped: Callable[[], bool], emit: Callable[[Message], None]) -> Done:
        entry = job.request.entry
        if self._easel is None or self._easel.entry.repo != entry.repo:
            emit(Progress(f"Loading {entry.title}"))
        easel = self._easel_for(entry.key)
        revision = easel.revision(entry)
        if job.revision not in (None, revision):
            raise ModelUnavailable(
                f"This recipe was made with other weights of {entry.title} than are installed here, so it cannot be "
                "made again to the pixel: use its settings without the recipe."
            )
        began = time.monotonic()
        course = easel.blend(job)
        pictures = easel.draw(job.request, course, stopped, emit)
        return Done(pictures, course.receipts, revision, easel.plan(), time.monotonic() - began)

    def _easel_for(self, key: str) -> Easel:
        from core.drawing import Easel

        entry = BASE_MODELS[key]
        if self._easel is None or self._easel.entry.repo != entry.repo:
            self._easel = None  # the old model's memory first
            self._easel = Easel(entry, self._machine.device)
        return self._easel


def _in_words(error: Exception) -> LoomError:
    if type(error).__name__ == "OutOfMemoryError":
        return OutOfMemory("The device ran out of memory: ask for a smaller picture or fewer pictures at a time.")
    number = secrets.token_hex(4)
    log.error("Error %s", number, exc_info=error)
    return Internal(f"Something went wrong on our side (error {number}). Your settings are untouched: try again.")
