"""LocalEngine: one model at a time on this machine, one lock, a blend, pictures, previews, cancel and recovery."""

from __future__ import annotations

import gc
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from core.base_models import BASE_MODELS, BaseModel
from core.bugs import in_words
from core.errors import Cancelled, ModelUnavailable, OutOfMemory
from core.machine import Machine
from core.memory import MemoryPlan
from core.messages import Done, Failed, Job, Message, Progress, StopFlag

if TYPE_CHECKING:
    from core.drawing import Easel

log = logging.getLogger(__name__)

# How torch, its allocators and its libraries say that memory ran out, where the error's class does not.
_NO_MEMORY = (
    "out of memory",  # CUDA error: …, MPS backend …
    "can't allocate memory",  # DefaultCPUAllocator
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


class LocalEngine:
    """An Engine in this process. torch is imported by the first run or `warm_up`, not by importing this module."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._lock = threading.Lock()
        self._easel: Easel | None = None
        self._warming: Progress | None = None  # while nobody's picture keeps the lock, but a model that is loaded early
        self._enough: dict[str, MemoryPlan] = {}  # by home: the plan that went well where memory had run out

    def availability(self, key: str) -> str | None:
        return self._machine.why_not(BASE_MODELS[key])

    def holds(self, job: Job) -> bool:
        """Whether the job can be drawn with what is loaded."""
        entry, easel = job.request.entry, self._easel
        commit = None if entry.embedded else job.revision or entry.revision
        return easel is not None and easel.serves(entry, self._machine.plan_of(entry, job.quantisation), commit)

    def loaded(self) -> bool:
        """Whether there is a model to draw with at once."""
        return self._easel is not None

    def warm_up(self, key: str) -> None:
        """Loads a model before anyone asks; what goes wrong is logged and met again by the first run."""
        entry = BASE_MODELS[key]
        try:
            with self._lock:
                self._warming = Progress(f"Loading {entry.title}")
                easel = self._easel_for(entry, self._machine.plan_of(entry), entry.revision)
                self._warming = Progress(f"Preparing {entry.title} for speed")
                easel.warm_up()
        except Exception:
            log.exception("Warming up %s failed", key)
        finally:
            self._warming = None

    def compile_ahead(self, key: str, folder: Path) -> None:
        """Compiles a model's blocks into packages in a folder."""
        entry = BASE_MODELS[key]
        with self._lock:
            self._easel_for(entry, self._machine.plan_of(entry), entry.revision).compile_ahead(folder)

    def take_ahead(self, key: str, folder: Path) -> int:
        """Makes a model run the packages of a folder; says in how many of its blocks."""
        entry = BASE_MODELS[key]
        with self._lock:
            return self._easel_for(entry, self._machine.plan_of(entry), entry.revision).take_ahead(folder)

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
                done = self._drawn(job, stopped, emit)
            finally:
                self._lock.release()
            emit(done)  # only now, so that whoever hears of it finds the engine free
        except Exception as error:  # noqa: BLE001 (the seam: nothing raises across it)
            emit(Failed(in_words(error, job.id)))

    def _await_turn(self, stopped: Callable[[], bool], emit: Callable[[Message], None]) -> None:
        if self._lock.acquire(blocking=False):
            return
        said = None
        while True:
            reason = self._warming or Progress("Waiting for the picture before yours")
            if reason != said:
                if self._lock.acquire(blocking=False):  # free since: whoever had it is no reason any more
                    return
                emit(reason)
                said = reason
            if self._lock.acquire(timeout=0.1):
                return
            if stopped():
                raise Cancelled("Cancelled before it began.")

    def _drawn(self, job: Job, stopped: Callable[[], bool], emit: Callable[[Message], None]) -> Done:
        """With the plan that fits; once more with the next smaller one where memory runs out all the same."""
        entry = job.request.entry
        commit = None if entry.embedded else job.revision or entry.revision
        plan = self._machine.plan_of(entry, job.quantisation)
        if job.quantisation is None:
            plan = self._enough.get(entry.home, plan)
        done = self._tried(job, plan, commit, stopped, emit)
        smaller = self._machine.smaller_plan(plan, entry)
        if done is None and smaller is not None:
            emit(Progress(f"Out of memory: once more with {smaller.does}"))
            plan, done = smaller, self._tried(job, smaller, commit, stopped, emit)
            if done is not None:
                self._enough[entry.home] = smaller
        if done is None:
            raise OutOfMemory(
                f"The device ran out of memory, with the plan {plan.name} too: ask for a smaller picture, or choose a "
                "smaller model."
            )
        return done

    def _tried(
        self,
        job: Job,
        plan: MemoryPlan,
        commit: str | None,
        stopped: Callable[[], bool],
        emit: Callable[[Message], None],
    ) -> Done | None:
        """None where memory ran out: what was loaded is let go."""
        try:
            return self._drawn_by(plan, commit, job, stopped, emit)
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            log.warning("Out of memory with the plan %s: %s", plan.name, str(error))
        # Only here, behind the handler, does nothing hold the frames in which the tensors lie.
        self._let_go()
        return None

    def _drawn_by(
        self,
        plan: MemoryPlan,
        commit: str | None,
        job: Job,
        stopped: Callable[[], bool],
        emit: Callable[[Message], None],
    ) -> Done:
        entry = job.request.entry
        if self._easel is None or not self._easel.serves(entry, plan, commit):
            emit(Progress(f"Loading {entry.title}"))
        easel = self._easel_for(entry, plan, commit)
        revision = easel.revision(entry)
        if job.revision not in (None, revision):
            raise ModelUnavailable(
                f"This recipe was made with other weights of {entry.title} than are installed here, so it cannot be "
                "made again to the pixel: use its settings without the recipe."
            )
        began = time.monotonic()
        course = easel.blend(job)
        pictures = easel.draw(job.request, course, stopped, emit, job.over)
        seconds = time.monotonic() - began
        how, notes = easel.plan(job.request.batch), easel.unread(job.request)
        return Done(pictures, course.receipts, revision, how, seconds, notes)

    def _easel_for(self, entry: BaseModel, plan: MemoryPlan, commit: str | None) -> Easel:
        from core.packing import import_packing

        import_packing()
        from core.drawing import Easel

        if self._easel is None or not self._easel.serves(entry, plan, commit):
            self._let_go()  # the old model's memory first
            self._easel = Easel(entry, self._machine.device, plan, commit, self._machine.speed)
        return self._easel

    def _let_go(self) -> None:
        """Everything that was loaded, and what torch keeps of it for later."""
        import torch

        self._easel = None
        gc.collect()  # hooks and modules hold each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if torch.backends.mps.is_available():
            torch.mps.empty_cache()


def ran_out_of_memory(error: Exception) -> bool:
    """Whether a device had too little memory; CPU and MPS say so in a plain RuntimeError."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
