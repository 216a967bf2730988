"""What many pictures leave behind: memory, threads, files and idle processor time over thousands of real pocket ones.

python -m bench.soak [--pictures 5000] [--every 100] [--idle 30] [--json FILE]

The app runs in a process of its own and is asked over HTTP, one picture after the other: pocket-sdxl-lcm, 64 px, one
step, a blend of two LoRAs whose weights change every ten pictures, kept in the journal with the default consent. The
slope is the least-squares line through the memory read every `--every` pictures, but for the first fifth, in which
caches fill.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.served import API, PATIENCE, Process, called, served

MODEL = "pocket-sdxl-lcm"
LORAS = ("bundled:pocket-sdxl-neon", "bundled:pocket-sdxl-dots")
SETTLE = 0.2  # of all pictures: until then caches fill
OPEN_TABS = 3


@dataclass(frozen=True)
class Reading:
    """After so many pictures. Memory, cache and data in MB."""

    pictures: int
    memory: float
    threads: int
    files: int
    cache: float
    data: float
    seconds: float  # for one picture, mean since the last reading


def asked_for(number: int) -> dict[str, Any]:
    weight = round(0.1 + number // 10 % 8 / 10, 1)
    return {
        "prompt": f"a red circle on a blue background, {number % 50}", "model": MODEL, "width": 64, "height": 64,
        "steps": 1, "seed": number, "loras": [{"ref": LORAS[0], "weight": weight}, {"ref": LORAS[1], "weight": 0.5}],
    }  # fmt: skip


def size_of(folder: Path) -> float:
    """MB of all files below; those that go meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total / 2**20


async def idle_share(app: Process, seconds: float, tabs: int) -> float:
    """Of one processor, while nobody asks for anything and so many tabs keep their connections open."""
    async with httpx.AsyncClient(base_url=app.url, timeout=httpx.Timeout(None)) as client:
        watching = [asyncio.create_task(_tab(client, f"idle{number}")) for number in range(tabs)]
        await asyncio.sleep(2)
        began, had = time.monotonic(), app.processor()
        await asyncio.sleep(seconds)
        share = (app.processor() - had) / (time.monotonic() - began)
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
    return share


async def _tab(client: httpx.AsyncClient, session: str) -> None:
    async with client.stream("GET", f"{API}/heartbeat/{session}") as beats:
        async for _ in beats.aiter_raw():
            pass


def slope(readings: Sequence[Reading], per: int = 100) -> float:
    """MB of memory per `per` pictures."""
    if len(readings) < 2:
        return 0.0
    line = statistics.linear_regression([r.pictures for r in readings], [r.memory for r in readings])
    return per * line.slope


async def soak(app: Process, folder: Path, pictures: int, every: int, idle: float) -> dict[str, Any]:
    readings: list[Reading] = []
    errors: list[str] = []
    async with httpx.AsyncClient(base_url=app.url, timeout=PATIENCE) as client:
        ready = time.monotonic() - app.began
        first = await called(client, "generate", **asked_for(0))
        figures: dict[str, Any] = {
            "ready_s": ready, "first_picture_s": time.monotonic() - app.began, "first_answer": first.kind,
            "first_picture_processor_s": app.processor(),
            "idle_before": await idle_share(app, idle, 0), "idle_before_tabs": await idle_share(app, idle, OPEN_TABS),
        }  # fmt: skip
        print(f"| ready after | {ready:.1f} s |\n| first picture after | {figures['first_picture_s']:.1f} s |")
        print(f"| of it, on a processor | {figures['first_picture_processor_s']:.1f} s |")
        print(f"| idle, of one processor | {100 * figures['idle_before']:.2f} % |")
        print(f"| idle, {OPEN_TABS} tabs open | {100 * figures['idle_before_tabs']:.2f} % |", flush=True)
        print("\n| pictures | RSS MB | threads | files | cache MB | data MB | s a picture |\n" + 7 * "|---" + "|")
        began = time.monotonic()
        for number in range(1, pictures + 1):
            answer = await called(client, "generate", **asked_for(number))
            if not answer.done:
                errors.append(f"{number}: {answer.kind}: {answer.data}")
            if number % every == 0:
                read = Reading(
                    number, app.memory(), app.threads(), app.files(), size_of(folder / "data" / "cache"),
                    size_of(folder / "data"), (time.monotonic() - began) / every,
                )  # fmt: skip
                readings.append(read)
                began = time.monotonic()
                print(
                    f"| {number} | {read.memory:.1f} | {read.threads} | {read.files} | {read.cache:.1f} | "
                    f"{read.data:.1f} | {read.seconds:.3f} |",
                    flush=True,
                )
    settled = [read for read in readings if read.pictures > SETTLE * pictures]
    figures |= {
        "idle_after": await idle_share(app, idle, 0), "slope_mb_per_100": slope(settled),
        "slope_last_half": slope([read for read in readings if read.pictures > pictures / 2]),
        "errors": errors, "readings": [asdict(read) for read in readings],
    }  # fmt: skip
    return figures


def report(figures: dict[str, Any]) -> None:
    print(f"\n| RSS per 100 pictures, settled | {figures['slope_mb_per_100']:+.3f} MB (aim: at most 1) |")
    print(f"| RSS per 100 pictures, last half | {figures['slope_last_half']:+.3f} MB |")
    print(f"| idle afterwards, of one processor | {100 * figures['idle_after']:.2f} % |")
    print(f"| errors | {len(figures['errors'])} |")
    for error in figures["errors"][:5]:
        print(error)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--every", type=int, default=100, help="pictures between two readings")
    parser.add_argument("--idle", type=float, default=30, help="seconds of each look at an idle app")
    parser.add_argument("--json", type=Path, help="write all figures there")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with served(folder, "--model", MODEL) as app:
            figures = asyncio.run(soak(app, folder, asked.pictures, asked.every, asked.idle))
        report(figures)
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
