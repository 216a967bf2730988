"""When the next commit may be made: the Hub's hourly budget, over restarts too, and patience after faults."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from core.records.journal import Journal

EVERY = 40.0  # seconds between two commits: records arrive within a minute
PER_HOUR = 100  # of the Hub's 128, which other writers share
HOUR = 3600.0
FIRST_PAUSE = 2.0  # seconds after the first fault; doubled with each that follows
LONGEST_PAUSE = 300.0
LONGEST_ASKED = 3600.0  # seconds that the Hub may ask for
_KEY = "dataset commits"


class Pace:
    """The times of the last hour's commits of any kind, kept in the journal. `clock` gives seconds of the epoch."""

    def __init__(self, journal: Journal, clock: Callable[[], float], every: float, per_hour: int) -> None:
        self._journal, self._clock, self._every, self._per_hour = journal, clock, every, per_hour

    def wait(self, hurry: bool) -> float:
        """Seconds until a commit may be made; in a hurry only the hourly budget counts."""
        now, times = self._clock(), self._times()
        spent = times[0] + HOUR - now if len(times) >= self._per_hour else 0.0
        soon = times[-1] + self._every - now if times and not hurry else 0.0
        return max(spent, soon, 0.0)

    def note(self) -> None:
        """A commit is about to be made: it counts whatever becomes of it."""
        self._journal.remember(_KEY, json.dumps([*self._times(), self._clock()]))

    def _times(self) -> list[float]:
        """Those of the last hour; a clock that was put back must not hold us for longer."""
        now = self._clock()
        times = json.loads(self._journal.remembered(_KEY) or "[]")
        return [at for at in times if now - HOUR < at <= now][-self._per_hour :]


class Patience:
    """How long to wait after a fault: longer each time, never the same for all writers."""

    def __init__(self, chance: random.Random) -> None:
        self._chance, self._faults = chance, 0

    def after(self, asked: float | None) -> float:
        """Seconds; as long as the Hub asks for, within reason."""
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._faults, 20))
        self._faults += 1
        if asked is not None:
            return min(LONGEST_ASKED, asked) + self._chance.uniform(0, 1)
        return pause * self._chance.uniform(0.5, 1)

    def renew(self) -> None:
        """All went well."""
        self._faults = 0
