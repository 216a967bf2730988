"""Quantised layers: their own values stay as they are, and a blend rides unfused beside them as a PEFT adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from core.lora.changes import Shape
from core.lora.factors import Pair, factors_of
from core.lora.weights import Share

_KINDS = ("Linear4bit", "Linear8bitLt")  # of bitsandbytes; peft has an adapter of the same name for each
_NAME = "blend"  # of the one adapter that a layer has


class QuantisedWeight:
    """The weight of one bitsandbytes layer.

    All LoRAs of a blend are one adapter whose factors are theirs side by side, so ranks mix exactly; its scaling stays
    1, and other weights are copied into it. What has no factors (DoRA, whole layers), or whose ranks reach the
    layer's own together, rides as one dense ΔW of the model's dtype beside an identity: exact, as large as the
    layer was before it was quantised. DoRA's norm is that of the quantised values, as in PEFT.
    """

    def __init__(self, parent: torch.nn.Module, name: str, dtype: torch.dtype) -> None:
        self._parent, self._name, self._dtype = parent, name, dtype
        self._layer: Any = getattr(parent, name)
        self._adapter: Any = None
        self.shape: Shape = (self._layer.out_features, self._layer.in_features)

    @torch.no_grad()
    def set(self, shares: Sequence[Share]) -> Sequence[torch.Tensor]:
        up, down = self._factors(shares)
        if self._adapter is None or self._adapter.r[_NAME] != len(down):
            self._adapter = self._made(len(down))
        setattr(self._parent, self._name, self._adapter)
        parts = (self._adapter.lora_A[_NAME].weight, self._adapter.lora_B[_NAME].weight)
        return [part.copy_(values) for part, values in zip(parts, (down, up), strict=True)]

    def restore(self) -> None:
        setattr(self._parent, self._name, self._layer)
        self._adapter = None

    def _factors(self, shares: Sequence[Share]) -> Pair:
        """Of the blend's ΔW, in fp32."""
        pairs = [factors_of(share.change, torch.float32, share.weight) for share in shares]
        found = [pair for pair in pairs if pair is not None]
        if len(found) < len(shares) or sum(len(down) for _, down in found) >= min(self.shape):
            return self._dense(shares)
        return torch.cat([up for up, _ in found], dim=1), torch.cat([down for _, down in found])

    def _dense(self, shares: Sequence[Share]) -> Pair:
        base = _dequantised(self._layer)
        whole = torch.zeros(self.shape, device=base.device)
        for share in shares:
            whole.add_(share.change.delta(base).reshape(self.shape), alpha=share.weight)
        identity = torch.eye(min(self.shape), device=base.device)
        return (identity, whole) if self.shape[0] < self.shape[1] else (whole, identity)

    def _made(self, rank: int) -> Any:
        from peft import LoraConfig
        from peft.tuners.lora import bnb

        adapter_class = getattr(bnb, kind_of(self._layer))
        with torch.device("meta"):  # not filled with random numbers, and no global generator moved on
            config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights=False)
            adapter = adapter_class(self._layer, _NAME, config=config, r=rank, lora_alpha=rank)
        for part in (adapter.lora_A, adapter.lora_B):
            factor = torch.empty_like(part[_NAME].weight, dtype=self._dtype, device=self._layer.weight.device)
            part[_NAME].weight = torch.nn.Parameter(factor, requires_grad=False)
        return adapter


def quantised_weights(root: torch.nn.Module) -> Iterator[tuple[str, QuantisedWeight]]:
    """By the path of each quantised layer; the adapters' dtype is the one that most of the other values have."""
    if not (layers := [name for name, module in root.named_modules() if kind_of(module)]):
        return
    sizes: dict[torch.dtype, int] = {}
    for parameter in root.parameters():
        sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.numel()
    dtype = max((dtype for dtype in sizes if dtype.is_floating_point), key=sizes.__getitem__, default=torch.float32)
    for name in layers:
        above, _, last = name.rpartition(".")
        yield name, QuantisedWeight(root.get_submodule(above), last, dtype)


def kind_of(module: torch.nn.Module) -> str:
    """Which of bitsandbytes' layers it is, without importing what takes seconds; empty for any other."""
    bases = {base.__name__ for base in type(module).__mro__ if base.__module__.startswith("bitsandbytes.")}
    return next((kind for kind in _KINDS if kind in bases), "")


def _dequantised(layer: Any) -> torch.Tensor:
    """The weight as the layer computes with it. peft's own function leaves int8 layers on a CPU without their scales
    (0.21.2: moving the weight it had moved drops them)."""
    from bitsandbytes import functional

    weight = layer.weight
    if kind_of(layer) == "Linear4bit":
        values = functional.dequantize_4bit(weight.data, weight.quant_state)
    else:
        scales = layer.state.SCB if weight.SCB is None else weight.SCB  # the first forward moves them
        values = functional.int8_vectorwise_dequant(weight.data, scales)
    return torch.as_tensor(values)
