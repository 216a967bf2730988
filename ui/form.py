"""The form: components named like a request's fields, and the one way from their values to a raw request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr
from gradio.blocks import Block

from core.base_models import BASE_MODELS
from core.prompt_forms import combinations
from core.request import LONGEST_PROMPT
from ui.blend_rows import allow_partial_in, loras_in, total_strength_in
from ui.further import asked_further


@dataclass(frozen=True)
class Form:
    """What a visitor fills in. Every name is a field of GenerationRequest."""

    prompt: gr.Textbox
    negative_prompt: gr.Textbox
    model: gr.Dropdown
    loras: gr.HTML
    width: gr.Slider
    height: gr.Slider
    steps: gr.Slider
    guidance: gr.Slider
    sampler: gr.Dropdown
    seed: gr.Number
    images: gr.Slider
    upscale: gr.Slider
    upscale_strength: gr.Slider
    batch: gr.Dropdown
    lossy: gr.CheckboxGroup

    def by_name(self) -> dict[str, Block]:
        """For `inputs_kwargs`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def raw_request(values: Mapping[str, Any]) -> dict[str, Any]:
    """The page's values as the API would get them: unchecked, with what the model cannot use left out."""
    raw = {**values, **asked_further({**values, "images": pictures_in(values)})}
    raw["loras"] = loras_in(values.get("loras"))
    raw["total_strength"] = total_strength_in(values.get("loras"))
    raw["allow_partial"] = allow_partial_in(values.get("loras"))
    if not _takes_negative_prompt(values):
        raw["negative_prompt"] = None  # its box is locked, but keeps what was written for other models
    if raw.get("images") == 1:
        raw["images"] = None  # as many as the prompt's [[…, …]] ask for, else one
    return raw


def pictures_in(values: Mapping[str, Any]) -> int:
    """How many pictures a run of these values will show."""
    images, texts = values.get("images"), [values.get(name) or "" for name in ("prompt", "negative_prompt")]
    if not _takes_negative_prompt(values):
        texts[1] = ""
    if images == 1 and all(isinstance(text, str) and len(text) <= LONGEST_PROMPT for text in texts):
        return combinations(*texts)
    return int(images) if isinstance(images, int | float) else 1


def _takes_negative_prompt(values: Mapping[str, Any]) -> bool:
    entry = BASE_MODELS.get(str(values.get("model")))
    return entry is None or entry.takes_negative_prompt


def blend_in(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of the page's values those that make a blend."""
    raw = raw_request(values)
    return {name: raw.get(name) for name in ("model", "loras", "total_strength", "allow_partial")}
