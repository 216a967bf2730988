"""The forms in which LoRA files write a layer's ΔW, each read into a change.

Sources: Hu et al. 2021 and peft tuners/lora (LoRA); KohakuBlueleaf/LyCORIS lycoris/functional/ (LoCon, LoHa, LoKr, full
and norms); Liu et al. 2024 and peft tuners/lora/dora.py (DoRA). diffusers' own loader is not used: it drops DoRA's
magnitudes and all of SD3's kohya names with a warning or none, refuses LoHa, and makes NaN of half a pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from core.lora.changes import Change, Decomposed, Hadamard, Kronecker, LowRank, Whole
from lora_catalog.errors import quoted
from lora_catalog.layers import Format, Layer, Torn

LARGEST_RANK = 1024
Tensors = dict[str, torch.Tensor]  # of a layer, by `Key.tensor`; what is read is taken out


def change_of(layer: Layer, tensors: Tensors, scale: float) -> Change:
    """The layer's ΔW, of tensors that `layers_of` found complete; they are taken out of `tensors`, their rest stays.

    Raises Torn for a rank above 1024 and for shapes that have one dimension too many.
    """
    return _FORMS[layer.format](layer, tensors, scale)


def decomposed(layer: Layer, change: Change, magnitude: torch.Tensor, name: str) -> Decomposed:
    """A change with DoRA's magnitudes on top, which the file calls `name`. Raises Torn where they do not fit it.

    PEFT's are per output, (out) for a Linear and (1, out, 1, 1) for a Conv2d. LyCORIS' `dora_scale` is (out, 1, …), or
    (1, in, …) per input.
    """
    count = magnitude.numel()
    per_input = name.endswith(".dora_scale") and magnitude.shape[:1] == (1,) and magnitude.ndim > 1 and count > 1
    sound = len(change.shape) > 1 and count == max(magnitude.shape, default=0)
    if not sound or not (per_input or count == change.shape[0]):
        raise Torn(f"the magnitudes of {quoted(layer.name)} are not of its shape")
    return Decomposed(change, magnitude.flatten(), per_input)


def _lora(layer: Layer, tensors: Tensors, scale: float) -> Change:
    return _low_rank(layer, tensors.pop("up"), tensors.pop("down"), tensors.pop("mid", None), scale)


def _loha(layer: Layer, tensors: Tensors, scale: float) -> Change:
    return Hadamard(_product(layer, tensors, "1"), _product(layer, tensors, "2"), scale)


def _lokr(layer: Layer, tensors: Tensors, scale: float) -> Change:
    first, second = (
        Whole(tensors.pop(f"w{n}")) if f"w{n}" in tensors else _product(layer, tensors, n) for n in ("1", "2")
    )
    if len(first.shape) != 2:
        raise Torn(f"the first factor of {quoted(layer.name)} is not a matrix")
    return Kronecker(first, second, scale)


def _full(layer: Layer, tensors: Tensors, scale: float) -> Change:
    return Whole(tensors.pop("diff"), scale)


_FORMS: Mapping[Format, Callable[[Layer, Tensors, float], Change]] = {
    "diffusers": _lora,
    "peft": _lora,
    "kohya": _lora,
    "loha": _loha,
    "lokr": _lokr,
    "full": _full,
}


def _product(layer: Layer, tensors: Tensors, n: str) -> LowRank:
    """LyCORIS' `a @ b`, or its Tucker form, in which `a` lies on its side."""
    a, b, core = tensors.pop(f"w{n}_a"), tensors.pop(f"w{n}_b"), tensors.pop(f"t{n}", None)
    if a.ndim != 2:
        raise Torn(f"a factor of {quoted(layer.name)} is not a matrix")
    return _low_rank(layer, a if core is None else a.T, b, core, 1.0)


def _low_rank(layer: Layer, up: torch.Tensor, down: torch.Tensor, core: torch.Tensor | None, scale: float) -> LowRank:
    if max(up.shape[1], down.shape[0]) > LARGEST_RANK:
        rank = max(up.shape[1], down.shape[0])
        raise Torn(f"{quoted(layer.name)} has rank {rank}; it must be from 1 to {LARGEST_RANK}")
    if core is not None and math.prod(down.shape[2:]) != 1:
        raise Torn(f"the parts of {quoted(layer.name)} have two kernels")
    return LowRank(up.flatten(1), down.flatten(1) if core is not None else down, scale, core)
