"""Work under way: what it tells, as often as a page can show it, in words, and its answer at the end."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

from core.messages import Progress
from lora_catalog.errors import megabytes
from ui.runs import Pace

Answer = TypeVar("Answer")


class UnderWay(Generic[Answer]):
    """Iterates once over what a generator tells; `answer` is there when the loop has ended.

    Whoever leaves the loop early ends the work.
    """

    answer: Answer

    def __init__(self, work: Generator[Progress, None, Answer]) -> None:
        self._work = work

    def __iter__(self) -> Iterator[Progress]:
        pace = Pace()
        try:
            while True:
                progress = next(self._work)
                if pace.due():
                    yield progress
        except StopIteration as end:
            self.answer = end.value
        finally:
            self._work.close()


def in_words(progress: Progress) -> str:
    """One phrase, such as “Fetching glow.safetensors · 4.5 MB of 18 MB”; the total is left out where nobody said it."""
    if progress.unit != "bytes":
        return f"{progress.stage} …"
    total = f" of {megabytes(progress.total)}" if progress.total else ""
    return f"{progress.stage} · {megabytes(progress.done)}{total}"
