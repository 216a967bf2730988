"""Deletes what lies in Gradio's cache for too long: Gradio forgets looks and torn uploads, and sets no bound."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR

LOOK_SECONDS = 600  # an early look is superseded within seconds; somebody may still fetch it
KEPT_SECONDS = 26 * 3600  # later than Gradio, which deletes once an hour what it remembers and is a day old
MOST_BYTES = 4_000_000_000
_PAUSE = 60.0  # seconds


def sweep(folder: Path, now: float, most: int = MOST_BYTES) -> None:
    """Files of this folder that are too old; then the oldest, until the others have at most `most` bytes."""
    left, total = [], 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # another thread may take it away meanwhile
            stat = path.lstat()
            if S_ISDIR(stat.st_mode):
                if now - stat.st_mtime > LOOK_SECONDS:
                    path.rmdir()  # fails where something lies in it
                continue
            if now - stat.st_ctime > (LOOK_SECONDS if path.name.startswith("look") else KEPT_SECONDS):
                path.unlink()
            else:
                left.append((stat.st_ctime, stat.st_size, path))
                total += stat.st_size
    for _, size, path in sorted(left):
        if total <= most:
            break
        with suppress(OSError):
            path.unlink()
        total -= size


def forget(known: Sequence[set[str]], absent: set[str]) -> set[str]:
    """Takes paths out of these sets that are absent and were so before, and gives those that are absent now.

    Gradio forgets only what it deleted itself. An upload is known a moment before it lies at its place.
    """
    now = {path for paths in known for path in list(paths) if not Path(path).exists()}
    for paths in known:
        paths -= now & absent
    return now


def start_sweeping(folder: Path, known: Sequence[set[str]] = ()) -> None:
    """Once a minute, in a thread that ends with the process; `known` are the files that Gradio remembers."""
    folder.mkdir(parents=True, exist_ok=True)

    def again() -> None:
        absent: set[str] = set()
        while True:
            sweep(folder, time.time())
            absent = forget(known, absent)
            threading.Event().wait(_PAUSE)

    threading.Thread(target=again, name="sweep", daemon=True).start()
