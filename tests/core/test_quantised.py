"""Quantised layers: what rides beside them is exact for every form of change, and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer

from core.errors import LoraRefused
from core.lora.blend import Blender, Ingredient
from core.lora.changes import Change, LowRank, Whole
from core.lora.parse import ParsedLora
from core.lora.quantised import kind_of
from core.lora.stores import weights_of
from tests.core.changes import FORMS, low_rank
from tests.core.stores import WIDTH, drawn, quantised

PATH = "transformer_blocks.0.attn.to_q"
WIDE = "transformer_blocks.1.ff.net.2"  # WIDTH rows of 4 * WIDTH columns
KINDS = ("nf4", "fp4", "int8")


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    torch.manual_seed(0)
    return quantised(request.param)


def lora(path: str, change: Change, number: int = 0) -> ParsedLora:
    return ParsedLora(f"{number:064}", {f"transformer.{path}": change}, origins={f"transformer.{path}": path})


def blender_of(model: torch.nn.Module) -> Blender:
    return Blender(weights_of({"transformer": model}))


def apply(blender: Blender, *parts: tuple[ParsedLora, float]) -> None:
    blender.apply([Ingredient(read, "it", weight, 0.0) for read, weight in parts])


def linear(layer: torch.nn.Module) -> torch.Tensor:
    """The weight that a layer without its bias computes with, by what it gives for each unit vector."""
    size: int = layer.in_features  # type: ignore[assignment]
    with torch.inference_mode():
        result: torch.Tensor = layer(torch.eye(size)) - layer(torch.zeros(1, size))
    return result.T.clone()


@pytest.mark.parametrize("path", [PATH, WIDE])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_form_of_change_is_added_as_it_is_to_the_quantised_values(
    model: torch.nn.Module, form: Callable[[int, int, int], Change], path: str
) -> None:
    base = linear(model.get_submodule(path))
    rows, columns = base.shape
    first, second = form(rows, columns, 4), low_rank(rows, columns, 7)
    blender = blender_of(model)
    apply(blender, (lora(path, first, 1), 0.7), (lora(path, second, 2), -1.3))
    expected = base + 0.7 * first.delta(base).reshape(base.shape) - 1.3 * second.delta(base)
    layer = model.get_submodule(path)
    assert isinstance(layer, LoraLayer)
    assert torch.allclose(linear(layer), expected, atol=1e-4)
    apply(blender)
    assert kind_of(model.get_submodule(path))
    assert torch.equal(linear(model.get_submodule(path)), base)


def test_another_weight_is_copied_into_the_adapter_that_is_there(model: torch.nn.Module) -> None:
    blender, read = blender_of(model), lora(PATH, low_rank(WIDTH, WIDTH, 4))
    apply(blender, (read, 1.0))
    adapter, one = model.get_submodule(PATH), drawn(model)
    factors = [parameter for name, parameter in adapter.named_parameters() if "lora_" in name]
    apply(blender, (read, 0.4))
    assert model.get_submodule(PATH) is adapter
    now = [parameter for name, parameter in adapter.named_parameters() if "lora_" in name]
    assert all(after is before for after, before in zip(now, factors, strict=True))
    assert not torch.equal(drawn(model), one)


def test_ranks_side_by_side_take_their_sum_and_never_more_than_the_layer_has(model: torch.nn.Module) -> None:
    blender = blender_of(model)
    parts = [(lora(PATH, low_rank(WIDTH, WIDTH, rank), rank), 1.0) for rank in (3, 20, 32, 33)]
    ranks = []
    for count in range(1, 5):
        apply(blender, *parts[:count])
        layer: Any = model.get_submodule(PATH)
        ranks.append(layer.r["blend"])
    assert ranks == [3, 23, 55, WIDTH]


def test_a_blend_takes_no_number_from_the_global_generator(model: torch.nn.Module) -> None:
    blender, read = blender_of(model), lora(PATH, low_rank(WIDTH, WIDTH, 4))
    before = torch.get_rng_state()
    apply(blender, (read, 1.0))
    assert torch.equal(torch.get_rng_state(), before)


def test_small_factors_keep_their_digits_in_half_precision() -> None:
    torch.manual_seed(0)
    model = quantised("nf4").to(torch.float16)
    change = LowRank(torch.randn(WIDTH, 4), torch.randn(4, WIDTH), 1e-6)
    apply(blender_of(model), (lora(PATH, change), 1.0))
    layer: Any = model.get_submodule(PATH)
    up, down = layer.lora_B["blend"].weight, layer.lora_A["blend"].weight
    assert up.dtype == torch.float16
    exact = change.delta(torch.empty(0))
    assert (up.float() @ down.float() - exact).abs().max() < 2e-3 * exact.abs().max()


def test_values_beyond_half_precision_are_refused_and_leave_the_layer_as_it_was() -> None:
    model = quantised("nf4").to(torch.float16)
    blender = blender_of(model)
    with pytest.raises(LoraRefused, match="lower the weights"):
        apply(blender, (lora(PATH, Whole(torch.full((WIDTH, WIDTH), 60_000.0))), 2.0))
    assert kind_of(model.get_submodule(PATH))
    apply(blender, (lora(PATH, Whole(torch.ones(WIDTH, WIDTH))), 2.0))


def test_a_bias_of_a_quantised_layer_is_changed_in_place(model: torch.nn.Module) -> None:
    before: torch.Tensor = model.get_submodule(PATH).bias.clone()  # type: ignore[operator]
    blender = blender_of(model)
    both = ParsedLora(
        "0" * 64,
        {f"transformer.{PATH}": low_rank(WIDTH, WIDTH, 2), f"transformer.{PATH}.bias": Whole(torch.ones(WIDTH))},
        origins={f"transformer.{PATH}": PATH, f"transformer.{PATH}.bias": PATH},
    )
    apply(blender, (both, 0.5))
    layer: Any = model.get_submodule(PATH)
    assert torch.equal(layer.base_layer.bias, before + 0.5)
    apply(blender)
    assert torch.equal(torch.as_tensor(model.get_submodule(PATH).bias), before)


def test_a_lora_of_another_shape_is_refused_by_the_shape_before_it_was_packed(model: torch.nn.Module) -> None:
    receipt = blender_of(model).apply(
        [Ingredient(two(low_rank(WIDTH, WIDTH, 2), low_rank(WIDTH, 7, 2)), "it", 1.0, 0.0)], allow_partial=True
    )[0]
    assert (receipt.applied, receipt.total) == (1, 2)
    assert receipt.skipped == ((WIDE, f"its shape is ({WIDTH}, 7), the model's is ({WIDTH}, {4 * WIDTH})"),)


def two(first: Change, second: Change) -> ParsedLora:
    layers = {f"transformer.{PATH}": first, f"transformer.{WIDE}": second}
    return ParsedLora("0" * 64, layers, origins={f"transformer.{path}": path for path in (PATH, WIDE)})
