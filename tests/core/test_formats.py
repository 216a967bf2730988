"""Every format's ΔW is what the library that defines the format makes of the same file."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from lycoris.modules.full import FullModule
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftConfig, get_peft_model_state_dict, inject_adapter_in_model

from core.lora.blend import Blender, Ingredient
from core.lora.changes import Change
from core.lora.parse import ParsedLora
from core.lora.stores import weights_of
from tests.core.conftest import parsed

LINEAR = "mid_block.attentions.0.proj_in"
CONV = "mid_block.resnets.0.conv1"
NORM = "mid_block.resnets.0.norm1"

LYCORIS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "LoRA, LoCon": (LoConModule, {}),
    "LoCon, Tucker": (LoConModule, {"use_tucker": True}),
    "LoCon, rsLoRA": (LoConModule, {"rs_lora": True}),
    "LoCon with a scalar": (LoConModule, {"use_scalar": True}),
    "DoRA": (LoConModule, {"weight_decompose": True}),
    "DoRA per input": (LoConModule, {"weight_decompose": True, "wd_on_out": False}),
    "DoRA, Tucker, per input": (LoConModule, {"use_tucker": True, "weight_decompose": True, "wd_on_out": False}),
    "LoHa": (LohaModule, {}),
    "LoHa, Tucker": (LohaModule, {"use_tucker": True}),
    "LoHa with a scalar": (LohaModule, {"use_scalar": True}),
    "LoHa, DoRA": (LohaModule, {"weight_decompose": True}),
    "LoHa, DoRA per input": (LohaModule, {"weight_decompose": True, "wd_on_out": False}),
    "LoKr": (LokrModule, {}),
    "LoKr, both factored": (LokrModule, {"decompose_both": True, "lora_dim": 1}),
    "LoKr, Tucker": (LokrModule, {"use_tucker": True}),
    "LoKr, both factored, Tucker": (LokrModule, {"use_tucker": True, "decompose_both": True, "lora_dim": 1}),
    "LoKr, whole": (LokrModule, {"full_matrix": True}),
    "LoKr with a scalar": (LokrModule, {"use_scalar": True}),
    "LoKr, DoRA": (LokrModule, {"weight_decompose": True}),
    "full": (FullModule, {}),
}
Base = torch.nn.Linear | torch.nn.Conv2d
BASES: dict[str, Callable[[], Base]] = {
    LINEAR: lambda: torch.nn.Linear(24, 40),
    CONV: lambda: torch.nn.Conv2d(12, 20, 3),
}


def randomised(module: Any) -> Any:
    """Every parameter off what it starts from, most of which is zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return module


def trained(
    kind: type[Any], options: dict[str, Any], base: Base
) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """What a LyCORIS module saves, and the weight and the bias with which it computes in training.

    They are told by the outputs, unit by unit: LyCORIS 4.1's own merging scales LoHa and LoKr twice.
    """
    shape = base.weight.shape
    module = randomised(kind("it", copy.deepcopy(base), **{"lora_dim": 3, "alpha": 1.5} | options))
    if kind is FullModule:
        module.apply_to()
    units = torch.eye(shape[1:].numel()).reshape(-1, *shape[1:])
    with torch.no_grad():
        bias = module(torch.zeros_like(units[:1])).reshape(shape[0])
        weight = (module(units).reshape(-1, shape[0]) - bias).T.reshape(shape)
    return module.state_dict(), weight, bias


def named(layer: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"lora_unet_{layer.replace('.', '_')}.{name}": value for name, value in state.items()}


def delta(read: ParsedLora, layer: str, weight: torch.Tensor) -> torch.Tensor:
    change = read.layers[f"unet.{layer}"]
    assert change.fits(tuple(weight.shape))
    return change.delta(weight).reshape(weight.shape)


@pytest.mark.parametrize("layer", BASES)
@pytest.mark.parametrize("form", LYCORIS)
def test_a_layer_changes_as_lycoris_trains_it(tmp_path: Path, form: str, layer: str) -> None:
    torch.manual_seed(1)
    base = BASES[layer]()
    state, weight, bias = trained(*LYCORIS[form], base)
    read = parsed(tmp_path, named(layer, state), "pocket-sdxl")
    assert read.skipped == ()
    assert (weight - base.weight).abs().max() > 0.02
    assert torch.allclose(delta(read, layer, base.weight), weight - base.weight, atol=3e-6)
    assert (f"unet.{layer}.bias" in read.layers) == (form == "full")
    if form == "full":
        assert base.bias is not None
        assert torch.allclose(read.layers[f"unet.{layer}.bias"].delta(base.bias), bias - base.bias, atol=3e-6)


