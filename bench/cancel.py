"""Two hundred cancels and closed tabs: python -m bench.cancel [--times 200] [--json FILE].

The app with a stub of one second a picture in five steps (bench/stub.py), so that a step takes 0.2 s. Again and again a
call of four pictures is begun, alone or behind another that is drawing, and given up in one of these ways after a
random while: Gradio's cancel endpoint, a client that drops its connection, the page's own Cancel, and a tab that
closes (its heartbeat ends). Told are: whether two jobs ever held the device at once, how long it stayed taken after
the giving up, and whether the next call, which is waited for each time, was answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from bench.load import MODEL, overlaps
from bench.served import API, PATIENCE, called, served, share

PICTURE, STEP = 1.0, 0.2  # seconds of the stub
GRACE = 0.5  # seconds beside a step that two busy cores may take to notice
LONGEST = 30.0  # seconds after which a device is not free any more
LOOK = 0.02  # seconds between two looks at the log
CANCEL, DROP, TAB = "cancel endpoint", "dropped connection", "closed tab"
RUNNING, QUEUED = "running", "queued"


def asked_for(name: str, images: int = 4) -> dict[str, Any]:
    return {"prompt": f"{name} a red circle", "model": MODEL, "width": 64, "height": 64, "seed": 1, "images": images,
            "visitor": name, "consent": "none"}  # fmt: skip


class Device:
    """What the stub's log tells of who holds the device."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def lines(self) -> list[tuple[str, float, str]]:
        parts = (line.split() for line in self._log.read_text(encoding="utf-8").splitlines())
        return [(what, float(at), who) for what, at, *rest in parts for who in rest or [""]]

    def seen(self, what: str, name: str) -> float | None:
        """When the job of that name did `what`, if it has."""
        return next((at for said, at, who in self.lines() if (said, who) == (what, name)), None)

    async def waited(self, what: str, name: str) -> float | None:
        """The same, once it has; None where that takes too long."""
        until = time.monotonic() + LONGEST
        while (at := self.seen(what, name)) is None and time.monotonic() < until:
            await asyncio.sleep(LOOK)
        return at


class Session:
    """A page's session in plain HTTP: its queue, its stream and its heartbeat."""

    def __init__(self, client: httpx.AsyncClient, function: int, inputs: Sequence[str]) -> None:
        self._client, self._function, self._inputs = client, function, inputs
        self.id = uuid.uuid4().hex[:12]
        self.event = ""
        self._open: list[asyncio.Task[None]] = []

    async def begin(self, name: str, *, tab: bool) -> None:
        if tab:
            self._open.append(asyncio.create_task(self._listen(f"{API}/heartbeat/{self.id}")))
            await asyncio.sleep(0.1)
        fields = asked_for(name)
        body = {
            "data": [fields.get(field) for field in self._inputs], "fn_index": self._function, "session_hash": self.id,
        }  # fmt: skip
        self.event = (await self._client.post(f"{API}/queue/join", json=body)).json()["event_id"]
        self._open.append(asyncio.create_task(self._listen(f"{API}/queue/data?session_hash={self.id}")))

    async def _listen(self, address: str) -> None:
        async with self._client.stream("GET", address) as stream:
            async for _ in stream.aiter_raw():
                pass

    async def cancel(self) -> None:
        body = {"session_hash": self.id, "fn_index": self._function, "event_id": self.event}
        await self._client.post(f"{API}/cancel", json=body)

    async def drop(self) -> None:
        """Ends all its connections, as a closed tab or a killed programme does."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)


async def one(client: httpx.AsyncClient, device: Device, function: int, inputs: Sequence[str], way: str, when: str,
              number: int, chance: random.Random) -> dict[str, Any]:  # fmt: skip
    """Begins, gives up, asks once more."""
    name, before = f"given-up-{number}", None
    if when == QUEUED:
        before = asyncio.create_task(called(client, "generate", **asked_for(f"before-{number}", images=1)))
        await device.waited("begin", f"before-{number}")
    session = Session(client, function, inputs)
    await session.begin(name, tab=way == TAB)
    found: dict[str, Any] = {"way": way, "when": when}
    if when == RUNNING:
        await device.waited("begin", name)
    await asyncio.sleep(chance.uniform(0, 2 * STEP))
    given_up = time.monotonic()
    if way == CANCEL:
        await session.cancel()
    else:
        await session.drop()
    if when == RUNNING:
        freed = await device.waited("end", name)
        found["taken_for"] = LONGEST if freed is None else max(0.0, freed - given_up)
    following = await called(client, "generate", **asked_for(f"after-{number}", images=1))
    found["following"] = following.kind if following.done else f"{following.kind}: {following.data}"
    if before:
        found["before"] = (await before).kind
        found["drew_all_the_same"] = any(
            (what, who) == ("begin", name) and not _short(device, name) for what, _, who in device.lines()
        )
    await session.drop()
    return found


def _short(device: Device, name: str) -> bool:
    """Whether a job that began although it was given up let go within a step."""
    times = {what: at for what, at, who in device.lines() if who == name}
    return "end" in times and times["end"] - times["begin"] <= STEP + GRACE


async def all_of(url: str, device: Device, times: int) -> list[dict[str, Any]]:
    chance, found = random.Random(7), []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits) as client:
        config = (await client.get("/config")).json()
        function, inputs = _generate(config)
        await called(client, "generate", **asked_for("warm-up", images=1))
        ways = [(way, when) for way in (CANCEL, DROP, TAB) for when in (RUNNING, QUEUED)]
        for number in range(times):
            way, when = ways[number % len(ways)]
            found.append(await one(client, device, function, inputs, way, when, number, chance))
    return found


def _generate(config: dict[str, Any]) -> tuple[int, list[str]]:
    """Gradio's number of /generate, and its inputs in order."""
    labels = {block["id"]: block["props"].get("label") for block in config["components"]}
    event = next(event for event in config["dependencies"] if event["api_name"] == "generate")
    return event["id"], [str(labels[block]) for block in event["inputs"]]


