"""Ours against diffusers on a GPU, at full size: python -m bench.gpu [--minutes 7] [--runs 20] [--json FILE] [--tiny].

Random weights, which judge speed and never looks, so nothing is downloaded; needs only torch, transformers, diffusers,
peft, safetensors and pydantic. For each base model, one after the other, so that each has the GPU for itself: our
easel, plain diffusers (unload, load, set_adapters for each change of LoRAs) and tuned diffusers (hotswap into compiled
blocks). Same weights, prompt, seeds, steps, guidance, size, types and encoder lengths; synchronised, warmed up. What a
change of LoRAs costs is timed apart from pictures, which take as long whatever LoRA it was. The base models share the
time; where it runs out, fewer runs are made, and their number is printed. --tiny runs the same code with small models
on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

import core.drawing
from bench.blend import heading, p50, p95
from bench.floors import decode_tflop, forward_tflop, peak_of
from bench.full_size import LARGE, MEDIUM, RANKS, XL, FullSize
from core.base_models import BASE_MODELS
from core.drawing import Easel
from core.loading import scheduler_for
from core.messages import Job, LoraFile
from core.request import GenerationRequest, request_from

PROMPT = "a lighthouse on a cliff in the evening, oil painting"
LORAS, USERS, SEED = 12, 8, 1
WARM_UP = 2
FEWEST = 2  # runs, however little time is left
OURS, PLAIN, TUNED = "ours", "diffusers", "diffusers, hotswap + compile"
SAME, TURNS, ZIPF = "the same LoRA again", "two in turn", f"one of {LORAS}, by Zipf's law"
BLEND, WEIGHT, FIRST = "blends of two", "another weight", "a LoRA never used before"
MANY = f"{USERS} users in turn, each with a LoRA"
SLOT = "slot{}"  # peft swaps by what is in a layer's name, and the name n1 is in attn1
Blend = Mapping[int, float]  # weights by a LoRA's number


@dataclass(frozen=True)
class Stage:
    """What all contestants of one base model share."""

    model: FullSize
    device: str
    tiny: bool
    files: Sequence[Path]
    shared: dict[str, Any]

    def pipeline(self) -> Any:
        return self.model.pipeline(self.device, self.tiny, self.shared)

    def request(self, key: str, seed: int) -> GenerationRequest:
        small = {"width": 64, "height": 64, "steps": 2} if self.tiny else {}
        return request_from({"prompt": PROMPT, "model": key, "seed": seed, **small}, key)

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


class Ours:
    """Our easel; only its loader is replaced, by one that makes the weights up."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        drawing: Any = core.drawing
        published, drawing.load_pipeline = drawing.load_pipeline, lambda *_: stage.pipeline()
        try:
            self._easel = Easel(stage.model.entry, stage.device)
        finally:
            drawing.load_pipeline = published
        self.pipeline = self._easel.pipeline
        print(f"ours draws with: {self._easel.speed.said or 'no switches'}", flush=True)
        self._course = self._blended({}, "")

    def change(self, blend: Blend) -> None:
        self._course = self._blended(blend, "")

    def first(self, number: int, run: int) -> None:
        self._course = self._blended({number: 1.0}, f"{run}-")

    def draw(self, request: GenerationRequest) -> None:
        self._easel.draw(request, self._course, lambda: False, lambda message: None)

    def _blended(self, blend: Blend, again: str) -> Any:
        """`again` makes of the same file one that was never parsed before."""
        files = tuple(
            LoraFile(str(number), f"{again}{number}", self._stage.files[number], weight, weight)
            for number, weight in blend.items()
        )
        return self._easel.blend(Job(self._stage.request(self._stage.model.modes[0], SEED), files))


