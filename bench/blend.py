"""What another blend costs: ours against diffusers' load, hotswap, fuse and set_adapters, in time, drift and bytes.

python -m bench.blend [--runs 20] [--device cuda] [--full] [--json FILE]

Modules are as many as SD3.5 large's and SDXL's attentions have, 303 and 560, with narrow widths, so that what is timed
is work per module; --full takes the real widths (on a GPU, 100 GB for SD3.5 large: every contestant has a model of its
own). "Known" LoRAs are in memory beforehand: ours parsed, diffusers' as state dicts (load, hotswap) or as loaded
adapters (fuse, set_adapters). Contestants take turns, on one thread unless asked otherwise. set_adapters leaves the
LoRAs unfused, to be paid for at every step; all others but load merge or replace in place.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import load_file

from bench.shapes import RANK, SD35_LARGE, SDXL, SHORT, Shape, real_numbers
from core.lora.blend import Blender, Ingredient
from core.lora.parse import ParsedLora, parse_lora
from core.lora.stores import weights_of

FEW, MANY = 3, 57  # LoRAs in memory
CHANGES, FUSINGS = 10_000, 300
SEED = 1
WARM_UP = 2
OURS, OURS_16 = "ours", "ours in 16 bits"
LOAD, HOTSWAP, FUSE, SET = "unload, load", "hotswap", "unfuse, fuse", "set_adapters"
ANOTHER, BLEND, WEIGHT = "another known LoRA", "another blend of two, known", "one weight of a blend of two"
FIRST = "a LoRA never used before, from its file"
Blend = Mapping[int, float]  # weights by a LoRA's number
Move = Callable[[int], object]  # to the blend of a run, by the run's number
States = Sequence[dict[str, torch.Tensor] | None]


@dataclass(frozen=True)
class Place:
    """Where the models lie, and the LoRA files that all contestants share."""

    shape: Shape
    device: str
    dtype: torch.dtype
    full: bool
    files: Sequence[Path]

    def model(self) -> torch.nn.Module:
        torch.manual_seed(SEED)
        with torch.device(self.device):
            return self.shape.build(self.full).to(self.dtype).requires_grad_(False).eval()

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


class Ours:
    """Our blender, and so many LoRAs parsed beforehand."""

    def __init__(self, place: Place, parsed: int) -> None:
        self._place = place
        self.model = place.model()
        self._blender = Blender(weights_of({place.shape.component: self.model}))
        self._loras = [self._parse(number, f"{number:064x}") for number in range(parsed)]

    def _parse(self, number: int, sha256: str) -> ParsedLora:
        return parse_lora(self._place.files[number], sha256, f"LoRA {number}", self._place.shape.family)

    def to(self, blend: Blend) -> None:
        self._apply([(self._loras[number], weight) for number, weight in blend.items()])

    def first(self, number: int, run: int) -> None:
        """From its file, under a hash of its own, so that nothing kept of an earlier run can serve."""
        self._apply([(self._parse(number, f"f{run:063x}"), 1.0)])

    def _apply(self, parts: Sequence[tuple[ParsedLora, float]]) -> None:
        receipts = self._blender.apply([Ingredient(lora, "it", weight, weight) for lora, weight in parts])
        assert all(receipt.applied == receipt.total for receipt in receipts)


class Theirs:
    """diffusers' pipeline around the denoiser alone: all that its LoRA methods need. No adapter's name is part of
    another's: PEFT looks for a name anywhere in a parameter's."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.model = place.model()
        self.pipeline = place.shape.pipeline(self.model)
        self._fused = False

    def load(self, slot: int, number: int, states: States, **options: bool) -> None:
        """A LoRA into a slot, from its state dict in memory, or without one from its file."""
        file, state = self._place.files[number], states[number]
        source = file.parent if state is None else dict(state)
        self.pipeline.load_lora_weights(source, weight_name=file.name, adapter_name=_name(slot), **options)

    def weigh(self, blend: Blend) -> None:
        """By slots."""
        self.pipeline.set_adapters([_name(slot) for slot in blend], list(blend.values()))

    def unfuse(self) -> None:
        self.pipeline.unfuse_lora(components=[self._place.shape.component])

    def fuse(self, blend: Blend) -> None:
        if self._fused:
            self.unfuse()
        self.weigh(blend)
        self.pipeline.fuse_lora(components=[self._place.shape.component], adapter_names=[_name(slot) for slot in blend])
        self._fused = True


def _name(slot: int) -> str:
    return f"n{slot:02}"


