"""One line of the log for each job at its end: what was asked for and what came of it, never who asked or for what."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from core.bugs import in_words, new_number
from core.errors import Cancelled, Internal
from core.request import GenerationRequest
from core.turns import Turn

log = logging.getLogger("loom.jobs")


class JobLine:
    """What is known of a job so far. Prompts, visitors, addresses and LoRAs are left out: the log is no journal."""

    def __init__(self) -> None:
        self.id = new_number()
        self.request: GenerationRequest | None = None
        self.turn: Turn | None = None

    def write(self, event: str, error: str | None = None) -> None:
        """The line, as JSON."""
        request, turn = self.request, self.turn
        asked = {
            "model": request and request.model, "images": request and request.images,
            "steps": request and request.steps, "size": request and f"{request.width}x{request.height}",
        }  # fmt: skip
        took = {"waited_s": turn and round(turn.waited, 3), "drew_s": turn and round(turn.drew, 3)}
        line: dict[str, Any] = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "job": self.id}
        log.info("%s", json.dumps(line | {"event": event} | asked | took | {"error": error}))


@contextmanager
def job_line() -> Iterator[JobLine]:
    """Written at the end of the block, whatever ends it; a bug leaves it as an Internal that names the job's id.

    `refused` is what never began to draw, `failed` what did, or a bug.
    """
    line = JobLine()
    try:
        yield line
    except GeneratorExit:
        line.write("cancelled")
        raise
    except Exception as error:
        said = in_words(error, line.id)
        began = line.turn is not None and line.turn.granted.is_set()
        failed = began or isinstance(said, Internal)
        event = "cancelled" if isinstance(said, Cancelled) else "failed" if failed else "refused"
        line.write(event, type(said).__name__ if said is error else type(error).__name__)
        if said is error:
            raise
        raise said from error
    line.write("done")


def log_to_stderr() -> None:
    """The lines as they are, for whoever collects them; a server that nobody uses stays quiet."""
    lines = logging.StreamHandler()
    lines.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(lines)
    log.setLevel(logging.INFO)
    log.propagate = False