class Diffusers:
    """diffusers' pipeline, called as its documentation says. LoRAs come from memory but for those never used before."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.pipeline = stage.pipeline()
        self._published = self.pipeline.scheduler
        self._known = [load_file(file) for file in stage.files]

    def change(self, blend: Blend) -> None:
        self._load({number: dict(self._known[number]) for number in blend}, list(blend.values()))

    def first(self, number: int, run: int) -> None:
        self._load({number: load_file(self._stage.files[number])}, [1.0])

    def draw(self, request: GenerationRequest) -> None:
        entry = request.entry
        self.pipeline.scheduler = scheduler_for(request.sampler, self._published)
        more = {} if entry.t5_tokens is None else {"max_sequence_length": entry.t5_tokens}
        with torch.inference_mode():
            self.pipeline(
                prompt=PROMPT, num_inference_steps=request.steps, guidance_scale=request.guidance, width=request.width,
                height=request.height, generator=torch.Generator("cpu").manual_seed(request.seed), **more,
            )  # fmt: skip

    def _load(self, states: Mapping[int, dict[str, torch.Tensor]], weights: list[float]) -> None:
        self.pipeline.unload_lora_weights()
        names = [SLOT.format(slot) for slot in range(len(states))]
        for name, state in zip(names, states.values(), strict=True):
            self.pipeline.load_lora_weights(state, adapter_name=name)
        self.pipeline.set_adapters(names, weights)


class Tuned(Diffusers):
    """With LoRAs swapped in place under compiled blocks. Weights stay 1: set after a swap they would count wrongly. A
    slot that a blend leaves empty is inactive: it would cost each layer two products more."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.pipeline.enable_lora_hotswap(target_rank=max(RANKS))
        # Only the first adapter is padded to the target rank: the second one begins with the largest there is.
        largest = max(self._known, key=lambda state: sum(tensor.numel() for tensor in state.values()))
        for slot in range(2):
            self.pipeline.load_lora_weights(dict(largest), adapter_name=SLOT.format(slot))
        self.pipeline.set_adapters([SLOT.format(0), SLOT.format(1)], [1.0, 1.0])
        denoiser = getattr(self.pipeline, stage.model.component)
        self._layers = [layer for layer in denoiser.modules() if isinstance(layer, BaseTunerLayer)]
        self._slots = 2
        if stage.model.component == "transformer":
            type(denoiser)._repeated_blocks = ["JointTransformerBlock"]  # diffusers 0.42 names none
        denoiser.compile_repeated_blocks(**{"backend": "eager"} if stage.tiny else {"fullgraph": True})

    def _load(self, states: Mapping[int, dict[str, torch.Tensor]], weights: list[float]) -> None:
        for slot, state in enumerate(states.values()):
            self.pipeline.load_lora_weights(state, adapter_name=SLOT.format(slot), hotswap=True)
        if len(states) != self._slots:  # not by set_adapters, which sets weights; each number is compiled for once
            self._slots = len(states)
            for layer in self._layers:
                layer.set_adapter([SLOT.format(slot) for slot in range(self._slots)], inference_mode=True)


CONTESTANTS: Mapping[str, Callable[[Stage], Any]] = {OURS: Ours, PLAIN: Diffusers, TUNED: Tuned}


class Clock:
    """Times a contestant's parts between synchronisations."""

    def __init__(self, stage: Stage, deadline: float) -> None:
        self._stage, self._deadline = stage, deadline
        self.spent: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def on(self, part: str) -> Iterator[None]:
        self._stage.wait()
        began = time.perf_counter()
        yield
        self._stage.wait()
        self.spent[part].append(1000 * (time.perf_counter() - began))

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.on(part):
                return function(*args, **kwargs)

        return watched

    def repeat(self, part: str, runs: int, move: Callable[[int], object]) -> None:
        """After a warm-up; at least `FEWEST` times, and then until the runs or the time are used up."""
        for run in range(WARM_UP):
            move(run)
        for run in range(WARM_UP, runs + WARM_UP):
            if run >= WARM_UP + FEWEST and time.monotonic() > self._deadline:
                return
            with self.on(part):
                move(run)


def changes(name: str, way: Any, clock: Clock, runs: int) -> dict[str, list[float]]:
    """What each kind of change costs. Hotswap has no weight but the one that it was loaded with."""
    rng = random.Random(SEED)
    drawn = rng.choices(range(LORAS), [1 / (rank + 1) for rank in range(LORAS)], k=runs + WARM_UP)
    pairs = [{run % LORAS: 1.0, (run + 1) % LORAS: 1.0} for run in range(runs + WARM_UP)]
    clock.repeat(SAME, runs, lambda run: way.change({0: 1.0}))
    clock.repeat(TURNS, runs, lambda run: way.change({run % 2: 1.0}))
    clock.repeat(ZIPF, runs, lambda run: way.change({drawn[run]: 1.0}))
    clock.repeat(BLEND, runs, lambda run: way.change(pairs[run]))
    if name != TUNED:
        clock.repeat(WEIGHT, runs, lambda run: way.change({0: 0.5 + run / 100}))
    clock.repeat(FIRST, runs, lambda run: way.first(run % LORAS, run))
    return dict(clock.spent)


def pictures(way: Any, stage: Stage, key: str, runs: int, deadline: float) -> dict[str, list[float]]:
    """Whole pictures with one LoRA, and what of each is encoding and decoding."""
    way.change({2: 1.0})
    clock, pipeline = Clock(stage, deadline), way.pipeline
    kept = (pipeline.encode_prompt, pipeline.vae.decode)
    pipeline.encode_prompt = clock.around("encode", kept[0])
    pipeline.vae.decode = clock.around("decode", kept[1])
    try:
        clock.repeat("picture", runs, lambda run: way.draw(stage.request(key, SEED + run)))
    finally:
        pipeline.encode_prompt, pipeline.vae.decode = kept
    made = len(clock.spent["picture"])
    parts = {name: spent[-made:] for name, spent in clock.spent.items()}
    steps = stage.request(key, SEED).steps
    rest = [sum(all_of) for all_of in zip(parts["encode"], parts["decode"], strict=True)]
    parts["step"] = [(p - r) / steps for p, r in zip(parts["picture"], rest, strict=True)]
    return parts


def users(way: Any, stage: Stage) -> float:
    """Milliseconds until all of them have their picture of the fastest mode."""
    clock = Clock(stage, 0.0)
    with clock.on(MANY):
        for number in range(USERS):
            way.change({number: 1.0})
            way.draw(stage.request(stage.model.modes[-1], SEED + number))
    return clock.spent[MANY][0]


