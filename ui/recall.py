"""Recall: a recipe back into the form, whole, its seed alone, or all but its seed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.blocks import Block

from core.base_models import BaseModel
from core.lora.blocks import blocks_of
from core.recipe import Recipe, RecipeLora
from core.request import GenerationRequest, WeightedLora, entry_of
from core.studio import Studio
from lora_catalog.card import LoraCard
from lora_catalog.curated import curated_cards
from lora_catalog.errors import CatalogError
from lora_catalog.visitor import ANYONE, Visitor
from ui.blend_rows import blend_of, shown

if TYPE_CHECKING:
    from ui.create import CreateTab

CREATE = "create"  # the id of its tab
_AS_THEY_ARE = ("prompt", "negative_prompt", "steps", "guidance", "sampler", "width", "height", "seed", "images")


class Recall:
    """Each method gives updates by component; an event that returns them names `outputs`."""

    def __init__(self, studio: Studio, create: CreateTab, tabs: gr.Tabs) -> None:
        self._studio, self._create, self._tabs = studio, create, tabs

    @property
    def outputs(self) -> list[Block]:
        """Everything that a recipe may change on the page."""
        form = self._create.form
        return [form.model, form.loras, *self._create.of_model(self._studio.default_model),
                *self._create.over.outputs, form.prompt, form.seed, form.images, self._create.further.panel,
                form.upscale, form.upscale_strength, form.batch, self._tabs]  # fmt: skip

    def everything(self, recipe: Recipe, visitor: Visitor = ANYONE) -> dict[Any, Any]:
        """The form as the recipe says, LoRAs that it did not use cleared; whose model is not known here, as it was."""
        entry = entry_of(recipe.model.key)
        beside = self._create.over.recalled(recipe.init) | self._create.further.recalled(recipe, entry)
        return self._filled(recipe, entry, visitor) | beside

    def asked(self, request: GenerationRequest, visitor: Visitor = ANYONE) -> dict[Any, Any]:
        """The form as a request from noise says, all else cleared."""
        beside = self._create.over.recalled(None) | self._create.further.recalled(None, request.entry)
        return self._filled(request, request.entry, visitor) | beside

    def _filled(self, asked: Recipe | GenerationRequest, entry: BaseModel, visitor: Visitor) -> dict[Any, Any]:
        form = self._create.form
        updates: dict[Any, dict[str, Any]] = dict(self._create.of_model(entry.key))
        for name in _AS_THEY_ARE:
            box = getattr(form, name)
            updates[box] = gr.update(**updates.get(box, {}) | {"value": getattr(asked, name)})
        rows = [self._row(lora, entry, asked.prompt, visitor) for lora in asked.loras]
        return updates | {
            form.model: gr.update(value=entry.key, choices=self._create.models()),
            form.loras: gr.update(value=blend_of(entry, rows, asked.total_strength, asked.allow_partial)),
            self._tabs: gr.update(selected=CREATE),
        }

    def remix(self, recipe: Recipe, visitor: Visitor = ANYONE) -> dict[Any, Any]:
        """Everything but the seed: a new one each time."""
        return self.everything(recipe, visitor) | {self._create.form.seed: gr.update(value=-1)}

    def seed(self, recipe: Recipe, index: int = 0) -> dict[Any, Any]:
        """The seed of one of its pictures; all else stays."""
        return {self._create.form.seed: gr.update(value=recipe.seed + index), self._tabs: gr.update(selected=CREATE)}

    def _row(self, lora: RecipeLora | WeightedLora, entry: BaseModel, prompt: str, visitor: Visitor) -> dict[str, Any]:
        """As `weave` of the blend's script makes it. A LoRA without a card here is named by its ref, which is enough to
        draw with it or to be told why not."""
        try:
            card = shown(self._studio.catalog.card(lora.ref, visitor))
        except CatalogError:
            card = _known(lora.ref) or {
                "title": lora.ref, "family": entry.family, "triggers": [], "picture": None, "nsfw": False,
            }  # fmt: skip
        about = {name: card[name] for name in ("title", "family", "triggers", "picture", "nsfw")}
        asked = lora.model_dump(include={"ref", "weight", "muted", "start", "end", "text_encoder"})
        said = [word for word in about["triggers"] if word.lower() in prompt.lower()]
        blocks = {entry.family: _boxes(lora.blocks or {}, entry)}
        # It was drawn with this model: whatever its card says, it fits.
        return about | asked | {"said": said, "blocks": blocks, "also": entry.family, "caution": None, "why_not": None}


def _known(ref: str) -> dict[str, Any] | None:
    """The card of our own list, where the Hub does not answer for it."""
    known = _curated().get(re.sub("@[^:]+", "", ref))
    return None if known is None else shown(known)


@cache
def _curated() -> dict[str, LoraCard]:
    return {card.ref: card for card in curated_cards()}


def _boxes(blocks: Mapping[str, float], entry: BaseModel) -> dict[str, Any]:
    """Numbers by block as the row has them: in the boxes of its groups, the others as text."""
    groups = {name: number for name, number in blocks.items() if name in blocks_of(entry.family).groups}
    others = ", ".join(f"{name}: {number!r}" for name, number in blocks.items() if name not in groups)
    return {"groups": groups, "single": others}
