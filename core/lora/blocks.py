"""Blocks of a model's denoiser: what people call them, and how much a LoRA counts in each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from lora_catalog.card import Family
from lora_catalog.errors import quoted
from lora_catalog.families.table import MODEL_OF
from lora_catalog.families.transformers import MMDiT
from lora_catalog.families.unet import UNet

LARGEST = 5  # of a block's number, either way


@dataclass(frozen=True)
class Blocks:
    """`names` gives for each name the blocks it means, as diffusers' paths; `said` sums the names up for people.

    `groups` are names that together cover every block, from the picture's first to its last.
    """

    names: Mapping[str, tuple[str, ...]]
    said: str
    groups: tuple[str, ...]
    example: str


def _of_unet(unet: UNet) -> Blocks:
    """`in`, `mid` and `out`, and single blocks by diffusers' numbers: `in.1` is down_blocks.1, `out.0` up_blocks.0."""
    down, up = len(unet.down), len(unet.up)
    single = {f"in.{number}": (f"down_blocks.{number}",) for number in range(down)}
    single |= {f"out.{number}": (f"up_blocks.{number}",) for number in range(up)}
    whole = {
        "in": tuple(f"down_blocks.{number}" for number in range(down)),
        "mid": ("mid_block",),
        "out": tuple(f"up_blocks.{number}" for number in range(up)),
    }
    said = f"in, mid, out, in.0 to in.{down - 1} or out.0 to out.{up - 1}"
    return Blocks(whole | single, said, tuple(whole), "in.1: 0.5, out.0: 0")


def _of_mmdit(mmdit: MMDiT) -> Blocks:
    """Numbers of transformer_blocks, `0` being the first, and ranges of them that hold both their ends: `0-5`."""
    paths = [f"transformer_blocks.{number}" for number in range(mmdit.blocks)]
    single = {str(number): (path,) for number, path in enumerate(paths)}
    ranges = {
        f"{first}-{last}": tuple(paths[first : last + 1])
        for first in range(mmdit.blocks)
        for last in range(first + 1, mmdit.blocks)
    }
    third, last = mmdit.blocks // 3, mmdit.blocks - 1
    groups = (f"0-{third - 1}", f"{third}-{2 * third - 1}", f"{2 * third}-{last}")
    return Blocks(single | ranges, f"0 to {last} or ranges such as 0-{third - 1}", groups, "0: 0.5, 2-4: 0")


_OF: Mapping[type, Callable[[Any], Blocks]] = {UNet: _of_unet, MMDiT: _of_mmdit}


@cache
def blocks_of(family: Family) -> Blocks:
    """The blocks of that family's denoiser. Families without a model of ours to draw with have none: KeyError."""
    model = MODEL_OF[family]
    denoiser = model.parts[model.backbone]
    return _OF[type(denoiser)](denoiser)


def fault_of(asked: Mapping[str, float], family: Family, model: str) -> str:
    """What is wrong with these numbers by name, as a clause; empty where nothing is. `model` is for the message."""
    blocks = blocks_of(family)
    for name, number in asked.items():
        if name not in blocks.names:
            return f"must name {blocks.said} for {model}, not {quoted(name)}"
        if not -LARGEST <= number <= LARGEST:
            return f"must be numbers from -{LARGEST} to {LARGEST}"
    narrowest: dict[str, str] = {}
    for name in _from_wide_to_narrow(asked, blocks):
        for block in blocks.names[name]:
            other = narrowest.get(block, name)
            if other != name and len(blocks.names[other]) == len(blocks.names[name]):
                return f"must say once what a block counts: {quoted(other)} and {quoted(name)} overlap"
            narrowest[block] = name
    return ""


def counted(asked: Mapping[str, float], family: Family) -> dict[str, float]:
    """What each block counts, by diffusers' path: the narrowest name decides, and what nobody names is left out."""
    blocks = blocks_of(family)
    order = _from_wide_to_narrow(asked, blocks)
    return {block: asked[name] for name in order for block in blocks.names[name]}


def _from_wide_to_narrow(asked: Mapping[str, float], blocks: Blocks) -> list[str]:
    return sorted(asked, key=lambda name: -len(blocks.names[name]))
