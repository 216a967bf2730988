"""What a LoRA does to one layer: a small class for each form of ΔW, each with one method that gives it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

Rows = tuple[slice, ...]  # of a weight, in the order in which they are wanted
Shape = tuple[int, ...]


def _ready(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return tensor.to(like.device, torch.float32)


def _picked(tensor: torch.Tensor, rows: Rows) -> torch.Tensor:
    return tensor[rows[0]] if len(rows) == 1 else torch.cat([tensor[part] for part in rows])


class Change(ABC):
    """One layer's ΔW, or one bias'."""

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """Of the weight that it changes; where the file tells no more, (rows, columns) with all that is not rows."""

    @abstractmethod
    def delta(self, pristine: torch.Tensor) -> torch.Tensor:
        """ΔW in fp32 where `pristine`, the layer's weight as it was loaded, lies; it may be flat, as `shape` may."""

    def add_to(self, weight: torch.Tensor, pristine: torch.Tensor, amount: float) -> torch.Tensor | None:
        """Adds amount · ΔW in place to `weight`, contiguous and fp32.

        Returns the matrix (rank, all that is not rows) that ΔW ends in, in fp32; None where it is not at hand.
        """
        weight.add_(self.delta(pristine).reshape(weight.shape), alpha=amount)
        return None

    def fits(self, shape: Shape) -> bool:
        """Whether it can be added to a weight of this shape: a kernel of 1 × 1, or one folded into columns, is said
        in as many ways as there are trainers."""
        mine = self.shape
        if mine == shape:
            return True
        same_kernel = mine[2:] == shape[2:] or not mine[2:] or not shape[2:]
        return mine[:1] == shape[:1] and math.prod(mine) == math.prod(shape) and same_kernel

    def rows(self, rows: Rows) -> Change:
        """The same for some of its rows, as a weight of their own."""
        return Part(self, rows)


@dataclass(frozen=True)
class LowRank(Change):
    """ΔW = scale · up @ down (Hu et al. 2021), or with LoCon's `core` between them (Tucker form).

    `up` is (out, rank), `down` (rank, in) or (rank, in, height, width), `core` (rank, rank, height, width).
    """

    up: torch.Tensor
    down: torch.Tensor
    scale: float = 1.0
    core: torch.Tensor | None = None

    @property
    def shape(self) -> Shape:
        kernel = () if self.core is None else self.core.shape[2:]
        return (self.up.shape[0], *self.down.shape[1:], *kernel)

    def delta(self, pristine: torch.Tensor) -> torch.Tensor:
        up, down = _ready(self.up, pristine), _ready(self.down, pristine)
        if self.core is None:
            return (up @ down.flatten(1)).mul_(self.scale).reshape(self.shape)
        return torch.einsum("im,mn...,nj->ij...", up, _ready(self.core, pristine), down).mul_(self.scale)

    def add_to(self, weight: torch.Tensor, pristine: torch.Tensor, amount: float) -> torch.Tensor | None:
        if self.core is not None:
            return super().add_to(weight, pristine, amount)
        up, down = _ready(self.up, pristine), _ready(self.down, pristine).flatten(1)
        weight.view(up.shape[0], -1).addmm_(up, down, alpha=amount * self.scale)
        return down

    def rows(self, rows: Rows) -> LowRank:
        return LowRank(_picked(self.up, rows), self.down, self.scale, self.core)


@dataclass(frozen=True)
class Whole(Change):
    """ΔW = scale · diff: nothing is factored."""

    diff: torch.Tensor
    scale: float = 1.0

    @property
    def shape(self) -> Shape:
        return tuple(self.diff.shape)

    def delta(self, pristine: torch.Tensor) -> torch.Tensor:
        return _ready(self.diff, pristine) * self.scale

    def rows(self, rows: Rows) -> Whole:
        return Whole(_picked(self.diff, rows), self.scale)


@dataclass(frozen=True)
class Hadamard(Change):
    """LoHa: ΔW = scale · first ∘ second, element by element (Hyeon-Woo et al. 2022, as LyCORIS writes it)."""

    first: LowRank
    second: LowRank
    scale: float

    @property
    def shape(self) -> Shape:
        return self.first.shape

    def delta(self, pristine: torch.Tensor) -> torch.Tensor:
        product = self.first.delta(pristine).flatten(1).mul_(self.second.delta(pristine).flatten(1))
        return product.mul_(self.scale).reshape(self.shape)

    def rows(self, rows: Rows) -> Hadamard:
        return Hadamard(self.first.rows(rows), self.second.rows(rows), self.scale)


@dataclass(frozen=True)
class Kronecker(Change):
    """LoKr: ΔW = scale · first ⊗ second (as LyCORIS writes it); `first` is a matrix, a kernel is the second's."""

    first: LowRank | Whole
    second: LowRank | Whole
    scale: float

    @property
    def shape(self) -> Shape:
        (rows, columns), (more_rows, more_columns, *kernel) = self.first.shape, self.second.shape
        return (rows * more_rows, columns * more_columns, *kernel)

    def delta(self, pristine: torch.Tensor) -> torch.Tensor:
        # A kernel is the fastest of the columns before and after: flat, it is the same product.
        flat = torch.kron(self.first.delta(pristine), self.second.delta(pristine).flatten(1))
        return flat.mul_(self.scale).reshape(self.shape)


@dataclass(frozen=True)
class Part(Change):
    """Some rows of a change that cannot be cut apart itself."""

    whole: Change
    picked: Rows

    @property
    def shape(self) -> Shape:
        height, *rest = self.whole.shape
        return (sum(len(range(*rows.indices(height))) for rows in self.picked), *rest)

    def delta(self, pristine: torch.Tensor) -> torch.Tensor:
        return _picked(self.whole.delta(pristine), self.picked)


@dataclass(frozen=True)
class Decomposed(Change):
    """DoRA on top of another change: ΔW = W' − W0 with W' = magnitude · (W0 + change) / ‖W0 + change‖.

    The norm is taken per output, over all the rest (Liu et al. 2024, PEFT), or, where LyCORIS' `wd_on_out` was off
    (`per_input`), per input. A blend weighs W' − W0: weight 0 is the base, weight 1 the model as it was trained,
    and all others lie on the straight line through both, whatever else is blended with it.
    """

    change: Change
    magnitude: torch.Tensor  # flat: one number for each output or input
    per_input: bool = False

    @property
    def shape(self) -> Shape:
        return self.change.shape

    @property
    def _axis(self) -> int:
        return 1 if self.per_input else 0

    def fits(self, shape: Shape) -> bool:
        return len(shape) > 1 and self.change.fits(shape) and len(self.magnitude) == shape[self._axis]

    def rows(self, rows: Rows) -> Decomposed:
        """Only all of them, in another order, where the norm is taken per input: it spans them."""
        magnitude = self.magnitude if self.per_input else _picked(self.magnitude, rows)
        return Decomposed(self.change.rows(rows), magnitude, self.per_input)

    def delta(self, pristine: torch.Tensor) -> torch.Tensor:
        base = _ready(pristine, pristine)
        changed = base + self.change.delta(pristine).reshape(base.shape)
        others = [axis for axis in range(base.ndim) if axis != self._axis]
        norm = torch.linalg.vector_norm(changed, dim=others, keepdim=True)
        norm.clamp_min_(torch.finfo(norm.dtype).tiny)  # all of a row may be zero: it stays so
        return changed.div_(norm).mul_(_ready(self.magnitude, pristine).reshape(norm.shape)).sub_(base)
