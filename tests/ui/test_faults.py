"""Where an error stands on the form, and in which words; and what a browser may have stored of a form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from core.errors import BadRequest, LoraDoesNotFit, ModelUnavailable, OutOfMemory
from core.request import request_from
from lora_catalog.errors import Gated, UnknownRef
from ui.faults import fault_html
from ui.form import raw_request
from ui.remembered import StoredForm, restored_blend


def row(ref: str, **more: Any) -> dict[str, Any]:
    return {"ref": ref, "title": ref, "family": "pocket-sd3", "weight": 1.0, "why_not": None, "muted": False} | more


def values(*rows: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"prompt": "a cat", "model": "pocket-sd3", "loras": {"family": "pocket-sd3", "rows": list(rows)}} | fields


def refused(said: dict[str, Any]) -> str:
    with pytest.raises(BadRequest) as found:
        request_from(raw_request(said), "pocket-sd3")
    return fault_html(found.value, said)


@pytest.mark.parametrize(
    ("said", "place", "words"),
    [
        (values(steps=500), 'data-field="steps" data-ref=""', "Steps must be from 1 to 100"),
        (values(negative_prompt=5), 'data-field="negative_prompt"', "Negative prompt must be text."),
        (values(row("bundled:a", weight=7)), 'data-field="weight" data-ref="bundled:a"', "Weight must be"),
        (
            values(row("bundled:a", why_not="of another model"), row("bundled:b", start=0.5, end=0.5)),
            'data-field="start" data-ref="bundled:b"', "Start must be less than end, not 0.5 and 0.5.",
        ),
        (values(prompt="<lora:bundled:c:9>"), 'data-field="prompt"', "Weight of a LoRA tag must be"),
        (values(prompt="<lora:no ref:1>"), 'data-field="prompt"', "A LoRA tag: “no ref” is not a LoRA ref"),
        (values(loras={"rows": [], "total_strength": 50}), 'data-field="total_strength"', "Total strength must be"),
    ],
)  # fmt: skip
def test_a_refusal_stands_at_its_field_in_the_pages_words(said: dict[str, Any], place: str, words: str) -> None:
    told = refused(said)
    assert place in told
    assert words in told


def test_what_is_about_a_model_or_a_lora_stands_there_and_all_else_in_the_notice() -> None:
    two = values(row("bundled:a"), row("who/what@main:x.safetensors"))
    assert 'data-field="model"' in fault_html(ModelUnavailable("It needs a GPU."), two)
    assert 'data-ref="bundled:a"' in fault_html(UnknownRef("bundled:a"), two)
    assert 'data-ref="who/what@main:x.safetensors"' in fault_html(Gated("who/what", "https://here", False), two)
    assert 'data-ref="bundled:a"' in fault_html(LoraDoesNotFit("It fits no layer."), values(row("bundled:a")))
    for error in (LoraDoesNotFit("It fits no layer."), OutOfMemory("No memory."), RuntimeError("/secret")):
        assert "data-field" not in fault_html(error, two)


def test_what_a_ref_holds_cannot_leave_its_attribute() -> None:
    hostile = 'bundled:"><script>'
    assert "<script" not in fault_html(UnknownRef(hostile), values(row(hostile)))


def test_a_stored_row_brings_no_address_of_its_own_and_no_verdict() -> None:
    stored = {"version": 1, "model": "pocket-sd3", "prompt": "", "blend": {"rows": [
        row("bundled:a", picture="https://elsewhere/x.png", why_not="<b>"),
    ]}}  # fmt: skip
    (kept,) = restored_blend(StoredForm.model_validate_json(json.dumps(stored)).blend)["rows"]
    assert kept["picture"] == "./loom/preview?ref=bundled%3Aa"
    assert "why_not" not in kept


@pytest.mark.parametrize(
    "odd", [{}, {"version": 2}, {"rows": [5]}, {"rows": [{"ref": "x"}]}, {"rows": [row("x", triggers="abc")]}]
)
def test_what_no_version_of_ours_stored_is_refused_whole(odd: dict[str, Any]) -> None:
    stored = {"version": 1, "model": "pocket-sd3", "prompt": 5 if not odd else "", "blend": odd} | odd
    with pytest.raises(ValidationError):
        StoredForm.model_validate_json(json.dumps(stored))
