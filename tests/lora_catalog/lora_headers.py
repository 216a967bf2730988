"""LoRA headers as the trainers write them: names and shapes of whole LoRAs, in files that hold no data to speak of."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from lora_catalog.families.table import Model
from lora_catalog.families.weights import Shape, Weight
from lora_catalog.header import Header, TensorFacts
from lora_catalog.identify import Identity, identify

Shapes = dict[str, Shape]
Writer = Callable[[str, Shape], Shapes]
RANK = 4


def write_file(path: Path, shapes: Mapping[str, Shape], metadata: Mapping[str, str] | None = None) -> Path:
    """A safetensors file of fp16 zeros: its data are a hole in the file, so that gigabytes cost nothing."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        entries[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    return path


def factors(shape: Shape, rank: int = RANK) -> tuple[Shape, Shape]:
    """LoRA's down and up for a weight."""
    return (rank, *shape[1:]), (shape[0], rank, *(1 for _ in shape[2:]))


def lora_ab(layer: str, shape: Shape) -> Shapes:
    down, up = factors(shape)
    return {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}


def lora_old(layer: str, shape: Shape) -> Shapes:
    down, up = factors(shape)
    return {f"{layer}.lora.down.weight": down, f"{layer}.lora.up.weight": up}


def lora_kohya(layer: str, shape: Shape) -> Shapes:
    down, up = factors(shape)
    return {f"{layer}.alpha": (), f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}


def dora(layer: str, shape: Shape) -> Shapes:
    return lora_kohya(layer, shape) | {f"{layer}.dora_scale": (shape[0], *(1 for _ in shape[1:]))}


def dora_peft(layer: str, shape: Shape) -> Shapes:
    return lora_ab(layer, shape) | {f"{layer}.lora_magnitude_vector.weight": (shape[0],)}


def locon_tucker(layer: str, shape: Shape) -> Shapes:
    if shape[2:] in ((), (1, 1)):
        return lora_kohya(layer, shape)
    return {
        f"{layer}.lora_down.weight": (RANK, shape[1], 1, 1),
        f"{layer}.lora_mid.weight": (RANK, RANK, *shape[2:]),
        f"{layer}.lora_up.weight": (shape[0], RANK, 1, 1),
    }


def loha(layer: str, shape: Shape) -> Shapes:
    halves = {f"{layer}.hada_w{n}_a": (shape[0], RANK) for n in (1, 2)}
    return halves | {f"{layer}.hada_w{n}_b": (RANK, math.prod(shape[1:])) for n in (1, 2)} | {f"{layer}.alpha": ()}


def loha_tucker(layer: str, shape: Shape) -> Shapes:
    if shape[2:] in ((), (1, 1)):
        return loha(layer, shape)
    halves = {f"{layer}.hada_w{n}_a": (RANK, shape[0]) for n in (1, 2)}
    halves |= {f"{layer}.hada_w{n}_b": (RANK, shape[1]) for n in (1, 2)}
    return halves | {f"{layer}.hada_t{n}": (RANK, RANK, *shape[2:]) for n in (1, 2)}


def lokr(layer: str, shape: Shape) -> Shapes:
    rows, columns = 4 if shape[0] % 4 == 0 else 1, 4 if shape[1] % 4 == 0 else 1
    return {
        f"{layer}.lokr_w1": (rows, columns),
        f"{layer}.lokr_w2_a": (shape[0] // rows, RANK),
        f"{layer}.lokr_w2_b": (RANK, math.prod(shape[1:]) // columns),
        f"{layer}.alpha": (),
    }


def lokr_tucker(layer: str, shape: Shape) -> Shapes:
    if shape[2:] in ((), (1, 1)):
        return {f"{layer}.lokr_w1": (shape[0], 1), f"{layer}.lokr_w2": (1, *shape[1:])}
    return {
        f"{layer}.lokr_w1_a": (1, RANK),
        f"{layer}.lokr_w1_b": (RANK, 1),
        f"{layer}.lokr_w2_a": (RANK, shape[0]),
        f"{layer}.lokr_w2_b": (RANK, shape[1]),
        f"{layer}.lokr_t2": (RANK, RANK, *shape[2:]),
    }


def full(layer: str, shape: Shape) -> Shapes:
    return {f"{layer}.diff": shape, f"{layer}.diff_b": (shape[0],)}


def lora(layers: Mapping[str, Shape], write: Writer = lora_ab) -> Shapes:
    """A LoRA of the layers given, by the weight that each changes."""
    return {name: shape for layer, weight in layers.items() for name, shape in write(layer, weight).items()}


def weights(model: Model, *components: str) -> Iterable[tuple[str, Weight]]:
    """Each weight with its component; of every component where none is named."""
    for component in components or model.parts:
        for weight in model.parts[component].weights():
            yield component, weight


def dotted(model: Model, *components: str, containing: str = "") -> Shapes:
    """Layers as diffusers names them."""
    return {
        f"{component}.{path}": shape
        for component, weight in weights(model, *components)
        for path, shape in zip(weight.paths, weight.shapes, strict=True)
        if containing in path
    }


def bare(model: Model, prefix: str) -> Shapes:
    """The backbone's layers as diffusers names them, behind `prefix`."""
    layers = dotted(model, model.backbone)
    return {prefix + layer.removeprefix(f"{model.backbone}."): shape for layer, shape in layers.items()}


_KOHYA = {
    "unet": "lora_unet_",
    "transformer": "lora_unet_",
    "text_encoder_2": "lora_te2_",
    "text_encoder_3": "lora_te3_",
}


def flat(model: Model, *components: str, containing: str = "") -> Shapes:
    """Layers as kohya flattens diffusers' names."""
    prefixes = _KOHYA | {"text_encoder": "lora_te1_" if "text_encoder_2" in model.parts else "lora_te_"}
    return {
        prefixes[component] + path.replace(".", "_"): shape
        for component, weight in weights(model, *components)
        for path, shape in zip(weight.paths, weight.shapes, strict=True)
        if containing in path
    }


def original(model: Model, prefix: str, separator: str, containing: str = "") -> Shapes:
    """The backbone's layers as the model's authors name them, fused where they fuse them."""
    return {
        prefix + name.replace(".", separator): (sum(shape[0] for shape in weight.shapes), *weight.shapes[0][1:])
        for _, weight in weights(model, model.backbone)
        for name in weight.originals[:1] or weight.paths[:1]
        if containing in name
    }


def header(shapes: dict[str, Shape], metadata: dict[str, str] | None = None) -> Header:
    return Header({name: TensorFacts("F16", shape) for name, shape in shapes.items()}, metadata or {}, 0)


def identified(layers: dict[str, Shape], metadata: dict[str, str] | None = None) -> Identity:
    """What a diffusers LoRA of those layers is taken for, by the weight that each changes."""
    return identify(header(lora(layers), metadata))
