"""Changes as two factors, up @ down, wherever they have them: what is asked of a whole blend is computed from these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from core.errors import ModelUnavailable
from core.lora.changes import Change, Decomposed, Hadamard, Kronecker, LowRank, Part, Shape, Whole
from core.lora.parse import ParsedLora
from lora_catalog.card import Family
from lora_catalog.families.table import MODEL_OF, modules

Pair = tuple[torch.Tensor, torch.Tensor]


def factors_of(change: Change, dtype: torch.dtype) -> Pair | None:
    """ΔW = up @ down, (out, rank) and (rank, all the rest flat), the scale in `up`.

    None where nothing is saved by it: for DoRA, whole layers, and ranks that reach the layer's own. LoHa's product of
    ranks r and s has rank r·s at most (the rows' products, Hyeon-Woo et al. 2022), LoKr's likewise, since
    (a ⊗ c)(b ⊗ d) = ab ⊗ cd.
    """
    if isinstance(change, Decomposed | Whole):
        return None
    up, down = _split(change, dtype)
    return None if up.shape[1] >= min(up.shape[0], down.shape[1]) else (up, down)


def _split(change: Change, dtype: torch.dtype) -> Pair:
    match change:
        case LowRank(up, down, scale, None):
            return up.to(dtype) * scale, down.to(dtype).flatten(1)
        case LowRank(up, down, scale, core) if core is not None:
            inner = torch.einsum("mn...,nj->mj...", core.to(dtype), down.to(dtype))
            return up.to(dtype) * scale, inner.flatten(1)
        case Whole(diff, scale):
            whole = diff.to(dtype).flatten(1) * scale
            return whole, torch.eye(whole.shape[1], dtype=dtype)
        case Hadamard(first, second, scale):
            (a, b), (c, d) = _split(first, dtype), _split(second, dtype)
            up = (a[:, :, None] * c[:, None, :]).flatten(1) * scale
            return up, (b[:, None, :] * d[None, :, :]).flatten(0, 1)
        case Kronecker(first, second, scale):
            (a, b), (c, d) = _split(first, dtype), _split(second, dtype)
            return torch.kron(a, c) * scale, torch.kron(b, d)
        case Part(whole, rows):
            up, down = _split(whole, dtype)
            return torch.cat([up[part] for part in rows]), down
        case _:
            raise TypeError(f"{type(change).__name__} has no factors")


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
