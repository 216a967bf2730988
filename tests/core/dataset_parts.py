"""Records, a clock and a sync to test with, and what stands in an emulated Hub's dataset."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import uuid
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import httpx2
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from core.records.dataset import HubDataset
from core.records.journal import Journal
from core.records.schema import Record
from core.records.sync import DatasetSync
from tests.hub import EmulatedHub

REPO, TOKEN = "me/log", "hf_me"
_LOADS = """
import json
from datasets import Image, load_dataset
rows = load_dataset("me/log", split="train")
assert isinstance(rows.features["image"], Image), rows.features
print(json.dumps([
    {**row, "created_at": row["created_at"].isoformat(), "image": None, "size": row["image"] and row["image"].size}
    for row in rows
]))
"""
PATIENCE = 1.0  # seconds for each step of a request
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c4944415408d763f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


@cache
def client() -> httpx2.Client:
    """One for all: a new one reads the machine's certificates."""
    return httpx2.Client(timeout=PATIENCE)


@dataclass
class Clock:
    """Stands still until it is told."""

    now: float = NOON.timestamp()

    def __call__(self) -> float:
        return self.now


def record(number: int, picture: bool = True, visitor: str = "ann") -> Record:
    return Record(
        uuid.UUID(int=number).hex, NOON + timedelta(seconds=number), visitor, f"a cat, number {number}", "pocket-sd3",
        '[{"ref":"bundled:pocket-sd3-dots"}]', f'{{"version":1,"seed":{number}}}', PNG if picture else None,
    )  # fmt: skip


def ids(numbers: range) -> list[str]:
    return [uuid.UUID(int=number).hex for number in numbers]


def journal_in(folder: Path) -> Journal:
    return Journal(folder / "journal.sqlite")


def sync_of(journal: Journal, hub: EmulatedHub, folder: Path, clock: Clock | None = None, **pace: float) -> DatasetSync:
    """To the repo of `me`, who has a token there; it does nothing until it is started or given turns."""
    hub.add_user(TOKEN, "me")
    dataset = HubDataset(REPO, hub.endpoint, TOKEN, client())
    options = {"every": 0.0, "per_hour": 10**6} | pace
    return DatasetSync(
        journal, dataset, folder / "sealed", clock or Clock(), every=options["every"],
        per_hour=int(options["per_hour"]), chance=random.Random(1),
    )  # fmt: skip


def turns(sync: DatasetSync, clock: Clock, most: int = 60) -> int:
    """Turns until nothing is to be done, as the thread takes them, but with a clock that runs ahead; how many."""
    for count in range(most):
        wait = sync.turn()
        if wait == 2.0 and "trying again" not in sync.status().said:
            return count
        clock.now += wait
    raise AssertionError(sync.status().said)


def sent(journal: Journal, hub: EmulatedHub, folder: Path, clock: Clock) -> None:
    """Has a new sync do all that is to be done."""
    sync = sync_of(journal, hub, folder, clock)
    try:
        turns(sync, clock)
    finally:
        sync.close()


def shards(hub: EmulatedHub) -> dict[str, bytes]:
    """The parquet files at the dataset's head, by path."""
    files = hub.repo(REPO, "datasets").head.files
    return {path: file.data for path, file in files.items() if path.endswith(".parquet")}


def rows(hub: EmulatedHub) -> Counter[str]:
    """How often each id stands in the dataset."""
    return Counter(name for data in shards(hub).values() for name in pq.read_table(io.BytesIO(data))["id"].to_pylist())


def loaded(hub: EmulatedHub, folder: Path) -> list[dict[str, object]]:
    """The dataset's rows as `datasets` reads them in a process of its own; `size` is the picture's."""
    where = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HOME": str(folder / "hf")}
    environ = os.environ | where | {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "0"}
    done = subprocess.run([sys.executable, "-c", _LOADS], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))


def commits(hub: EmulatedHub) -> int:
    return len(hub.asked("/commit/main", "POST"))
