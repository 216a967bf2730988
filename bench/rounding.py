"""What 16-bit weights cost a LoRA's effect: merged and rounded to the nearest, by chance, or as we do, and unfused.

python -m bench.rounding [--json FILE]

The effect is what a layer's output gains by the LoRA, against fp32: its error is ‖Δy − Δy₃₂‖ / ‖Δy₃₂‖, its gain the
projection of Δy on Δy₃₂ (1: nothing is lost). W0 lies on the 16-bit grid beforehand. "Trained" layers are all Linears
of the pocket models that their bundled LoRAs change, scaled together to the wanted ‖ΔW‖ / ‖W‖, with what really comes
into them while a picture is drawn; "random" ones have normal weights, factors and inputs, "aligned" inputs lie in the
rows of the factors. Medians over the layers; in brackets the gain that nine tenths of them exceed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.base_models import BASE_MODELS, POCKET
from core.loading import load_pipeline
from core.lora.changes import LowRank
from core.lora.parse import parse_lora
from core.lora.rounding import Rounding

SHARES = (0.001, 0.003, 0.01, 0.03)  # ‖ΔW‖ / ‖W‖; the first is a weak LoRA, or a strong one at a low weight
DTYPES = (torch.bfloat16, torch.float16)
TOKENS = 200  # inputs of each layer that are looked at
SEED = 1


@dataclass(frozen=True)
class Layer:
    """One Linear, its LoRA's factors, all in fp32, and some inputs (tokens, columns)."""

    weight: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor
    inputs: torch.Tensor


def random_layers(aligned: bool, width: int = 1024, rank: int = 16, count: int = 3) -> Iterator[Layer]:
    for _ in range(count):
        down = torch.randn(rank, width)
        inputs = torch.randn(TOKENS, rank) @ down if aligned else torch.randn(TOKENS, width)
        yield Layer(torch.randn(width, width) * 0.03, torch.randn(width, rank), down, inputs)


def trained_layers(key: str) -> Iterator[list[Layer]]:
    """Of a pocket model, for each of its LoRAs."""
    entry = BASE_MODELS[key]
    pipeline = load_pipeline(entry)
    component = "transformer" if hasattr(pipeline, "transformer") else "unet"
    linears = {
        f"{component}.{name}": module
        for name, module in getattr(pipeline, component).named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    seen = _inputs(pipeline, linears)
    for file in sorted(POCKET.glob(f"loras/{key}-*/*.safetensors")):
        changes = parse_lora(file, "0" * 64, file.stem, entry.family).layers
        yield [
            Layer(linears[name].weight, change.up.float() * change.scale, change.down.float(), seen[name])
            for name, change in changes.items()
            if name in linears and isinstance(change, LowRank) and change.up.any() and seen[name].any()
        ]  # some were never trained, and the only token of a missing encoder is zero


def _inputs(pipeline: Any, linears: dict[str, torch.nn.Linear]) -> dict[str, torch.Tensor]:
    """Some of what comes into each layer while a picture is drawn."""
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in linears}

    def watch(name: str) -> Callable[..., None]:
        return lambda _, given: seen[name].append(given[0].flatten(0, -2)[::5][:TOKENS])

    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in linears.items()]
    options = {"max_sequence_length": 1} if hasattr(pipeline, "transformer") else {}
    generator = torch.Generator().manual_seed(SEED)
    pipeline(
        "a red circle on a blue background", num_inference_steps=6, guidance_scale=3.0, width=128, height=128,
        generator=generator, output_type="latent", **options,
    )  # fmt: skip
    for hook in hooks:
        hook.remove()
    picked = {name: torch.cat(parts) for name, parts in seen.items()}
    return {name: rows[torch.randperm(len(rows))[:TOKENS]] for name, rows in picked.items()}


def nearest(exact: torch.Tensor, layer: Layer, dtype: torch.dtype) -> torch.Tensor:
    return exact.to(dtype)


def by_chance(exact: torch.Tensor, layer: Layer, dtype: torch.dtype) -> torch.Tensor:
    """Up or down by a number that is fixed for each element, the likelier the nearer: right on average."""
    near = exact.to(dtype)
    below = torch.where(near > exact, torch.nextafter(near, torch.full_like(near, -math.inf)), near)
    above = torch.nextafter(below, torch.full_like(near, math.inf))
    chance = torch.rand(exact.shape, generator=torch.Generator().manual_seed(SEED))
    return torch.where(chance * (above.float() - below.float()) < exact - below.float(), above, below)


