"""Weights per block: every block has its names, the narrowest decides, and the blend is PEFT's with those weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from core.base_models import BASE_MODELS
from core.loading import load_pipeline
from core.lora.blend import Blender, Ingredient
from core.lora.blocks import blocks_of, counted
from core.lora.parse import parse_lora
from core.lora.stores import weights_of
from lora_catalog.card import Family
from lora_catalog.families.table import MODEL_OF, modules
from tests.core.by_peft import PARTS, adapted, watched, weigh

FAMILIES = sorted({entry.family for entry in BASE_MODELS.values()})


def first_step(pipeline: Any, part: str) -> torch.Tensor:
    seen = watched(getattr(pipeline, part))
    generator = torch.Generator().manual_seed(1)
    pipeline("a cat", num_inference_steps=1, height=64, width=64, output_type="latent", generator=generator)
    return seen[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_names_of_a_family_mean_its_models_blocks(family: Family) -> None:
    model = MODEL_OF[family]
    paths = [path for part, path in modules(model) if part == model.backbone]
    there = {".".join(path.split(".")[: 1 if path.startswith("mid_block") else 2]) for path in paths if "block" in path}
    there = {block for block in there if block.startswith(("down_blocks", "mid_block", "up_blocks", "transformer_b"))}
    blocks = blocks_of(family)
    assert {block for named in blocks.names.values() for block in named} == there
    in_groups = [block for group in blocks.groups for block in blocks.names[group]]
    assert sorted(in_groups) == sorted(there)


def test_the_narrowest_name_decides_whatever_the_order() -> None:
    for asked in ({"in": 0.5, "in.1": 0.0}, {"in.1": 0.0, "in": 0.5}):
        assert counted(asked, "pocket-sdxl") == {"down_blocks.0": 0.5, "down_blocks.1": 0.0}
    assert counted({"0-2": 0.5, "1-4": 2.0, "3": 0.0}, "pocket-sd3") == {
        f"transformer_blocks.{number}": value for number, value in enumerate((0.5, 0.5, 0.5, 0.0, 2.0))
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        ("pocket-sdxl", {"in": 0.3, "in.1": -1.0, "mid": 0.0, "out.0": 2.0}),
        ("pocket-sd3", {"0-3": 0.3, "2": -1.0, "5": 0.0}),
    ],
)
def test_a_blocks_number_multiplies_the_loras_weight_as_pefts_forward_does(
    random_pocket: Path, tmp_path: Path, model: str, asked: dict[str, float]
) -> None:
    part, targets = PARTS[model]
    entry = BASE_MODELS[model]
    count = counted(asked, entry.family)
    by_peft, by_blend = load_pipeline(entry), load_pipeline(entry)
    denoiser = getattr(by_peft, part)
    (file,) = adapted(denoiser, targets, part, tmp_path, 1)

    def weight(number: int, path: str) -> float:
        named = [value for block, value in count.items() if f"{path}.".startswith(f"{block}.")]
        return 0.8 * (named[0] if named else 1.0)

    weigh(denoiser, weight)
    blend = Blender(weights_of({part: getattr(by_blend, part)}))
    read = parse_lora(file, hashlib.sha256(file.read_bytes()).hexdigest(), "it", entry.family)
    bare = first_step(by_blend, part)
    (receipt,) = blend.apply([Ingredient(read, "it", 0.8, 0.8, count)])
    assert receipt.applied == receipt.total
    expected = first_step(by_peft, part)
    effect = (expected - bare).abs().max()
    assert effect > 0.01
    assert (first_step(by_blend, part) - expected).abs().max() < 1e-3 * effect
