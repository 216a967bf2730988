"""Rounding to 16 bits: faithful to each element, kind to what the LoRAs look for, harmless to all else."""

from __future__ import annotations

import math

import pytest
import torch

from core.lora.blend import Blender, Ingredient
from core.lora.changes import LowRank
from core.lora.parse import ParsedLora
from core.lora.rounding import Rounding
from core.lora.stores import weights_of

HALVES = (torch.bfloat16, torch.float16)
OUT, INPUTS, RANK = 96, 192, 4


def layer(dtype: torch.dtype, share: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight on the grid of `dtype`, and up and down of which ΔW has that share of its norm."""
    torch.manual_seed(0)
    weight = (torch.randn(OUT, INPUTS) * 0.05).to(dtype).float()
    up, down = torch.randn(OUT, RANK), torch.randn(RANK, INPUTS)
    return weight, up * (share * weight.norm() / (up @ down).norm()), down


def rounded(exact: torch.Tensor, dtype: torch.dtype, *downs: torch.Tensor | None) -> torch.Tensor:
    return Rounding().of(exact, dtype, downs, "it")


def gain(given: torch.Tensor, weight: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> float:
    """How much of ΔW's effect on inputs that it looks for is there."""
    inputs = torch.randn(64, RANK) @ down
    wanted, seen = inputs @ (up @ down).T, inputs @ (given.float() - weight).T
    return float((wanted * seen).sum() / wanted.square().sum())


def neighbours(exact: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    nearest = exact.to(dtype)
    up = torch.nextafter(nearest, torch.full_like(nearest, math.inf))
    down = torch.nextafter(nearest, torch.full_like(nearest, -math.inf))
    return torch.where(nearest > exact, down, nearest), torch.where(nearest < exact, up, nearest)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("share", [0.0, 0.0003, 0.003, 0.3, 30.0])
def test_every_element_is_one_of_the_two_values_around_it(dtype: torch.dtype, share: float) -> None:
    weight, up, down = layer(dtype, share)
    scales = torch.logspace(-9, 4, OUT)[:, None]  # subnormal numbers too
    exact = (weight + up @ down) * scales
    given = rounded(exact, dtype, down)
    low, high = neighbours(exact, dtype)
    assert ((given == low) | (given == high)).all()


@pytest.mark.parametrize("dtype", HALVES)
def test_numbers_at_the_ends_of_their_binade_and_of_the_type_stay_between_their_neighbours(dtype: torch.dtype) -> None:
    _, _, down = layer(dtype, 0.01)
    largest = torch.finfo(dtype).max
    ends = torch.tensor([1.0, 1.0 + 2**-13, 1.0 - 2**-14, 2.0 - 2**-14, largest, -largest, 0.0, -0.0])
    exact = ends.repeat_interleave(OUT * INPUTS // 8)[torch.randperm(OUT * INPUTS)].reshape(OUT, INPUTS)
    given = rounded(exact, dtype, down)
    low, high = neighbours(exact, dtype)
    assert ((given == low) | (given == high)).all()


def test_a_weak_lora_keeps_its_effect_where_the_nearest_values_swallow_it() -> None:
    for share, kept in ((0.001, 0.9), (0.003, 0.97)):
        weight, up, down = layer(torch.bfloat16, share)
        exact = weight + up @ down
        nearest = gain(exact.bfloat16(), weight, up, down)
        ours = gain(rounded(exact, torch.bfloat16, down), weight, up, down)
        assert nearest < kept < ours < 2 - kept


def test_inputs_that_no_lora_looks_for_see_hardly_more_noise() -> None:
    weight, up, down = layer(torch.bfloat16, 0.003)
    exact = weight + up @ down
    noise = [(given.float() - exact).norm() for given in (exact.bfloat16(), rounded(exact, torch.bfloat16, down))]
    assert noise[1] < 1.1 * noise[0]


def test_the_same_values_give_the_same_bits() -> None:
    weight, up, down = layer(torch.bfloat16, 0.003)
    exact = weight + up @ down
    assert torch.equal(rounded(exact, torch.bfloat16, down), rounded(exact.clone(), torch.bfloat16, down.clone()))


def test_a_weight_without_a_change_stays_as_it_is() -> None:
    weight, _, down = layer(torch.bfloat16, 0.003)
    assert torch.equal(rounded(weight, torch.bfloat16, down).float(), weight)


def test_fp32_and_changes_without_factors_are_rounded_to_the_nearest() -> None:
    weight, up, down = layer(torch.bfloat16, 0.003)
    exact = weight + up @ down
    assert torch.equal(rounded(exact, torch.float32, down), exact)
    assert torch.equal(rounded(exact, torch.bfloat16, None), exact.bfloat16())
    many = torch.randn(INPUTS // 2, INPUTS)
    assert torch.equal(rounded(exact, torch.bfloat16, many), exact.bfloat16())


def test_a_convolution_keeps_its_shape_and_its_gain() -> None:
    weight, up, down = layer(torch.bfloat16, 0.003)
    exact = weight + up @ down
    given = rounded(exact.reshape(OUT, INPUTS // 4, 2, 2), torch.bfloat16, down)
    assert given.shape == (OUT, INPUTS // 4, 2, 2)
    assert torch.equal(given.flatten(1), rounded(exact, torch.bfloat16, down))


@pytest.mark.parametrize("strange", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_so_and_spoils_nothing_else(strange: float) -> None:
    weight, up, down = layer(torch.float16, 0.003)
    exact = weight + up @ down
    sound = rounded(exact, torch.float16, down)
    exact[3, 5] = strange
    given = rounded(exact, torch.float16, down)
    others = torch.arange(OUT) != 3
    assert torch.equal(given[others], sound[others])
    assert given[3, 5].isnan() if strange != strange else given[3, 5] == strange
    assert given[3].isfinite().sum() == INPUTS - 1


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-9, 1e9])
def test_factors_of_any_size_and_twice_the_same_do_no_harm(size: float) -> None:
    weight, up, down = layer(torch.bfloat16, 0.003)
    exact = weight + up @ down
    given = rounded(exact, torch.bfloat16, down, down, size * down)
    assert (given.float() - exact).abs().max() <= (exact.abs() * 2**-7).max()
    assert 0.95 < gain(given, weight, up, down) < 1.05


@pytest.mark.parametrize("size", [1e-36, 1e-25, 1e25, 1e36])
def test_factors_of_unlike_sizes_keep_their_effect_and_that_of_others(size: float) -> None:
    weight, up, down = layer(torch.bfloat16, 0.003)
    exact = weight + up @ down
    half = RANK // 2
    given = rounded(exact, torch.bfloat16, size * down[:half], down[half:])
    assert 0.97 < gain(given, weight, up, down) < 1.03


def test_a_blend_in_16_bits_keeps_its_effect_with_the_same_bits_in_any_order_and_from_any_state() -> None:
    weight, up, down = layer(torch.bfloat16, 0.003)
    linear = torch.nn.Linear(INPUTS, OUT, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    linear.weight.data.copy_(weight)
    halves = (slice(0, RANK // 2), slice(RANK // 2, RANK))
    loras = [
        ParsedLora(str(half), {"unet.layer": LowRank(up[:, half], down[half])}, (), {"unet.layer": "layer"})
        for half in halves
    ]
    blend = [Ingredient(lora, "it", 1.0, 1.0) for lora in loras]
    blender = Blender(weights_of({"unet": torch.nn.ModuleDict({"layer": linear})}))
    blender.apply(blend)
    first = linear.weight.clone()
    assert 0.97 < gain(first, weight, up, down) < 1.03
    for other in ([], blend[:1], [Ingredient(loras[0], "it", -2.0, 1.0), blend[1]]):
        blender.apply(other)
        blender.apply(blend[::-1])
        assert torch.equal(linear.weight, first)
    blender.apply([])
    assert torch.equal(linear.weight.float(), weight)
