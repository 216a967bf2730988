"""What lossy caches save, and how far their pictures lie from those without: `python -m bench.shortcuts`."""

from __future__ import annotations

import argparse
import io
import statistics
import threading
import time
from typing import Any

import numpy as np
from PIL import Image

from core.engine import LocalEngine
from core.lossy import LOSSY
from core.machine import Machine
from core.studio import Generated, Studio
from lora_catalog.catalog import Catalog
from lora_catalog.visitor import ANYONE

PROMPTS = ("a red circle on a blue background", "a yellow house at night", "a green tree", "a purple fish in the sea")


def drawn(studio: Studio, **fields: Any) -> tuple[np.ndarray[Any, Any], float]:
    """The pixels, and the process' time in seconds."""
    began = time.process_time()
    made = list(studio.generate(fields, ANYONE, threading.Event()))[-1]
    assert isinstance(made, Generated)
    took = time.process_time() - began
    return np.asarray(Image.open(io.BytesIO(made.pictures[0])).convert("RGB")).astype(float), took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket-sd3")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pictures", type=int, default=8)
    asked = parser.parse_args()
    studio = Studio(LocalEngine(Machine(asked.device)), Catalog([]), asked.model)
    drawn(studio, prompt="a cat", seed=0)  # loads the model
    for name in LOSSY:
        saved, noise = [], []
        for seed in range(asked.pictures):
            request = {"prompt": PROMPTS[seed % len(PROMPTS)], "seed": seed}
            (plain, slow), (lossy, fast) = drawn(studio, **request), drawn(studio, **request, lossy=[name])
            saved.append(1 - fast / slow)
            noise.append(10 * np.log10(255**2 / max(1e-9, float(((plain - lossy) ** 2).mean()))))
        print(
            f"{asked.model}, {name}: {100 * statistics.median(saved):.0f} % of the time saved (p50 of {asked.pictures})"
            f", PSNR {statistics.median(noise):.1f} dB (lowest {min(noise):.1f})"
        )


if __name__ == "__main__":
    main()