def contestants(place: Place) -> dict[str, dict[str, Move]]:
    """How each makes each of the changes, by the change and by the contestant."""
    known: States = [load_file(file) for file in place.files]
    unread: States = [None] * len(known)
    halves = replace(place, dtype=torch.bfloat16)
    ours, ours16 = Ours(place, len(known)), Ours(halves, len(known))
    loading, setting, swapping, fusing = (Theirs(place) for _ in range(4))
    swapping.pipeline.enable_lora_hotswap(target_rank=RANK)
    for slot in range(len(known)):
        setting.load(slot, slot, known)
        fusing.load(slot, slot, known)
    for slot in range(2):
        swapping.load(slot, slot, known)

    def loaded(blend: Blend, states: States = known) -> None:
        loading.pipeline.unload_lora_weights()
        for slot, number in enumerate(blend):
            loading.load(slot, number, states)
        loading.weigh(dict(enumerate(blend.values())))

    def swapped(blend: Blend, states: States = known) -> None:
        for slot, number in enumerate(blend):
            swapping.load(slot, number, states, hotswap=True)

    def one(run: int) -> Blend:
        return {run % 2: 1.0}

    def two(run: int) -> Blend:
        return {0: 0.7, 1: 0.5} if run % 2 else {2: 0.7, 3: 0.5}

    def weighed(run: int) -> Blend:
        return {0: 0.7, 1: 0.1 + 0.01 * run}

    def by_all(blend: Callable[[int], Blend]) -> dict[str, Move]:
        ways = {
            OURS: ours.to,
            OURS_16: ours16.to,
            LOAD: loaded,
            HOTSWAP: swapped,
            FUSE: fusing.fuse,
            SET: setting.weigh,
        }
        return {name: lambda run, way=way: way(blend(run)) for name, way in ways.items()}  # type: ignore[misc]

    return {
        ANOTHER: by_all(one),
        BLEND: by_all(two),
        # diffusers has no other way to another weight than set_adapters: a hotswap loses what that set
        WEIGHT: {name: move for name, move in by_all(weighed).items() if name not in (LOAD, HOTSWAP)},
        FIRST: {
            OURS: lambda run: ours.first(run % 2, run),
            OURS_16: lambda run: ours16.first(run % 2, run),
            LOAD: lambda run: loaded(one(run), unread),
            HOTSWAP: lambda run: swapped(one(run), unread),
        },
    }


def times(moves: Mapping[str, Move], place: Place, runs: int) -> dict[str, list[float]]:
    """Milliseconds, taking turns, so that whatever else the machine does meets all of them: on a CPU those that the
    process had it for, on a GPU all that passed."""
    clock = time.perf_counter if place.device == "cuda" else time.process_time
    spent: dict[str, list[float]] = {name: [] for name in moves}
    for run in range(runs + WARM_UP):
        for name, move in moves.items():
            place.wait()
            began = clock()
            move(run)
            place.wait()
            spent[name].append(1000 * (clock() - began))
    return {name: every[WARM_UP:] for name, every in spent.items()}


def p50(spent: Sequence[float]) -> float:
    return statistics.median(spent)


def p95(spent: Sequence[float]) -> float:
    return sorted(spent)[math.ceil(0.95 * len(spent)) - 1]


