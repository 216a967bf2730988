"""The app in a process of its own, asked in plain HTTP as any client may, and what the system says of that process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
API = "/gradio_api"
PATIENCE = httpx.Timeout(600, connect=60)  # seconds; a queue may be long
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True)
class Process:
    """A running server: its address, and its figures out of /proc."""

    url: str
    id: int
    began: float  # by time.monotonic, before its first line of Python

    def memory(self) -> float:
        """Resident, in MB (2^20 bytes)."""
        return self._status("VmRSS") / 1024

    def threads(self) -> int:
        return self._status("Threads")

    def files(self) -> int:
        """Open descriptors, sockets among them."""
        return sum(1 for _ in Path(f"/proc/{self.id}/fd").iterdir())

    def processor(self) -> float:
        """Seconds of processor time, all threads together."""
        fields = Path(f"/proc/{self.id}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def _status(self, name: str) -> int:
        lines = Path(f"/proc/{self.id}/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(
    folder: Path, *flags: str, module: Sequence[str] = ("app.py",), environ: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """Starts `app.py`, or another command that takes its flags; its files lie in `folder`, its log in `folder/log`."""
    port = free_port()
    command = [sys.executable, *module, "--port", str(port), "--data-dir", str(folder / "data"), *flags]
    own = {"GRADIO_TEMP_DIR": str(folder / "cache"), "OMP_NUM_THREADS": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    began = time.monotonic()
    with (folder / "log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | own | dict(environ or {}), stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            assert server.stdout is not None
            address = next((line.split()[-1] for line in server.stdout if "http://" in line), None)
            if address is None:
                raise RuntimeError((folder / "log").read_text(encoding="utf-8")[-2000:])
            yield Process(address, server.pid, began)
        finally:
            server.terminate()
            server.wait()


@dataclass(frozen=True)
class Answer:
    """How a call ended: `complete` with the outputs, `error` with a sentence, `refused` at the door, or `broken`."""

    kind: str
    data: Any
    looks: int  # yields before the last
    seconds: float

    @property
    def done(self) -> bool:
        return self.kind == "complete"


async def joined(client: httpx.AsyncClient, endpoint: str, fields: Mapping[str, Any]) -> httpx.Response:
    """Asks for a place in the queue; a place that is given has an `event_id`."""
    return await client.post(f"{API}/call/v2/{endpoint}", json=dict(fields))


async def told(client: httpx.AsyncClient, endpoint: str, event: str) -> AsyncIterator[tuple[str, Any]]:
    """What the server says of an event, as (kind, data), to its end."""
    async with client.stream("GET", f"{API}/call/{endpoint}/{event}") as stream:
        kind = ""
        async for line in stream.aiter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: ") and kind:
                yield kind, json.loads(line.removeprefix("data: "))


async def called(client: httpx.AsyncClient, endpoint: str, **fields: Any) -> Answer:
    """One call from its beginning to its end."""
    began, looks = time.monotonic(), 0
    try:
        place = await joined(client, endpoint, fields)
        if place.status_code != httpx.codes.OK:
            return Answer("refused", _words(place), 0, time.monotonic() - began)
        async for kind, data in told(client, endpoint, place.json()["event_id"]):
            if kind in ("complete", "error"):
                said = data.get("error") if isinstance(data, dict) else data
                return Answer(kind, data if kind == "complete" else said, looks, time.monotonic() - began)
            looks += kind == "generating"
    except httpx.HTTPError as error:
        return Answer("broken", f"{type(error).__name__}: {error}", looks, time.monotonic() - began)
    return Answer("broken", "The answer ended before its end.", looks, time.monotonic() - began)


def _words(response: httpx.Response) -> str:
    try:
        said = response.json()
    except ValueError:
        return f"HTTP {response.status_code}"
    return str(said.get("detail", said)) if isinstance(said, dict) else str(said)


def share(values: Sequence[float], part: float) -> float:
    """The value that `part` of all do not exceed; NaN where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")