def floors(stage: Stage, peak: float) -> dict[str, float]:
    """Milliseconds by mode: its forwards and its decoding, without the prompt's encoders."""
    with torch.device("meta"):
        denoiser = stage.model.denoiser(not stage.tiny)
        vae = type(stage.shared["vae"]).from_config(stage.shared["vae"].config)
    found = {}
    for key in stage.model.modes:
        request = stage.request(key, SEED)
        text = 77 + (request.entry.t5_tokens or 0)
        forwards = request.steps * (2 if request.guidance > 1 else 1)
        tflop = forwards * forward_tflop(denoiser, request.width, text) + decode_tflop(vae, request.width)
        found[key] = 1000 * tflop / peak
    return found


def compare(model: FullSize, asked: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """One base model: every contestant in turn has a third of the time."""
    device = "cpu" if asked.tiny else "cuda"
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(model, device, asked.tiny, model.loras(Path(folder), LORAS, asked.tiny), {})
        for place, (name, contestant) in enumerate(CONTESTANTS.items()):
            # What was not used of the time of those before is for those who follow.
            left = seconds - found.get("spent", 0.0)
            began = time.monotonic()
            share = left / (len(CONTESTANTS) - place)
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            way = contestant(stage)
            of_changes = changes(name, way, Clock(stage, began + 0.3 * share), asked.runs)
            drawn = {
                key: pictures(way, stage, key, asked.runs, began + (0.5 + 0.4 * number) * share)
                for number, key in enumerate(reversed(model.modes))
            }
            all_served = users(way, stage)
            peak = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 0.0
            found[name] = {"changes": of_changes, "pictures": drawn, "users": all_served, "peak_gb": peak}
            del way
            gc.collect()
            torch.compiler.reset()
            if device == "cuda":
                torch.cuda.empty_cache()
            found["spent"] = found.get("spent", 0.0) + time.monotonic() - began
        peak_flops = asked.tflops or peak_of(_device_name(device))
        found["floors_ms"] = floors(stage, peak_flops) if peak_flops else {}
    report(model, found)
    return found


def report(model: FullSize, found: Mapping[str, Any]) -> None:
    names = list(CONTESTANTS)
    heading(f"{model.title}: change of LoRAs, p50 (p95) ms", *names)
    for change in (SAME, TURNS, ZIPF, BLEND, WEIGHT, FIRST):
        print(f"| {change} | {' | '.join(_cell(found[name]['changes'].get(change)) for name in names)} |")
    served, peaks = ([found[name][figure] for name in names] for figure in ("users", "peak_gb"))
    print(f"| {MANY}, all | {' | '.join(f'{spent:.0f}' for spent in served)} |")
    print(f"| peak memory, GB | {' | '.join(f'{peak:.1f}' for peak in peaks)} |")
    for key in model.modes:
        floor = found["floors_ms"].get(key)
        said = f", floor {floor:.0f} ms" if floor else ""
        heading(f"{key}, {BASE_MODELS[key].steps} steps{said}: p50 (p95) ms", *names)
        for part in ("encode", "step", "decode", "picture"):
            print(f"| {part} | {' | '.join(_cell(found[name]['pictures'][key].get(part)) for name in names)} |")
        if floor:
            shares = [100 * floor / p50(found[name]["pictures"][key]["picture"]) for name in names]
            print(f"| of the floor | {' | '.join(f'{share:.0f} %' for share in shares)} |")
    sys.stdout.flush()


def _cell(spent: Sequence[float] | None) -> str:
    return f"{p50(spent):.1f} ({p95(spent):.1f}, n={len(spent)})" if spent else "–"


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "a CPU"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=7.0, help="for all; compiling may overrun them by one or two")
    parser.add_argument("--models", nargs="*", choices=("large", "medium", "xl"), default=["large", "medium", "xl"])
    parser.add_argument("--tflops", type=float, help="what the GPU does at most in bf16; left out: by its name")
    parser.add_argument("--tiny", action="store_true", help="small models on the CPU, to see that the bench runs")
    parser.add_argument("--json", type=Path, help="write all figures there")
    asked = parser.parse_args(arguments)
    if not asked.tiny and not torch.cuda.is_available():
        print("bench.gpu needs a CUDA GPU: run it on one, or see with --tiny that it runs.", file=sys.stderr)
        return 2
    diffusers.utils.logging.set_verbosity_error()  # of each LoRA it says that it has no text encoder's layers
    device = _device_name("cpu" if asked.tiny else "cuda")
    print(f"{device}, torch {torch.__version__}, diffusers {diffusers.__version__}, {time.strftime('%Y-%m-%d')}")
    chosen = [{"large": LARGE, "medium": MEDIUM, "xl": XL}[name] for name in asked.models]
    found: dict[str, Any] = {"device": device, "torch": torch.__version__}
    deadline = time.monotonic() + 60 * asked.minutes
    for place, model in enumerate(chosen):
        found[model.title] = compare(model, asked, (deadline - time.monotonic()) / (len(chosen) - place))
        if asked.json:
            asked.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
