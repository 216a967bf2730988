"""What the app adds to a picture: Studio.generate and the HTTP API against the bare pipeline, with the pocket models.

python -m bench.cpu [--models pocket-sd3 pocket-sdxl-lcm] [--runs 20] [--threads 1] [--json FILE]

"Bare" is diffusers' pipeline with the same weights in the same blend, called as its documentation says, to a PIL
picture. All ways take turns with the same prompt, seed, steps, size and threads, and their pixels are compared; the API
is that of an app in a process of its own. Each run has a prompt of its own, since the app keeps what its text encoders
read; what that saves shows where the same is asked for again. Milliseconds that passed, and those for which this
process had a processor.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import core.studio
from bench.blend import heading, p50, p95
from core.base_models import BASE_MODELS, POCKET
from core.drawing import Easel
from core.engine import LocalEngine
from core.gathering import Gathering
from core.loading import scheduler_for
from core.machine import Machine
from core.messages import Job
from core.records.journal import Journal
from core.request import request_from
from core.studio import Generated, Studio
from lora_catalog.catalog import Catalog
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.visitor import Visitor

ROOT = Path(__file__).resolve().parent.parent
VISITOR = Visitor("bench")
LORAS = {
    "pocket-sd3": "bundled:pocket-sd3-neon",
    "pocket-sdxl": "bundled:pocket-sdxl-neon",
    "pocket-sdxl-lcm": "bundled:pocket-sdxl-neon",
}
PROMPT = "a red circle on a blue background"
WARM_UP = 2
BARE, APP, AGAIN = "bare pipeline", "Studio.generate", "the same again, its words known"
CHANGED, HTTP = "new words, another blend", "through gradio_client"
BLEND, ENCODE, DENOISE, LOOKS = "blend", "encode the prompt", "denoise", "progress and previews"
DECODE, PNG, JOURNAL, REST = "decode", "PNG and recipe", "journal", "all else"


@dataclass(frozen=True)
class Spent:
    """Milliseconds of one run."""

    wall: float
    processor: float


class Watch:
    """Times calls of functions in place; parts within parts are taken off by who reads them."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)

    @contextmanager
    def on(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.spent[part] += 1000 * (time.perf_counter() - began)

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.on(part):
                return function(*args, **kwargs)

        return watched

    def around_callback(self, part: str, callback: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            kwargs[callback] = self.around(LOOKS, kwargs[callback])
            with self.on(part):
                return function(*args, **kwargs)

        return watched

    def taken(self) -> dict[str, float]:
        """What was spent since it was last asked, by part."""
        spent, self.spent = dict(self.spent), defaultdict(float)
        return spent


def watched_parts(easel: Any, watch: Watch) -> None:
    """Watches an easel's parts and the studio's; for this process."""
    easel.blend = watch.around(BLEND, easel.blend)
    easel.draw = watch.around("draw", easel.draw)
    pipeline = easel.pipeline
    pipeline.encode_prompt = watch.around(ENCODE, pipeline.encode_prompt)
    kind = type(pipeline)
    call = watch.around_callback("call", "callback_on_step_end", kind.__call__)
    pipeline.__class__ = type(kind.__name__, (kind,), {"__call__": call})  # Python looks calls up in the class
    studio: Any = core.studio
    studio.png_of = watch.around(PNG, studio.png_of)
    studio.with_recipe = watch.around(PNG, studio.with_recipe)
    studio.recorded = watch.around(JOURNAL, studio.recorded)


def parts_of(spent: dict[str, float], whole: float) -> dict[str, float]:
    looks, encode = spent.get(LOOKS, 0.0), spent.get(ENCODE, 0.0)
    parts = {
        BLEND: spent[BLEND],
        ENCODE: encode,
        DENOISE: spent["call"] - looks,
        LOOKS: looks,
        DECODE: spent["draw"] - spent["call"] - encode,
        PNG: spent[PNG],
        JOURNAL: spent[JOURNAL],
    }
    return parts | {REST: whole - sum(parts.values())}


class Ours:
    """The studio over the real engine, with a journal that keeps pictures."""

    def __init__(self, key: str, folder: Path) -> None:
        self.engine = LocalEngine(Machine("cpu"))
        self.catalog = Catalog([BundledSource(POCKET / "loras")])
        self.studio = Studio(self.engine, self.catalog, key, Journal(folder / "journal.sqlite"), "picture")
        self.engine.warm_up(key)

    @property
    def easel(self) -> Any:
        return self.engine._easel

    def draw(self, raw: dict[str, Any]) -> Image.Image:
        *_, last = self.studio.generate(raw, VISITOR, threading.Event())
        assert isinstance(last, Generated)
        return Image.open(io.BytesIO(last.pictures[0]))


class Bare:
    """diffusers' pipeline with the blend of a request in its weights."""

    def __init__(self, raw: dict[str, Any], catalog: Catalog) -> None:
        self.request = request_from(raw, raw["model"])
        entry = self.request.entry
        self._easel = Easel(entry, "cpu")
        self._easel.blend(Job(*gathered(raw, catalog)))
        self.pipeline = self._easel.pipeline
        self.pipeline.scheduler = scheduler_for(self.request.sampler, self.pipeline.scheduler)
        self._more = {} if entry.t5_tokens is None else {"max_sequence_length": entry.t5_tokens}

    def draw(self, prompt: str, seed: int) -> Image.Image:
        request = self.request
        with torch.inference_mode():
            picture: Image.Image = self.pipeline(
                prompt=prompt, num_inference_steps=request.steps, guidance_scale=request.guidance,
                width=request.width, height=request.height, generator=torch.Generator("cpu").manual_seed(seed),
                **self._more,
            ).images[0]  # fmt: skip
        return picture


def gathered(raw: dict[str, Any], catalog: Catalog) -> Any:
    """The request with its LoRA files, as the studio gathers them."""
    request = request_from(raw, raw["model"])
    steps = Gathering(catalog, VISITOR, threading.Event(), ExitStack()).gather(request, request.entry.accelerator)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


@contextmanager
def served(key: str, folder: Path, threads: int) -> Iterator[Callable[[dict[str, Any]], Image.Image]]:
    """Draws through the API of the app itself, in a process of its own on this machine."""
    from gradio_client import Client

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "app.py", "--port", port, "--model", key, "--data-dir", str(folder / "data")]
    environ = os.environ | {"OMP_NUM_THREADS": str(threads)}
    app = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True)
    try:
        assert app.stdout is not None
        address = next(line.split()[-1] for line in app.stdout if "http://" in line)
        client = Client(address, download_files=str(folder), verbose=False)

        def draw(raw: dict[str, Any]) -> Image.Image:
            gallery, _ = client.predict(**raw, api_name="/generate")
            return Image.open(gallery[0]["image"])

        yield draw
    finally:
        app.terminate()
        app.wait()


