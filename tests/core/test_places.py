"""Where values rest: real pipelines in each kind of offloading draw what they draw without, and disks are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from diffusers.hooks import apply_group_offloading
from diffusers.hooks.group_offloading import ModuleGroup

from core.base_models import BASE_MODELS
from core.errors import ModelUnavailable
from core.loading import load_pipeline
from core.lora.blend import Blender, Ingredient
from core.lora.changes import Whole
from core.lora.parse import parse_lora
from core.lora.places import Streamed
from core.lora.stores import weights_of
from core.lora.weights import LEFT_TO_DRAWING, PlainWeight, Share, kept_on
from tests.core.conftest import write_lora
from tests.core.stores import CPU, transformer
from tests.core.test_weights import LAYERS

POCKETS: dict[str, dict[str, tuple[int, ...]]] = {
    "pocket-sd3": {"transformer.transformer_blocks.0.attn.to_q": (192, 192)},
    "pocket-sdxl": {"unet.conv_in": (64, 16, 3, 3), "unet.mid_block.resnets.0.conv1": (128, 128, 3, 3)},
}
WORDS: dict[str, tuple[int, ...]] = {"text_encoder.text_model.encoder.layers.0.mlp.fc1": (512, 128)}


def sequentially(pipeline: Any) -> None:
    """As `enable_sequential_cpu_offload` does, which asks for an accelerator by number."""
    for part in parts(pipeline).values():
        accelerate.cpu_offload(part, CPU, offload_buffers=bool(part._parameters))


OFFLOADINGS: dict[str, Callable[[Any], None]] = {
    "model": lambda pipeline: pipeline.enable_model_cpu_offload(device="cpu"),
    "sequential": sequentially,
    "groups of blocks": lambda p: p.enable_group_offload(CPU, offload_type="block_level", num_blocks_per_group=1),
    "groups of leaves": lambda p: p.enable_group_offload(CPU, offload_type="leaf_level"),
}


def parts(pipeline: Any) -> dict[str, torch.nn.Module]:
    return {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}


def latents(pipeline: Any) -> torch.Tensor:
    more = {"max_sequence_length": 16} if hasattr(pipeline, "transformer") else {}
    with torch.inference_mode():
        images: torch.Tensor = pipeline(
            "a cat", num_inference_steps=2, height=64, width=64, output_type="latent", **more,
            generator=torch.Generator().manual_seed(0),
        ).images  # fmt: skip
    return images.clone()


@pytest.mark.parametrize("key", POCKETS)
@pytest.mark.parametrize("offloading", OFFLOADINGS)
def test_an_offloaded_pipeline_draws_every_blend_as_a_resident_one_does(
    random_pocket: Path, tmp_path: Path, key: str, offloading: str
) -> None:
    file = tmp_path / "it.safetensors"
    lora = parse_lora(file, write_lora(file, POCKETS[key] | WORDS), "it", BASE_MODELS[key].family)
    pipelines = load_pipeline(BASE_MODELS[key]), load_pipeline(BASE_MODELS[key])
    OFFLOADINGS[offloading](pipelines[1])
    blenders = [Blender(weights_of(parts(pipeline))) for pipeline in pipelines]
    seen = []
    for weight in (0.0, 1.0, -0.5, 0.0):
        for blender in blenders:
            blender.apply([Ingredient(lora, "it", weight, weight)])
        resident, offloaded = map(latents, pipelines)
        # Not to the bit: a model read from a file lies there as it is in the file, and moved, lies at even addresses.
        assert torch.allclose(offloaded, resident, rtol=0, atol=1e-3)
        seen.append(offloaded)
    assert torch.equal(seen[0], seen[3])
    assert min((seen[0] - seen[1]).abs().max(), (seen[1] - seen[2]).abs().max()) > 0.01


def test_a_group_with_a_stream_takes_a_blend_both_where_it_rests_and_where_it_is_prefetched() -> None:
    layer = torch.nn.Linear(4, 4).requires_grad_(False)
    options: dict[str, Any] = {"stream": torch.cpu.Stream(), "record_stream": True, "low_cpu_mem_usage": True}
    group = ModuleGroup([layer], CPU, CPU, offload_leader=layer, **options)
    weight = PlainWeight(Streamed(module=layer, name="weight", used=CPU, group=group))
    layer.weight.data = layer.weight.data.clone()  # prefetched
    before = layer.weight.clone()
    weight.set([Share("0" * 64, 1.0, Whole(torch.ones(4, 4)))])
    assert torch.equal(layer.weight, before + 1)
    group.offload_()
    assert torch.equal(layer.weight, before + 1)
    weight.restore()
    assert torch.equal(layer.weight, before)


def test_weights_that_a_hook_moved_within_inference_mode_are_written_outside_of_it() -> None:
    layer = torch.nn.Linear(4, 4)
    with torch.inference_mode():
        layer.to(torch.float64)  # stands for a move to a GPU: both give the parameter other data
    assert layer.weight.is_inference()
    weight, before = weights_of({"part": torch.nn.Sequential(layer)})["part.0"], layer.weight.clone()
    weight.set([Share("0" * 64, 1.0, Whole(torch.ones(4, 4)))])
    assert torch.allclose(layer.weight, before + 1)
    weight.restore()
    assert torch.equal(layer.weight, before)


def to_disk_in_groups(model: torch.nn.Module, folder: Path) -> None:
    apply_group_offloading(model, CPU, CPU, "leaf_level", offload_to_disk_path=str(folder))


def to_disk(model: torch.nn.Module, folder: Path) -> None:
    accelerate.disk_offload(model, str(folder), CPU)


@pytest.mark.parametrize("offload", [to_disk_in_groups, to_disk])
def test_weights_that_rest_on_the_disk_are_refused_in_a_sentence(
    tmp_path: Path, offload: Callable[[torch.nn.Module, Path], None]
) -> None:
    model = transformer()
    offload(model, tmp_path)
    with pytest.raises(ModelUnavailable, match="rest in memory"):
        weights_of({"transformer": model})


def test_a_model_without_values_is_refused() -> None:
    with pytest.raises(ModelUnavailable):
        weights_of({"transformer": transformer().to("meta")})


def test_pristine_copies_stay_on_a_gpu_while_they_leave_it_room_to_draw() -> None:
    gpu = torch.device("cuda")
    assert kept_on(gpu, 100, lambda device: LEFT_TO_DRAWING + 100) == gpu
    assert kept_on(gpu, 101, lambda device: LEFT_TO_DRAWING + 100) == CPU
    assert kept_on(CPU, 100, lambda device: 0) == CPU


def test_only_layers_ever_touched_have_a_pristine_copy_and_each_asks_for_room(tmp_path: Path) -> None:
    asked: list[torch.device] = []

    def free(device: torch.device) -> int:
        asked.append(device)
        return 0

    file = tmp_path / "it.safetensors"
    lora = parse_lora(file, write_lora(file, LAYERS), "it", "sd3-medium")
    store = weights_of({"transformer": transformer()}, free)
    blender = Blender(store)
    for weight in (1.0, 0.0, 0.5):
        blender.apply([Ingredient(lora, "it", weight, 0.0)])
    copied = {
        layer for layer, weight in store.items() if isinstance(weight, PlainWeight) and weight.pristine is not None
    }
    assert copied == LAYERS.keys()
    assert asked == [CPU] * len(LAYERS)
