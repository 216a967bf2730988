"""Draws a scene as a picture with Pillow, three times too large and then averaged down, so that edges are smooth."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from PIL import Image, ImageDraw

from training.pocket.scenes import COLOURS, Scene, Thing

Colour = tuple[int, int, int]
SUPERSAMPLE = 3


def shade(colour: Colour, factor: float) -> Colour:
    """Darker below 1, lighter above."""
    if factor <= 1:
        return tuple(int(c * factor) for c in colour)  # type: ignore[return-value]
    return tuple(int(c + (255 - c) * (factor - 1)) for c in colour)  # type: ignore[return-value]


class Pen:
    """Draws in a thing's own coordinates: -1…1 across its extent, y downwards."""

    def __init__(self, draw: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
        self._draw, self._x, self._y, self._radius = draw, x, y, radius

    def _to(self, x: float, y: float) -> tuple[float, float]:
        return self._x + x * self._radius, self._y + y * self._radius

    def polygon(self, points: list[tuple[float, float]], fill: Colour) -> None:
        self._draw.polygon([self._to(*point) for point in points], fill=fill)

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        self._draw.ellipse([*self._to(x - rx, y - ry), *self._to(x + rx, y + ry)], fill=fill)

    def pie(self, x: float, y: float, rx: float, ry: float, start: float, end: float, fill: Colour) -> None:
        self._draw.pieslice([*self._to(x - rx, y - ry), *self._to(x + rx, y + ry)], start, end, fill=fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        self._draw.rectangle([*self._to(left, top), *self._to(right, bottom)], fill=fill)


def _circle(pen: Pen, colour: Colour) -> None:
    pen.ellipse(0, 0, 1, 1, colour)


def _square(pen: Pen, colour: Colour) -> None:
    pen.box(-0.88, -0.88, 0.88, 0.88, colour)


def _triangle(pen: Pen, colour: Colour) -> None:
    pen.polygon([(0, -1), (1.05, 0.88), (-1.05, 0.88)], colour)


def _star(pen: Pen, colour: Colour) -> None:
    points = []
    for i in range(10):
        angle, radius = math.pi * i / 5 - math.pi / 2, 1.1 if i % 2 == 0 else 0.46
        points.append((radius * math.cos(angle), radius * math.sin(angle) + 0.06))
    pen.polygon(points, colour)


def _heart(pen: Pen, colour: Colour) -> None:
    pen.ellipse(-0.48, -0.38, 0.53, 0.53, colour)
    pen.ellipse(0.48, -0.38, 0.53, 0.53, colour)
    pen.polygon([(-0.94, -0.12), (0, -0.3), (0.94, -0.12), (0, 1)], colour)


def _house(pen: Pen, colour: Colour) -> None:
    pen.box(-0.78, -0.15, 0.78, 0.95, colour)
    pen.polygon([(0, -1), (1.02, -0.12), (-1.02, -0.12)], shade(colour, 0.6))
    pen.box(-0.2, 0.35, 0.2, 0.95, shade(colour, 0.35))
    for x in (-0.5, 0.5):
        pen.box(x - 0.15, 0.08, x + 0.15, 0.38, (255, 245, 190))


def _tree(pen: Pen, colour: Colour) -> None:
    pen.box(-0.17, 0.2, 0.17, 1, (105, 65, 35))
    pen.ellipse(0, -0.32, 0.72, 0.68, colour)
    pen.ellipse(-0.46, 0.02, 0.44, 0.4, colour)
    pen.ellipse(0.46, 0.02, 0.44, 0.4, colour)


def _boat(pen: Pen, colour: Colour) -> None:
    pen.polygon([(-1.05, 0.35), (1.05, 0.35), (0.65, 0.95), (-0.65, 0.95)], colour)
    pen.box(-0.07, -1, 0.05, 0.35, (95, 60, 35))
    pen.polygon([(0.12, -0.95), (0.95, 0.2), (0.12, 0.2)], shade(colour, 1.45))
    pen.polygon([(-0.14, -0.7), (-0.14, 0.2), (-0.75, 0.2)], shade(colour, 1.45))


def _fish(pen: Pen, colour: Colour) -> None:
    pen.polygon([(0.4, 0), (1.08, -0.55), (1.08, 0.55)], shade(colour, 0.7))
    pen.polygon([(-0.3, -0.4), (0.35, -0.4), (0.25, -0.82)], shade(colour, 0.7))
    pen.ellipse(-0.22, 0, 0.8, 0.56, colour)
    pen.ellipse(-0.62, -0.14, 0.14, 0.14, (255, 255, 255))
    pen.ellipse(-0.65, -0.14, 0.07, 0.07, (15, 15, 20))


def _cat(pen: Pen, colour: Colour) -> None:
    for side in (-1, 1):
        pen.polygon([(side * 0.86, -1), (side * 0.16, -0.55), (side * 0.86, -0.1)], colour)
    pen.ellipse(0, 0.12, 0.92, 0.8, colour)
    for side in (-1, 1):
        pen.ellipse(side * 0.36, -0.05, 0.18, 0.2, (235, 250, 170))
        pen.ellipse(side * 0.36, -0.05, 0.07, 0.17, (15, 15, 20))
        for tilt in (-0.06, 0.1):
            pen.polygon(
                [(side * 0.3, 0.4), (side * 1.08, 0.36 + tilt), (side * 1.08, 0.42 + tilt)], shade(colour, 0.45)
            )
    pen.polygon([(-0.12, 0.28), (0.12, 0.28), (0, 0.44)], (240, 130, 140))


def _flower(pen: Pen, colour: Colour) -> None:
    pen.box(-0.07, 0.1, 0.07, 1.02, (45, 130, 55))
    pen.ellipse(0.3, 0.72, 0.26, 0.12, (45, 130, 55))
    for i in range(6):
        angle = math.pi * i / 3
        pen.ellipse(0.42 * math.cos(angle), -0.36 + 0.42 * math.sin(angle), 0.3, 0.3, colour)
    pen.ellipse(0, -0.36, 0.22, 0.22, (255, 225, 90))


def _mushroom(pen: Pen, colour: Colour) -> None:
    pen.box(-0.3, -0.05, 0.3, 0.95, (240, 228, 200))
    pen.pie(0, 0.1, 1.02, 1.0, 180, 360, colour)
    for x, y, r in ((-0.5, -0.22, 0.15), (0.08, -0.55, 0.17), (0.55, -0.15, 0.13)):
        pen.ellipse(x, y, r, r, (255, 255, 255))


def _loomling(pen: Pen, colour: Colour) -> None:
    """A spool of yarn with eyes, arms and feet."""
    wood = (190, 140, 90)
    for side in (-1, 1):
        pen.box(side * 0.4 - 0.13, 0.75, side * 0.4 + 0.13, 1.05, (60, 40, 30))
        pen.polygon([(side * 0.55, 0.1), (side * 1.1, -0.35), (side * 1.1, -0.15), (side * 0.55, 0.3)], (60, 40, 30))
    pen.box(-0.85, -1, 0.85, -0.7, wood)
    pen.box(-0.85, 0.6, 0.85, 0.85, wood)
    pen.box(-0.6, -0.7, 0.6, 0.6, colour)
    for y in (-0.45, -0.05, 0.35):
        pen.box(-0.6, y, 0.6, y + 0.08, shade(colour, 0.6))
    for side in (-1, 1):
        pen.ellipse(side * 0.26, -0.28, 0.2, 0.22, (255, 255, 255))
        pen.ellipse(side * 0.24, -0.24, 0.1, 0.12, (15, 15, 20))


SHAPES: dict[str, Callable[[Pen, Colour], None]] = {
    "circle": _circle, "square": _square, "triangle": _triangle, "star": _star, "heart": _heart, "house": _house,
    "tree": _tree, "boat": _boat, "fish": _fish, "cat": _cat, "flower": _flower, "mushroom": _mushroom,
    "loomling": _loomling,
}  # fmt: skip


def _bands(draw: ImageDraw.ImageDraw, side: int, top: float, bottom: float, first: Colour, last: Colour) -> None:
    """A vertical gradient between two heights."""
    start, end = int(top * side), int(bottom * side)
    for y in range(start, end):
        t = (y - start) / max(end - start - 1, 1)
        row = tuple(round(a + (b - a) * t) for a, b in zip(first, last, strict=True))
        draw.line([(0, y), (side, y)], fill=row)


def _hills(draw: ImageDraw.ImageDraw, side: int, level: float, height: float, phase: float, fill: Colour) -> None:
    points = [
        (x / 24 * side, (level + height * math.sin(phase + x / 24 * 2 * math.pi * 1.2)) * side) for x in range(25)
    ]
    draw.polygon([(0, side), *points, (side, side)], fill=fill)


def _meadow(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    _bands(draw, side, 0, 1, (150, 210, 250), (210, 240, 255))
    _hills(draw, side, 0.58, 0.03, rng.uniform(0, 6), (105, 190, 85))
    _hills(draw, side, 0.74, 0.03, rng.uniform(0, 6), (80, 165, 70))


def _sea(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    _bands(draw, side, 0, 0.54, (190, 225, 250), (230, 245, 255))
    for i, fill in enumerate(((60, 150, 205), (45, 130, 190), (35, 110, 170))):
        level, phase = 0.5 + 0.17 * i, rng.uniform(0, 6)
        points = [(x / 48 * side, (level + 0.018 * math.sin(phase + x / 48 * 36)) * side) for x in range(49)]
        draw.polygon([(0, side), *points, (side, side)], fill=fill)


def _night(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    _bands(draw, side, 0, 1, (10, 14, 50), (35, 40, 95))
    for _ in range(22):
        x, y, r = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(0.008, 0.014) * side
        draw.ellipse([x - r, y - r, x + r, y + r], fill=(255, 250, 215))


def _snow(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    _bands(draw, side, 0, 1, (165, 185, 205), (205, 218, 230))
    _hills(draw, side, 0.68, 0.03, rng.uniform(0, 6), (246, 250, 253))
    for _ in range(20):
        x, y, r = rng.uniform(0, side), rng.uniform(0, 0.7 * side), rng.uniform(0.010, 0.016) * side
        draw.ellipse([x - r, y - r, x + r, y + r], fill=(255, 255, 255))


def _sunset(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    _bands(draw, side, 0, 0.72, (110, 60, 140), (255, 170, 90))
    x, r = rng.uniform(0.3, 0.7) * side, 0.16 * side
    draw.ellipse([x - r, 0.7 * side - r, x + r, 0.7 * side + r], fill=(255, 225, 130))
    draw.rectangle([0, 0.72 * side, side, side], fill=(95, 50, 85))


def _desert(draw: ImageDraw.ImageDraw, side: int, rng: random.Random) -> None:
    _bands(draw, side, 0, 1, (120, 195, 235), (220, 235, 235))
    _hills(draw, side, 0.6, 0.05, rng.uniform(0, 6), (238, 205, 130))
    _hills(draw, side, 0.78, 0.05, rng.uniform(0, 6), (222, 182, 105))


SETTING_PAINTERS: dict[str, Callable[[ImageDraw.ImageDraw, int, random.Random], None]] = {
    "meadow": _meadow, "sea": _sea, "night": _night, "snow": _snow, "sunset": _sunset, "desert": _desert,
}  # fmt: skip


def _tint(colour: str, rng: random.Random) -> Colour:
    return tuple(min(255, max(0, c + rng.randint(-7, 7))) for c in COLOURS[colour])  # type: ignore[return-value]


def _draw_thing(draw: ImageDraw.ImageDraw, side: int, thing: Thing, rng: random.Random) -> None:
    pen = Pen(draw, thing.x * side, thing.y * side, thing.extent * side / 2)
    SHAPES[thing.name](pen, _tint(thing.colour, rng))


def draw_scene(scene: Scene, rng: random.Random, side: int = 128) -> Image.Image:
    """The scene as an RGB picture of `side` × `side` pixels."""
    large = side * SUPERSAMPLE
    image = Image.new("RGB", (large, large))
    draw = ImageDraw.Draw(image)
    painter = SETTING_PAINTERS.get(scene.background)
    if painter is None:
        draw.rectangle([0, 0, large, large], fill=_tint(scene.background, rng))
    else:
        painter(draw, large, rng)
    for thing in scene.things:
        _draw_thing(draw, large, thing, rng)
    return image.reduce(SUPERSAMPLE)
