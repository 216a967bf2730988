"""Times a blend's analysis from factors against whole matrices, and saving it, on SDXL-shaped LoRAs.

python -m bench.analysis [--rank 32] [--runs 20] [--loras 2]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from core.lora.analysis import look_at, overlaps_of
from core.lora.blend import Ingredient
from core.lora.changes import LowRank
from core.lora.parse import ParsedLora
from core.lora.save import one_lora
from lora_catalog.families.table import MODEL_OF, modules


def random_lora(name: str, rank: int) -> ParsedLora:
    """For every Linear of SDXL's transformers, in halves, as sd-scripts trains them."""
    layers = {
        f"{component}.{path}": LowRank(
            (torch.randn(shape[0], rank) * 0.02).half(), (torch.randn(rank, *shape[1:]) * 0.02).half()
        )
        for (component, path), shape in modules(MODEL_OF["sdxl"]).items()
        if component == "unet" and "attentions" in path
    }
    return ParsedLora(name, layers)


def by_matrices(loras: list[ParsedLora]) -> list[torch.Tensor]:
    """The same inner products, the way that makes every ΔW."""
    grams = []
    for layer in loras[0].layers:
        whole = torch.stack([lora.layers[layer].delta(torch.empty(0)).flatten() for lora in loras])
        grams.append(whole @ whole.T)
    return grams


def median_ms(work: Callable[[], object], runs: int) -> float:
    spent = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        spent.append(1000 * (time.perf_counter() - began))
    return statistics.median(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--runs", type=int, default=20, help="from factors; the slow ways are run a quarter as often")
    parser.add_argument("--loras", type=int, default=2, help="how many LoRAs the blend has")
    wanted = parser.parse_args()
    torch.manual_seed(1)
    loras = [random_lora(str(number), wanted.rank) for number in range(wanted.loras)]
    blend = [Ingredient(lora, lora.sha256, 0.7, 0.7) for lora in loras]
    overlaps = overlaps_of(loras, "sdxl", lambda layer: None)
    few = max(1, wanted.runs // 4)
    rows = {
        "overlap from factors": (lambda: overlaps_of(loras, "sdxl", lambda layer: None), wanted.runs),
        "overlap from whole matrices": (lambda: by_matrices(loras), few),
        "another weight": (
            lambda: look_at(blend, [1.0] * len(blend), overlaps, "sdxl", lambda layer: None), wanted.runs,
        ),
        "save exactly, fp16": (lambda: one_lora(blend, "sdxl", lambda layer: None, None, torch.float16), few),
        f"save cut to rank {wanted.rank}, fp16": (
            lambda: one_lora(blend, "sdxl", lambda layer: None, wanted.rank, torch.float16), few,
        ),
    }  # fmt: skip
    layers = len(loras[0].layers)
    print(f"{len(loras)} LoRAs of rank {wanted.rank} for {layers} layers of SDXL, {torch.get_num_threads()} threads")
    print(f"{'':34} {'p50 ms':>9} {'runs':>5}")
    with torch.inference_mode():
        for title, (work, runs) in rows.items():
            print(f"{title:34} {median_ms(work, runs):9.1f} {runs:5}", flush=True)


if __name__ == "__main__":
    main()
