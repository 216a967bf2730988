"""Further controls on Create, folded away: a second pass at a larger size, and ways to draw faster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from core.base_models import BaseModel
from core.lossy import LOSSY, lossy_of
from core.recipe import Recipe
from core.request import UPSCALE_STRENGTH
from ui import texts
from ui.folds import fold, unfolded

ONE_BY_ONE, ALL = "one", "all"
OFF = 1.0  # of the factor's slider
_SECOND_PASS = (
    "<p class='hint'>Second pass: the finished picture is enlarged and drawn over once more. 1 is "
    "off; the stronger, the more of it is new.</p>"
)


class Further:
    """Lays out the panel. Its components are named like fields of a request; `asked` gives those fields."""

    def __init__(self, entry: BaseModel) -> None:
        with fold(texts.FURTHER, "further") as self.panel, gr.Column():
            gr.HTML(_SECOND_PASS, apply_default_css=False)
            with gr.Row(elem_classes="pair"):
                self.upscale = gr.Slider(OFF, 4, OFF, step=0.05, label="Upscale", elem_id="upscale")
                self.upscale_strength = gr.Slider(
                    0, 1, UPSCALE_STRENGTH, step=0.05, label="Strength", elem_id="upscale-strength"
                )
            self.batch = gr.Dropdown(
                **_batches(ONE_BY_ONE), label="Several pictures are drawn", filterable=False, elem_id="batch"
            )
            self.lossy = gr.CheckboxGroup(**_lossy(entry), label="Shortcuts", elem_id="lossy")

    def of_model(self, entry: BaseModel) -> dict[Any, Any]:
        """Updates that follow from the choice of a model."""
        return {self.lossy: gr.update(**_lossy(entry))}

    def recalled(self, recipe: Recipe | None, entry: BaseModel) -> dict[Any, Any]:
        """Updates that make it say what a recipe does, or nothing of it; opened where that is anything."""
        upscale = recipe.upscale if recipe else None
        factor, strength = (upscale.factor, upscale.strength) if upscale else (OFF, None)
        lossy = [name for name in recipe.lossy if name in lossy_of(entry)] if recipe else []
        batch = _batch_of(recipe) if recipe else ONE_BY_ONE
        says = upscale is not None or bool(lossy) or batch != ONE_BY_ONE
        return {
            self.panel: unfolded() if says else gr.update(),
            self.upscale: gr.update(value=factor),
            self.upscale_strength: gr.update(value=UPSCALE_STRENGTH if strength is None else strength),
            self.batch: gr.update(**_batches(batch)),
            self.lossy: gr.update(**_lossy(entry) | {"value": lossy}),
        }


def asked_further(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of the page's values those of this panel, as the API would get them."""
    on = values.get("upscale") not in (None, OFF)
    batch = values.get("batch")
    return {
        "upscale": values.get("upscale") if on else None,
        "upscale_strength": values.get("upscale_strength") if on else None,
        "batch": {ONE_BY_ONE: None, ALL: values.get("images")}.get(batch, batch) if isinstance(batch, str) else batch,
        "lossy": values.get("lossy") or None,
    }


def _batch_of(recipe: Recipe) -> str | int:
    batch = recipe.plan.batch
    return ONE_BY_ONE if batch == 1 else ALL if batch == recipe.images else batch


def _batches(value: str | int) -> dict[str, Any]:
    """Of the dropdown; a recipe may say a number that the page does not offer by itself."""
    choices: list[tuple[str, str | int]] = [
        ("one by one", ONE_BY_ONE), ("together: faster on a GPU, last bits may differ", ALL),
    ]  # fmt: skip
    if isinstance(value, int):
        choices.append((f"{value} at a time", value))
    return {"choices": choices, "value": value}


def _lossy(entry: BaseModel) -> dict[str, Any]:
    """Hidden where a model takes none."""
    names = lossy_of(entry)
    said = " ".join(LOSSY[name].does for name in names)
    return {
        "choices": [(LOSSY[name].title, name) for name in names], "value": [], "visible": bool(names), "info": said,
    }  # fmt: skip
