"""Blend rows: the LoRAs to pick from, and those picked, each with weight, mute, trigger words and a way out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gradio as gr

from core.base_models import BASE_MODELS, BaseModel
from lora_catalog.card import LoraCard
from ui.previews import preview_address
from ui.scripts import script

_ACCELERATORS = {entry.accelerator for entry in BASE_MODELS.values() if entry.accelerator}


def blend_rows(cards: Iterable[LoraCard], entry: BaseModel) -> gr.HTML:
    """Its value: {model, title, family: the chosen model's; rows: what is picked, as `weave` of its script has it}.

    The template is constant and all texts enter as DOM text from the script: Gradio evaluates what a template renders
    as JavaScript, so a card's title must never pass through one. No subclass: Gradio writes a .pyi for each.
    """
    return gr.HTML(
        value=_blend(entry, []),
        html_template='<div class="blend"></div>',
        js_on_load=script("blend_rows"),
        apply_default_css=False,
        elem_id="blend",
        cards=[shown(card) for card in cards if card.ref not in _ACCELERATORS],
    )


def loras_in(value: Any) -> Any:
    """The rows as `loras` of a request, without those that do not fit the model; odd values are left for the schema."""
    rows = value.get("rows") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        return rows
    return [_lora(row) for row in rows if not (isinstance(row, dict) and row.get("why_not"))]


def refitted(value: Any, model: str) -> Any:
    """The same rows for another model: what does not fit it stays, with the reason why it is left out."""
    entry = BASE_MODELS[model]
    rows = value.get("rows") if isinstance(value, dict) else None
    kept = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return _blend(entry, [row | {"why_not": _why_not(row, entry)} for row in kept])


def shown(card: LoraCard) -> dict[str, Any]:
    """A card as the page's scripts take it."""
    return card.model_dump(mode="json") | {"picture": preview_address(card.ref) if card.preview else None}


def _blend(entry: BaseModel, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"model": entry.key, "title": entry.title, "family": entry.family, "rows": rows}


def _why_not(row: dict[str, Any], entry: BaseModel) -> str | None:
    """None also where nobody knows: a LoRA of an unknown family is tried, and its row says so."""
    if row.get("family") == "unknown" or entry.family in (row.get("family"), row.get("also")):
        return None
    return f"Made for {row.get('family')}: left out while {entry.title} draws."


def _lora(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    return {"ref": row.get("ref"), "weight": row.get("weight"), "muted": row.get("muted", False)}
