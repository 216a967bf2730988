"""Many visitors at once, and one who takes all: python -m bench.load [--clients 64] [--minutes 2] [--json FILE].

The app with a stub of 250 ms a picture (bench/stub.py) in a process of its own. Clients are plain HTTP with server-sent
events, as the API is for any programme: 64 of gradio_client's take more than the two processors that this is measured
on. Each asks for a picture, waits for it, and asks again. Two rounds: all clients alike, and the same while one more
visitor has 20 calls under way all the time. In both somebody else asks each second for what stands beside drawing: the
models, a search, the page.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench.served import PATIENCE, Answer, Process, called, served, share

MODEL = "pocket-sdxl-lcm"
PICTURE = 0.25  # seconds of the stub
FLOOD = 20  # calls that the flooder has under way
REST = 1.0  # seconds that the flooder waits after a refusal
BESIDE = {"models": {}, "search_loras": {"query": "pixel"}}  # functions that others use meanwhile
PAGE = "page"
_SEEDS = itertools.count(1)


@dataclass
class Round:
    """What happened while a round was on: answers by visitor, seconds of what stands beside."""

    seconds: float
    answers: dict[str, list[Answer]] = field(default_factory=lambda: defaultdict(list))
    beside: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    broken_beside: list[str] = field(default_factory=list)

    def figures(self, flooder: str | None) -> dict[str, Any]:
        """Waits and shares; the flooder's apart from the others'."""
        others = {name: given for name, given in self.answers.items() if name != flooder}
        every = [answer for given in others.values() for answer in given]
        done = [answer.seconds for answer in every if answer.done]
        refused = [answer for given in self.answers.values() for answer in given if answer.kind in ("refused", "error")]
        own = [answer for answer in self.answers.get(flooder or "", ()) if answer.done]
        pictures = [sum(answer.done for answer in given) for given in others.values()]
        return {
            "pictures": len(done) + len(own), "a_second": (len(done) + len(own)) / self.seconds,
            "of_ideal": (len(done) + len(own)) / self.seconds * PICTURE,
            "wait_p50": share(done, 0.5), "wait_p99": share(done, 0.99), "wait_max": max(done, default=float("nan")),
            "pictures_a_visitor": [min(pictures, default=0), max(pictures, default=0)],
            "errors": dict(Counter(f"{a.kind}: {a.data}"[:120] for a in every if not a.done)),
            "flooder_pictures": len(own), "flooder_share": len(own) / max(1, len(done) + len(own)),
            "refusals": len(refused), "refusal_p99": share([answer.seconds for answer in refused], 0.99),
            "refusal_words": sorted({str(answer.data) for answer in refused})[:5],
            "beside": {name: [share(of, 0.5), share(of, 0.99)] for name, of in self.beside.items()},
            "broken_beside": self.broken_beside[:5],
        }  # fmt: skip


def asked_for(visitor: str) -> dict[str, Any]:
    return {"prompt": f"{visitor} a red circle", "model": MODEL, "width": 64, "height": 64, "seed": next(_SEEDS),
            "visitor": visitor, "consent": "none"}  # fmt: skip


async def patient(client: httpx.AsyncClient, name: str, found: Round, until: float) -> None:
    """One picture after the other; what is begun is waited for."""
    while time.monotonic() < until:
        answer = await called(client, "generate", **asked_for(name))
        found.answers[name].append(answer)
        if not answer.done:
            await asyncio.sleep(0.5)


async def flooding(client: httpx.AsyncClient, name: str, found: Round, until: float) -> None:
    async def one() -> None:
        while time.monotonic() < until:
            answer = await called(client, "generate", **asked_for(name))
            found.answers[name].append(answer)
            if not answer.done:
                await asyncio.sleep(REST)

    await asyncio.gather(*(one() for _ in range(FLOOD)))


async def passing_by(client: httpx.AsyncClient, found: Round, until: float) -> None:
    """What somebody who draws nothing meets."""
    while time.monotonic() < until:
        for name, fields in BESIDE.items():
            answer = await called(client, name, **fields)
            found.beside[name].append(answer.seconds)
            if not answer.done:
                found.broken_beside.append(f"{name}: {answer.kind}: {answer.data}")
        began = time.monotonic()
        page = await client.get("/")
        found.beside[PAGE].append(time.monotonic() - began)
        if page.status_code != httpx.codes.OK:
            found.broken_beside.append(f"{PAGE}: {page.status_code}")
        await asyncio.sleep(1)


async def round_of(app: Process, clients: int, seconds: float, flooder: str | None) -> Round:
    found = Round(seconds)
    # Shorter than the 5 s after which the server closes: else a call meets a connection that is just being closed.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=4 * clients, keepalive_expiry=2)
    async with httpx.AsyncClient(base_url=app.url, timeout=PATIENCE, limits=limits) as client:
        await called(client, "generate", **asked_for("warm-up"))
        until = time.monotonic() + seconds
        work = [patient(client, f"visitor-{number}", found, until) for number in range(clients)]
        work.append(passing_by(client, found, until))
        if flooder:
            work.append(flooding(client, flooder, found, until))
        began = time.monotonic()
        await asyncio.gather(*work)
        found.seconds = time.monotonic() - began
    return found


def overlaps(log: Path) -> int:
    """How often a job began while another held the device."""
    held, found = 0, 0
    for line in log.read_text(encoding="utf-8").splitlines():
        held += 1 if line.startswith("begin") else -1
        found += line.startswith("begin") and held > 1
    return found


def report(name: str, figures: dict[str, Any]) -> None:
    print(f"\n| {name} | |\n|---|---|")
    print(f"| pictures a second, of the ideal {1 / PICTURE:.1f} | {figures['a_second']:.2f} |")
    print(f"| wait p50, p99, max | {figures['wait_p50']:.1f}, {figures['wait_p99']:.1f}, {figures['wait_max']:.1f} s |")
    least, most = figures["pictures_a_visitor"]
    print(f"| pictures a visitor | {least} to {most} |")
    if figures["flooder_pictures"] or figures["refusals"]:
        print(f"| the flooder's share | {100 * figures['flooder_share']:.1f} % |")
        print(f"| refusals, p99 until they are said | {figures['refusals']}, {figures['refusal_p99']:.2f} s |")
    for beside, (middle, long) in figures["beside"].items():
        print(f"| {beside} p50, p99 | {middle:.2f}, {long:.2f} s |")
    print(f"| errors of the others | {sum(figures['errors'].values())} |")
    for words, times in figures["errors"].items():
        print(f"  {times} × {words}")
    for words in figures["refusal_words"] + figures["broken_beside"]:
        print(f"  “{words}”", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """1 where two jobs drew at once, or somebody other than the flooder met an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=2, help="of each round")
    parser.add_argument("--json", type=Path, help="write all figures there")
    asked = parser.parse_args(arguments)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name), Path(name) / "device"
        log.touch()
        module = ("-m", "bench.stub", str(PICTURE), str(log))
        with served(folder, "--model", MODEL, module=module) as app:
            for title, flooder in (("alike", None), ("with a flooder", "flooder")):
                had = app.processor()
                outcome = asyncio.run(round_of(app, asked.clients, 60 * asked.minutes, flooder))
                found[title] = outcome.figures(flooder) | {
                    "processor": (app.processor() - had) / outcome.seconds, "memory": app.memory(),
                }  # fmt: skip
                report(f"{asked.clients} visitors, {title}", found[title])
        found["two_at_once"] = overlaps(log)
    print(f"\nTwo jobs at once: {found['two_at_once']} times")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return int(bool(found["two_at_once"] or any(found[name]["errors"] for name in ("alike", "with a flooder"))))


if __name__ == "__main__":
    raise SystemExit(main())
