"""A1111's text: ours read back says the same blend and settings, and other programs' texts are taken apart."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from core.base_models import BASE_MODELS
from core.errors import LoomError
from core.lora.strength import factor_for
from core.recipe import Recipe
from core.recipe_here import Here
from core.recipe_reader import RecipeReader
from core.recipe_text import SAMPLERS, a1111_text, read_a1111
from lora_catalog.catalog import Catalog
from lora_catalog.errors import CatalogError
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.visitor import ANYONE
from tests.core.recipes import HUB, NEON, lora, recipe, recipes

CATALOG = Catalog([BundledSource(BASE_MODELS["pocket-sd3"].folder.parent / "loras")])  # type: ignore[union-attr]
READER = RecipeReader(CATALOG, Here(CATALOG, "cpu", lambda key: None), "pocket-sd3")


def read(text: str) -> tuple[Recipe, list[tuple[str, str]]]:
    found, reasons = READER.read({"text": text}, ANYONE)
    return found, [(reason.field, reason.reason) for reason in reasons]


def counted(made: Recipe) -> list[tuple[Any, ...]]:
    """What of each LoRA decides on pixels, with its strengths after the total strength."""
    heard = [one for one in made.loras if not one.muted]
    factor = factor_for((one.weight for one in heard), made.total_strength)
    return [
        (one.ref, one.sha256, one.start, one.end, str(one.blocks), factor * one.weight,
         factor * (one.weight if one.text_encoder is None else one.text_encoder))
        for one in heard
    ]  # fmt: skip


def assert_same_blend(one: Recipe, other: Recipe) -> None:
    """To the six digits that a text has."""
    assert len(counted(one)) == len(counted(other))
    for ours, theirs in zip(counted(one), counted(other), strict=True):
        assert ours[:5] == theirs[:5]
        assert ours[5:] == pytest.approx(theirs[5:], rel=1e-4, abs=1e-9)


@given(recipes())
@settings(deadline=None, max_examples=100)
def test_our_own_text_read_back_says_the_same_blend_and_settings(made: Recipe) -> None:
    assume("Negative prompt:" not in made.prompt and made.prompt == made.prompt.rstrip())
    heard = [one for one in made.loras if not one.muted]
    factor = factor_for((one.weight for one in heard), made.total_strength)
    assume(all(abs(factor * (one.text_encoder or 0)) < 1e4 for one in heard))  # more is no blend that anybody draws
    again, _ = read(a1111_text(made))
    said = ("prompt", "negative_prompt", "steps", "guidance", "sampler", "width", "height", "seed", "allow_partial")
    assert {name: getattr(again, name) for name in said} == {name: getattr(made, name) for name in said}
    assert again.model.key == made.model.key
    assert_same_blend(again, made)


def test_tags_behind_our_prompt_leave_it_as_it_was() -> None:
    made = recipe(prompt="a, , cat ,", loras=(lora(NEON, weight=0.5, text_encoder=0.25),))
    assert a1111_text(made).startswith("a, , cat , <lora:pocket-sdxl-neon:0.5:te=0.25:unet=0.5>\n")
    assert read(a1111_text(made))[0].prompt == made.prompt


def test_every_sampler_of_ours_has_a_name_that_is_read_back() -> None:
    for entry in BASE_MODELS.values():
        for sampler in entry.samplers:
            said = read_a1111(a1111_text(recipe(entry.key, sampler=sampler)))
            assert said is not None
            assert (
                next(name for name in SAMPLERS[said.settings["Sampler"].lower()] if name in entry.samplers) == sampler
            )


FOREIGN = """masterpiece, <lora:pocket-sdxl-neon:0.6:0.8> a cat, <lora:nobody's style:1>
sitting <lora:renamed:0.5>
Negative prompt: blurry,
text
Steps: 12, Sampler: Euler, Schedule type: Karras, CFG scale: 4.5, Seed: 99, Size: 128x64, Model hash: 31e35c80fc, \
Model: pocket-sdxl, Denoising strength: 0.4, \
Lora hashes: "pocket-sdxl-neon: 000000000000, renamed: {dots}", Version: f2.0"""


def test_another_programs_text_fills_what_it_says_and_names_what_is_not_here() -> None:
    dots = next(iter(fetched_sha("bundled:pocket-sdxl-dots")))
    found, reasons = read(FOREIGN.replace("{dots}", dots[:12]))
    assert (found.prompt, found.negative_prompt) == ("masterpiece, a cat,\nsitting", "blurry,\ntext")
    assert (found.model.key, found.steps, found.sampler, found.guidance) == ("pocket-sdxl", 12, "euler", 4.5)
    assert (found.seed, found.width, found.height) == (99, 128, 64)
    neon, renamed = found.loras
    assert (neon.ref, neon.weight, neon.text_encoder) == (NEON, 0.8, 0.6)
    assert (renamed.ref, renamed.sha256) == ("bundled:pocket-sdxl-dots", dots)
    told = "\n".join(f"{field}: {reason}" for field, reason in reasons)
    for named in ("“nobody's style”", "found by name: its hash", "Denoising strength: 0.4", "another program's"):
        assert named in told
    assert "“euler” has no schedule type “Karras”" in told


SCHEDULES = {
    "DPM++ 2M, Schedule type: Karras": ("dpm++-2m-karras", False), "DPM++ 2M Karras": ("dpm++-2m-karras", False),
    "DPM++ 2M, Schedule type: Automatic": ("dpm++-2m-karras", False), "DPM++ 2M": ("dpm++-2m", False),
    "DPM++ 2M, Schedule type: Uniform": ("dpm++-2m", False), "Euler, Schedule type: Automatic": ("euler", False),
    "DPM++ 2M, Schedule type: Exponential": ("dpm++-2m", True), "Euler a, Schedule type: x": ("euler-ancestral", True),
}  # fmt: skip


@pytest.mark.parametrize("named", SCHEDULES)
def test_a_sampler_and_its_schedule_type_are_read_together(named: str) -> None:
    found, reasons = read(f"a cat\nSteps: 12, Sampler: {named}, Seed: 1, Model: pocket-sdxl")
    assert (found.sampler, any("schedule type" in reason for _, reason in reasons)) == SCHEDULES[named]


def test_civitais_own_list_of_loras_is_named_and_its_model() -> None:
    listed = (
        '[{"type":"checkpoint","modelVersionId":1,"modelName":"Juggernaut XL","modelVersionName":"v9"},'
        '{"type":"lora","weight":0.7,"modelVersionId":2,"modelName":"Detail, more","modelVersionName":"v1"},'
        '{"type":"lora","weight":0.4,"modelVersionId":3}]'
    )
    found, reasons = read(f"a cat\nSteps: 12, Seed: 3, Civitai resources: {listed}, Civitai metadata: {{}}")
    assert (found.loras, found.seed) == ((), 3)
    told = [reason for field, reason in reasons if field == "loras"]
    assert ["Detail, more" in told[0], "version 3 of Civitai" in told[1], len(told)] == [True, True, 2]
    assert "“Juggernaut XL”" in dict(reasons)["model.key"]
    assert set(dict(reasons)) == {"model.key", "loras", "app"}


TAGS = {
    "pocket-sdxl-neon:0.5:lbw=OUTD": (0.5, None, "lbw=OUTD"), "pocket-sdxl-neon:0.5 dyn=16": (0.5, None, "dyn=16"),
    "pocket-sdxl-neon:te=0.25:unet=0.5:lbw=1,0,0:stop=20": (0.5, 0.25, "lbw=1,0,0, stop=20"),
    "pocket-sdxl-neon:0.25:0.5:16": (0.5, 0.25, "16"), "pocket-sdxl-neon:0.5:OUTD": (0.5, None, "OUTD"),
    "pocket-sdxl-neon:te=much:unet=0.5": (0.5, 1.0, "te=much"),
}  # fmt: skip


@pytest.mark.parametrize("tag", TAGS)
def test_what_a_tag_holds_beyond_ours_is_passed_over_by_name(tag: str) -> None:
    weight, words, unread = TAGS[tag]
    found, reasons = read(f"a cat <lora:{tag}>, sitting\nSteps: 5, Model: pocket-sdxl")
    assert [(one.ref, one.weight, one.text_encoder) for one in found.loras] == [(NEON, weight, words)]
    assert found.prompt == "a cat, sitting"
    assert f"“{unread}”" in dict(reasons)["loras"]


def test_weights_of_a_lora_that_is_tagged_twice_are_added() -> None:
    tags = "<lora:pocket-sdxl-neon:0.5> <lora:pocket-sdxl-neon:0.25:0.3> <lora:bundled:pocket-sdxl-neon:0.1>"
    found, _ = read(f"a cat {tags}, {tags} dog\nSteps: 5, Model: pocket-sdxl")
    assert [(one.ref, one.weight, one.text_encoder) for one in found.loras] == [(NEON, 1.8, 1.7)]
    hub, _ = read("a cat <lora:weaver/neon:0.5:lbw=x> <lora:weaver/neon:0.25:0.5>\nSteps: 5, Model: pocket-sdxl")
    assert hub.prompt == "a cat <lora:weaver/neon:1 te=0.75>"


def test_older_tags_of_loras_are_read_and_hypernetworks_named() -> None:
    found, reasons = read(
        "a cat <lyco:pocket-sdxl-neon:0.5>, <hypernet:mood:0.7> sitting\nSteps: 5, Model: pocket-sdxl"
    )
    assert [(one.ref, one.weight) for one in found.loras] == [(NEON, 0.5)]
    assert found.prompt == "a cat, sitting"
    assert "“mood” was left out" in dict(reasons)["loras"]


def fetched_sha(ref: str) -> list[str]:
    fetched = Here(CATALOG, "cpu", lambda key: None).of_this_machine(ref, ANYONE)
    assert fetched is not None
    return [fetched.sha256]


def test_a_model_that_is_not_here_gives_way_to_the_default_one_and_values_it_cannot_have_to_its_own() -> None:
    text = "a cat\nSteps: 2000, Sampler: DPM++ 2M, CFG scale: 4, Seed: -1, Size: 832x1216, Model: juggernaut"
    found, reasons = read(text)
    entry = BASE_MODELS["pocket-sd3"]
    assert (found.model.key, found.model.revision) == ("pocket-sd3", None)
    assert (found.steps, found.sampler, found.width, found.height) == (20, entry.samplers[0], entry.side, entry.side)
    assert found.guidance == 4.0
    assert found.seed >= 0
    assert {"model.key", "steps", "sampler", "width", "height", "seed"} <= {field for field, _ in reasons}
    assert "“juggernaut”" in dict(reasons)["model.key"]


def test_a_lora_of_the_hub_without_a_commit_stays_in_the_prompt() -> None:
    found, reasons = read("a cat <lora:weaver/neon:0.5>\nSteps: 5, Model: pocket-sd3")
    assert found.prompt == "a cat <lora:weaver/neon:0.5>"
    assert found.request().loras[0].ref == "weaver/neon"
    assert "no commit" in dict(reasons)["loras"]


def test_weights_that_only_a_total_strength_reaches_are_read_back_as_one() -> None:
    made = recipe("pocket-sdxl", loras=(lora(NEON, weight=2.0), lora(HUB, weight=-0.1)), total_strength=10.0)
    again, _ = read(a1111_text(made))
    assert max(abs(one.weight) for one in again.loras) <= 5
    assert_same_blend(again, made)


def test_a_lora_by_another_name_or_an_edited_weight_counts_as_edited() -> None:
    text = a1111_text(recipe(loras=(lora(NEON, weight=0.5, start=0.25),)))
    found, _ = read(text.replace(":0.5>", ":0.75>"))
    assert (found.loras[0].weight, found.loras[0].start) == (0.75, 0.25)


@given(st.text(max_size=300))
@settings(deadline=None, max_examples=300)
def test_whatever_text_comes_it_is_read_or_refused(text: str) -> None:
    for given_text in (
        text, f"{text}\nSteps: 4, {text}", f"<lora:{text}>\nSteps: 4, Lora details: {text}",
        f"<lyco:x:1:{text}={text}>\nSteps: 4, Civitai resources: [{text}",
    ):  # fmt: skip
        try:
            read(given_text)
        except (LoomError, CatalogError) as refused:
            assert "\n" not in str(refused)


@pytest.mark.parametrize(
    "text",
    ["<lora:" * 40_000, " " * 200_000 + "\nSteps: 1", "a" * 200_000 + "\nSteps: 1", "Steps: 1," + "a" * 200_000,
     "Steps: 1, " + "b: c, " * 30_000, 'Steps: 1, x: "' + "\\" * 200_000, "<lora:a:1>" * 20_000 + "\nSteps: 1",
     "Steps: 1, x: " + "{" * 200_000, "Steps: 1, x: " + "[" * 200_000, "<lora:x" + " a=1" * 3_000 + ">\nSteps: 1",
     "<lora:x" + ":1" * 6_000 + ">\nSteps: 1", "<lora:x:1" + " " * 12_000 + ":>\nSteps: 1",
     "Steps: 1, Hashes: " + '{"a":' * 3_000, "?recipe=" + "A" * 1_000_000],
    ids=["tags", "spaces", "prompt", "pair", "pairs", "quotes", "loras", "braces", "brackets", "keys", "numbers",
         "blanks", "objects", "link"],
)  # fmt: skip
def test_long_texts_end_soon(text: str) -> None:
    """The suite's own time limit holds this one: what goes by the square of the length takes minutes."""
    try:
        read(text)
    except LoomError as refused:
        assert len(str(refused)) < 300
