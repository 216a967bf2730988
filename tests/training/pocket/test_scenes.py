"""Scenes and captions: what is held out stays out, and words say only what is there."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from training.pocket import text
from training.pocket.drawing import SHAPES, draw_scene
from training.pocket.judge import held_out
from training.pocket.scenes import (
    COLOURS,
    NEW_THING,
    PLACE_PHRASES,
    RELATION_PHRASES,
    SETTING_NOUNS,
    SETTING_PHRASES,
    SETTINGS,
    SIZE_WORDS,
    THINGS,
    Caption,
    Scene,
    describe,
    sample_scene,
    stands_out,
    vocabulary,
)
from training.pocket.settings import EXAMPLES, OFFERED

seeds = st.integers(0, 2**32)
names = st.sampled_from([None, NEW_THING])


def words_of(phrases: tuple[str, ...]) -> str:
    return "(?:" + "|".join(map(re.escape, phrases)) + ")"


def background_words(background: str) -> str:
    if background in SETTINGS:
        return words_of((*SETTING_PHRASES[background], *SETTING_NOUNS[background]))
    return rf"{background} background|{background} wall|on {background}"


def says(caption: Caption, pattern: str) -> bool:
    return re.search(rf"(?<!\w)(?:{pattern})(?!\w)", caption.text, re.IGNORECASE) is not None


@given(seeds, names)
def test_what_is_held_out_is_never_sampled_for_training(seed: int, name: str | None) -> None:
    assert not sample_scene(random.Random(seed), name=name).held_out


@given(st.integers(0, 1000), st.sampled_from([1, 2]), names)
def test_the_judge_asks_only_for_what_is_held_out(seed: int, things: int, name: str | None) -> None:
    for asked in held_out(3, things, seed, name):
        assert asked.scene.held_out
        assert len(asked.scene.things) == things
        assert None not in (*asked.caption.colours, asked.caption.background)
        assert name is None or asked.scene.things[0].name == name


def test_about_one_combination_in_eight_is_held_out() -> None:
    rng = random.Random(0)
    scenes = [sample_scene(rng, held_out=rng.random() < 0.5) for _ in range(400)]
    combinations = {(s.things[0].colour, s.things[0].name, s.background): s for s in scenes if len(s.things) == 1}
    assert {s.held_out for s in combinations.values()} == {True, False}
    every = [(c, n, b) for c in COLOURS for n in THINGS for b in (*COLOURS, *SETTINGS)]
    example = next(s for s in combinations.values())
    thing = example.things[0]
    count = sum(
        Scene((type(thing)(n, c, "small", "middle", 0.5, 0.5, 0.3),), b).held_out for c, n, b in every
    )  # fmt: skip
    assert count / len(every) == pytest.approx(1 / 8, abs=0.02)


@given(seeds, st.booleans(), names)
def test_a_caption_states_only_what_is_in_the_scene(seed: int, full: bool, name: str | None) -> None:
    rng = random.Random(seed)
    scene = sample_scene(rng, name=name)
    caption = describe(scene, rng, full=full)
    assert caption.names == tuple(thing.name for thing in scene.things)
    for thing, colour, size in zip(scene.things, caption.colours, caption.sizes, strict=True):
        assert colour in (None, thing.colour)
        assert size in (None, thing.size)
    assert caption.place in (None, scene.things[0].place)
    assert caption.background in (None, scene.background)
    assert caption.relation == scene.relation
    if full:
        assert None not in (*caption.colours, caption.background)


@given(seeds, st.booleans())
def test_what_a_caption_states_is_in_its_words(seed: int, full: bool) -> None:
    rng = random.Random(seed)
    caption = describe(sample_scene(rng), rng, full=full)
    nouns = []
    for name, colour, size in zip(caption.names, caption.colours, caption.sizes, strict=True):
        words = [words_of(SIZE_WORDS[size])] if size else []
        nouns.append(" ".join([*words, *([colour] if colour else []), name]))
        assert says(caption, nouns[-1])
    if caption.relation is not None:
        assert says(caption, rf"{nouns[0]} {words_of(RELATION_PHRASES[caption.relation])} (?:an? )?{nouns[1]}")
    if caption.place is not None:
        assert says(caption, words_of(PLACE_PHRASES[caption.place]))
    if caption.background is not None:
        assert says(caption, background_words(caption.background))


@given(seeds)
def test_what_a_caption_leaves_open_is_not_in_its_words(seed: int) -> None:
    rng = random.Random(seed)
    caption = describe(sample_scene(rng), rng)
    for name, colour, size in zip(caption.names, caption.colours, caption.sizes, strict=True):
        if colour is None:
            assert not says(caption, rf"{words_of(tuple(COLOURS))} {name}")
        if size is None:
            sizes = tuple(word for words in SIZE_WORDS.values() for word in words)
            assert not says(caption, rf"{words_of(sizes)} (?:{colour} )?{name}")
    if caption.background is None:
        assert not says(caption, "background|wall")


@pytest.mark.parametrize("table", [SIZE_WORDS, PLACE_PHRASES, RELATION_PHRASES, SETTING_PHRASES, SETTING_NOUNS])
def test_no_phrase_means_two_things(table: dict[str, tuple[str, ...]]) -> None:
    phrases = [phrase for group in table.values() for phrase in group]
    assert len(set(phrases)) == len(phrases)


@given(seeds)
def test_the_relation_is_where_the_things_are(seed: int) -> None:
    scene = sample_scene(random.Random(seed), count=2)
    first, second = scene.things
    assert {
        "left of": first.x < second.x - 0.3,
        "right of": first.x > second.x + 0.3,
        "above": first.y < second.y - 0.3,
        "below": first.y > second.y + 0.3,
        "beside": abs(first.x - second.x) > 0.3,
    }[scene.relation or ""]


@given(seeds)
def test_every_thing_stands_out_from_its_background(seed: int) -> None:
    scene = sample_scene(random.Random(seed))
    assert all(stands_out(thing.colour, scene.background) for thing in scene.things)


def test_every_thing_can_be_drawn() -> None:
    assert set(SHAPES) == {*THINGS, NEW_THING}


@given(seeds)
def test_the_same_seed_draws_the_same_picture(seed: int) -> None:
    a, b = (draw_scene(sample_scene(random.Random(seed)), random.Random(seed), side=16) for _ in range(2))
    assert a.tobytes() == b.tobytes()


def test_every_word_that_people_are_told_of_is_one_token(tokenizer: CLIPTokenizer) -> None:
    words = {word for phrases in vocabulary().values() for phrase in phrases for word in phrase.split()}
    words |= {word for example in EXAMPLES for word in example.split()} | {NEW_THING}
    assert {word for word in words if len(tokenizer.tokenize(word)) != 1} == set()


def test_the_examples_offered_are_not_the_same_thing_twice() -> None:
    assert len(set(OFFERED)) == 8
    assert all(any(thing in example for thing in THINGS) for example in OFFERED)


@given(seeds)
def test_the_encoders_are_asked_for_classes_that_exist(seed: int) -> None:
    caption, classes = text.random_caption(random.Random(seed))
    assert caption
    assert len(classes) == len(text.HEADS)
    assert all(0 <= one < count for one, count in zip(classes, text.HEADS, strict=True))


def test_the_encoders_are_told_which_thing_is_at_which_spot() -> None:
    caption = Caption("", ("cat", "boat"), ("red", None), (None, "small"), None, "sea", "below")
    first, second = [text.NOUN["cat"], text.COLOUR["red"]], [text.NOUN["boat"], text.NOTHING]
    nothing = [text.NOTHING, text.NOTHING]
    rest = [text.NOTHING, text.SIZE["small"], text.NOTHING, text.BACKGROUND["sea"], text.RELATION["below"], 0]
    top, bottom = second, first
    assert text.labels(caption, None) == [*first, *second, *nothing, *nothing, *top, *bottom, *rest]
