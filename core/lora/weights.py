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

    def set(self, shares: Sequence[Share]) -> Sequence[torch.Tensor]:
        """Makes the layer compute with W0 + Σ weight · ΔW, summed in the order given.

        Returns the tensors that now hold it: what is beyond their type's range is not finite there. After any failure
        the parameter may be half-written until `restore`.
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


class PlainWeight:
    """A parameter whose values are rewritten in place, from a pristine copy made before the first time."""

    def __init__(self, place: Place, free: Free = free_memory) -> None:
        self._place, self._free = place, free
        self.shape: Shape = tuple(place.homes()[0].shape)
        self.pristine: torch.Tensor | None = None
        self._rounding = Rounding()

    def set(self, shares: Sequence[Share]) -> Sequence[torch.Tensor]:
        homes = self._place.homes()
        if self.pristine is None:
            self.pristine = self._copy(homes[0])
        # Always where the forwards are: two devices' sums differ in the last bit, and a GPU's are faster.
        base = self.pristine.to(self._place.used or homes[0].device, non_blocking=True)
        if _takes_sums(homes[0], base.device):
            weight = homes[0].copy_(base)  # memory of its own would cost a small layer more than the sum
        else:
            weight = base.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        downs = [share.change.add_to(weight, base, share.weight) for share in shares]
        values = self._rounding.of(weight, base.dtype, downs, tuple(share.sha256 for share in shares))
        for home in homes:
            if home is not values:
                home.copy_(values)
        return homes[:1]

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


def _takes_sums(home: torch.Tensor, device: torch.device) -> bool:
    """Whether it can be summed in; hooks that bring a module in the middle of a run leave inference tensors."""
    return home.dtype == torch.float32 and home.device == device and home.is_contiguous() and not home.is_inference()


def kept_on(rest: torch.device, size: int, free: Free) -> torch.device:
    """Where a pristine copy of so many bytes is kept: beside the weights, or on the CPU if that left too little."""
    return rest if free(rest) - size >= LEFT_TO_DRAWING else torch.device("cpu")
