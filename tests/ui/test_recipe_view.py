"""A recipe in words: what of each LoRA was applied, and what was asked of it."""

from __future__ import annotations

from typing import Any

import pytest

from core.recipe import Plan, Recipe, RecipeLora, RecipeModel, RecipeReceipt
from ui.recipe_view import recipe_html


def html(**fields: Any) -> str:
    """Of a recipe with one LoRA."""
    lora = RecipeLora.model_validate({"ref": "bundled:pixel", "sha256": "0" * 64, "weight": 0.8} | fields)
    return recipe_html(
        Recipe(
            app="LoRA Loom", model=RecipeModel(key="pocket-sd3", repo=None, revision="0" * 64, accelerator=None),
            prompt="a cat", steps=20, guidance=3.0, sampler="flow-euler", width=128, height=128, seed=7, images=1,
            loras=(lora,), plan=Plan(dtype="float32", device="cpu"), created_at="2026-11-20T20:00:00+00:00",
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("receipt", "said", "kind"),
    [
        (RecipeReceipt(applied=264, total=264), ">264 of 264 layers<", "whole"),
        (
            RecipeReceipt(applied=264, total=264, text_encoder=24),
            ">264 of 264 layers, 24 of them in text encoders<",
            "whole",
        ),
        (
            RecipeReceipt(applied=58, total=80, skipped=(("te_7", "this model has no such layer"),)),
            ">in part: 58 of 80 layers<",
            "partial",
        ),
    ],
)
def test_a_receipt_tells_its_layers_the_text_encoders_share_and_where_it_is_partial(
    receipt: RecipeReceipt, said: str, kind: str
) -> None:
    shown = html(receipt=receipt)
    assert said in shown
    assert f'<li class="{kind}">' in shown
    assert ("te_7: this model has no such layer" in shown) == bool(receipt.skipped)


def test_a_muted_lora_is_told_as_such() -> None:
    assert ">muted<" in html(muted=True, receipt=RecipeReceipt(applied=1, total=1))


def test_what_was_asked_beyond_a_weight_is_told() -> None:
    shown = html(text_encoder=0.5, start=0.25, end=0.5, blocks={"0-1": 0.0})
    assert "text encoder 0.5, steps 6 to 10 of 20, blocks 0-1: 0" in shown


def test_names_of_layers_are_escaped() -> None:
    shown = html(receipt=RecipeReceipt(applied=1, total=2, skipped=(("<script>", "<b>"),)))
    assert "<script>" not in shown
    assert "<b>:" not in shown
