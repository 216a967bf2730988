"""A blend as one LoRA in diffusers' format, exact or compressed to a rank, with what that costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from core.errors import LoraDoesNotFit, LoraRefused
from core.lora.blend import Ingredient
from core.lora.changes import Change, Shape
from core.lora.factors import Pair, factors_of, known, on_and_on, shared_layers, squared_norm
from core.lora.formats import LARGEST_RANK
from core.lora.parse import LARGEST_FILE
from lora_catalog.card import Family

SPARE = 16  # directions more than are asked for, and passes over the matrix, in which a randomised SVD looks for them
PASSES = 4
Pristine = Callable[[str], torch.Tensor | None]  # a layer's weight as the model has it; None where nobody knows it
Share = tuple[float, Change]


@dataclass(frozen=True)
class OneLora:
    """Tensors by diffusers' names, the largest rank, and the error: ‖saved − blend‖ / ‖blend‖, of all and of the worst
    layer. `applied` counts, for each LoRA of the blend, the layers that went in. `cut` says whether any layer had more
    rank than it was left."""

    tensors: dict[str, torch.Tensor]
    rank: int
    error: float
    worst: tuple[str, float]
    applied: tuple[int, ...]
    cut: bool


def one_lora(
    blend: Sequence[Ingredient],
    family: Family,
    pristine: Pristine,
    rank: int | None,
    dtype: torch.dtype,
    go_on: Callable[[], None] = on_and_on,
) -> OneLora:
    """The blend's sum as one LoRA at weight 1.

    Without a `rank` it is exact but for the rounding to `dtype`: factors are joined, ranks add up, and layers that are
    not low rank are kept whole, their own size being their rank. With one, each layer is cut to it by SVD (Eckart and
    Young 1936), from the factors' QR where there are factors; of large whole layers it is a randomised
    one, and the error is measured all the same. All layers of a part get the same rank, filled up with
    zeros: diffusers before 0.42 takes the first layer's scale for those of other ranks.

    Raises LoraRefused for what no such file can hold: norms and biases, exact ranks above 1024, files above 4 GB,
    values beyond `dtype`. Raises LoraDoesNotFit, and ModelUnavailable for a DoRA of a model that is not on this disk.
    Raises what `go_on` raises, which is called before every layer.
    """
    kept: dict[str, _Layer] = {}
    applied, numbers = [0] * len(blend), 0
    for layer, one in shared_layers([part.lora for part in blend], family).items():
        go_on()
        shares = []
        for at, change in one.changes.items():
            applied[at] += 1
            amount = blend[at].weight_of(layer)
            if amount != 0:
                _must_be_a_layer(one.shape, blend[at].name)
                shares.append((amount, change))
        if shares:
            kept[layer] = _kept(layer, one.shape, shares, pristine, rank, dtype)
            numbers += kept[layer].up.numel() + kept[layer].down.numel()
            _must_fit(kept[layer].up.shape[1], numbers * dtype.itemsize)
    for part, count in zip(blend, applied, strict=True):
        if count == 0:
            raise LoraDoesNotFit(f"{part.name} does not fit this model: none of its layers match.")
    if not kept:
        raise LoraRefused("There is nothing to save: every LoRA of the blend is muted or has weight 0.")
    return _joined(kept, tuple(applied), dtype)


@dataclass(frozen=True)
class _Layer:
    shape: Shape
    up: torch.Tensor
    down: torch.Tensor
    squared_error: float
    squared_norm: float
    cut: bool


def _must_be_a_layer(shape: Shape, name: str) -> None:
    if len(shape) < 2:
        raise LoraRefused(
            f"{name} changes normalisations or biases too, which a saved LoRA cannot hold: leave it out of this blend."
        )


def _must_fit(rank: int, size: int) -> None:
    """Asked after every layer, before memory fills with what can never be saved."""
    if rank > LARGEST_RANK:
        raise LoraRefused(
            f"Saved exactly, this blend has rank {rank}, and a LoRA has at most {LARGEST_RANK}: choose a rank."
        )
    if size > LARGEST_FILE:
        raise LoraRefused(f"The file would be larger than {LARGEST_FILE // 10**9} GB: choose a rank, or a lower one.")


def _kept(
    layer: str, shape: Shape, shares: Sequence[Share], pristine: Pristine, rank: int | None, dtype: torch.dtype
) -> _Layer:
    pair = _stacked(shares, min(shape[0], math.prod(shape[1:])))
    if pair is not None:
        cut = rank is not None and rank < pair[0].shape[1]
        up, down = _cut_pair(pair, rank) if rank is not None and cut else pair
        up, down = _rounded(up, dtype), _rounded(down, dtype)
        error = squared_norm(torch.cat([pair[0], up.double()], 1), torch.cat([pair[1], -down.double()]))
        return _Layer(shape, up, down, error, squared_norm(*pair), cut)
    whole = torch.zeros(shape[0], math.prod(shape[1:]), dtype=torch.float64)
    for amount, change in shares:
        whole.add_(change.delta(known(change, pristine(layer))).reshape(whole.shape), alpha=amount)
    cut = rank is not None and rank < min(whole.shape)
    up, down = _cut(whole, rank) if rank is not None and cut else _as_it_is(whole)
    up, down = _rounded(up, dtype), _rounded(down, dtype)
    error = float((whole - up.double() @ down.double()).square().sum())
    return _Layer(shape, up, down, error, float(whole.square().sum()), cut)


def _stacked(shares: Sequence[Share], most: int) -> Pair | None:
    """All factors side by side, with their weights; None where one has none or they outgrow the layer."""
    pairs = [factors_of(change, torch.float64, amount) for amount, change in shares]
    found = [pair for pair in pairs if pair is not None]
    if len(found) < len(pairs) or sum(up.shape[1] for up, _ in found) > most:
        return None
    return torch.cat([up for up, _ in found], 1), torch.cat([down for _, down in found])


def _cut_pair(pair: Pair, rank: int) -> Pair:
    """The nearest of that rank, by the SVD of the small matrix between two orthogonal ones."""
    (left, upper), (right, lower) = torch.linalg.qr(pair[0]), torch.linalg.qr(pair[1].T)
    up, down = _cut(upper @ lower.T, rank)
    return left @ up, down @ right.T


def _cut(whole: torch.Tensor, rank: int) -> Pair:
    found = _largest if min(whole.shape) > 4 * (rank + SPARE) else _all
    left, sizes, right = found(whole, rank)
    root = sizes[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def _all(whole: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    left, sizes, right = torch.linalg.svd(whole, full_matrices=False)
    return left, sizes, right


def _largest(whole: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The first singular values and vectors, nearly, in a hundredth of the time (Halko et al. 2011, algorithm 4.4)."""
    generator = torch.Generator().manual_seed(0)
    basis = whole @ torch.randn(whole.shape[1], rank + SPARE, generator=generator, dtype=whole.dtype)
    for _ in range(PASSES):
        basis = whole @ torch.linalg.qr(whole.T @ torch.linalg.qr(basis)[0])[0]
    basis = torch.linalg.qr(basis)[0]
    left, sizes, right = _all(basis.T @ whole, rank)
    return basis @ left, sizes, right


