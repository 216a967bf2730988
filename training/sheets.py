"""Draws pictures by the dozen and lays them out on labelled sheets."""

from __future__ import annotations

import statistics
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw, ImageFont

PAPER, INK = (255, 255, 255), (40, 40, 48)
GAP = 6  # pixels between pictures
LINE = 12  # pixels of a line of a label


@dataclass(frozen=True)
class Drawing:
    """How a pipeline is asked to draw: the settings of its call, and how many pictures at once."""

    steps: int
    guidance: float
    side: int = 128
    batch: int = 16
    options: dict[str, Any] = field(default_factory=dict)  # what only this pipeline's call takes

    @torch.no_grad()
    def draw(self, pipeline: DiffusionPipeline, prompts: Sequence[str], seed: int = 0) -> list[Image.Image]:
        """A picture for each prompt, each from start noise of its own: `seed`, `seed` + 1, …"""
        images: list[Image.Image] = []
        for start in range(0, len(prompts), self.batch):
            some = list(prompts[start : start + self.batch])
            generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(some))]
            images += pipeline(
                some,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                width=self.side,
                height=self.side,
                generator=generators,
                **self.options,
            ).images
        return images

    def seconds(self, pipeline: DiffusionPipeline, prompt: str, times: int = 5) -> float:
        """Seconds for one picture drawn by itself, the median of a few."""
        taken = []
        for number in range(times):
            began = time.perf_counter()
            self.draw(pipeline, [prompt], number)
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)


def sheet(images: Sequence[Image.Image], labels: Sequence[str], columns: int) -> Image.Image:
    """Pictures in rows, each with its label below."""
    width, height = images[0].size
    font = ImageFont.load_default(10)
    lines = [textwrap.wrap(label, max(8, width // 5)) for label in labels]
    cell = (width + GAP, height + GAP + LINE * max((len(one) for one in lines), default=0) + GAP // 2)
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * cell[0] + GAP, rows * cell[1] + GAP), PAPER)
    pen = ImageDraw.Draw(page)
    for number, image in enumerate(images):
        x, y = GAP + number % columns * cell[0], GAP + number // columns * cell[1]
        page.paste(image, (x, y))
        for row, text in enumerate(lines[number] if number < len(lines) else ()):
            pen.text((x, y + height + 2 + row * LINE), text, INK, font)
    return page
