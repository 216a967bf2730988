"""RecordFiles: the files in Gradio's cache that show records at full size, so that they go with their records."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

MOST = 10_000  # records


class RecordFiles:
    """Safe to call from several threads. Of more than `most` records, the files of those shown longest ago go."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._of: OrderedDict[tuple[str, str], set[Path]] = OrderedDict()  # by visitor and record
        self._lock = threading.Lock()

    def add(self, visitor: str, record_id: str, file: Path) -> None:
        """`file` shows the visitor's record."""
        with self._lock:
            self._of.setdefault((visitor, record_id), set()).add(file)
            self._of.move_to_end((visitor, record_id))
            gone = self._of.popitem(last=False)[1] if len(self._of) > self._most else set()
        _unlink(gone)

    def delete(self, visitor: str, record_ids: Iterable[str]) -> None:
        """Deletes the files of those of the records that are the visitor's."""
        with self._lock:
            gone = [self._of.pop((visitor, record_id), set()) for record_id in record_ids]
        _unlink(file for files in gone for file in files)


def _unlink(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