def by_page(url: str, device: Device, times: int) -> list[dict[str, Any]]:
    """The page's own Cancel and a tab that closes, in Chromium, while the picture is being drawn; none without one."""
    from playwright.sync_api import sync_playwright

    from bench.chromium import opened

    found: list[dict[str, Any]] = []
    with suppress(FileNotFoundError), sync_playwright() as playwright, opened(playwright) as browser:
        for number in range(times):
            page = browser.new_page()
            page.goto(url)
            name = f"page-{number}"
            page.locator("#prompt textarea").fill(f"{name} a red circle")
            page.locator("#generate").click()
            begun = time.monotonic()
            while device.seen("begin", name) is None and time.monotonic() < begun + LONGEST:
                page.wait_for_timeout(1000 * LOOK)
            if number % 2:
                page.close()
            else:
                page.locator("#cancel").click()
            given_up = time.monotonic()  # the browser itself takes a while to click or close
            while (freed := device.seen("end", name)) is None and time.monotonic() < given_up + LONGEST:
                time.sleep(LOOK)
            taken = LONGEST if freed is None else max(0.0, freed - given_up)
            found.append({"way": TAB if number % 2 else "page's Cancel", "when": "in Chromium", "taken_for": taken})
            if not number % 2:
                page.close()
    return found


def report(found: Sequence[dict[str, Any]]) -> None:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for each in found:
        groups[each["way"], each["when"]].append(each)
    print("| given up by | while | times | device taken for, p50 | max | next call answered | drawn all the same |")
    print(7 * "|---" + "|")
    for (way, when), of in groups.items():
        taken = [each["taken_for"] for each in of if "taken_for" in each]
        answered = sum(each.get("following") == "complete" for each in of if "following" in each)
        asked = sum("following" in each for each in of)
        useless = sum(bool(each.get("drew_all_the_same")) for each in of)
        times = f"{share(taken, 0.5):.2f} s | {max(taken):.2f} s" if taken else "– | –"
        print(f"| {way} | {when} | {len(of)} | {times} | {answered} of {asked} | {useless} |")


def main(arguments: Sequence[str] | None = None) -> int:
    """1 where two jobs drew at once, a device stayed taken, or a call that followed was not answered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--in-chromium", type=int, default=20, help="of them, with the page's own Cancel and tabs")
    parser.add_argument("--json", type=Path, help="write all figures there")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name), Path(name) / "device"
        log.touch()
        device = Device(log)
        module = ("-m", "bench.stub", str(PICTURE), str(log))
        with served(folder, "--model", MODEL, module=module) as app:
            found = asyncio.run(all_of(app.url, device, asked.times - asked.in_chromium))
            found += by_page(app.url, device, asked.in_chromium)
        twice = overlaps(log)
    report(found)
    print(f"\nTwo jobs at once: {twice} times")
    if asked.json:
        asked.json.write_text(json.dumps({"two_at_once": twice, "all": found}, indent=1), encoding="utf-8")
    late = [each for each in found if each.get("taken_for", 0) > STEP + GRACE]
    lost = [each for each in found if each.get("following", "complete") != "complete" or each.get("drew_all_the_same")]
    for each in (late + lost)[:5]:
        print(each)
    return int(bool(twice or late or lost))


if __name__ == "__main__":
    raise SystemExit(main())
