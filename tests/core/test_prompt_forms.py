"""Choices and arrays in a prompt: what they come to, what is no form, and that every picture is made again alone."""

from __future__ import annotations

import io
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.compare.axes import Ground
from core.compare.plan import plan_of_grid
from core.engine import LocalEngine
from core.errors import BadRequest
from core.machine import Machine
from core.prompt_forms import combinations, escaped, longest, texts_of
from core.recipe import recipe_from_text
from core.recipe_code import as_diffusers
from core.recipe_files import text_in_picture
from core.records.journal import Journal
from core.request import LONGEST_PROMPT, GenerationRequest, request_from
from core.studio import Generated, Studio
from lora_catalog.catalog import Catalog
from lora_catalog.visitor import Visitor
from tests.core.recipes import recipe

HOSTILE = st.text(st.sampled_from("{}[]|,\\ab<lora:>"), max_size=60)


def chosen(text: str, seed: int = 7, index: int = 0) -> str:
    return texts_of(text, "", seed, index)[0]


def asked(prompt: str, **fields: Any) -> GenerationRequest:
    return request_from({"prompt": prompt, "seed": 7} | fields, "pocket-sd3")


def test_a_choice_is_one_of_its_options_by_the_seed_and_all_of_them_come() -> None:
    found = Counter(chosen("a {red|blue|green} cat", seed=seed) for seed in range(300))
    assert set(found) == {"a red cat", "a blue cat", "a green cat"}
    assert min(found.values()) > 60
    assert chosen("a {red|blue|green} cat", seed=3, index=4) == chosen("a {red|blue|green} cat", seed=7)


def test_a_choice_is_the_same_on_every_version_and_machine() -> None:
    """Written down once: `random.random()` of a seed that is a text is promised never to change."""
    texts = [chosen("{a|b|c|d} {e|f|g|h} {i|j}", seed=seed) for seed in (0, 1, 2**32 - 1)]
    assert texts == ["d g i", "a f i", "d h j"]


def test_choices_lie_in_each_other_and_in_arrays() -> None:
    nested = {chosen("{a {red|blue} cat|a dog}", seed=seed) for seed in range(50)}
    assert nested == {"a red cat", "a blue cat", "a dog"}
    both = "[[{red|blue} sky, night]] over {[[hills, sea]]|town}"
    assert combinations(both, "") == 4
    assert {chosen(both, seed, 1) for seed in range(50)} <= {
        f"{sky} over {land}" for sky in ("red sky", "blue sky") for land in ("sea", "town")
    }


def test_arrays_come_in_order_the_last_one_first_and_begin_again() -> None:
    text = "a [[red, blue]] [[cat,dog , bird]]"
    assert combinations(text, "") == 6
    assert [chosen(text, index=index) for index in range(7)] == [
        "a red cat", "a red dog", "a red bird", "a blue cat", "a blue dog", "a blue bird", "a red cat",
    ]  # fmt: skip
    assert [texts_of("[[a, b]]", "[[c, d]]", 7, index) for index in range(4)] == [
        ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["a cat", "{a cat}", "{{masterpiece}}, cat", "[[cat]]", "[a, b]", "a | b", "{a|b", "a|b}", "[[a, b]", "[[a, b",
     "\\{a cat\\}", "C:\\new\\{x}", "[a, [b]]", "a, b]]", "{a, b}", "}{|", "]][[,", "(cat:1.2), [dog|cat]",
     "  a cat \n"],
)  # fmt: skip
def test_what_is_no_form_stays_letter_by_letter(text: str) -> None:
    assert [chosen(text, seed) for seed in range(5)] == [text] * 5
    assert (escaped(text), combinations(text, text), longest(text)) == (text, 1, len(text))


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("\\{a|b}", "{a|b}"),
        ("\\[[a, b]]", "[[a, b]]"),
        ("\\\\\\{a|b}", "\\{a|b}"),
        ("\\{a|\\{b|c}}", "{a|{b|c}}"),
        ("\\[[a, \\{b|c}]]", "[[a, {b|c}]]"),
    ],
)
def test_a_form_behind_a_backslash_is_plain_text(text: str, means: str) -> None:
    assert [chosen(text, seed) for seed in range(5)] == [means] * 5
    assert escaped(means) == text
    assert combinations(text, "") == 1


def test_two_backslashes_before_a_form_are_one_before_what_is_chosen() -> None:
    assert {chosen("\\\\{a|b}", seed) for seed in range(20)} == {"\\a", "\\b"}