def _as_it_is(whole: torch.Tensor) -> Pair:
    """Itself and the identity, which is no loss."""
    rows, columns = whole.shape
    if rows < columns:
        return torch.eye(rows, dtype=whole.dtype), whole
    return whole, torch.eye(columns, dtype=whole.dtype)


def _rounded(factor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    rounded = factor.to(dtype)
    if not torch.isfinite(rounded).all():
        raise LoraRefused("The values of this blend are too large for half precision: save it in float32.")
    return rounded


def _joined(kept: dict[str, _Layer], applied: tuple[int, ...], dtype: torch.dtype) -> OneLora:
    ranks: dict[str, int] = {}
    for layer, one in kept.items():
        component = layer.partition(".")[0]
        ranks[component] = max(one.up.shape[1], ranks.get(component, 0))
    numbers = sum(
        ranks[layer.partition(".")[0]] * (one.shape[0] + math.prod(one.shape[1:])) for layer, one in kept.items()
    )
    largest = max(ranks.values())
    _must_fit(largest, numbers * dtype.itemsize)
    tensors = {}
    for layer, one in kept.items():
        filled = ranks[layer.partition(".")[0]] - one.up.shape[1]
        up = torch.nn.functional.pad(one.up, (0, filled))
        down = torch.nn.functional.pad(one.down, (0, 0, 0, filled))
        tensors[f"{layer}.lora_A.weight"] = down.reshape(-1, *one.shape[1:]).contiguous()
        tensors[f"{layer}.lora_B.weight"] = up.reshape(*up.shape, *(1 for _ in one.shape[2:])).contiguous()
    error = sum(one.squared_error for one in kept.values())
    norm = sum(one.squared_norm for one in kept.values())
    worst = max(kept, key=lambda layer: _share(kept[layer].squared_error, kept[layer].squared_norm))
    return OneLora(
        tensors,
        largest,
        _share(error, norm),
        (worst, _share(kept[worst].squared_error, kept[worst].squared_norm)),
        applied,
        any(one.cut for one in kept.values()),
    )


def _share(squared_error: float, squared: float) -> float:
    return math.sqrt(squared_error / squared) if squared > 0 else 0.0
