"""Random changes of every form, for tests that compare what is computed from factors with whole matrices."""

from __future__ import annotations

from collections.abc import Callable

import torch

from core.lora.changes import Change, Decomposed, Hadamard, Kronecker, LowRank, Part, Whole


def some(*shape: int) -> torch.Tensor:
    return torch.randn(shape) * 0.3


def low_rank(rows: int, columns: int, rank: int) -> LowRank:
    return LowRank(some(rows, rank), some(rank, columns), 0.7)


def tucker(rows: int, columns: int, rank: int) -> LowRank:
    return LowRank(some(rows, rank), some(rank, columns), 1.3, some(rank, rank, 1, 1))


def hadamard(rows: int, columns: int, rank: int) -> Hadamard:
    return Hadamard(low_rank(rows, columns, rank), low_rank(rows, columns, 2), 0.5)


def kronecker(rows: int, columns: int, rank: int) -> Kronecker:
    return Kronecker(Whole(some(2, 2)), low_rank(rows // 2, columns // 2, rank), 0.9)


def part(rows: int, columns: int, rank: int) -> Part:
    return Part(hadamard(2 * rows, columns, rank), (slice(rows, 2 * rows),))


def whole(rows: int, columns: int, rank: int) -> Whole:
    return Whole(some(rows, columns), 0.2)


def dora(rows: int, columns: int, rank: int) -> Decomposed:
    return Decomposed(low_rank(rows, columns, rank), some(rows).abs() + 0.5)


FORMS: tuple[Callable[[int, int, int], Change], ...] = (low_rank, tucker, hadamard, kronecker, part, whole, dora)