@given(HOSTILE, HOSTILE, st.integers(0, 2**32 - 1), st.integers(0, 10))
@settings(deadline=None, max_examples=600)
def test_whatever_comes_of_a_text_stands_escaped_for_itself(prompt: str, negative: str, seed: int, index: int) -> None:
    texts = texts_of(prompt, negative, seed, index)
    for text, template in zip(texts, (prompt, negative), strict=True):
        said = escaped(text)
        assert len(text) <= len(template)
        assert len(said) <= longest(template)
        assert combinations(said, said) == 1
        assert texts_of(said, said, seed + 1, index + 1) == (text, text)


@given(st.sampled_from(["{", "[[", "{|", "[[,", "{a|", "[[a,", "}", "]]", "{a|b}", "[[a,b]]", "\\", "{[[", "}]]"]),
       st.sampled_from(["", "}", "|}", ",]]", "]]}"]))  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_no_text_grows_or_takes_more_than_its_length_of_work(part: str, end: str) -> None:
    text = (part * LONGEST_PROMPT)[: LONGEST_PROMPT // 2] + (end * LONGEST_PROMPT)[: LONGEST_PROMPT // 2 * bool(end)]
    assert len(chosen(text)) <= len(text)
    assert combinations(text, text) >= 1
    try:
        request = asked(text, images=1)
    except BadRequest as error:
        assert "\n" not in str(error)
    else:
        assert len(escaped(request.texts_of(0)[0])) <= LONGEST_PROMPT


def test_images_that_are_left_out_are_as_many_as_the_arrays_ask_for() -> None:
    assert asked("a [[red, blue]] [[cat, dog]]").images == 4
    assert asked("a cat", negative_prompt="[[rain, snow]]").images == 2
    assert [asked("a {red|blue} cat").images, asked("a [[red, blue]] cat", images=3).images] == [1, 3]
    with pytest.raises(BadRequest, match=r"prompt must ask for at most 8 pictures with its \[\[…, …\]\], not 9"):
        asked("[[a, b, c]] [[d, e, f]]")
    assert asked("[[a, b, c]] [[d, e, f]]", images=8).images == 8
    with pytest.raises(BadRequest, match="more than a million"):
        asked("[[a,b]]" * 500)
    with pytest.raises(BadRequest, match="prompt must be text"):
        asked(5)  # type: ignore[arg-type]


def test_a_template_has_room_for_the_escapes_of_what_comes_of_it() -> None:
    assert len(asked("{a|b} " + "x" * 3_900).texts_of(0)[0]) == 3_902
    with pytest.raises(BadRequest, match="one more for each brace, bracket and backslash"):
        asked("{a|b} " + "{" * 2_500)
    assert asked("{" * LONGEST_PROMPT).prompt == "{" * LONGEST_PROMPT


def test_lora_tags_are_taken_out_first_and_none_comes_about_by_a_choice() -> None:
    request = asked("{a|b} <lora:bundled:neon:0.5> cat")
    assert [lora.ref for lora in request.loras] == ["bundled:neon"]
    assert request.texts_of(0)[0] in ("a cat", "b cat")
    assert chosen("<{lora|lora}:bundled:neon> cat") == "lora:bundled:neon> cat"


@pytest.mark.parametrize(
    "prompt",
    ["{<lora:bundled:neon:1>|<lora:bundled:dots:1>} cat", "a [[cat <lora:bundled:neon:1>, dog]]",
     "{a|{b|c} <lora:bundled:neon:1>}"],
)  # fmt: skip
def test_a_lora_tag_within_a_choice_is_refused_since_it_would_count_whatever_is_chosen(prompt: str) -> None:
    with pytest.raises(BadRequest, match="prompt has a LoRA tag within"):
        asked(prompt)


def test_a_lora_tag_in_brackets_that_are_no_form_counts() -> None:
    for prompt in ("{cat <lora:bundled:neon:1>}", "\\{a <lora:bundled:neon:1>|b}", "{a|b <lora:bundled:neon:1>"):
        assert [lora.ref for lora in asked(prompt).loras] == ["bundled:neon"]


# Whole requests ------------------------------------------------------------------------------------------------------


@pytest.fixture
def studio(random_pocket: Path, tmp_path: Path) -> Studio:
    journal = Journal(tmp_path / "journal.sqlite")
    return Studio(LocalEngine(Machine("cpu")), Catalog([]), "pocket-sd3", journal, "recipe")


VISITOR = Visitor("somebody")


def made(studio: Studio, **fields: Any) -> Generated:
    small = {} if "recipe" in fields else {"steps": 1, "seed": 7, "width": 64, "height": 64}
    last = list(studio.generate(small | fields, VISITOR, threading.Event()))[-1]
    assert isinstance(last, Generated)
    return last


def pixels(png: bytes) -> bytes:
    return Image.open(io.BytesIO(png)).tobytes()


def test_a_template_makes_all_its_pictures_again_and_each_one_alone(studio: Studio) -> None:
    prompt = "a {red|blue|green|yellow} [[circle, \\{square|triangle}]] \\[[a, b]] {tree|house}"
    together = made(studio, prompt=prompt, negative_prompt="[[rain, {snow|fog}]]", images=5)
    assert (together.recipe.prompt, together.recipe.images, together.recipe.seed) == (prompt, 5, 7)
    again = made(studio, recipe=together.recipe.as_json())
    assert list(map(pixels, again.pictures)) == list(map(pixels, together.pictures))
    request = together.recipe.request()
    for index, picture in enumerate(together.pictures):
        own = recipe_from_text(text_in_picture(picture))
        assert (own.seed, own.images) == (7 + index, 1)
        assert texts_of(own.prompt, own.negative_prompt, 99, 3) == request.texts_of(index)
        assert own.prompt.count("\\[[a, b]]") == 1
        assert pixels(made(studio, recipe=own.as_json()).pictures[0]) == pixels(picture)
        alone = made(studio, prompt=own.prompt, negative_prompt=own.negative_prompt, seed=7 + index)
        assert pixels(alone.pictures[0]) == pixels(picture)


def test_the_words_that_are_drawn_are_the_chosen_ones_and_the_records_say_them(studio: Studio) -> None:
    together = made(studio, prompt="a [[red, blue]] cat", consent="recipe")
    plain = [
        made(studio, prompt=f"a {colour} cat", seed=7 + n, consent="none") for n, colour in enumerate(("red", "blue"))
    ]
    assert [pixels(one.pictures[0]) for one in plain] == list(map(pixels, together.pictures))
    assert [one.prompt for one in together.recipes] == ["a red cat", "a blue cat"]
    kept = studio.history({}, VISITOR).records
    assert sorted(record.prompt for record in kept) == ["a blue cat", "a red cat"]


def test_what_is_said_of_a_prompt_that_is_too_long_is_of_what_was_chosen(studio: Studio) -> None:
    long = "word " * 60
    notes = made(studio, prompt=f"[[a cat, {long}the last]]").notes
    assert len(notes) == 1
    assert "cut before “word word" in notes[0]
    assert made(studio, prompt=f"a cat [[, {long}]]", images=1).notes == ()


def test_the_script_for_diffusers_names_each_pictures_own_words() -> None:
    template = recipe("pocket-sdxl", prompt="a [[red, blue]] cat", negative_prompt="rain", images=2, seed=3)
    script = as_diffusers(template)
    compile(script, "script", "exec")
    assert '(3, "a red cat", "rain"),' in script
    assert '(4, "a blue cat", "rain"),' in script
    assert "prompt=prompt," in script
    assert "negative_prompt=negative," in script
    plain = as_diffusers(recipe("pocket-sdxl", prompt="a \\{red|blue} cat", images=2, seed=3))
    assert 'prompt="a {red|blue} cat",' in plain
    assert "for seed in range(3, 5):" in plain


def test_a_comparison_chooses_once_for_all_its_pictures() -> None:
    ground = Ground("pocket-sd3", lambda: 5, {})
    sides = {"columns": {"field": "steps", "values": [1, 2, 3]}, "rows": None, "baseline": None}
    plan = plan_of_grid({"prompt": "a {red|blue|green} [[cat, dog]]", "model": "pocket-sd3"}, **sides, ground=ground)
    prompts = {cell.raw["prompt"] for cell in plan.cells}
    assert prompts == {chosen("a {red|blue|green} [[cat, dog]]", seed=5)}


def test_a_recipe_from_before_there_were_forms_means_its_prompt_as_it_stands() -> None:
    prompt = "a {red|blue} circle, [[once, twice]]"
    old = recipe("pocket-sd3", prompt=prompt, app="LoRA Loom 0.1.0")
    assert old.request().texts_of(0)[0] == prompt
    assert recipe("pocket-sd3", prompt=prompt).request().texts_of(0)[0] != prompt
