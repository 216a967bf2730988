"""SealedFolder: the bytes of shards on this machine until the Hub is known to have them, and who may send them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from core.records.dataset import Upload
from lora_catalog.lease import lock, unlock

_HALF = ".part"

log = logging.getLogger(__name__)


class SealedFolder:
    """One file per shard, named as the last part of its path in the dataset. Every method may raise OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock: int | None = None

    def hold(self) -> bool:
        """Whether this process is the one that sends: the first to ask, until it lets go or ends."""
        if self._lock is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                lock(file, wait=False)
            except BlockingIOError:
                os.close(file)
                return False
            self._lock = file
        return True

    def let_go(self) -> None:
        if self._lock is not None:
            unlock(self._lock)
            os.close(self._lock)
            self._lock = None

    def write(self, path: str, data: bytes) -> None:
        """Whole or not at all, and on the disk when it returns."""
        file = self._file(path)
        half = file.with_name(file.name + _HALF)
        with half.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        half.replace(file)
        self._settle()

    def upload(self, path: str) -> Upload | None:
        """What it takes to send the shard; None if its file is not here."""
        file = self._file(path)
        try:
            with file.open("rb") as data:
                return Upload(path, file, hashlib.file_digest(data, "sha256").hexdigest(), file.stat().st_size)
        except FileNotFoundError:
            return None

    def read(self, path: str) -> bytes:
        return self._file(path).read_bytes()

    def drop(self, path: str) -> None:
        self._file(path).unlink(missing_ok=True)

    def sweep(self, kept: Iterable[str]) -> None:
        """Drops what a crash left: files of shards that were never sealed, or are known to be on the Hub."""
        names = {".lock", *(PurePosixPath(path).name for path in kept)}
        for file in self._folder.iterdir():
            if file.name not in names:
                file.unlink(missing_ok=True)

    def clear(self) -> None:
        """Drops every shard, where nobody sends any: the journal has what people have not deleted. Never raises."""
        try:
            if self._folder.is_dir() and self.hold():
                self.sweep(())
                self.let_go()
        except OSError:
            log.exception("the folder of sealed shards cannot be used")

    def _file(self, path: str) -> Path:
        return self._folder / PurePosixPath(path).name

    def _settle(self) -> None:
        """Makes the new name durable as well; Windows has no such call and needs none."""
        with suppress(PermissionError):
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
