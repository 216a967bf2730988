"""Runs: every drawing in progress with its stop flag, by session, and how often a run is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, RLock
from typing import Any

from ui.leaving import nobody_waits

# How an event that draws is told to Gradio: without a limit, since it waits in our own line, which refuses at once.
DRAWS: dict[str, Any] = {"concurrency_limit": None}


class Flag:
    """A stop flag: set by whoever stops the run, and by itself once nobody waits for it."""

    def __init__(self, gone: Callable[[], bool]) -> None:
        self._event, self._gone = Event(), gone

    def set(self) -> None:
        """Stops the run within a step."""
        self._event.set()

    def is_set(self) -> bool:
        """Cheap: asked at each step, and ten times a second in the line."""
        return self._event.is_set() or self._gone()


class Runs:
    """Safe to use from several threads: a run draws in one, Cancel arrives in another."""

    def __init__(self) -> None:
        self._flags: dict[str, set[Flag]] = {}
        self._lock = RLock()  # a run that Python collects while its own thread is in here ends too

    @contextmanager
    def run(self, session: str) -> Iterator[Flag]:
        """A stop flag that `stop` can set while the block runs; set at its end, so that nothing draws on unseen."""
        flag = Flag(nobody_waits())
        with self._lock:
            self._flags.setdefault(session, set()).add(flag)
        try:
            yield flag
        finally:
            flag.set()
            with self._lock:
                flags = self._flags[session]
                flags.remove(flag)
                if not flags:
                    del self._flags[session]

    def stop(self, session: str) -> None:
        """Stops the runs of one session within a step; does nothing where there are none."""
        with self._lock:
            for flag in tuple(self._flags.get(session, ())):
                flag.set()

    def stop_all(self) -> None:
        """For shutting down."""
        with self._lock:
            for flags in tuple(self._flags.values()):
                for flag in tuple(flags):
                    flag.set()


class Pace:
    """Says when to show something again: Gradio takes 10 ms and more for each yield, a pocket model's step less."""

    def __init__(self, seconds: float = 0.1, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._next = clock()

    def due(self) -> bool:
        """True at most once in `seconds`."""
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True
