"""Faults: an error of a drawing in the page's words, with the place on the form that it is about."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from core.errors import BadRequest, LoraRefused, ModelUnavailable
from lora_catalog.errors import CatalogError
from ui.blend_rows import loras_in
from ui.messages import alert_html

_LORA = re.compile(r"loras\[(\d+)\](?:\.(\w+))?")
_ON_THE_FORM = (
    "prompt", "negative_prompt", "model", "steps", "guidance", "width", "height", "sampler", "seed", "images",
    "strength", "total_strength", "upscale", "upscale_strength", "batch", "lossy",
)  # fmt: skip
_PARTS_OF_A_ROW = ("weight", "text_encoder", "start", "end", "blocks")


def fault_html(error: Exception, values: Mapping[str, Any]) -> str:
    """For the notice; the page's script moves it to the field that `data-field` names, in the row of `data-ref` if any.
    Errors about nothing on the form stay in the notice. Logs bugs, as `alert_html` does."""
    match error:
        case BadRequest(field=field):
            return _of_field(field, str(error), values)
        case ModelUnavailable():
            return _said("model", str(error))
        case LoraRefused() | CatalogError():
            refs = _refs(values)
            about = [ref for ref in refs if any(name in str(error) for name in _names(ref))]
            named = about or (refs if len(refs) == 1 else [])
            return _said("row", str(error), named[0]) if named else alert_html(error)
    return alert_html(error)


def _of_field(field: str, sentence: str, values: Mapping[str, Any]) -> str:
    found, refs = _LORA.match(field), _refs(values)
    if found is None:
        name = field.partition(".")[0].partition("[")[0]
        return _said(name if name in _ON_THE_FORM else "", _begun(sentence))
    number, part = int(found[1]), found[2] or ""
    if number >= len(refs):  # a tag in the prompt, which stand behind the rows
        return _said("prompt", _begun(_LORA.sub(_of_a_tag, sentence)))
    words = _begun(re.sub(r"^loras\[\d+\](: |\.)?", "", sentence).replace("_", " "))
    return _said(part if part in _PARTS_OF_A_ROW else "row", words, refs[number])


def _of_a_tag(found: re.Match[str]) -> str:
    return f"{found[2]} of a LoRA tag" if found[2] else "a LoRA tag"


def _refs(values: Mapping[str, Any]) -> list[str]:
    """Of the rows that are drawn with, in the order of the request's `loras`."""
    rows = loras_in(values.get("loras"))
    return [str(row.get("ref")) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _names(ref: str) -> list[str]:
    """How a sentence may name a LoRA: whole, without its revision, and of a repo by the repo alone."""
    repo = [re.split("[:@]", ref)[0]] if "/" in ref else []
    return [ref, re.sub(r"@[^:]+", "", ref), *repo]


def _begun(sentence: str) -> str:
    """With the field's name as the page writes it, where the sentence begins with that of the API."""
    name, gap, rest = sentence.partition(" ")
    return name.replace("_", " ").capitalize() + gap + rest


def _said(field: str, sentence: str, ref: str = "") -> str:
    place = f' data-field="{escape(field)}" data-ref="{escape(ref)}"' if field else ""
    return f'<p role="alert"{place}>{escape(sentence)}</p>'
