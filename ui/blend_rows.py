"""Blend rows: the LoRAs to pick from, and those picked, each with weight, mute, trigger words and a way out."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from core.base_models import BASE_MODELS
from lora_catalog.card import LoraCard

_SCRIPT = Path(__file__).with_name("blend_rows.js")
_THUMBNAIL = (112, 112)  # pixels; shown at half of that, sharp on dense screens
_ACCELERATORS = {entry.accelerator for entry in BASE_MODELS.values() if entry.accelerator}


def blend_rows(cards: Iterable[LoraCard], preview_folder: Path, family: str) -> gr.HTML:
    """Its value: {"family": the model's, "rows": [{ref, title, family, triggers, weight, muted, why_not, said}]}.

    The template is constant and all texts enter as DOM text from `blend_rows.js`: Gradio evaluates what a template
    renders as JavaScript, so a card's title must never pass through one. No subclass: Gradio writes a .pyi for each.
    """
    return gr.HTML(
        value={"family": family, "rows": []},
        html_template='<div class="blend"></div>',
        js_on_load=_SCRIPT.read_text("utf-8"),
        apply_default_css=False,
        elem_id="blend",
        cards=[_offered(card, preview_folder) for card in cards if card.ref not in _ACCELERATORS],
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
    rows = value.get("rows", []) if isinstance(value, dict) else []
    fitted = [
        row
        | {
            "why_not": None
            if row.get("family") == entry.family
            else f"Made for {row.get('family')}: left out while {entry.title} draws."
        }
        for row in rows
        if isinstance(row, dict)
    ]
    return {"family": entry.family, "rows": fitted}


def _lora(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    return {"ref": row.get("ref"), "weight": row.get("weight"), "muted": row.get("muted", False)}


def _offered(card: LoraCard, preview_folder: Path) -> dict[str, Any]:
    shown = {"ref", "title", "family", "triggers", "weight", "description", "licence"}
    return card.model_dump(mode="json", include=shown) | {
        "picture": _thumbnail(preview_folder / card.preview) if card.preview else None
    }


def _thumbnail(path: Path) -> str | None:
    """A small picture inside the page itself; None if there is none to read: a card is of use without it."""
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
    except OSError:
        return None
    small.thumbnail(_THUMBNAIL)
    out = io.BytesIO()
    small.save(out, "WEBP", quality=82)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()
