"""Durations as people read them: what a picture takes, and what is left of a row of them."""

from __future__ import annotations

import time
from collections.abc import Callable

from ui import texts


def in_short(seconds: float) -> str:
    """“0.9 s”, “40 s” or “3 min”: as exact as a guess can be."""
    if seconds < 90:
        return f"{max(seconds, 0.1):.{1 if seconds < 3 else 0}f}".removesuffix(".0") + " s"
    return f"{seconds / 60:.0f} min"


class TimeLeft:
    """How long a row of pictures will take, from those drawn since the first, which waited for its model."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, int] | None = None

    def of(self, done: int, total: int) -> str:
        """“about 40 s left”; nothing before two are done."""
        now = self._clock()
        if done and self._first is None:
            self._first = (now, done)
        if self._first is None or done <= self._first[1]:
            return ""
        left = (now - self._first[0]) / (done - self._first[1]) * (total - done)
        return texts.TIME_LEFT.format(in_short(round(left))) if left >= 1 else ""
