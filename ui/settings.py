"""The settings of a picture beside its words and LoRAs: folded away, and bound to what the chosen model takes."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr
from gradio.blocks import Block

from core.base_models import BaseModel
from core.request import LONGEST_PROMPT
from core.samplers import SAMPLERS
from ui import texts
from ui.folds import fold

_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


class Settings:
    """Lays out the fold; each component is named like the request's field."""

    def __init__(self, entry: BaseModel) -> None:
        with fold(texts.SETTINGS, "details"), gr.Column():
            held = _negative(entry)
            self.negative_prompt = gr.Textbox(
                label=texts.NEGATIVE, lines=1, max_lines=4, max_length=LONGEST_PROMPT, elem_id="negative-prompt",
                placeholder=held["placeholder"], interactive=held["interactive"],
            )  # fmt: skip
            self.images = gr.Slider(1, 8, 1, step=1, label=texts.PICTURES, elem_id="images")
            side, largest = entry.side, entry.largest_side
            with gr.Row(elem_classes="pair"):
                self.width = gr.Slider(64, largest, side, step=16, label=texts.WIDTH, elem_id="width")
                self.height = gr.Slider(64, largest, side, step=16, label=texts.HEIGHT, elem_id="height")
            with gr.Row(elem_classes="pair"):
                self.steps = gr.Slider(*entry.steps_range, entry.steps, step=1, label=texts.STEPS, elem_id="steps")
                self.guidance = gr.Slider(
                    **_bounds(entry.guidance_range), value=entry.guidance, step=0.1, label=texts.GUIDANCE,
                    elem_id="guidance",
                )  # fmt: skip
            self.guidance_note = gr.HTML(_guidance_note(entry), elem_id="guidance-note", apply_default_css=False)
            self.sampler = gr.Dropdown(**_samplers(entry), label=texts.SAMPLER, filterable=False, elem_id="sampler")
            with gr.Row(elem_id="seed-row"):
                self.seed = gr.Number(-1, label=texts.SEED, info=texts.SEED_HINT, precision=0, elem_id="seed")
                self.dice = gr.Button(texts.RANDOM, size="sm", elem_id="dice")
                self.recycle = gr.Button(texts.LAST, size="sm", elem_id="recycle")

    def wire(self, last_seed: gr.State) -> None:
        """The buttons beside the seed."""
        self.dice.click(None, js="() => -1", outputs=self.seed)
        self.recycle.click(_reused, inputs=last_seed, outputs=self.seed, queue=False, **_PRIVATE)

    def of_model(self, entry: BaseModel) -> dict[Block, dict[str, Any]]:
        """A model's own defaults and ranges, as updates by component."""
        return {
            self.negative_prompt: _negative(entry),
            self.width: gr.update(value=entry.side, maximum=entry.largest_side),
            self.height: gr.update(value=entry.side, maximum=entry.largest_side),
            self.steps: _ranged(entry.steps, entry.steps_range),
            self.guidance: _ranged(entry.guidance, entry.guidance_range),
            self.sampler: gr.update(**_samplers(entry)),
            self.guidance_note: gr.update(value=_guidance_note(entry)),
        }


def _negative(entry: BaseModel) -> dict[str, Any]:
    said = entry.notes.get("negative_prompt", texts.NEGATIVE_HINT)
    return gr.update(interactive=entry.takes_negative_prompt, placeholder=said)


def _samplers(entry: BaseModel) -> dict[str, Any]:
    """Of a dropdown, which hides where there is nothing to choose."""
    choices = [(SAMPLERS[name].title, name) for name in entry.samplers]
    return {"choices": choices, "value": entry.samplers[0], "visible": len(choices) > 1}


def _ranged(value: float, allowed: tuple[float, float]) -> dict[str, Any]:
    return gr.update(value=value, **_bounds(allowed))


def _bounds(allowed: tuple[float, float]) -> dict[str, Any]:
    """Of a slider; Gradio's has two ends even where there is but one value to choose: locked there, at its lower."""
    low, high = allowed
    return {"minimum": low, "maximum": max(high, low + 1), "interactive": low < high}


def _guidance_note(entry: BaseModel) -> str:
    """Why guidance is held low, under its slider."""
    note = entry.notes.get("guidance")
    return f'<p class="hint">{escape(note)}</p>' if note else ""


def _reused(last_seed: int | None) -> int:
    return -1 if last_seed is None else last_seed
