"""What the store's tests fetch, and how: downloads that can be held back and counted, without a network."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from lora_catalog.sources.base import Downloading
from lora_catalog.store import Chunks, Held, LoraStore

T = TypeVar("T")
PATIENCE = 60  # seconds until a test that hangs says so


def lora(number: int, size: int = 10_000) -> bytes:
    """A safetensors file of exactly that many bytes, all of its weights `number`."""
    weights = size - 128
    header = json.dumps({"w": {"dtype": "U8", "shape": [weights], "data_offsets": [0, weights]}}).ljust(120)
    return struct.pack("<Q", 120) + header.encode() + bytes([number]) * weights


class Origin:
    """A download of `data` in pieces; counts how often it was opened. `go` may hold it back at its first piece."""

    def __init__(self, data: bytes, piece: int = 1000, *, held_back: bool = False) -> None:
        self._data, self._piece = data, piece
        self.opened, self.given = 0, 0
        self.go, self.closed = threading.Event(), threading.Event()
        if not held_back:
            self.go.set()

    @contextmanager
    def __call__(self) -> Generator[Iterator[bytes]]:
        self.opened += 1
        try:
            yield self._pieces()
        finally:
            self.closed.set()

    def _pieces(self) -> Iterator[bytes]:
        for start in range(0, len(self._data), self._piece):
            self.given += 1
            yield self._data[start : start + self._piece]
            assert self.go.wait(PATIENCE)


def ended(steps: Generator[object, None, T]) -> T:
    """What the generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fetching(
    store: LoraStore, data: bytes, key: str | None = None, origin: Chunks | None = None
) -> Generator[Downloading, None, Held]:
    return store.fetch(key or f"ann/l@c:{sha(data)}", "l.safetensors", sha(data), len(data), origin or Origin(data))


def fetch(store: LoraStore, data: bytes, key: str | None = None, origin: Chunks | None = None) -> Held:
    return ended(fetching(store, data, key, origin))


def settle() -> None:
    """Waits until the downloads' threads have gone."""
    for thread in threading.enumerate():
        if thread.name == "lora-download":
            thread.join(PATIENCE)


def kept(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.safetensors")}


def left_over(folder: Path) -> list[Path]:
    return [*folder.glob("*.safetensors"), *(folder / "partial").iterdir(), *(folder / "keys").iterdir()]