def timed(way: Callable[[], Image.Image]) -> tuple[Spent, Image.Image]:
    began, had = time.perf_counter(), time.process_time()
    picture = way()
    spent = Spent(1000 * (time.perf_counter() - began), 1000 * (time.process_time() - had))
    return spent, picture


def compare(key: str, runs: int, threads: int, folder: Path) -> dict[str, Any]:
    """All ways in turn; the parts are those of `APP` and, for the blend, of `CHANGED`."""
    entry = BASE_MODELS[key]
    raw = {"prompt": PROMPT, "model": key, "loras": [{"ref": LORAS[key], "weight": 0.8}]}
    ours = Ours(key, folder)
    bare, watch = Bare(raw, ours.catalog), Watch()
    watched_parts(ours.easel, watch)
    spent: dict[str, list[Spent]] = defaultdict(list)
    parts: dict[str, list[float]] = defaultdict(list)
    with served(key, folder, threads) as through_http:
        for run in range(runs + WARM_UP):
            seed, prompt = 1000 + run, f"{PROMPT}, {run}"
            same = raw | {"prompt": prompt, "seed": seed}
            weights = [{"ref": LORAS[key], "weight": 0.5 + 0.01 * run}]
            other = raw | {"prompt": f"{prompt} again", "seed": seed, "loras": weights}
            ours.draw(raw)  # the blend of the last way was another one
            watch.taken()
            found: dict[str, Spent] = {}
            found[BARE], expected = timed(lambda prompt=prompt, seed=seed: bare.draw(prompt, seed))  # type: ignore[misc]
            found[APP], picture = timed(lambda raw=same: ours.draw(raw))  # type: ignore[misc]
            shares = parts_of(watch.taken(), found[APP].wall)
            assert picture.tobytes() == expected.tobytes(), "the app draws other pixels than the bare pipeline"
            found[AGAIN], picture = timed(lambda raw=same: ours.draw(raw))  # type: ignore[misc]
            assert picture.tobytes() == expected.tobytes(), "words that were kept give other pixels"
            found[HTTP], picture = timed(lambda raw=same: through_http(raw))  # type: ignore[misc]
            assert picture.convert("RGB").tobytes() == expected.tobytes(), "HTTP gives other pixels"
            watch.taken()
            found[CHANGED], _ = timed(lambda raw=other: ours.draw(raw))  # type: ignore[misc]
            shares["blend, changed"] = watch.taken()[BLEND]
            if run >= WARM_UP:
                for name, one in found.items():
                    spent[name].append(one)
                for name, share in shares.items():
                    parts[name].append(share)
    return report(f"{entry.title}, {entry.steps} steps, {entry.side} px, {runs} runs", spent, parts)


