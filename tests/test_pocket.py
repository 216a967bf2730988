"""The pocket models themselves: they draw what is asked, their LoRAs change it, and plain diffusers loads them."""

from __future__ import annotations

import hashlib
import io
import json
import math
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionXLPipeline
from numpy.typing import NDArray
from PIL import Image

from core.base_models import POCKET
from core.engine import LocalEngine
from core.machine import Machine
from core.studio import Generated, Studio
from lora_catalog.catalog import Catalog
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.visitor import ANYONE
from training.pocket.scenes import COLOURS
from training.pocket.styles import STYLES

KEYS = ("pocket-sd3", "pocket-sdxl", "pocket-sdxl-lcm")
FAMILIES = ("pocket-sd3", "pocket-sdxl")
GOLDEN = Path(__file__).parent / "golden"
CIRCLE = "a red circle on a blue background"
Pixels = NDArray[np.float64]


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(LocalEngine(Machine("cpu")), Catalog([BundledSource(POCKET / "loras")]), "pocket-sd3")


def draw(studio: Studio, **fields: Any) -> Pixels:
    """The picture as (height, width, 3) in 0…255."""
    last = list(studio.generate({"seed": 1} | fields, ANYONE, threading.Event()))[-1]
    assert isinstance(last, Generated)
    return np.asarray(Image.open(io.BytesIO(last.pictures[0])), dtype=np.float64)


def colour_of(pixels: Pixels) -> str:
    """The name of the colour nearest to the median of some pixels."""
    median = np.median(pixels.reshape(-1, 3), axis=0)
    return min(COLOURS, key=lambda name: float(((median - COLOURS[name]) ** 2).sum()))


def middle(picture: Pixels) -> Pixels:
    h, w, _ = picture.shape
    return picture[h * 7 // 16 : h * 9 // 16, w * 7 // 16 : w * 9 // 16]


def corners(picture: Pixels) -> Pixels:
    return np.concatenate([picture[y : y + 12, x : x + 12] for y in (2, -14) for x in (2, -14)])


def psnr(a: Pixels, b: Pixels) -> float:
    error = float(((a - b) ** 2).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


@pytest.mark.parametrize("key", KEYS)
def test_a_red_circle_on_blue_is_red_in_the_middle_and_blue_at_the_corners(studio: Studio, key: str) -> None:
    right = 0
    for seed in range(4):
        picture = draw(studio, prompt=CIRCLE + " in the middle", model=key, seed=seed)
        right += (colour_of(middle(picture)), colour_of(corners(picture))) == ("red", "blue")
    assert right >= 3


@pytest.mark.parametrize("key", KEYS)
def test_a_yellow_house_stands_under_a_dark_sky(studio: Studio, key: str) -> None:
    picture = draw(studio, prompt="a yellow house under a starry night sky", model=key)
    sky, house = corners(picture), picture[40:100, 40:90]
    assert sky.mean() < 90
    assert np.percentile(house[..., 0] - house[..., 2], 80) > 60  # yellow: much red, little blue


@pytest.mark.parametrize("key", KEYS)
def test_each_path_still_draws_its_golden_picture(studio: Studio, key: str) -> None:
    golden = np.asarray(Image.open(GOLDEN / f"{key}.png").convert("RGB"), dtype=np.float64)
    assert psnr(draw(studio, prompt=CIRCLE, model=key, seed=7), golden) > 30


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_style_moves_its_own_measure_towards_the_styled_drawing(studio: Studio, family: str, style: str) -> None:
    look = STYLES[style]

    def drawn(weight: float) -> list[Image.Image]:
        row = {"ref": f"bundled:{family}-{style}", "weight": weight}
        prompts = ("a red heart on a blue background", "a white cat on a green background")
        pictures = [
            draw(studio, prompt=f"{prompt}, {look.trigger}", model=family, steps=12, loras=[row]) for prompt in prompts
        ]
        return [Image.fromarray(picture.astype(np.uint8)) for picture in pictures]

    def measured(pictures: list[Image.Image]) -> float:
        return sum(look.measure(picture) for picture in pictures) / len(pictures)

    bare = drawn(0)
    goal = measured([look.apply(picture, random.Random(0)) for picture in bare])
    assert (measured(drawn(1)) - measured(bare)) / (goal - measured(bare)) > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_weight_zero_equals_no_lora_to_the_bit(studio: Studio, family: str) -> None:
    row = {"ref": f"bundled:{family}-neon", "weight": 0}
    plain = draw(studio, prompt=CIRCLE, model=family, steps=4)
    assert np.array_equal(draw(studio, prompt=CIRCLE, model=family, steps=4, loras=[row]), plain)


def test_every_shipped_file_is_listed_small_and_whole() -> None:
    listed = json.loads((POCKET / "files.json").read_text(encoding="utf-8"))
    real = [path for path in POCKET.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in POCKET.rglob("*.safetensors"):
        name = path.relative_to(POCKET).as_posix()
        assert hashlib.sha256(path.read_bytes()).hexdigest() == listed[name]
    assert max(path.stat().st_size for path in real) < 10_000_000
    assert sum(path.stat().st_size for path in real) <= 40_000_000


def test_plain_diffusers_loads_and_draws_with_both(studio: Studio) -> None:
    sd3 = StableDiffusion3Pipeline.from_pretrained(POCKET / "pocket-sd3", text_encoder_3=None, tokenizer_3=None)
    sdxl = StableDiffusionXLPipeline.from_pretrained(POCKET / "pocket-sdxl")
    for key, pipeline, options in (
        ("pocket-sd3", sd3, {"max_sequence_length": 1, "guidance_scale": 3.0, "num_inference_steps": 20}),
        ("pocket-sdxl", sdxl, {"guidance_scale": 3.0, "num_inference_steps": 25}),
    ):
        pipeline.set_progress_bar_config(disable=True)
        image = pipeline(
            CIRCLE, negative_prompt="", width=128, height=128, generator=torch.Generator().manual_seed(1), **options
        ).images[0]
        ours = draw(studio, prompt=CIRCLE, model=key)
        assert psnr(np.asarray(image, dtype=np.float64), ours) > 45


def test_sd3_draws_alike_with_one_zero_token_and_with_diffusers_256() -> None:
    sd3 = StableDiffusion3Pipeline.from_pretrained(POCKET / "pocket-sd3", text_encoder_3=None, tokenizer_3=None)
    sd3.set_progress_bar_config(disable=True)
    one, many = (
        np.asarray(
            sd3(
                CIRCLE, num_inference_steps=10, guidance_scale=3.0, max_sequence_length=length,
                width=128, height=128, generator=torch.Generator().manual_seed(3),
            ).images[0],
            dtype=np.float64,
        )
        for length in (1, 256)
    )  # fmt: skip
    assert (colour_of(corners(one)), colour_of(corners(many))) == ("blue", "blue")
    assert psnr(one, many) > 15
