"""The whole app with a stub where the model would be: python -m bench.stub SECONDS LOG [flags of app.py].

Everything is app.py's own, its engine's lock and threads too; only what would load and run a pipeline is replaced by
one that takes SECONDS a picture, polls the stop flag each step as a pipeline's callback does, and writes into LOG when
it takes up the device and when it lets go of it: one line "begin" or "end" with time.monotonic and the prompt's first
word, so that two jobs at once are seen whatever the rest of the app says.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import app
from core.engine import LocalEngine
from core.errors import Cancelled
from core.messages import Drawn, Job, Message, Preview, Progress, Raster, Receipt
from core.request import GenerationRequest

STEPS = 5  # into which a picture's time is cut, whatever is asked for


class Receipts:
    """A blend of which every layer fits."""

    def __init__(self, job: Job) -> None:
        self.receipts = tuple(Receipt(264, 264) for _ in job.loras)


class StubEasel:
    """Draws a colour for each seed."""

    def __init__(self, seconds: float, log: Path) -> None:
        self._seconds, self._log = seconds, log
        self._writing = threading.Lock()

    def serves(self, *_: Any) -> bool:
        return True

    def revision(self, *_: Any) -> str:
        return "0" * 40

    def warm_up(self) -> None:
        """Nothing to warm."""

    def plan(self, batch: int = 1) -> dict[str, str | int | None]:
        return {"dtype": "float32", "quantisation": None, "device": "cpu", "batch": batch}

    def unread(self, *_: Any) -> tuple[str, ...]:
        return ()

    def blend(self, job: Job) -> Receipts:
        return Receipts(job)

    def draw(
        self, request: GenerationRequest, course: Any, stopped: Callable[[], bool], emit: Callable[[Message], None],
        *_: Any,
    ) -> tuple[Drawn, ...]:  # fmt: skip
        self._note("begin", request)
        try:
            return tuple(self._picture(request, index, stopped, emit) for index in range(request.images))
        finally:
            self._note("end", request)

    def _picture(
        self, request: GenerationRequest, index: int, stopped: Callable[[], bool], emit: Callable[[Message], None]
    ) -> Drawn:
        colour = hashlib.sha256(str(request.seed + index).encode()).digest()[:3]
        raster = Raster(request.width, request.height, colour * (request.width * request.height))
        for step in range(STEPS):
            if stopped():
                raise Cancelled("Cancelled.")
            time.sleep(self._seconds / STEPS)
            emit(Progress("Drawing", index * STEPS + step + 1, request.images * STEPS))
            if step == STEPS // 2:
                emit(Preview(index, raster))
        drawn = Drawn(index, request.seed + index, raster)
        emit(drawn)
        return drawn

    def _note(self, what: str, request: GenerationRequest) -> None:
        with self._writing, self._log.open("a", encoding="utf-8") as log:
            log.write(f"{what} {time.monotonic():.4f} {request.prompt.partition(' ')[0]}\n")


def main(arguments: list[str]) -> int:
    """The exit code of app.py."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float, help="that a picture takes")
    parser.add_argument("log", type=Path, help="where it notes who draws")
    asked, flags = parser.parse_known_args(arguments)
    easel = StubEasel(asked.seconds, asked.log)
    engine: Any = LocalEngine
    engine._easel_for = lambda *_, **__: easel
    return app.main(flags)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
