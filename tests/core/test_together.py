"""Pictures drawn together: the same bits whenever a batch of that size draws them, whichever seeds are beside them."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import BadRequest, Cancelled
from core.messages import Preview, Progress
from core.recipe import permalink
from core.request import LARGEST_SEED, request_from
from core.studio import Generated, Studio
from core.together import groups_of
from lora_catalog.visitor import ANYONE
from tests.core.test_second_pass import SMALL, TWICE, files, make, pixels, studio, updates

__all__ = ["studio"]

WAYS: list[tuple[str, int, dict[str, Any], bool]] = [
    ("pocket-sd3", 3, {}, False),
    ("pocket-sd3", 2, {**TWICE}, True),
    ("pocket-sdxl", 2, {"sampler": "euler-ancestral"}, False),
    ("pocket-sdxl", 2, {"sampler": "dpm++-2m"}, True),
    ("pocket-sdxl-lcm", 3, {**TWICE}, False),
]


@pytest.mark.parametrize(("model", "batch", "fields", "masked"), WAYS)
def test_each_picture_of_a_batch_is_made_again_from_its_own_recipe(
    studio: Studio, tmp_path: Path, model: str, batch: int, fields: dict[str, Any], masked: bool
) -> None:
    given = files(tmp_path) if masked else {}
    made = make(studio, model=model, images=batch, batch=batch, **fields, **given)
    assert (made.recipe.plan.batch, made.recipe.images) == (batch, batch)
    whole = make(studio, recipe=json.loads(made.recipe.as_text()), **given)
    for one, other in zip(made.pictures, whole.pictures, strict=True):
        assert np.array_equal(pixels(one), pixels(other))
    for number, (recipe, picture) in enumerate(zip(made.recipes, made.pictures, strict=True)):
        assert (recipe.seed, recipe.images, recipe.plan.batch) == (7 + number, 1, batch)
        again = make(studio, recipe=recipe.as_json(), **given)
        assert len(again.pictures) == 1
        assert np.array_equal(pixels(again.pictures[0]), pixels(picture))


def test_each_row_of_a_batch_says_its_own_words_and_is_made_again_from_its_own_recipe(studio: Studio) -> None:
    made = make(studio, prompt="[[red, blue]] {circle|star} \\{a|b}", images=2, batch=2, **TWICE)
    assert made.recipe.version == 2
    texts = [made.recipe.request().texts_of(number)[0] for number in range(2)]
    assert [text.split()[0] for text in texts] == ["red", "blue"]
    for number, (recipe, picture) in enumerate(zip(made.recipes, made.pictures, strict=True)):
        assert recipe.request().texts_of(0)[0] == texts[number]
        assert (recipe.version, recipe.seed, recipe.images, recipe.plan.batch) == (2, 7 + number, 1, 2)
        for text in (recipe.as_text(), permalink(recipe)):
            read, told = studio.read_recipe({"text": text}, ANYONE)
            assert (read, told) == (recipe, [])
        again = make(studio, recipe=recipe.as_json())
        assert np.array_equal(pixels(again.pictures[0]), pixels(picture))
    whole = make(studio, recipe=made.recipe.as_json())
    assert all(map(np.array_equal, map(pixels, whole.pictures), map(pixels, made.pictures)))


@pytest.mark.parametrize("model", ["pocket-sd3", "pocket-sdxl", "pocket-sdxl-lcm"])
def test_a_batch_shows_what_each_seed_shows_alone(studio: Studio, model: str) -> None:
    together = make(studio, model=model, images=3, batch=2)
    alone = make(studio, model=model, images=3)
    for one, other in zip(together.pictures, alone.pictures, strict=True):
        assert np.abs(pixels(one) - pixels(other)).mean() < 1
    assert alone.recipe.plan.batch == 1


def test_a_seeds_row_is_always_the_same_in_batches_of_one_size() -> None:
    rows: dict[int, int] = {}
    for seed in range(20):
        for images in (1, 5, 8):
            request = request_from(
                SMALL | {"seed": seed, "images": images, "batch": min(4, images) if images > 1 else 4}, ""
            )
            groups = list(groups_of(request))
            assert [number for group in groups for number, _ in group.pictures] == list(range(images))
            for group in groups:
                assert len(group.seeds) == 4
                for number, row in group.pictures:
                    assert group.seeds[row] == seed + number
                    assert rows.setdefault(seed + number, row) == row


def test_progress_and_previews_come_for_every_picture_of_a_batch(studio: Studio) -> None:
    came = updates(studio, images=3, batch=2, steps=12)
    told = [one for one in came if isinstance(one, Progress) and one.total]
    assert [one.done for one in told] == [*range(2, 26, 2), *range(25, 37)]
    assert {one.total for one in told} == {36}
    assert {one.index for one in came if isinstance(one, Preview)} == {0, 1, 2}


def test_cancel_is_heard_within_a_batch(studio: Studio) -> None:
    stop, seen = threading.Event(), []

    def watched() -> None:
        for update in studio.generate(SMALL | {"steps": 60, "images": 4, "batch": 4}, ANYONE, stop):
            if isinstance(update, Progress) and update.total:
                seen.append(update)
                stop.set()

    with pytest.raises(Cancelled):
        watched()
    assert 1 <= len(seen) <= 3


def test_the_last_seed_there_is_can_be_drawn_in_a_batch(studio: Studio) -> None:
    assert isinstance(make(studio, seed=LARGEST_SEED, batch=2), Generated)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"batch": 0}, "batch must be a whole number from 1 to 8"),
        ({"batch": 9}, "batch must be a whole number from 1 to 8"),
        ({"batch": "all"}, "batch must be a whole number from 1 to 8"),
        ({"images": 2, "batch": 3}, "batch must not exceed images, which is 2"),
    ],
)
def test_a_batch_that_cannot_be_is_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words) as refused:
        request_from(SMALL | fields, "pocket-sd3")
    assert refused.value.field == "batch"


def test_a_recipe_of_a_batch_is_the_same_here_and_its_script_says_what_differs(studio: Studio) -> None:
    made = make(studio, images=2, batch=2)
    for recipe in (made.recipe, made.recipes[1]):
        assert studio.read_recipe({"text": recipe.as_text()}, ANYONE)[1] == []
    assert "in batches of 2; here one by one" in studio.recipe_code(made.recipe, "http://127.0.0.1:7860")["diffusers"]
