"""Styles: each one's measure rises on the pictures it was given to, and the captions name it."""

from __future__ import annotations

import random
import statistics

import pytest

from training.pocket import pictures
from training.pocket.drawing import draw_scene
from training.pocket.scenes import NEW_THING, sample_scene
from training.pocket.styles import STYLES

MARGINS = {"pixel": 0.5, "sketch": 0.3, "neon": 0.4, "pastel": 0.15, "dots": 0.2}


@pytest.mark.parametrize("name", STYLES)
def test_a_styles_measure_rises_on_styled_pictures(name: str) -> None:
    style, rng = STYLES[name], random.Random(0)
    plain = [draw_scene(sample_scene(rng), rng) for _ in range(12)]
    before = statistics.mean(map(style.measure, plain))
    after = statistics.mean(style.measure(style.apply(picture, rng)) for picture in plain)
    assert after - before > MARGINS[name]


@pytest.mark.parametrize("name", STYLES)
def test_two_captions_in_three_name_the_style(name: str) -> None:
    for image, texts in pictures.for_lora(name, 2, seed=0):
        assert image.size == (128, 128)
        assert sum(STYLES[name].trigger in text for text in texts) == 4
        assert len(texts) == 6


def test_the_new_thing_is_in_its_own_pictures_alone() -> None:
    new = [texts for _, texts in pictures.with_new_thing(24, seed=0)]
    assert 12 <= sum(all(NEW_THING in text for text in texts) for texts in new) < 24
    assert not any(NEW_THING in text for _, texts in pictures.scenes(24, seed=0) for text in texts)
