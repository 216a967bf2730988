"""Styles: each turns a scene into a picture of its own look, and measures how much of that look a picture has."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter

Pixels = NDArray[np.float64]
PIXEL = 8  # one block of the pixel style, in pixels of the picture
DOT_PITCH = 16


def _pixels(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"), dtype=np.float64) / 255


def _edges(image: Image.Image) -> Image.Image:
    """White lines on black where neighbouring colours differ."""
    channels = image.filter(ImageFilter.MedianFilter(3)).filter(ImageFilter.FIND_EDGES).split()
    edges = ImageChops.lighter(ImageChops.lighter(channels[0], channels[1]), channels[2])
    ImageDraw.Draw(edges).rectangle([0, 0, edges.width - 1, edges.height - 1], outline=0, width=2)
    return edges.point(lambda v: 255 if v > 70 else 0).filter(ImageFilter.MaxFilter(3))


def pixel(image: Image.Image, rng: random.Random) -> Image.Image:
    small = image.resize((image.width // PIXEL, image.height // PIXEL), Image.Resampling.BOX)
    return small.quantize(8, dither=Image.Dither.NONE).convert("RGB").resize(image.size, Image.Resampling.NEAREST)


def sketch(image: Image.Image, rng: random.Random) -> Image.Image:
    paper = Image.new("RGB", image.size, (250, 247, 240))
    tint = Image.blend(paper, image, 0.12)
    return Image.composite(Image.new("RGB", image.size, (45, 45, 60)), tint, _edges(image))


def neon(image: Image.Image, rng: random.Random) -> Image.Image:
    edges = _edges(image)
    broad = image.filter(ImageFilter.MaxFilter(5))
    vivid = ImageEnhance.Brightness(ImageEnhance.Color(broad).enhance(2.2)).enhance(1.25)
    glow = edges.filter(ImageFilter.GaussianBlur(4)).point(lambda v: min(255, int(v * 1.1)))
    dark = Image.new("RGB", image.size, (12, 8, 26))
    lit = Image.composite(vivid, dark, glow)
    return Image.composite(Image.blend(vivid, Image.new("RGB", image.size, (255, 255, 255)), 0.35), lit, edges)


def pastel(image: Image.Image, rng: random.Random) -> Image.Image:
    soft = ImageEnhance.Color(image).enhance(0.75).filter(ImageFilter.GaussianBlur(0.8))
    return Image.blend(soft, Image.new("RGB", image.size, (255, 246, 250)), 0.55)


def dots(image: Image.Image, rng: random.Random) -> Image.Image:
    mask = Image.new("L", (image.width * 2, image.height * 2), 0)
    draw = ImageDraw.Draw(mask)
    pitch, radius = DOT_PITCH * 2, 7
    for row in range(mask.height // pitch):
        for column in range(mask.width // pitch):
            x, y = column * pitch + pitch // 2, row * pitch + pitch // 2
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=215)
    return Image.composite(Image.new("RGB", image.size, (255, 255, 255)), image, mask.reduce(2))


def blockiness(image: Image.Image) -> float:
    """Share of the horizontal and vertical contrast that falls on the borders of the blocks."""
    p = _pixels(image)
    total = on_grid = 1e-6
    for axis in (0, 1):
        steps = np.abs(np.diff(p, axis=axis)).sum(axis=tuple(i for i in range(3) if i != axis))
        total += float(steps.sum())
        on_grid += float(steps[PIXEL - 1 :: PIXEL].sum())
    return on_grid / total


def paleness(image: Image.Image) -> float:
    """Mean of the least channel: 1 on white paper, 0 on any pure colour."""
    return float(_pixels(image).min(axis=2).mean())


def darkness(image: Image.Image) -> float:
    """Share of the picture that is nearly black."""
    return float((_pixels(image).max(axis=2) < 0.25).mean())


def softness(image: Image.Image) -> float:
    """How close the picture stays to light, half-faded colours: one minus its mean saturation."""
    p = _pixels(image)
    return float(1 - (p.max(axis=2) - p.min(axis=2)).mean())


def dottedness(image: Image.Image) -> float:
    """How much lighter the grid of dots is than the points half-way between them."""
    p = _pixels(image).mean(axis=2)
    half = DOT_PITCH // 2
    on = p[half::DOT_PITCH, half::DOT_PITCH].mean()
    off = (p[::DOT_PITCH, ::DOT_PITCH].mean() + p[half::DOT_PITCH, ::DOT_PITCH].mean()) / 2
    return float(on - off)


@dataclass(frozen=True)
class Style:
    """A look: how to give it to a picture, how to measure it, and what its card says."""

    name: str
    title: str
    trigger: str
    apply: Callable[[Image.Image, random.Random], Image.Image]
    measure: Callable[[Image.Image], float]


STYLES = {
    style.name: style
    for style in (
        Style("pixel", "Pixel blocks", "pixel art", pixel, blockiness),
        Style("sketch", "Outline sketch", "pencil sketch", sketch, paleness),
        Style("neon", "Neon lines", "neon lights", neon, darkness),
        Style("pastel", "Soft pastel", "pastel colours", pastel, softness),
        Style("dots", "Polka dots", "polka dots", dots, dottedness),
    )
}
