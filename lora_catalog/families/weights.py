"""One weight of a model that a LoRA may change, and all the names it goes by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

Shape = tuple[int, ...]  # as torch orders it: (out, in) of a Linear, (out, in, height, width) of a Conv2d


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight of the model as its authors published it, which diffusers may have split over several modules.

    `paths` and `shapes` are the modules as diffusers names them, in the order of their rows in the original weight;
    `originals` are its names in the original code, or in a trainer that follows neither. `swapped`: the original holds
    shift and scale, its two halves, in the other order (diffusers' AdaLayerNormContinuous takes scale first).
    """

    paths: tuple[str, ...]
    shapes: tuple[Shape, ...]
    originals: tuple[str, ...] = ()
    swapped: bool = False


def one(path: str, shape: Shape, *originals: str, swapped: bool = False) -> Weight:
    """A weight that is one module in diffusers too."""
    return Weight((path,), (shape,), originals, swapped)


class Architecture(Protocol):
    """A part of a model, such as a UNet or a text encoder, by its measures."""

    def weights(self) -> Iterator[Weight]:
        """Every Linear and Conv2d of the part, each once."""
        ...
