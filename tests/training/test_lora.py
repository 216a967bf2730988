"""A trained LoRA is what diffusers and the blend both read, and training leaves no trace in the pipeline."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from core.lora.blend import Blender, Ingredient
from core.lora.parse import parse_lora
from core.lora.stores import weights_of
from lora_catalog.card import Family
from tests.training.conftest import Build, latents, same, state_of
from training.folder import CaptionedFolder
from training.loop import Settings
from training.lora import ATTENTION, EVERY_LAYER, LINEAR, adapted, part_name, save_adapter, train_lora

SETTINGS = Settings(steps=3, batch=2, learning_rate=0.05, warmup=1, average=0.5)
FAMILIES = {"sd3": ATTENTION, "sdxl": EVERY_LAYER}


def trained(pipeline: Any, folder: CaptionedFolder, root: Path, targets: Sequence[str]) -> Path:
    file = root / "style.safetensors"
    train_lora(
        pipeline, folder, root / "run", file, SETTINGS, rank=2, alpha=6, targets=targets, side=64, text_length=1,
    )  # fmt: skip
    return file


def blended(pipeline: Any, file: Path) -> Blender:
    part = part_name(pipeline)
    family: Family = "pocket-sd3" if part == "transformer" else "pocket-sdxl"
    lora = parse_lora(file, hashlib.sha256(file.read_bytes()).hexdigest(), "style", family)
    blender = Blender(weights_of({part: getattr(pipeline, part)}))
    (receipt,) = blender.apply([Ingredient(lora, "style", 1.0, 1.0)])
    assert receipt.applied == receipt.total > 10
    return blender


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_and_the_blend_draw_a_trained_lora_alike(
    pocket: Build, folder: CaptionedFolder, tmp_path: Path, family: str
) -> None:
    pipeline = pocket(family)
    bare = latents(pipeline)
    before = {name: state_of(module) for name, module in modules(pipeline).items()}
    file = trained(pipeline, folder, tmp_path, FAMILIES[family])
    assert all(same(before[name], state_of(module)) for name, module in modules(pipeline).items())
    assert torch.equal(latents(pipeline), bare)

    pipeline.load_lora_weights(tmp_path, weight_name=file.name)
    by_diffusers = latents(pipeline)
    pipeline.unload_lora_weights()
    blended(pipeline, file)
    assert torch.allclose(latents(pipeline), by_diffusers, atol=1e-3)
    assert (by_diffusers - bare).abs().mean() > 0.02


def modules(pipeline: Any) -> dict[str, torch.nn.Module]:
    return {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}


def test_the_same_seed_trains_the_same_lora(pocket: Build, folder: CaptionedFolder, tmp_path: Path) -> None:
    a, b = (trained(pocket("sd3"), folder, tmp_path / name, ("0.attn.to_q",)) for name in "ab")
    assert a.read_bytes() == b.read_bytes()


def test_alpha_over_rank_is_in_the_file_so_that_no_reader_needs_it(pocket: Build, tmp_path: Path) -> None:
    pipeline = pocket("sd3")
    with adapted(pipeline, 2, 6, ["attn.to_q"]) as parameters:
        for parameter in parameters.values():
            torch.nn.init.ones_(parameter)
        save_adapter(pipeline, tmp_path / "lora.safetensors", 3.0)
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        assert {key.rpartition(".lora_")[2]: file.get_tensor(key).unique().item() for key in file.keys()} == {  # noqa: SIM118
            "A.weight": 1,
            "B.weight": 3,
        }


def test_layers_that_a_model_lacks_are_refused_and_the_pipeline_stays_whole(pocket: Build) -> None:
    pipeline = pocket("sd3")
    before = state_of(pipeline.transformer)
    with pytest.raises(ValueError, match="no_such_layer"), adapted(pipeline, 2, 2, ["no_such_layer"]):
        pass
    assert same(before, state_of(pipeline.transformer))


def test_a_failure_in_training_takes_the_adapter_off(pocket: Build) -> None:
    pipeline = pocket("sdxl")
    before = state_of(pipeline.unet)
    with pytest.raises(KeyboardInterrupt), adapted(pipeline, 2, 2, LINEAR):
        raise KeyboardInterrupt
    assert same(before, state_of(pipeline.unet))
