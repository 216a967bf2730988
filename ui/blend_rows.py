"""Blend rows: the LoRAs to pick from, and those picked, each with its controls, trigger words and a way out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gradio as gr

from core.base_models import BASE_MODELS, BaseModel
from core.lora.blocks import blocks_of
from lora_catalog.card import LoraCard
from ui.previews import preview_address
from ui.scripts import script

_ACCELERATORS = {entry.accelerator for entry in BASE_MODELS.values() if entry.accelerator}


def blend_rows(cards: Iterable[LoraCard], entry: BaseModel) -> gr.HTML:
    """Its value: {model, title, family: the chosen model's; groups, single: its blocks' names and an example of more;
    rows: what is picked, as `weave` of its script has it; total_strength: null or a number; allow_partial: whether
    LoRAs that fit only in part may be used}.

    The template is constant and all texts enter as DOM text from the script: Gradio evaluates what a template renders
    as JavaScript, so a card's title must never pass through one. No subclass: Gradio writes a .pyi for each.
    """
    return gr.HTML(
        value=blend_of(entry, [], None),
        html_template='<div class="blend"></div>',
        js_on_load=script("blend_controls", "blend_rows"),
        apply_default_css=False,
        elem_id="blend",
        cards=[shown(card) for card in cards if card.ref not in _ACCELERATORS],
    )


def loras_in(value: Any) -> Any:
    """The rows as `loras` of a request, without those that do not fit the model; odd values are left for the schema."""
    rows = value.get("rows") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        return rows
    family = value.get("family") if isinstance(value, dict) else None
    return [_lora(row, family) for row in rows if not (isinstance(row, dict) and row.get("why_not"))]


def total_strength_in(value: Any) -> Any:
    """What all weights are to sum to, None for as they are; odd values are left for the schema."""
    return value.get("total_strength") if isinstance(value, dict) else None


def allow_partial_in(value: Any) -> Any:
    """Whether LoRAs that fit only in part may be used; odd values are left for the schema."""
    return value.get("allow_partial") if isinstance(value, dict) else None


def refitted(value: Any, model: str) -> Any:
    """The same rows for another model: what does not fit it stays, with the reason why it is left out."""
    entry = BASE_MODELS[model]
    rows = value.get("rows") if isinstance(value, dict) else None
    kept = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    refit = [row | {"why_not": _why_not(row, entry)} for row in kept]
    return blend_of(entry, refit, total_strength_in(value), allow_partial_in(value))


def blend_of(
    entry: BaseModel, rows: list[dict[str, Any]], total_strength: Any, allow_partial: Any = False
) -> dict[str, Any]:
    """The component's value, as `blend_rows` describes it."""
    blocks = blocks_of(entry.family)
    return {
        "model": entry.key, "title": entry.title, "family": entry.family, "groups": list(blocks.groups),
        "single": blocks.example, "rows": rows, "total_strength": total_strength,
        "allow_partial": allow_partial,
    }  # fmt: skip


def shown(card: LoraCard) -> dict[str, Any]:
    """A card as the page's scripts take it."""
    return card.model_dump(mode="json") | {"picture": preview_address(card.ref) if card.preview else None}


def _why_not(row: dict[str, Any], entry: BaseModel) -> str | None:
    """None also where nobody knows: a LoRA of an unknown family is tried, and its row says so."""
    if row.get("family") == "unknown" or entry.family in (row.get("family"), row.get("also")):
        return None
    return f"Made for {row.get('family')}: left out while {entry.title} draws."


def _lora(row: Any, family: Any) -> Any:
    if not isinstance(row, dict):
        return row
    lora = {"ref": row.get("ref"), "weight": row.get("weight"), "muted": row.get("muted", False)}
    more = {name: row.get(name) for name in ("text_encoder", "start", "end")} | {"blocks": _blocks(row, family)}
    return lora | {name: value for name, value in more.items() if value is not None}


def _blocks(row: dict[str, Any], family: Any) -> dict[str, Any] | None:
    """What the row says of this family's blocks: the boxes of its groups, and over them what is written as text."""
    of_families = row.get("blocks")
    said = of_families.get(family) if isinstance(of_families, dict) else None
    groups, single = (said.get("groups"), said.get("single")) if isinstance(said, dict) else (None, None)
    named = {name: number for name, number in groups.items() if number is not None} if isinstance(groups, dict) else {}
    for part in single.split(",") if isinstance(single, str) else ():
        name, _, number = part.partition(":")
        if part.strip():
            named[name.strip()] = _number(number)
    return named or None


def _number(text: str) -> float | str:
    """What is no number stays as it was written: the schema refuses it by its block's name."""
    try:
        return float(text)
    except ValueError:
        return text
