"""Which pictures of a request go through the denoiser at once, and in which row of the batch each one stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from core.request import GenerationRequest


@dataclass(frozen=True)
class Group:
    """`seeds` by row. `pictures` are (number in the request, row) of those that were asked for, in their order."""

    seeds: tuple[int, ...]
    pictures: tuple[tuple[int, int], ...]


def groups_of(request: GenerationRequest) -> Iterator[Group]:
    """Batches of exactly `request.batch` rows, the last one filled up with the seeds that follow.

    The last bits of a row may depend on how many rows there are and on which one it is (kernels cut matrices into
    tiles), never on what the others show. So a seed's row is always seed % batch: in a batch of that size it is drawn
    with the same bits, whichever seeds are beside it.
    """
    size = request.batch
    for first in range(0, request.images, size):
        begin = request.seed + first
        seeds = sorted(range(begin, begin + size), key=lambda seed: seed % size)
        asked = range(first, min(first + size, request.images))
        yield Group(tuple(seeds), tuple((number, (request.seed + number) % size) for number in asked))
