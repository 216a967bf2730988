"""How much a forward of each family's denoiser computes, by the size of the picture."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from core.base_models import BaseModel
from lora_catalog.card import Family

# TFLOP of one forward of the denoiser at the family's own size (`_SIDE`, else 1024 px), computed from its shapes:
# two for each multiplication of its matrices, convolutions and attentions; SSD-1B's and SD's are estimates.
_FORWARD: Mapping[Family, float] = MappingProxyType({
    "sd3.5-large": 31.1, "sd3.5-medium": 11.3, "sd3-medium": 8.9, "sdxl": 6.8, "ssd-1b": 4.0, "sd1": 0.8, "sd2": 2.0,
    "pocket-sd3": 0.01, "pocket-sdxl": 0.01,
})  # fmt: skip
_SIDE: Mapping[Family, int] = MappingProxyType({"sd1": 512, "sd2": 768, "pocket-sd3": 128, "pocket-sdxl": 128})


def forward_tflop(entry: BaseModel, pixels: int) -> float:
    """TFLOP; about a quarter is attention among the picture's own parts, and grows with the square of its size."""
    share = pixels / _SIDE.get(entry.family, 1024) ** 2
    return _FORWARD[entry.family] * share * (0.75 + 0.25 * share)
