"""The table of model families: what each is made of, by the published configurations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from lora_catalog.card import Family
from lora_catalog.families.encoders import T5, Clip
from lora_catalog.families.transformers import Flux, MMDiT
from lora_catalog.families.unet import UNet
from lora_catalog.families.weights import Architecture, Shape

# openai/clip-vit-large-patch14; laion/CLIP-ViT-bigG-14-laion2B-39B-b160k; laion/CLIP-ViT-H-14-laion2B-s32B-b79K less
# its last layer, as stabilityai/stable-diffusion-2-1 text_encoder/config.json has it; google/t5-v1_1-xxl
CLIP_L = Clip(768, layers=12)
CLIP_L_PROJECTED = Clip(768, layers=12, projection=768)
CLIP_G = Clip(1280, layers=32, projection=1280)
CLIP_H = Clip(1024, layers=23)
T5_XXL = T5(4096, layers=24, inner=10240)


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A family's architecture: its parts by diffusers' component names, and where their measures were published.

    `also` are further names under which files speak of a part.
    """

    family: Family
    title: str
    source: str
    parts: Mapping[str, Architecture]
    also: Mapping[str, str] = field(default_factory=dict)

    @property
    def backbone(self) -> str:
        """The component that draws: the UNet or the transformer."""
        return next(iter(self.parts))


_SD3_ENCODERS: Mapping[str, Architecture] = {
    "text_encoder": CLIP_L_PROJECTED,
    "text_encoder_2": CLIP_G,
    "text_encoder_3": T5_XXL,
}
_SDXL_ENCODERS: Mapping[str, Architecture] = {"text_encoder": CLIP_L, "text_encoder_2": CLIP_G}
_SD_WIDTHS = (320, 640, 1280, 1280)
_SD_DOWN = ((1, 1), (1, 1), (1, 1), (0, 0))
_SD_UP = ((0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1))
_SDXL_WIDTHS = (320, 640, 1280)
_SDXL_TIMES = 2816  # 1280 of the pooled text, 6 × 256 of sizes and crops
_POCKET = "training/pocket/models.py"

MODELS: tuple[Model, ...] = (
    Model(
        "sd3-medium",
        "Stable Diffusion 3 medium",
        "stabilityai/stable-diffusion-3-medium-diffusers transformer/config.json",
        {"transformer": MMDiT(1536, blocks=24), **_SD3_ENCODERS},
    ),
    Model(
        "sd3.5-medium",
        "Stable Diffusion 3.5 medium",
        "stabilityai/stable-diffusion-3.5-medium transformer/config.json",
        {"transformer": MMDiT(1536, blocks=24, dual=13), **_SD3_ENCODERS},
    ),
    Model(
        "sd3.5-large",
        "Stable Diffusion 3.5 large",
        "stabilityai/stable-diffusion-3.5-large transformer/config.json",
        {"transformer": MMDiT(2432, blocks=38), **_SD3_ENCODERS},
    ),
    Model(
        "sdxl",
        "Stable Diffusion XL",
        "stabilityai/stable-diffusion-xl-base-1.0 unet/config.json",
        {
            "unet": UNet(
                _SDXL_WIDTHS,
                down=((0, 0), (2, 2), (10, 10)),
                middle=10,
                up=((10, 10, 10), (2, 2, 2), (0, 0, 0)),
                context=2048,
                added=_SDXL_TIMES,
            ),
            **_SDXL_ENCODERS,
        },
    ),
    Model(
        "ssd-1b",
        "SSD-1B",
        "segmind/SSD-1B unet/config.json",
        {
            "unet": UNet(
                _SDXL_WIDTHS,
                down=((0, 0), (2, 2), (4, 4)),
                middle=None,
                up=((4, 4, 10), (2, 1, 1), (0, 0, 0)),
                context=2048,
                added=_SDXL_TIMES,
            ),
            **_SDXL_ENCODERS,
        },
    ),
    Model(
        "sd1",
        "Stable Diffusion 1",
        "stable-diffusion-v1-5/stable-diffusion-v1-5 unet/config.json",
        {
            "unet": UNet(_SD_WIDTHS, _SD_DOWN, middle=1, up=_SD_UP, context=768, linear_projection=False),
            "text_encoder": CLIP_L,
        },
    ),
    Model(
        "sd2",
        "Stable Diffusion 2",
        "stabilityai/stable-diffusion-2-1 unet/config.json",
        {"unet": UNet(_SD_WIDTHS, _SD_DOWN, middle=1, up=_SD_UP, context=1024), "text_encoder": CLIP_H},
    ),
    Model(
        "flux",
        "FLUX.1",
        "black-forest-labs/FLUX.1-dev transformer/config.json",
        {"transformer": Flux(), "text_encoder": CLIP_L, "text_encoder_2": T5_XXL},
        also={"text_encoder_3": "text_encoder_2"},  # sd-scripts numbers T5 as in Stable Diffusion 3
    ),
    Model(
        "pocket-sd3",
        "Pocket SD3",
        _POCKET,
        {
            "transformer": MMDiT(192, blocks=6, joint=320, pooled=320),
            "text_encoder": Clip(128, layers=3, projection=128),
            "text_encoder_2": Clip(192, layers=3, projection=192),
        },
    ),
    Model(
        "pocket-sdxl",
        "Pocket SDXL",
        _POCKET,
        {
            "unet": UNet(
                (64, 128),
                down=((1,), (1,)),
                middle=1,
                up=((1, 1), (1, 1)),
                context=320,
                added=240,
                channels=16,
                scale_shift=True,
            ),
            "text_encoder": Clip(128, layers=3),
            "text_encoder_2": Clip(192, layers=3, projection=192),
        },
    ),
    # Of another family, but measured here too: too near to SDXL to be told from it by names.
    Model(
        "other",
        "Segmind Vega",
        "segmind/Segmind-Vega unet/config.json",
        {
            "unet": UNet(
                _SDXL_WIDTHS,
                down=((0, 0), (1, 1), (2, 2)),
                middle=None,
                up=((2, 2, 2), (1, 1, 1), (0, 0, 0)),
                context=2048,
                added=_SDXL_TIMES,
            ),
            **_SDXL_ENCODERS,
        },
    ),
    Model(
        "other",
        "the SDXL refiner",
        "stabilityai/stable-diffusion-xl-refiner-1.0 unet/config.json",
        {
            "unet": UNet(
                (384, 768, 1536, 1536),
                down=((0, 0), (4, 4), (4, 4), (0, 0)),
                middle=4,
                up=((0, 0, 0), (4, 4, 4), (4, 4, 4), (0, 0, 0)),
                context=1280,
                added=2560,
            ),
            "text_encoder_2": CLIP_G,
        },
    ),
)

MODEL_OF: Mapping[Family, Model] = MappingProxyType(
    {model.family: model for model in MODELS if model.family != "other"}
)


def modules(model: Model) -> dict[tuple[str, str], Shape]:
    """The shape of every Linear and Conv2d of a model, by component and path as diffusers names them."""
    return {
        (component, path): shape
        for component, part in model.parts.items()
        for weight in part.weights()
        for path, shape in zip(weight.paths, weight.shapes, strict=True)
    }
