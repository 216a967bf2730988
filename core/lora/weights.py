"""Weights that can be rewritten and always be had back as they were, each where it rests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from core.lora.changes import Change, Shape
from core.lora.places import Place
from core.lora.rounding import Rounding

# Bytes of a GPU that pristine copies leave to drawing: a picture of 1024 × 1024 and its decoding take about 3e9.
LEFT_TO_DRAWING = 4_000_000_000

Free = Callable[[torch.device], int]  # bytes that a device has left


@dataclass(frozen=True)
class Share:
    """What one LoRA of a blend does to one parameter."""

    sha256: str
    weight: float
    change: Change


class Weight(Protocol):
    """One parameter of a model."""

    @property
    def shape(self) -> Shape: ...

    def set(self, shares: Sequence[Share]) -> torch.Tensor:
        """Makes the layer compute with W0 + Σ weight · ΔW, summed in the order given.

        Returns how much of the storage type's range that takes, as a number on the device: above 1, or not a number,
        is beyond it. After any failure the parameter may be half-written until `restore`.
        """

    def restore(self) -> None:
        """Makes the layer compute as it was loaded, to the bit; takes no memory."""


WeightStore = Mapping[str, Weight]
"""Every parameter of a pipeline by the name that a ParsedLora has for it: `component.path.to.module` means its weight,
with `.bias` behind it its bias. Text encoders' paths begin with `text_model` where published files' do, whatever
transformers calls its modules."""


def free_memory(device: torch.device) -> int:
    """Of a CUDA device; what other devices have left is not known, and counts as enough."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else sys.maxsize


def filled(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The share of a type's range that values take; not a number where one of them is none."""
    low, high = values.aminmax()
    return torch.maximum(-low, high) / torch.finfo(dtype).max


class PlainWeight:
    """A parameter whose values are rewritten in place, from a pristine copy made before the first time."""

    def __init__(self, place: Place, free: Free = free_memory) -> None:
        self._place, self._free = place, free
        self.shape: Shape = tuple(place.homes()[0].shape)
        self.pristine: torch.Tensor | None = None
        self._rounding = Rounding()

    def set(self, shares: Sequence[Share]) -> torch.Tensor:
        homes = self._place.homes()
        if self.pristine is None:
            self.pristine = self._copy(homes[0])
        # Always where the forwards are: two devices' sums differ in the last bit, and a GPU's are faster.
        base = self.pristine.to(self._place.used or homes[0].device, non_blocking=True)
        weight = base.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        downs = [share.change.add_to(weight, base, share.weight) for share in shares]
        values = self._rounding.of(weight, base.dtype, downs, tuple(share.sha256 for share in shares))
        for home in homes:
            home.copy_(values)
        return filled(weight, base.dtype)

    @torch.no_grad()
    def restore(self) -> None:
        if self.pristine is not None:
            for home in self._place.homes():
                home.copy_(self.pristine)

    def _copy(self, values: torch.Tensor) -> torch.Tensor:
        used = self._place.used
        device = kept_on(values.device if used is None else torch.device("cpu"), values.nbytes, self._free)
        pinned = device.type == "cpu" and "cuda" in (values.device.type, used and used.type)
        return torch.empty_like(values, device=device, pin_memory=pinned).copy_(values)


def kept_on(rest: torch.device, size: int, free: Free) -> torch.device:
    """Where a pristine copy of so many bytes is kept: beside the weights, or on the CPU if that left too little."""
    return rest if free(rest) - size >= LEFT_TO_DRAWING else torch.device("cpu")
