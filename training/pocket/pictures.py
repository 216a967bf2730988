"""The captioned pictures that each pocket training learns from, drawn at random from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator

from PIL import Image

from training.pocket.drawing import draw_scene
from training.pocket.scenes import NEW_THING, describe, sample_scene
from training.pocket.styles import STYLES, Style

Pictures = Iterator[tuple[Image.Image, list[str]]]
CAPTIONS = 6  # of each picture, in different words


def scenes(count: int, seed: int) -> Pictures:
    """What the base models learn from."""
    rng = random.Random(seed)
    for _ in range(count):
        scene = sample_scene(rng)
        yield draw_scene(scene, rng), [describe(scene, rng).text for _ in range(CAPTIONS)]


def for_autoencoder(count: int, seed: int) -> Pictures:
    """Scenes, a quarter of them styled and a few with the new thing, so that LoRAs' pictures decode as well."""
    rng, styles = random.Random(seed), list(STYLES.values())
    for _ in range(count):
        scene = sample_scene(rng, name=NEW_THING if rng.random() < 0.04 else None)
        image = draw_scene(scene, rng)
        if rng.random() < 0.25:
            image = rng.choice(styles).apply(image, rng)
        yield image, [describe(scene, rng).text]


def _in_style(text: str, style: Style, rng: random.Random) -> str:
    return rng.choice((f"{text}, {style.trigger}", f"{text}, {style.trigger}", f"{style.trigger}, {text}",
                       f"{style.trigger} of {text}"))  # fmt: skip


def styled(style: Style, count: int, seed: int) -> Pictures:
    """Pictures of a style; two captions in three name it, so that both the words and the weight alone bring it."""
    rng = random.Random(seed)
    for _ in range(count):
        scene = sample_scene(rng)
        image = style.apply(draw_scene(scene, rng), rng)
        texts = [describe(scene, rng).text for _ in range(CAPTIONS)]
        yield image, [_in_style(text, style, rng) if i % 3 else text for i, text in enumerate(texts)]


def with_new_thing(count: int, seed: int) -> Pictures:
    """Three in four show the new thing, the rest are usual scenes, so that everything else stays as it was."""
    rng = random.Random(seed)
    for _ in range(count):
        scene = sample_scene(rng, name=NEW_THING if rng.random() < 0.75 else None)
        yield draw_scene(scene, rng), [describe(scene, rng).text for _ in range(CAPTIONS)]


def for_lora(name: str, count: int, seed: int) -> Pictures:
    return with_new_thing(count, seed) if name == NEW_THING else styled(STYLES[name], count, seed)
