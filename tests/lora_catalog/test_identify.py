"""Identification: a LoRA's names and shapes tell its family; whatever fits none, or is torn, stays unknown."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from lora_catalog.header import Header, TensorFacts
from lora_catalog.identify import FAMILY_SHAPES, identify
from tests.lora_catalog.conftest import SD3_ATTENTION, SDXL_ATTENTION

SD3_QUERY = SD3_ATTENTION.format(block=5, layer="to_q")
SDXL_KEY = SDXL_ATTENTION.format(layer="attn2.to_k")


def header_of(layers: dict[str, tuple[int, int]], rank: int = 4) -> Header:
    tensors = {}
    for name, (inputs, outputs) in layers.items():
        tensors[f"{name}.lora_A.weight"] = TensorFacts("F16", (rank, inputs))
        tensors[f"{name}.lora_B.weight"] = TensorFacts("F16", (outputs, rank))
    return Header(tensors, {}, 0)


@pytest.mark.parametrize(
    ("layers", "family"),
    [
        ({SD3_QUERY: (192, 192)}, "pocket-sd3"),
        ({"transformer.transformer_blocks.0.ff_context.net.2": (768, 192)}, "pocket-sd3"),
        ({SDXL_KEY: (320, 64)}, "pocket-sdxl"),
        ({"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0": (128, 128)}, "pocket-sdxl"),
    ],
)
def test_a_pocket_lora_is_known_by_its_layers(layers: dict[str, tuple[int, int]], family: str) -> None:
    found = identify(header_of(layers, rank=8))
    assert (found.family, found.format, found.rank, found.layers, found.reason) == (family, "diffusers", 8, 1, "")


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        (SD3_QUERY, (1536, 1536)),  # SD3.5 medium
        (SD3_QUERY, (192, 1536)),
        (SD3_QUERY, (1536, 192)),
        (SD3_ATTENTION.format(block=6, layer="to_q"), (192, 192)),  # a seventh block
        (SDXL_KEY, (2048, 640)),  # SDXL
        (SDXL_KEY, (768, 320)),  # SD1.5
        ("transformer.single_transformer_blocks.0.attn.to_q", (192, 192)),
        ("text_encoder.text_model.encoder.layers.0.self_attn.q_proj", (128, 128)),
    ],
)
def test_right_names_with_other_widths_and_other_names_are_unknown(name: str, widths: tuple[int, int]) -> None:
    found = identify(header_of({name: widths}))
    assert found.family == "unknown"
    assert name in found.reason


def test_one_layer_that_does_not_belong_makes_the_whole_unknown() -> None:
    assert identify(header_of({SD3_QUERY: (192, 192), SDXL_KEY: (320, 64)})).family == "unknown"


def test_a_lora_that_fits_two_families_alike_is_unknown() -> None:
    twin = replace(FAMILY_SHAPES[0], family="sd3-medium")
    found = identify(header_of({SD3_QUERY: (192, 192)}), [*FAMILY_SHAPES, twin])
    assert found.family == "unknown"
    assert found.reason == "its layers fit pocket-sd3 and sd3-medium alike"


def test_the_largest_rank_is_told() -> None:
    mixed = dict(header_of({SD3_QUERY: (192, 192)}, rank=16).tensors)
    mixed |= header_of({SD3_ATTENTION.format(block=0, layer="to_k"): (192, 192)}, rank=4).tensors
    assert identify(Header(mixed, {}, 0)).rank == 16


@pytest.mark.parametrize(
    ("tensors", "because"),
    [
        ({}, "no lora_A"),
        ({f"{SD3_QUERY}.lora_A.weight": (4, 192)}, "lacks its lora_B half"),
        ({f"{SD3_QUERY}.lora_B.weight": (192, 4)}, "not one of a pair"),
        ({f"{SD3_QUERY}.lora_A.weight": (4, 192), f"{SD3_QUERY}.lora_B.weight": (192, 8)}, "do not fit each other"),
        ({f"{SD3_QUERY}.lora_A.weight": (4,), f"{SD3_QUERY}.lora_B.weight": (4,)}, "do not fit each other"),
        ({f"{SD3_QUERY}.lora_A.weight": (0, 192), f"{SD3_QUERY}.lora_B.weight": (192, 0)}, "is empty"),
        ({"lora_unet_down_blocks_0.lora_down.weight": (4, 64)}, "not one of a pair"),
        ({"transformer.pos_embed.proj.weight": (192, 16)}, "not one of a pair"),
    ],
)
def test_what_is_not_whole_or_not_of_this_format_is_unknown(tensors: dict[str, tuple[int, ...]], because: str) -> None:
    found = identify(Header({name: TensorFacts("F16", shape) for name, shape in tensors.items()}, {}, 0))
    assert (found.family, found.format, found.rank, found.layers) == ("unknown", "unknown", None, 0)
    assert re.search(because, found.reason)