def report(title: str, spent: dict[str, list[Spent]], parts: dict[str, list[float]]) -> dict[str, Any]:
    bare = p50([one.wall for one in spent[BARE]])
    heading(title, "p50 ms", "p95 ms", "against bare", "processor, p50 ms", "against bare")
    figures: dict[str, Any] = {"ways": {}, "parts": {}}
    for name in (BARE, APP, AGAIN, CHANGED, HTTP):
        wall, processor = [one.wall for one in spent[name]], [one.processor for one in spent[name]]
        # Each run against the bare one beside it: whatever else the machine did then met both.
        over = statistics.median(a / b.wall for a, b in zip(wall, spent[BARE], strict=True)) - 1
        more = statistics.median(a / b.processor for a, b in zip(processor, spent[BARE], strict=True)) - 1
        # The app that is reached over HTTP works in a process of its own.
        own = f"{p50(processor):.1f} | {100 * more:+.1f} %" if name != HTTP else "– | –"
        print(f"| {name} | {p50(wall):.1f} | {p95(wall):.1f} | {100 * over:+.1f} % | {own} |")
        figures["ways"][name] = {
            "p50_ms": p50(wall), "p95_ms": p95(wall), "over_bare": over,
            "processor_p50_ms": p50(processor), "processor_over_bare": more,
        }  # fmt: skip
    heading("its parts", "p50 ms", "p95 ms", "of bare")
    for name, every in parts.items():
        print(f"| {name} | {p50(every):.2f} | {p95(every):.2f} | {100 * p50(every) / bare:.1f} % |", flush=True)
        figures["parts"][name] = {"p50_ms": p50(every), "p95_ms": p95(every)}
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=sorted(LORAS), default=["pocket-sd3", "pocket-sdxl-lcm"])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, help="of torch, in each process")
    parser.add_argument("--json", type=Path, help="write all figures there")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    found = {}
    for key in asked.models:
        with tempfile.TemporaryDirectory() as folder:
            found[key] = compare(key, asked.runs, asked.threads, Path(folder))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
