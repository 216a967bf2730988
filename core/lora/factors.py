"""Changes as two factors, up @ down, wherever they have them: what is asked of a whole blend is computed from these."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from core.errors import ModelUnavailable
from core.lora.changes import Change, Decomposed, Hadamard, Kronecker, LowRank, Part, Shape, Whole
from core.lora.parse import ParsedLora
from lora_catalog.card import Family
from lora_catalog.families.table import MODEL_OF, modules

Pair = tuple[torch.Tensor, torch.Tensor]


def factors_of(change: Change, dtype: torch.dtype, amount: float = 1.0) -> Pair | None:
    """amount · ΔW = up @ down, (out, rank) and (rank, all the rest flat), the largest values of both of like size.

    None, before anything is made, where nothing is saved by it: for DoRA, whole layers, and ranks that reach the
    layer's own. LoHa's product of ranks r and s has rank r·s at most (the rows' products, Hyeon-Woo et al. 2022),
    LoKr's likewise, since (a ⊗ c)(b ⊗ d) = ab ⊗ cd.
    """
    if isinstance(change, Decomposed | Whole):
        return None
    rows, *rest = change.shape
    return None if _rank(change) >= min(rows, math.prod(rest)) else _split(change, dtype, amount)


def _rank(change: Change) -> int:
    """Of the factors that `_split` makes."""
    match change:
        case LowRank():
            return change.up.shape[1]
        case Whole():
            return math.prod(change.shape[1:])
        case Hadamard() | Kronecker():
            return _rank(change.first) * _rank(change.second)
        case Part():
            return _rank(change.whole)
        case _:
            raise TypeError(f"{type(change).__name__} has no factors")


def _split(change: Change, dtype: torch.dtype, amount: float = 1.0) -> Pair:
    match change:
        case LowRank(up, down, scale, None):
            return _balanced(up.to(dtype), down.to(dtype).flatten(1), scale * amount)
        case LowRank(up, down, scale, core) if core is not None:
            # Balanced with the core first: their product alone may be more than `dtype` holds.
            outer, inner = _balanced(up.to(dtype), down.to(dtype).flatten(1))
            left, middle = _balanced(outer, core.to(dtype).flatten(1))
            mixed = torch.einsum("mn...,nj->mj...", middle.reshape(core.shape), inner.reshape(down.shape))
            return _balanced(left, mixed.flatten(1), scale * amount)
        case Whole(diff, scale):
            whole = diff.to(dtype).flatten(1)
            return _balanced(whole, torch.eye(whole.shape[1], dtype=dtype), scale * amount)
        case Hadamard(first, second, scale):
            (a, b), (c, d) = _split(first, dtype), _split(second, dtype)
            up, down = (a[:, :, None] * c[:, None, :]).flatten(1), (b[:, None, :] * d[None, :, :]).flatten(0, 1)
            return _balanced(up, down, scale * amount)
        case Kronecker(first, second, scale):
            (a, b), (c, d) = _split(first, dtype), _split(second, dtype)
            return _balanced(torch.kron(a, c), torch.kron(b, d), scale * amount)
        case Part(whole, rows):
            up, down = _split(whole, dtype, amount)
            return torch.cat([up[part] for part in rows]), down
        case _:
            raise TypeError(f"{type(change).__name__} has no factors")


def _balanced(up: torch.Tensor, down: torch.Tensor, amount: float = 1.0) -> Pair:
    """amount · up @ down, its size shared between both by powers of two, which loses nothing.

    Only the product of a file's values is bounded (core/lora/parse.py). One factor may be 1e25 and the other 1e-26: the
    squares of the first are beyond fp32, and the second is zeros and steps in half precision.
    """
    rest, more = math.frexp(amount)
    high, low = _exponent(up), _exponent(down)
    whole = high + low + more
    return _moved(up, whole // 2 - high, rest), _moved(down, whole - whole // 2 - low)


def _exponent(tensor: torch.Tensor) -> int:
    low, high = tensor.aminmax()  # ten times as fast as the norm on a CPU
    return math.frexp(max(-float(low), float(high)))[1]


def _moved(tensor: torch.Tensor, power: int, times: float = 1.0) -> torch.Tensor:
    """times · 2**power · tensor, in two steps: fp32 does not hold 2**128."""
    return tensor * (times * 2.0 ** (power // 2)) * 2.0 ** (power - power // 2)


def squared_norm(up: torch.Tensor, down: torch.Tensor) -> float:
    """‖up @ down‖² = tr((upᵀ up)(down downᵀ)), without the product itself."""
    return max(0.0, float(((up.T @ up) * (down @ down.T)).sum()))


def known(change: Change, weight: torch.Tensor | None) -> torch.Tensor:
    """What `change.delta` takes: the weight itself for DoRA, any other change only asks where it lies."""
    if not isinstance(change, Decomposed):
        return torch.empty(0)
    if weight is None:
        raise ModelUnavailable(
            "What a DoRA changes depends on the model's own weights, which are not on this machine: draw with the "
            "model once, or leave the DoRA out."
        )
    return weight


def on_and_on() -> None:
    """For whoever goes through all layers and is never to be stopped: a `go_on` that does not raise."""


@dataclass(frozen=True)
class Shared:
    """One layer, its shape, and what each LoRA of a blend, by its place in it, does to the layer."""

    shape: Shape
    changes: Mapping[int, Change]


def shared_layers(loras: Sequence[ParsedLora], family: Family) -> dict[str, Shared]:
    """All layers that the LoRAs change, in the model's order as far as it is known, without what does not fit it.

    Norms and biases, whose shapes the table of families leaves out, take the shape of the first that names them.
    """
    shapes = {f"{component}.{path}": shape for (component, path), shape in modules(MODEL_OF[family]).items()}
    for lora in loras:
        for layer, change in lora.layers.items():
            shapes.setdefault(layer, change.shape)
    found = {
        layer: {at: lora.layers[layer] for at, lora in enumerate(loras) if layer in lora.layers} for layer in shapes
    }
    fitting = {
        layer: {at: change for at, change in changes.items() if change.fits(shapes[layer])}
        for layer, changes in found.items()
    }
    return {layer: Shared(shapes[layer], changes) for layer, changes in fitting.items() if changes}
