"""From a header to family, format and rank, by the names and the shapes of its layers; unsure is an answer too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lora_catalog.card import Family
from lora_catalog.header import Header, TensorFacts

Format = Literal["diffusers", "unknown"]


@dataclass(frozen=True, slots=True)
class Layer:
    """Layers whose whole name matches `name` take one of the `inputs` widths and give one of the `outputs` widths."""

    name: re.Pattern[str]
    inputs: frozenset[int]
    outputs: frozenset[int]


@dataclass(frozen=True, slots=True)
class FamilyShapes:
    """Every layer of a family that a LoRA may touch, as diffusers names it."""

    family: Family
    layers: tuple[Layer, ...]

    def has(self, name: str, inputs: int, outputs: int) -> bool:
        return any(
            layer.name.fullmatch(name) and inputs in layer.inputs and outputs in layer.outputs for layer in self.layers
        )


def _layer(name: str, inputs: Iterable[int], outputs: Iterable[int]) -> Layer:
    return Layer(re.compile(name), frozenset(inputs), frozenset(outputs))


_SD3_BLOCK = r"transformer\.transformer_blocks\.[0-5]\."
_SDXL_ATTENTIONS = r"unet\.((down|up)_blocks\.[01]\.attentions\.[01]|mid_block\.attentions\.0)\."
_SDXL_BLOCK = _SDXL_ATTENTIONS + r"transformer_blocks\.\d\."
_SDXL_LEVEL = r"unet\.((down|up)_blocks\.[01]|mid_block)\."
_SDXL_WIDTHS = (64, 128)

# Shapes of the models in models/pocket, whose source is training/pocket/models.py.
FAMILY_SHAPES: tuple[FamilyShapes, ...] = (
    FamilyShapes(
        "pocket-sd3",
        (
            _layer(_SD3_BLOCK + r"attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)", [192], [192]),
            _layer(_SD3_BLOCK + r"ff(_context)?\.net\.0\.proj", [192], [768]),
            _layer(_SD3_BLOCK + r"ff(_context)?\.net\.2", [768], [192]),
            _layer(_SD3_BLOCK + r"norm1(_context)?\.linear", [192], [384, 1152]),
            _layer(r"transformer\.context_embedder", [320], [192]),
            _layer(r"transformer\.proj_out", [192], [64]),
        ),
    ),
    FamilyShapes(
        "pocket-sdxl",
        (
            _layer(_SDXL_BLOCK + r"attn1\.(to_[qkv]|to_out\.0)", _SDXL_WIDTHS, _SDXL_WIDTHS),
            _layer(_SDXL_BLOCK + r"attn2\.(to_q|to_out\.0)", _SDXL_WIDTHS, _SDXL_WIDTHS),
            _layer(_SDXL_BLOCK + r"attn2\.to_[kv]", [320], _SDXL_WIDTHS),
            _layer(_SDXL_BLOCK + r"ff\.net\.0\.proj", _SDXL_WIDTHS, [512, 1024]),
            _layer(_SDXL_BLOCK + r"ff\.net\.2", [256, 512], _SDXL_WIDTHS),
            _layer(_SDXL_ATTENTIONS + r"proj_(in|out)", _SDXL_WIDTHS, _SDXL_WIDTHS),
            _layer(_SDXL_LEVEL + r"resnets\.[01]\.(conv1|conv2|conv_shortcut)", [64, 128, 192, 256], _SDXL_WIDTHS),
            _layer(_SDXL_LEVEL + r"resnets\.[01]\.time_emb_proj", [256], [64, 128, 256]),
            _layer(_SDXL_LEVEL + r"(down|up)samplers\.0\.conv", _SDXL_WIDTHS, _SDXL_WIDTHS),
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a header says: `rank` is the largest of its layers', `reason` is why the family is unknown, else empty."""

    family: Family | Literal["unknown"]
    format: Format
    rank: int | None
    layers: int
    reason: str


def identify(header: Header, families: Sequence[FamilyShapes] = FAMILY_SHAPES) -> Identity:
    """Which of `families` the LoRA was made for: the one that has every layer it touches, at that layer's widths.

    Read are LoRAs as diffusers and PEFT save them: pairs `LAYER.lora_A.weight` (rank × in) and `LAYER.lora_B.weight`
    (out × rank), linear or convolution.
    """
    try:
        layers = _layers(header.tensors)
    except _NotDiffusers as why:
        return Identity("unknown", "unknown", None, 0, str(why))
    rank = max(rank for rank, _, _ in layers.values())
    fitting = [known.family for known in families if all(known.has(name, *io) for name, (_, *io) in layers.items())]
    if len(fitting) == 1:
        return Identity(fitting[0], "diffusers", rank, len(layers), "")
    reason = (
        f"its layers fit {' and '.join(fitting)} alike"
        if fitting
        else f"no known model has all of its layers at their widths; the first is {_described(layers)}"
    )
    return Identity("unknown", "diffusers", rank, len(layers), reason)


class _NotDiffusers(Exception):
    """Why the tensors are not a LoRA in diffusers' format, as a clause."""


def _layers(tensors: Mapping[str, TensorFacts]) -> dict[str, tuple[int, int, int]]:
    """Rank, input width and output width of each layer, by its name."""
    found: dict[str, tuple[int, int, int]] = {}
    for name, down in tensors.items():
        layer, half, _ = name.rpartition(".lora_A.weight")
        if not half:
            if name.endswith(".lora_B.weight") and name.replace(".lora_B.", ".lora_A.") in tensors:
                continue
            raise _NotDiffusers(f"{name} is not one of a pair of lora_A and lora_B weights")
        up = tensors.get(f"{layer}.lora_B.weight")
        if up is None:
            raise _NotDiffusers(f"{name} lacks its lora_B half")
        if len(down.shape) not in (2, 4) or len(up.shape) != len(down.shape) or up.shape[1] != down.shape[0]:
            raise _NotDiffusers(f"the two halves of {layer} do not fit each other")
        if 0 in down.shape + up.shape:
            raise _NotDiffusers(f"{layer} is empty")
        found[layer] = (down.shape[0], down.shape[1], up.shape[0])
    if not found:
        raise _NotDiffusers("it holds no lora_A and lora_B weights")
    return found


def _described(layers: Mapping[str, tuple[int, int, int]]) -> str:
    name, (_, inputs, outputs) = next(iter(layers.items()))
    return f"{name}, {inputs} to {outputs} wide"
