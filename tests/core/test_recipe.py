"""Recipes as JSON and as links: what comes back is what was written, and what is forged is one sentence."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import BadRequest
from core.messages import Done, Drawn, Job, LoraFile, Raster, Receipt
from core.recipe import (
    LONGEST,
    RecipeReceipt,
    permalink,
    read_recipe,
    recipe_from,
    recipe_from_text,
    recipe_of,
    text_of_link,
)
from core.request import request_from
from tests.core.recipes import HUB, NEON, lora, recipe, recipes, without_receipts

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(recipes())
@settings(deadline=None)
def test_a_recipe_is_read_back_from_its_json_and_its_link(made: Any) -> None:
    assert read_recipe(made.as_json()) == made
    link = permalink(made)
    for text in (link, f"https://weaver-loom.hf.space{link}&__theme=dark#top", link.removeprefix("/?recipe=")):
        assert recipe_from_text(str(text_of_link(text))) == without_receipts(made)


def test_a_link_is_no_longer_for_what_was_left_out_of_a_lora() -> None:
    def made(skipped: int) -> Any:
        names = tuple((f"lora_unet_input_blocks_{n}_attn", "made for another model") for n in range(skipped))
        receipt = RecipeReceipt(applied=1, total=skipped + 1, skipped=names)
        return recipe("pocket-sdxl", loras=(lora(NEON, receipt=receipt),))

    assert len(permalink(made(700))) == len(permalink(made(0))) < 2_000


def test_a_receipt_tells_the_layers_of_text_encoders() -> None:
    request = request_from({"prompt": "a cat", "seed": 1, "loras": [{"ref": "bundled:x"}]}, "pocket-sd3")
    file = LoraFile("bundled:x", "0" * 64, None, 1.0, 1.0)  # type: ignore[arg-type]
    picture = Drawn(0, 1, Raster(1, 1, b"123"))
    done = Done((picture,), (Receipt(9, 10, text_encoder=4),), None, {"dtype": "float32", "device": "cpu"})
    receipt = recipe_of(Job(request, (file,)), done).as_json()["loras"][0]["receipt"]
    assert receipt == {"applied": 9, "total": 10, "skipped": [], "text_encoder": 4}


def test_a_receipt_from_before_they_were_counted_is_read() -> None:
    raw = recipe(loras=(lora(NEON),)).as_json()
    del raw["loras"][0]["receipt"]["text_encoder"]
    assert read_recipe(raw).loras[0].receipt is not None


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


FORGED: dict[str, Any] = {
    "version": 2, "app": 5, "model": "sdxl", "model.key": ["sdxl"], "model.colour": 1, "prompt": {"a": 1},
    "negative_prompt": "x" * (LONGEST + 1), "steps": 10**30, "guidance": math.nan, "sampler": None, "width": -1,
    "height": 1.5, "seed": -1, "images": "2", "loras": {}, "loras.0.ref": None, "loras.0.weight": math.inf,
    "loras.0.sha256": 5, "loras.0.blocks": {"in": "much"}, "loras.0.receipt": {"applied": 1}, "allow_partial": "yes",
    "total_strength": 10**400, "init": deep(300), "plan": {}, "plan.batch": 10**9, "lossy": "no", "libraries": [1],
    "created_at": None, "colour": 1, "\n<script>": 1,
}  # fmt: skip


@pytest.mark.parametrize("place", FORGED)
def test_a_forged_recipe_is_refused_in_one_sentence_by_the_fields_name(place: str) -> None:
    raw = recipe(loras=(lora(NEON),)).as_json()
    *way, last = place.split(".")
    inner: Any = raw
    for step in way:
        inner = inner[int(step) if step.isdigit() else step]
    inner[last] = FORGED[place]
    with pytest.raises(BadRequest) as refused:
        read_recipe(raw)
    sentence = str(refused.value)
    assert sentence.startswith("recipe")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert len(sentence) < 300


def test_a_number_that_is_not_finite_is_refused_wherever_it_stands() -> None:
    with pytest.raises(BadRequest, match="finite"):
        recipe_from(recipe().as_json() | {"init": {"strength": math.nan}})


@pytest.mark.parametrize("levels", [300, 5_000])
def test_deep_nesting_is_refused(levels: int) -> None:
    raw = recipe().as_json()
    text = json.dumps(raw)[:-1] + ', "init": {"a": ' + "[" * levels + "]" * levels + "}}"
    with pytest.raises(BadRequest):
        read_recipe(raw | {"init": {"a": deep(levels)}})
    with pytest.raises(BadRequest):
        recipe_from_text(text)


@given(ANY_JSON, st.sampled_from([*recipe().as_json(), "what"]))
@settings(deadline=None, max_examples=300)
def test_whatever_stands_in_a_field_it_is_read_or_refused(value: Any, field: str) -> None:
    for raw in (value, recipe(loras=(lora(HUB),)).as_json() | {field: value}):
        try:
            recipe_from(raw).request()
        except BadRequest as refused:
            assert "\n" not in str(refused)


@given(
    st.text(max_size=200) | st.binary(max_size=200).map(lambda data: "eyJ" + base64.urlsafe_b64encode(data).decode())
)
@settings(deadline=None, max_examples=300)
def test_whatever_a_link_holds_it_is_read_or_refused(text: str) -> None:
    for link in (text, f"/?recipe={text}"):
        try:
            assert (read := text_of_link(link)) is None or recipe_from_text(read)
        except BadRequest as refused:
            assert "\n" not in str(refused)


def test_what_is_no_link_is_none() -> None:
    assert text_of_link("a red circle") is None
    assert text_of_link("https://huggingface.co/weaver/neon") is None
