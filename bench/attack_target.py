"""A target of attacks: the app over HTTP, with every answer kept, and the table of what happened."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.served import API

SECRET = b"only the owner may read this line"
FILE = {"_type": "gradio.FileData"}
ENDLESS = 30.0  # seconds after which an answer that goes on is left
SOON = 10.0  # seconds for an answer that has to look at a file


@dataclass(frozen=True)
class Outcome:
    """One row of the table."""

    attack: str
    expected: str
    happened: str
    well: bool


class Target:
    """The app under attack: every answer is kept for the search at the end."""

    def __init__(self, url: str, folder: Path, other: int) -> None:
        self.url, self.folder, self.other = url, folder, other
        self.client = httpx.Client(base_url=url, timeout=60)
        self.answers: list[str] = []
        self.found: list[Outcome] = []

    @property
    def cache(self) -> Path:
        """Where the app lets Gradio keep files."""
        return self.folder / "data" / "cache"

    def ask(self, method: str, path: str, **how: Any) -> httpx.Response:
        """The answer; of one without end, what came of it in a while, as HTTP 200."""
        began, parts = time.monotonic(), []
        with self.client.stream(method, path, **how) as answer:
            for part in answer.iter_bytes():
                parts.append(part)
                if time.monotonic() - began > ENDLESS:
                    break
            whole = httpx.Response(answer.status_code, headers=_undone(answer.headers), content=b"".join(parts))
        self.answers.append(whole.text[:100_000])
        return whole

    def note(self, attack: str, expected: str, happened: object, well: bool) -> None:
        shown = " ".join(str(happened).split())[:150]
        self.found.append(Outcome(attack[:80].encode("unicode_escape").decode(), expected, shown, well))

    def said(self, endpoint: str, **fields: Any) -> tuple[str, str, float]:
        """How a call ended: kind, text, seconds."""
        began = time.monotonic()
        place = self.ask("POST", f"{API}/call/v2/{endpoint}", json=fields)
        if place.status_code != httpx.codes.OK:
            return f"HTTP {place.status_code}", place.text, time.monotonic() - began
        end = self.ask("GET", f"{API}/call/{endpoint}/{place.json()['event_id']}").text.rpartition("event: ")[2]
        kind, _, data = end.partition("\ndata: ")
        value = json.loads(data)
        return kind, value["error"] if isinstance(value, dict) and "error" in value else data, time.monotonic() - began

    def copies(self) -> int:
        """Files in Gradio's cache that hold what only the owner may read."""
        return sum(SECRET in path.read_bytes() for path in self.cache.rglob("*") if path.is_file())

    def alive(self) -> bool:
        return self.said("models")[0] == "complete"


def _undone(headers: httpx.Headers) -> list[tuple[str, str]]:
    """Without what says how the body was packed on its way."""
    return [(name, value) for name, value in headers.items() if name not in ("content-encoding", "transfer-encoding")]


def sentence(text: str) -> bool:
    """One line of words for people."""
    return 8 < len(text) < 1500 and "\n" not in text and "Traceback" not in text and "/tmp/" not in text
