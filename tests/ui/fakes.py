"""Stand-ins at the seams: an engine that draws plain colours as slowly as asked, and a folder of bundled LoRAs."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from core.base_models import BASE_MODELS
from core.errors import Cancelled
from core.messages import Done, Drawn, Failed, Job, Message, Preview, Progress, Raster, Receipt, StopFlag
from tests.lora_catalog.conftest import SD3_ATTENTION, SDXL_ATTENTION, write_bundled


class FakeEngine:
    """A colour for each seed; `pause` seconds a step; only embedded models are there."""

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause
        self.jobs: list[Job] = []
        self.cancelled = threading.Event()

    def availability(self, key: str) -> str | None:
        if BASE_MODELS[key].embedded:
            return None
        return f"{BASE_MODELS[key].title} needs a GPU with about 8 GB, or 4 GB and more time; this machine has none."

    def run(self, job: Job, stop: StopFlag) -> Iterator[Message]:
        self.jobs.append(job)
        request = job.request
        if "a bug, please" in request.prompt:
            raise RuntimeError("a bug with a /secret/path")
        yield Progress(f"Loading {request.entry.title} …")
        try:
            yield from self._drawn(job, stop)
        except GeneratorExit:
            self.cancelled.set()
            raise

    def _drawn(self, job: Job, stop: StopFlag) -> Iterator[Message]:
        request = job.request
        total, done = request.steps * request.images, 0
        drawn = []
        for index in range(request.images):
            raster = _colour(request.seed + index, *request.result_size)
            for _ in range(request.steps):
                if stop.is_set():
                    self.cancelled.set()
                    yield Failed(Cancelled("Cancelled."))
                    return
                threading.Event().wait(self.pause)
                done += 1
                yield Preview(index, raster)
                yield Progress("Drawing", done, total)
            drawn.append(Drawn(index, request.seed + index, raster))
            yield drawn[-1]
        receipts = tuple(Receipt(264, 264) for _ in job.loras)
        plan = {"dtype": "float32", "quantisation": None, "device": "cpu", "batch": request.batch}
        yield Done(tuple(drawn), receipts, "0" * 40, plan, seconds=0.1)


def _colour(seed: int, width: int, height: int) -> Raster:
    colour = hashlib.sha256(str(seed).encode()).digest()[:3]
    return Raster(width, height, colour * (width * height))


def bundled_loras(folder: Path) -> Path:
    """Cards, files and previews as `models/pocket/loras` has them; what the files hold is zeros."""
    layers = {
        "pocket-sd3": {SD3_ATTENTION.format(block=0, layer="to_q"): (192, 192)},
        "pocket-sdxl": {SDXL_ATTENTION.format(layer="attn2.to_k"): (320, 64)},
    }
    for name, title, family, triggers, weight in (
        ("pixel", "Pixel", "pocket-sd3", ["pixel art"], 0.8),
        ("sketch", "Sketch", "pocket-sd3", ["pencil sketch", "outline"], 1.0),
        ("neon", "Neon", "pocket-sd3", [], 1.0),
        ("snail", "Snail", "pocket-sd3", ["zorb"], 1.0),
        ("pixel-xl", "Pixel XL", "pocket-sdxl", ["pixel art"], 1.0),
        ("pocket-sdxl-lcm", "LCM", "pocket-sdxl", [], 1.0),
    ):
        home = write_bundled(
            folder, name, layers[family], title=title, family=family, base=family, triggers=triggers, weight=weight
        )
        colour = _colour(len(name), 1, 1).data
        Image.new("RGB", (128, 128), (colour[0], colour[1], colour[2])).save(home / "preview.png")
    return folder
