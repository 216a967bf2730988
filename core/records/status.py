"""SyncStatus: how much is saved here and on the Hub, as numbers and as the line that the page shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from core.errors import JournalRefused
from core.records.journal import Journal

_STEPS = ((86400, "day"), (3600, "h"), (60, "min"))


@dataclass(frozen=True)
class SyncStatus:
    """Records in the journal and verified on the Hub, when the last one arrived there, and all of it in words."""

    here: int
    on_hub: int
    last: datetime | None
    said: str


class Sync(Protocol):
    """What the page and the start know of whatever sends the records; `repo` is where to, None for nowhere."""

    repo: str | None

    def start(self) -> None:
        """Begins to send in a thread of its own."""

    def flush(self, seconds: float) -> bool:
        """Sends what is left within `seconds`; whether nothing is left. What is goes at the next start."""

    def close(self) -> None:
        """Sends no more."""

    def status(self) -> SyncStatus:
        """Never raises."""


class NoSync:
    """Sends nothing: no dataset was named, or `why_not` (a clause) keeps it from one. `clear` drops what an earlier
    start had ready to send: nobody would take out of it what people delete."""

    def __init__(
        self, journal: Journal, repo: str | None = None, why_not: str = "", clear: Callable[[], None] = lambda: None
    ) -> None:
        self._journal, self.repo, self._why_not, self._clear = journal, repo, why_not, clear

    def start(self) -> None:
        self._clear()

    def flush(self, seconds: float) -> bool:
        return not self._why_not

    def close(self) -> None:
        """Nothing to end."""

    def status(self) -> SyncStatus:
        try:
            here = self._journal.counts().here
        except JournalRefused as error:
            return SyncStatus(0, 0, None, str(error))
        said = f"{here} saved here; {self._why_not}." if self._why_not else f"{here} saved here"
        return SyncStatus(here, 0, None, said)


def told(here: int, on_hub: int, ago: float | None, trouble: str = "", again: float | None = None) -> str:
    """The line for the page; `ago` and `again` are seconds."""
    said = f"{here} saved here, {on_hub} on the Hub"
    if ago is not None:
        said += ", last just now" if ago < 60 else f", last {spoken(ago)} ago"
    if trouble:
        said += f"; {trouble}" + (f"; trying again in {spoken(again)}" if again is not None else "")
    return said


def spoken(seconds: float) -> str:
    """Such as “3 min”, rounded down."""
    for length, unit in _STEPS:
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}" + ("s" if unit == "day" and count > 1 else "")
    return f"{max(1, round(seconds))} s"
