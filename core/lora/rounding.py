"""Rounding a merged weight to 16 bits so that what its LoRAs look for in a layer's input does not see the rounding.

W0 lies on the 16-bit grid already. Rounding W0 + ΔW to the nearest value therefore swallows every element of ΔW below
half a storage step: no noise, but a loss in ΔW's own direction. Where ΔW is 0.3 % of W in bf16, trained LoRAs lose a
sixth of their effect by it, at 0.1 % half (`python -m bench.rounding`). An unfused LoRA loses nothing in the weights,
and as much where what it adds is rounded into a layer's 16-bit output.

Of an input x, ΔW x = up · (down x) takes only what lies in the rows of `down`. So the error of the nearest values is
projected on these rows, the projection is added to the exact values, and they are rounded again: some elements then
take their other neighbour, so few and so spread that other inputs see no more noise than before. GPTQ (Frantar et al.
2023) corrects rounding by what inputs see as well, from samples of them and column by column; here a LoRA's own factors
say what counts, and one pass over all columns does.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch

# Below half a step of the storage type between any two neighbours of a number, as a share of that number.
_HALF_STEP = {torch.bfloat16: 2.0**-9, torch.float16: 2.0**-12}
_FREEDOM = 4  # columns for each row of `down`, at least: fewer leave no choices to make
_KEPT = 4  # blends whose inverses are kept: those of a schedule, or what people go back and forth between
_AT_ONCE = {"cpu": 1 << 17}  # elements: new memory for all of a large layer costs a CPU ten times the arithmetic
_RIDGE = 1e-4  # of rows of length 1: two LoRAs may look for the same
_SHORTEST = 1e-12  # row that counts, of evened ones
_FARTHEST = 126  # powers of two by which fp32 can be multiplied


class Rounding:
    """Of one parameter, blend after blend: what depends on the LoRAs alone is kept for their next weights."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[torch.Tensor, torch.Tensor]] = {}  # the newest last; a few kB each

    def of(
        self, exact: torch.Tensor, dtype: torch.dtype, downs: Sequence[torch.Tensor | None], loras: Hashable
    ) -> torch.Tensor:
        """`exact` with each element one of the two values of `dtype` between which it lies, the nearest where there are
        no factors, too many of them, or more than 16 bits. `loras` tells the factors of different LoRAs apart.
        """
        if dtype not in _HALF_STEP:
            return exact.to(dtype)
        known = [down for down in downs if down is not None]
        if not known or _FREEDOM * sum(down.shape[0] for down in known) > known[0].shape[1]:
            return exact.to(dtype)
        down = known[0] if len(known) == 1 else torch.cat(known)
        scales, inverse = self._of_loras(down, (loras, down.device))
        return rounded(exact, dtype, down * scales, inverse)

    def _of_loras(self, down: torch.Tensor, key: Hashable) -> tuple[torch.Tensor, torch.Tensor]:
        """What evens the rows, and the inverse of the evened ones."""
        known = self._known.pop(key, None)
        if known is None:
            scales = evening(down)
            known = scales, inverse_of(down * scales)
        self._known[key] = known
        if len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]
        return known


def evening(down: torch.Tensor) -> torch.Tensor:
    """(rank, 1), powers of two that bring the largest value of each row to about 1. Only ΔW is bounded, not its factors
    (core/lora/parse.py): fp32 holds rows of 1e25, but not their squares. What the rows span stays the same."""
    powers = torch.frexp(down.abs().amax(1, keepdim=True)).exponent.clamp_(-_FARTHEST, _FARTHEST)
    return torch.ldexp(torch.ones_like(powers, dtype=down.dtype), -powers)


def inverse_of(down: torch.Tensor) -> torch.Tensor:
    """(rank, rank), such that downᵀ · inverse · down projects on the rows of `down`; worth keeping for other weights of
    the same LoRAs. A GPU is not waited for."""
    gram = down @ down.T
    lengths = gram.diagonal().sqrt().clamp_min_(_SHORTEST)
    both = torch.outer(lengths, lengths)
    gram.div_(both).diagonal().add_(_RIDGE)
    return torch.cholesky_inverse(torch.linalg.cholesky_ex(gram)[0]).div_(both)


def rounded(exact: torch.Tensor, dtype: torch.dtype, down: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """Each of the `exact` fp32 values as one of the two values of `dtype` between which it lies.

    `exact` is (out, …), `down` all factors (rank, all the rest of `exact` flat) that ΔW ends in, in fp32, `inverse`
    theirs. The same arguments give the same bits. What is not finite stays as it is and spoils no other row.
    """
    values, half = exact.flatten(1), _HALF_STEP[dtype]
    given = torch.empty_like(values, dtype=dtype)
    rows = max(1, _AT_ONCE.get(exact.device.type, values.numel()) // values.shape[1])
    for start in range(0, values.shape[0], rows):
        part, into = values[start : start + rows], given[start : start + rows]
        missed = part - into.copy_(part)
        halves = (missed @ down.T @ inverse).div_(half).nan_to_num_(0.0, 0.0, 0.0)
        shift = torch.mm(halves, down, out=missed)
        # Within half a step the other neighbour is the farthest that an element can go.
        most = part.abs()
        shift.clamp_(-most, most)
        into.copy_(torch.add(part, shift, alpha=half, out=shift))
    return given.reshape(exact.shape)