def ours(exact: torch.Tensor, layer: Layer, dtype: torch.dtype) -> torch.Tensor:
    return Rounding().of(exact, dtype, [layer.down], "it")


MERGED = {"merged, nearest": nearest, "merged, by chance": by_chance, "merged, ours": ours}
UNFUSED = "unfused"


def effects(layer: Layer, dtype: torch.dtype, rounds_output: bool) -> dict[str, torch.Tensor]:
    """Δy of each way, from a weight on the grid; the output stays in fp32 or is rounded too."""

    def out(value: torch.Tensor) -> torch.Tensor:
        return value.to(dtype).float() if rounds_output else value

    inputs, weight = layer.inputs.to(dtype).float(), layer.weight.to(dtype).float()
    exact = weight + layer.up @ layer.down
    bare = out(inputs @ weight.T)
    found = {name: out(inputs @ way(exact, layer, dtype).float().T) - bare for name, way in MERGED.items()}
    # As PEFT computes it: factors, what is between them and the result in 16 bits, added to the layer's own output.
    up, down = layer.up.to(dtype).float(), layer.down.to(dtype).float()
    added = out((inputs @ down.T).to(dtype).float() @ up.T)
    return found | {UNFUSED: out(bare + added) - bare}


def judged(layers: Sequence[Layer], dtype: torch.dtype, rounds_output: bool) -> dict[str, list[tuple[float, float]]]:
    """The error and the gain of each way in each layer."""
    found: dict[str, list[tuple[float, float]]] = {}
    for layer in layers:
        wanted = layer.inputs.to(dtype).float() @ (layer.up @ layer.down).T
        size = wanted.norm()
        for name, effect in effects(layer, dtype, rounds_output).items():
            error, gain = (effect - wanted).norm() / size, (effect * wanted).sum() / size.square()
            found.setdefault(name, []).append((float(error), float(gain)))
    return found


def scaled(layers: Sequence[Layer], share: float) -> list[Layer]:
    """With LoRAs of which all ΔW together have this share of all W's norm."""
    weights = math.sqrt(sum(float(layer.weight.square().sum()) for layer in layers))
    changes = math.sqrt(sum(float((layer.up @ layer.down).square().sum()) for layer in layers))
    return [Layer(layer.weight, layer.up * (share * weights / changes), layer.down, layer.inputs) for layer in layers]


def table(title: str, loras: Sequence[Sequence[Layer]], shares: Sequence[float]) -> list[dict[str, Any]]:
    names = [*MERGED, UNFUSED]
    rows = []
    print(f"\n| {title}: error; gain (worst tenth) | output | {' | '.join(names)} |\n{'|---' * (len(names) + 2)}|")
    for dtype in DTYPES:
        for share in shares:
            for rounds_output in (False, True):
                found: dict[str, list[tuple[float, float]]] = {}
                for lora in loras:
                    for name, each in judged(scaled(lora, share), dtype, rounds_output).items():
                        found.setdefault(name, []).extend(each)
                told = {name: _summary(each) for name, each in found.items()}
                output = str(dtype if rounds_output else torch.float32)[6:]
                cells = ["{error:.3f}; {gain:.3f} ({low:.2f})".format(**told[name]) for name in names]
                print(f"| {str(dtype)[6:]}, ΔW {100 * share:g} % | {output} | {' | '.join(cells)} |", flush=True)
                rows.append({"dtype": str(dtype)[6:], "share": share, "output": output, **told})
    return rows


def _summary(each: Sequence[tuple[float, float]]) -> dict[str, float]:
    errors, gains = torch.tensor(each).T
    return {"error": float(errors.median()), "gain": float(gains.median()), "low": float(gains.quantile(0.1))}


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=float, nargs="*", default=SHARES, help="‖ΔW‖ / ‖W‖")
    parser.add_argument("--models", nargs="*", default=["pocket-sd3", "pocket-sdxl"])
    parser.add_argument("--loras", type=int, default=3, help="so many of each model's LoRAs")
    parser.add_argument("--json", type=Path, help="write all figures there")
    wanted = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    layers = {"random": [list(random_layers(aligned=False))], "aligned": [list(random_layers(aligned=True))]}
    layers |= {f"trained, {key}": list(trained_layers(key))[: wanted.loras] for key in wanted.models}
    found = {title: table(title, loras, wanted.shares) for title, loras in layers.items()}
    if wanted.json:
        wanted.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
