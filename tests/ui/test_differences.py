"""What sets two recipes apart, as people read it."""

from __future__ import annotations

from core.recipe import Recipe
from tests.core.recipes import NEON, lora, recipe
from ui.differences import differences

BLOCKS = {"in": 0.5, "out.0": -1.0}


def apart(one: Recipe, other: Recipe) -> dict[str, tuple[str, str]]:
    return {name: (left, right) for name, left, right in differences(one, other)}


def test_a_recipe_differs_in_nothing_from_itself_drawn_at_another_time() -> None:
    assert apart(recipe(loras=(lora(NEON),)), recipe(loras=(lora(NEON),), created_at="2027-01-01T00:00:00+00:00")) == {}


def test_seed_size_and_words_are_told_side_by_side() -> None:
    one, other = recipe(seed=7, width=128, prompt="a cat"), recipe(seed=8, width=64, prompt="a dog")
    assert apart(one, other) == {"Seed": ("7", "8"), "Size": ("128 × 128", "64 × 128"), "Prompt": ("a cat", "a dog")}


def test_a_lora_that_only_one_has_is_told_and_so_is_each_of_its_settings() -> None:
    used = lora(NEON, weight=0.8, muted=True, text_encoder=0.25, start=0.5, blocks=BLOCKS)
    said = "× 0.8, muted, text encoder 0.25, from 0.5 to 1 of the steps, blocks in: 0.5, out.0: -1"
    assert apart(recipe(loras=(used,)), recipe()) == {"pocket-sdxl-neon": (said, "–")}
    assert apart(recipe(), recipe(total_strength=1.5)) == {"Total strength": ("–", "1.5")}


def test_another_file_of_the_same_name_is_another_lora() -> None:
    first, second = (recipe(loras=(lora("local:mine.safetensors", sha256=letter * 64),)) for letter in "ab")
    assert apart(first, second) == {"local:mine.safetensors": ("× 1, file aaaaaaaa", "× 1, file bbbbbbbb")}
