"""The judge's untrained parts: what it is taught to answer, the paint it looks for, and what counts as right."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from training.pocket.drawing import draw_scene
from training.pocket.judge import (
    HEADS,
    LUMP,
    UNASKED,
    Asked,
    Judge,
    as_seen,
    drawings,
    example,
    held_out,
    judge_pictures,
    labels,
    painted,
)
from training.pocket.scenes import COLOURS, Scene, Thing, describe, sample_scene

CAT = Thing("cat", "red", "medium", "middle", 0.27, 0.5, 0.4)
BOAT = Thing("boat", "white", "medium", "middle", 0.73, 0.5, 0.4)
CIRCLE = Thing("circle", "red", "medium", "middle", 0.5, 0.5, 0.4)
PAIR = Scene((CAT, BOAT), "night", "left of")


def named(classes: list[int]) -> dict[str, str]:
    """Answers by head, without those that are not asked."""
    return {head: HEADS[head][one] for head, one in zip(HEADS, classes, strict=True) if one != UNASKED}


def always(classes: list[int]) -> Judge:
    """A judge that answers the same whatever it sees."""
    judge = Judge((8, 8, 8, 8), hidden=8).requires_grad_(False)
    judge.heads.weight.zero_()
    parts = [torch.zeros(len(names)) for names in HEADS.values()]
    for part, one in zip(parts, classes, strict=True):
        if one != UNASKED:
            part[one] = 20
    judge.heads.bias.copy_(torch.cat(parts))
    return judge


def asked_for(scene: Scene) -> Asked:
    return Asked(scene, describe(scene, random.Random(0), full=True))


def rates(scene: Scene, answers: Scene, image: Image.Image | None = None) -> dict[str, float]:
    """What a judge who saw `answers` says of a picture that was asked to be `scene`."""
    asked = asked_for(scene)
    return judge_pictures(always(labels(answers)), [image or drawings([asked])[0]], [asked]).rates


def test_the_labels_of_one_thing_are_what_is_drawn() -> None:
    scene = Scene((dataclasses.replace(CAT, place="left", size="small"),), "snow")
    assert named(labels(scene)) == {
        "count": "one", "background": "snow", "thing": "cat", "colour": "red", "place": "left", "size": "small",
    }  # fmt: skip


@pytest.mark.parametrize("things", [(CAT, BOAT), (BOAT, CAT)])
def test_two_things_are_labelled_from_the_left_whatever_the_caption_begins_with(things: tuple[Thing, Thing]) -> None:
    assert named(labels(Scene(things, "night", "beside"))) == {
        "count": "two", "background": "night", "axis": "across",
        "thing 1": "cat", "colour 1": "red", "thing 2": "boat", "colour 2": "white",
    }  # fmt: skip


def test_the_colours_of_a_styled_picture_are_not_asked() -> None:
    assert named(labels(PAIR, styled=True)).keys() == {"count", "axis", "thing 1", "thing 2"}


@settings(max_examples=40)
@given(st.integers(0, 2**32))
def test_what_the_judge_learns_from_has_an_answer_for_each_head_that_is_asked(seed: int) -> None:
    image, classes = example(random.Random(seed))
    answers = named(classes)
    assert as_seen([image]).shape == (1, 3, 64, 64)
    assert ("thing" in answers) == (answers["count"] == "one") == ("thing 1" not in answers)


def test_some_of_what_the_judge_learns_from_is_no_thing_at_all() -> None:
    rng = random.Random(0)
    shares = [LUMP in named(example(rng)[1]).values() for _ in range(100)]
    assert 0.02 < sum(shares) / len(shares) < 0.2


@pytest.mark.parametrize("things", [1, 2])
def test_the_colours_of_a_drawn_scene_are_found_in_its_pixels(things: int) -> None:
    """Not quite always: a thing may hide those pixels of a setting that are counted as its colour without it."""
    asked = held_out(40, things)
    assert sum(painted(image, one.scene) for image, one in zip(drawings(asked), asked, strict=True)) >= 38


@pytest.mark.parametrize("colour", COLOURS)
def test_a_plain_thing_is_painted_in_its_own_colour_alone(colour: str) -> None:
    background = "white" if colour != "white" else "blue"
    (image,) = drawings([asked_for(Scene((dataclasses.replace(CIRCLE, colour=colour),), background))])
    others = [other for other in COLOURS if other != background]
    scenes = {other: Scene((dataclasses.replace(CIRCLE, colour=other),), background) for other in others}
    assert [other for other, scene in scenes.items() if painted(image, scene)] == [colour]


@pytest.mark.parametrize(("background", "colour"), [("sea", "red"), ("night", "white"), ("snow", "blue")])
def test_a_bare_setting_has_no_thing_painted_on_it(background: str, colour: str) -> None:
    bare = draw_scene(Scene((), background), random.Random(0))
    assert not painted(bare, Scene((dataclasses.replace(CAT, colour=colour),), background))


@pytest.mark.parametrize("count", [1, 2])
def test_a_judge_who_sees_what_is_there_finds_all_right(count: int) -> None:
    for asked in held_out(10, count):
        assert set(rates(asked.scene, asked.scene).values()) == {1.0}


def test_a_wrong_thing_is_the_only_fault_found() -> None:
    scene = sample_scene(random.Random(1), count=1)
    other = "house" if scene.things[0].name != "house" else "cat"
    seen = dataclasses.replace(scene, things=(dataclasses.replace(scene.things[0], name=other),))
    found = rates(scene, seen)
    assert {name for name, rate in found.items() if rate == 0} == {"thing", "all"}


def test_a_swap_is_a_fault_of_the_relation_alone() -> None:
    swapped = Scene((dataclasses.replace(BOAT, x=CAT.x), dataclasses.replace(CAT, x=BOAT.x)), "night", "left of")
    assert {name for name, rate in rates(PAIR, swapped).items() if rate == 0} == {"relation", "all"}
    beside = dataclasses.replace(PAIR, relation="beside")
    assert rates(beside, swapped)["all"] == 1


def test_a_colour_the_judge_believes_must_be_in_the_pixels_too() -> None:
    found = rates(PAIR, PAIR, Image.new("RGB", (128, 128), (10, 14, 50)))
    assert {name for name, rate in found.items() if rate == 0} == {"colours", "all"}


def test_a_place_that_the_caption_leaves_open_is_not_asked() -> None:
    scene = Scene((dataclasses.replace(CAT, place="left"),), "snow")
    caption = dataclasses.replace(describe(scene, random.Random(0), full=True), place=None, sizes=(None,))
    asked = Asked(scene, caption)
    found = judge_pictures(always(labels(scene)), drawings([asked]), [asked])
    assert found.pictures == 1
    assert found.rates.keys() == {"thing", "colour", "background", "all"}
