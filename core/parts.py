"""How many numbers the parts of each family's models hold, by which the memory that a plan takes is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lora_catalog.card import Family


@dataclass(frozen=True)
class Part:
    """`numbers` are all that a part keeps, tables such as SD3's positions among them; `linear` those of the Linear
    weights that bitsandbytes packs."""

    numbers: int
    linear: int


Parts = Mapping[str, Part]
"""The parts of a model by their names in its pipeline: the denoiser first, then the text encoders, the VAE last."""

_CLIP_L = Part(123_060_480, 84_934_656)
_CLIP_L_PROJECTED = Part(123_650_304, 85_524_480)
_CLIP_G = Part(694_659_840, 630_784_000)
_CLIP_H = Part(340_387_840, 289_406_976)
# transformers never packs T5's `wo`, of which there are 24 × 4096 × 10240 numbers
T5_XXL = Part(4_762_310_656, 4_630_511_616 - 24 * 4096 * 10240)
_VAE = Part(83_653_863, 2_097_152)
_VAE_16 = Part(83_819_683, 2_097_152)
_POCKET_VAE = Part(2_634_419, 0)


def _sd3(transformer: Part) -> Parts:
    encoders = {"text_encoder": _CLIP_L_PROJECTED, "text_encoder_2": _CLIP_G, "text_encoder_3": T5_XXL}
    return MappingProxyType({"transformer": transformer, **encoders, "vae": _VAE_16})


def _sdxl(unet: Part) -> Parts:
    return MappingProxyType({"unet": unet, "text_encoder": _CLIP_L, "text_encoder_2": _CLIP_G, "vae": _VAE})


def _sd(unet: Part, encoder: Part) -> Parts:
    return MappingProxyType({"unet": unet, "text_encoder": encoder, "vae": _VAE})


def _pocket(denoiser: str, size: Part, first: Part) -> Parts:
    second = Part(1_583_456, 1_363_968)
    return MappingProxyType({denoiser: size, "text_encoder": first, "text_encoder_2": second, "vae": _POCKET_VAE})


PARTS: Mapping[Family, Parts] = MappingProxyType(
    {
        "sd3.5-large": _sd3(Part(8_056_627_520 + 89_653_248, 8_053_694_464)),
        "sd3.5-medium": _sd3(Part(2_243_171_520 + 226_492_416, 2_241_822_720)),
        "sd3-medium": _sd3(Part(2_028_328_000 + 56_623_104, 2_027_126_784)),
        "sdxl": _sdxl(Part(2_567_463_684, 2_232_647_680)),
        "ssd-1b": _sdxl(Part(1_331_334_404, 1_026_785_280)),
        "sd1": _sd(Part(859_520_964, 270_049_280), _CLIP_L),
        "sd2": _sd(Part(865_910_724, 301_219_840), _CLIP_H),
        "pocket-sd3": _pocket("transformer", Part(7_912_384, 7_815_168), Part(752_544, 606_208)),
        "pocket-sdxl": _pocket("unet", Part(4_908_496, 2_641_920), Part(736_160, 589_824)),
    }
)
