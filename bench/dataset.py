"""What the dataset sync loses and doubles: sixteen troubles of an emulated Hub, five times each; four writers at once.

python -m bench.dataset [--times 5] [--writers 4] [--records 2500]
"""

from __future__ import annotations

import os

os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}  # huggingface_hub reads these at import

import argparse
import io
import json
import logging
import random
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx2
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from core.records.dataset import HubDataset
from core.records.journal import Journal
from core.records.schema import Record
from core.records.sync import IDLE, DatasetSync
from tests.hub import EmulatedHub
from tests.hub.troubles import TROUBLES

REPO, TOKEN = "me/log", "hf_me"
GOAL = "0 lost, 0 doubled"
MOST_TURNS = 200
PATIENCE = 0.5  # seconds for each step of a request: the emulated Hub's stalls are to end soon


class Clock:
    """Runs as far ahead as a sync wants to wait."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def record() -> Record:
    return Record(uuid.uuid4().hex, datetime.now(UTC), "ann", "a cat", "pocket-sd3", "[]", '{"version":1}')


def sync_of(journal: Journal, hub: EmulatedHub, folder: Path, clock: Clock, client: httpx2.Client) -> DatasetSync:
    """Without a thread, and with commits as often as there is something to send."""
    hub.add_user(TOKEN, "me")
    dataset = HubDataset(REPO, hub.endpoint, TOKEN, client)
    return DatasetSync(journal, dataset, folder / "sealed", clock, every=0, per_hour=10**6)


def settle(sync: DatasetSync, journal: Journal, clock: Clock) -> None:
    """Turns until all is on the Hub."""
    for _ in range(MOST_TURNS):
        wait = sync.turn()
        if wait == IDLE and not journal.sealed() and not journal.unsealed(1, 1):
            return
        clock.now += wait


def found(hub: EmulatedHub) -> Counter[str]:
    """How often each id stands in the dataset."""
    files = hub.repo(REPO, "datasets").head.files
    shards = [file.data for path, file in files.items() if path.endswith(".parquet")]
    return Counter(name for data in shards for name in pq.read_table(io.BytesIO(data))["id"].to_pylist())


def figures(kept: Sequence[str], hub: EmulatedHub, seconds: float) -> dict[str, float]:
    there = found(hub)
    return {
        "kept": len(kept),
        "lost": sum(name not in there for name in kept),
        "doubled": sum(count - 1 for count in there.values()),
        "commits": len(hub.asked("/commit/main", "POST")),
        "seconds": round(seconds, 1),
    }


def under(trouble: str, times: int, client: httpx2.Client) -> dict[str, float]:
    """`times` syncs from nothing, the trouble each time a while after the start."""
    total = Counter[str]()
    for seed in range(times):
        chance, hub, clock, kept = random.Random(seed), EmulatedHub(), Clock(), list[str]()
        with tempfile.TemporaryDirectory() as name, hub.running():
            began, folder = time.perf_counter(), Path(name)
            journal = Journal(folder / "journal.sqlite")
            sync = sync_of(journal, hub, folder, clock, client)
            trouble_at = chance.randrange(2) if not trouble.startswith(("look", "create")) else 0
            for batch in range(4):
                if batch == trouble_at:
                    TROUBLES[trouble](hub)
                records = [record() for _ in range(chance.randint(1, 20))]
                journal.keep(records)
                kept += [each.id for each in records]
                clock.now += sync.turn()
            settle(sync, journal, clock)
            sync.close()
            journal.close()
            for name_of, value in figures(kept, hub, time.perf_counter() - began).items():
                total[name_of] += value  # type: ignore[assignment]
    return dict(total)


def many_writers(writers: int, records: int, client: httpx2.Client) -> dict[str, float]:
    """As many journals, each with a sync of its own that sends while records are kept, into one repo."""
    hub, kept = EmulatedHub(), list[str]()

    def write(folder: Path) -> None:
        clock, journal = Clock(), Journal(folder / "journal.sqlite")
        sync = sync_of(journal, hub, folder, clock, client)
        for first in range(0, records, 50):
            batch = [record() for _ in range(min(50, records - first))]
            journal.keep(batch)
            kept.extend(each.id for each in batch)
            clock.now += sync.turn()
        settle(sync, journal, clock)
        sync.close()
        journal.close()

    with tempfile.TemporaryDirectory() as name, hub.running():
        began = time.perf_counter()
        threads = [threading.Thread(target=write, args=(Path(name) / str(n),)) for n in range(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return figures(kept, hub, time.perf_counter() - began)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.dataset", description=__doc__)
    parser.add_argument("--times", type=int, default=5, help="syncs under each trouble")
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--records", type=int, default=2500, help="of each writer")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    asked = parser.parse_args(argv)
    logging.disable(logging.CRITICAL)  # the troubles are meant
    client, found_out = httpx2.Client(timeout=PATIENCE), dict[str, dict[str, float]]()
    print(f"{'':42}{'kept':>8}{'lost':>8}{'doubled':>8}{'commits':>9}{'seconds':>9}")
    cases = {name: partial(under, name, asked.times, client) for name in TROUBLES}
    writing = {f"{asked.writers} writers": partial(many_writers, asked.writers, asked.records, client)}
    for name, case in (cases | writing).items():
        found_out[name] = row = case()
        counts = f"{row['kept']:8.0f}{row['lost']:8.0f}{row['doubled']:8.0f}{row['commits']:9.0f}"
        print(f"{name:42}{counts}{row['seconds']:9.1f}", flush=True)
    lost, doubled = (sum(row[key] for row in found_out.values()) for key in ("lost", "doubled"))
    print(f"{lost:.0f} lost, {doubled:.0f} doubled; goal: {GOAL}")
    if asked.json:
        asked.json.write_text(json.dumps(found_out, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