@pytest.mark.parametrize("base", [torch.nn.GroupNorm(2, 12), torch.nn.LayerNorm(12)], ids=type)
def test_a_normalisation_changes_as_lycoris_merges_it(
    tmp_path: Path, base: torch.nn.GroupNorm | torch.nn.LayerNorm
) -> None:
    module = randomised(NormModule("it", base))
    read = parsed(tmp_path, named(NORM, module.state_dict()), "pocket-sdxl")
    weight, bias = module.get_merged_weight()
    for suffix, merged, pristine in (("", weight, base.weight), (".bias", bias, base.bias)):
        ours = read.layers[f"unet.{NORM}{suffix}"].delta(pristine)
        assert torch.allclose(pristine + ours, merged, atol=1e-6)


TARGETS = ["to_k", "conv1", "proj_in"]
PEFT: dict[str, tuple[PeftConfig, dict[str, Any]]] = {
    "LoRA": (LoraConfig(r=3, lora_alpha=3), {}),
    "LoRA, alpha": (LoraConfig(r=3, lora_alpha=6), {"lora_alpha": 6}),
    "rsLoRA": (LoraConfig(r=4, lora_alpha=6, use_rslora=True), {"lora_alpha": 6, "use_rslora": True}),
    "LoRA, mixed ranks and alphas": (
        LoraConfig(
            r=4, lora_alpha=8, rank_pattern={"proj_in": 2},
            alpha_pattern={"^proj_in": 5, "conv1": 12, "resnets.0.conv1": 7},
        ),
        {"lora_alpha": 8, "alpha_pattern": {"^proj_in": 5, "conv1": 12, "resnets.0.conv1": 7}},
    ),
    "LoRA with biases": (LoraConfig(r=3, lora_alpha=6, lora_bias=True, target_modules=["conv1"]), {"lora_alpha": 6}),
    "DoRA": (LoraConfig(r=3, lora_alpha=6, use_dora=True), {"lora_alpha": 6}),
    "LoHa": (LoHaConfig(r=3, alpha=3), {}),
    "LoHa, Tucker": (LoHaConfig(r=3, alpha=3, use_effective_conv2d=True), {}),
    "LoKr": (LoKrConfig(r=3, alpha=3), {}),
    "LoKr, Tucker": (LoKrConfig(r=1, alpha=1, use_effective_conv2d=True, decompose_both=True), {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",), block_out_channels=(32,), layers_per_block=1, cross_attention_dim=16,
        attention_head_dim=2, norm_num_groups=8,
    ).eval()  # fmt: skip


@torch.no_grad()
def output(unet: UNet2DConditionModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    picture, words = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 5, 16, generator=generator)
    sample: torch.Tensor = unet(picture, 10, words).sample
    return sample


@pytest.mark.parametrize("form", PEFT)
def test_a_model_computes_as_with_pefts_own_unfused_adapter(
    unet: UNet2DConditionModel, tmp_path: Path, form: str
) -> None:
    config, told = PEFT[form]
    config = copy.deepcopy(config)
    config.target_modules = config.target_modules or TARGETS
    adapted = inject_adapter_in_model(config, copy.deepcopy(unet))
    torch.manual_seed(2)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or "hada_" in name or "lokr_" in name:
            # not only small: a norm taken over the wrong dimension must show
            torch.nn.init.normal_(parameter, std=0.3) if "magnitude" not in name else parameter.data.mul_(1.5)
    metadata = {"lora_adapter_metadata": json.dumps({f"unet.{name}": value for name, value in told.items()})}
    state = {f"unet.{name}": value for name, value in get_peft_model_state_dict(adapted).items()}
    read = parsed(tmp_path, state, "pocket-sdxl", metadata)
    plain = copy.deepcopy(unet)
    blender = Blender(weights_of({"unet": plain}))
    (receipt,) = blender.apply([Ingredient(read, "it", 1.0, 1.0)])
    assert receipt.applied == receipt.total >= 5
    expected = output(adapted.eval())
    assert (expected - output(unet)).abs().max() > 0.05
    assert torch.allclose(output(plain), expected, atol=2e-4 * float(expected.abs().max()))
    blender.apply([])
    assert torch.equal(output(plain), output(unet))


def test_half_the_weight_of_a_dora_is_half_the_way_to_the_trained_model(tmp_path: Path) -> None:
    base = BASES[LINEAR]()
    state, weight, _ = trained(*LYCORIS["DoRA"], base)
    read = parsed(tmp_path, named(LINEAR, state), "pocket-sdxl")
    model = torch.nn.Module()
    model.mid_block = torch.nn.Module()
    model.mid_block.attentions = torch.nn.ModuleList([torch.nn.ModuleDict({"proj_in": copy.deepcopy(base)})])
    Blender(weights_of({"unet": model})).apply([Ingredient(read, "it", 0.5, 0.5)])
    assert torch.allclose(model.get_parameter(f"{LINEAR}.weight"), (base.weight + weight) / 2, atol=1e-6)


def test_a_row_of_zeros_stays_so_under_dora(tmp_path: Path) -> None:
    state, _, _ = trained(*LYCORIS["DoRA"], BASES[LINEAR]())
    state["lora_up.weight"][3] = 0
    change = parsed(tmp_path, named(LINEAR, state), "pocket-sdxl").layers[f"unet.{LINEAR}"]
    base = torch.randn(40, 24)
    base[3] = 0
    assert change.delta(base)[3].tolist() == [0.0] * 24
    assert change.delta(base).isfinite().all()


# What kohya's names of SD3's fused layers stand for, by hand, from diffusers' convert_sd3_transformer_checkpoint.
QKV = "joint_blocks.1.x_block.attn.qkv"
PARTS = {f"transformer.transformer_blocks.1.attn.to_{letter}": n for n, letter in enumerate("qkv")}
LAST = "final_layer.adaLN_modulation.1"
SWAPPED = "transformer.norm_out.linear"


@pytest.mark.parametrize("form", [form for form in LYCORIS if "per input" not in form])
def test_a_fused_layer_gives_each_of_its_parts_its_own_rows(tmp_path: Path, form: str) -> None:
    base = torch.nn.Linear(192, 576)
    state, weight, bias = trained(*LYCORIS[form], base)
    read = parsed(tmp_path, named(QKV, state), "pocket-sd3")
    biases = {f"{layer}.bias" for layer in PARTS} if form == "full" else set()
    assert read.layers.keys() == PARTS.keys() | biases
    for layer, n in PARTS.items():
        pristine = base.weight.chunk(3)[n]
        ours = read.layers[layer].delta(pristine)
        assert torch.allclose(pristine + ours, weight.chunk(3)[n], atol=1e-5)
        if form == "full":
            pristine = base.bias.chunk(3)[n]
            assert torch.allclose(pristine + read.layers[f"{layer}.bias"].delta(pristine), bias.chunk(3)[n], atol=1e-6)
    assert len(set(read.origins.values())) == 1


def swapped(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat(tensor.chunk(2)[::-1])


@pytest.mark.parametrize("form", LYCORIS)
def test_shift_and_scale_of_the_last_norm_change_places(tmp_path: Path, form: str) -> None:
    base = torch.nn.Linear(192, 384)
    state, weight, bias = trained(*LYCORIS[form], base)
    read = parsed(tmp_path, named(LAST, state), "pocket-sd3")
    pristine = swapped(base.weight)
    assert torch.allclose(pristine + read.layers[SWAPPED].delta(pristine), swapped(weight), atol=1e-5)
    if form == "full":
        pristine = swapped(base.bias)
        assert torch.allclose(pristine + read.layers[f"{SWAPPED}.bias"].delta(pristine), swapped(bias), atol=1e-6)


def test_magnitudes_that_span_a_fused_layers_parts_are_left_out_with_the_reason(tmp_path: Path) -> None:
    state, _, _ = trained(*LYCORIS["DoRA per input"], torch.nn.Linear(192, 576))
    read = parsed(tmp_path, named(QKV, state), "pocket-sd3")
    assert read.layers == {}
    ((_, reason),) = read.skipped
    assert reason == "its DoRA magnitudes span several layers of this model"


@pytest.mark.parametrize(
    ("change", "shape", "fits"),
    [
        ((8, 4), (8, 4, 1, 1), True),
        ((8, 4, 1, 1), (8, 4), True),
        ((8, 36), (8, 4, 3, 3), True),
        ((8, 4, 3, 3), (8, 4, 3, 3), True),
        ((8, 36, 1, 1), (8, 4, 3, 3), False),
        ((8, 4), (4, 8), False),
        ((4, 8), (8, 4), False),
        ((8, 4, 1, 3), (8, 4, 3, 1), False),
        ((8,), (8,), True),
        ((8,), (8, 1), True),
        ((8,), (4,), False),
    ],
)
def test_a_change_fits_a_weight_of_its_rows_and_columns(
    change: tuple[int, ...], shape: tuple[int, ...], fits: bool
) -> None:
    class Sized(Change):
        shape = change

        def delta(self, pristine: torch.Tensor) -> torch.Tensor:
            return torch.zeros(self.shape)

    assert Sized().fits(shape) is fits