def figures(spent: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    return {name: {"p50_ms": p50(every), "p95_ms": p95(every)} for name, every in spent.items()}


def heading(*cells: str) -> None:
    print(f"\n| {' | '.join(cells)} |\n{'|---' * len(cells)}|")


def compare(place: Place, runs: int) -> dict[str, Any]:
    count = len(place.shape.layers(place.model()))
    found = {change: times(moves, place, runs) for change, moves in contestants(place).items()}
    names = [OURS, OURS_16, LOAD, HOTSWAP, FUSE, SET]
    print(
        f"\n| {place.shape.title}, {count} modules: p50 (p95) ms | {' | '.join(names)} | load / ours | hotswap / ours |"
    )
    print("|---" * (len(names) + 3) + "|")
    for change, spent in found.items():
        cells = [f"{p50(spent[name]):.1f} ({p95(spent[name]):.1f})" if name in spent else "–" for name in names]
        gains = [f"{p50(spent[name]) / p50(spent[OURS]):.0f}×" if name in spent else "–" for name in (LOAD, HOTSWAP)]
        print(f"| {change} | {' | '.join(cells + gains)} |", flush=True)
    numbers = real_numbers(place.shape)
    moved = 2 * 2 * numbers.weights + 2 * numbers.factors
    print(f"At real widths in 16 bits such a change reads W0 and the factors and writes W: {moved / 1e9:.2f} GB.")
    return {"modules": count, "bytes_at_real_width": moved, **{name: figures(spent) for name, spent in found.items()}}


def crowd(place: Place, runs: int) -> dict[str, Any]:
    """The same change, of two LoRAs' weights, with few and with many LoRAs in memory."""
    states: States = [load_file(file) for file in place.files]
    moves: dict[str, Move] = {}
    for count in (FEW, MANY):
        ours, setting = Ours(place, count), Theirs(place)
        for slot in range(count):
            setting.load(slot, slot, states)
        for name, to in ((OURS, ours.to), (SET, setting.weigh)):
            moves[f"{name}, {count}"] = lambda run, to=to: to({0: 0.7, 1: 0.1 + 0.01 * run})  # type: ignore[misc]
    spent = times(moves, place, runs)
    heading(f"{place.shape.title}: one weight of two, p50 ms", f"{FEW} LoRAs in memory", str(MANY), "ratio")
    for name in (OURS, SET):
        few, many = p50(spent[f"{name}, {FEW}"]), p50(spent[f"{name}, {MANY}"])
        print(f"| {name} | {few:.2f} | {many:.2f} | {many / few:.1f} |", flush=True)
    return figures(spent)


def drift(place: Place, changes: int, fusings: int) -> dict[str, Any]:
    """What is left of the pristine weights after random blends, once no LoRA is blended any more."""
    rng = random.Random(SEED)
    ours, theirs = Ours(place, FEW), Theirs(place)
    for slot in range(FEW):
        theirs.load(slot, slot, [load_file(file) for file in place.files])
    left: dict[str, Any] = {}
    heading(f"{place.shape.title} in bf16, after", "bits that differ", "weights that differ", "‖W − W0‖ / ‖W0‖")
    ways: tuple[tuple[str, int, torch.nn.Module, Callable[[Blend], None], Callable[[], None]], ...] = (
        (f"{changes} random blends by us", changes, ours.model, ours.to, lambda: ours.to({})),
        (f"{fusings} random fusings by diffusers", fusings, theirs.model, theirs.fuse, theirs.unfuse),
    )
    for name, count, model, move, rest in ways:
        before = _weights(model)
        for _ in range(count):
            move({number: rng.uniform(-1, 1) for number in rng.sample(range(FEW), rng.randint(1, FEW))})
        rest()
        left[name] = _differences(before, _weights(model))
        bits, weights, norm = left[name].values()
        print(f"| {name} | {bits} | {100 * weights:.1f} % | {norm:.1e} |", flush=True)
    return left


def _weights(model: torch.nn.Module) -> torch.Tensor:
    """All that LoRAs may change, in one."""
    return torch.cat([
        module.weight.detach().flatten()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora" not in name
    ])  # fmt: skip


def _differences(before: torch.Tensor, after: torch.Tensor) -> dict[str, float]:
    bits = before.view(torch.int16) ^ after.view(torch.int16)
    return {
        "bits": sum(int(((bits >> bit) & 1).sum()) for bit in range(16)),
        "weights": float((bits != 0).float().mean()),
        "norm": float((after.float() - before.float()).norm() / before.float().norm()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--full", action="store_true", help="real widths instead of narrow ones")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; small matrices gain nothing by more")
    parser.add_argument("--shapes", nargs="*", choices=("sd3", "sdxl"), default=["sd3", "sdxl"])
    parser.add_argument("--changes", type=int, default=CHANGES)
    parser.add_argument("--json", type=Path, help="write all figures there")
    wanted = parser.parse_args(arguments)
    torch.set_num_threads(wanted.threads)
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    own = torch.float32 if wanted.device == "cpu" else torch.bfloat16
    found: dict[str, Any] = {"torch": torch.__version__, "diffusers": diffusers.__version__, "dtype": str(own)}
    print(f"Weights in {str(own)[6:]} on {wanted.device}, LoRAs of rank {RANK}, p50 (p95) of {wanted.runs}.")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False):
        for shape in ({"sd3": SD35_LARGE, "sdxl": SDXL}[name] for name in wanted.shapes):
            place = Place(shape, wanted.device, own, wanted.full, shape.files(Path(folder), 4, wanted.full))
            found[shape.title] = compare(place, wanted.runs)
        short = Place(SHORT, wanted.device, own, wanted.full, SHORT.files(Path(folder), MANY, wanted.full))
        found["in memory"] = crowd(short, wanted.runs)
        fusings = min(FUSINGS, wanted.changes)
        found["drift"] = drift(replace(short, dtype=torch.bfloat16), wanted.changes, fusings)
    if wanted.json:
        wanted.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
