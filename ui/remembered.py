"""The form as this browser left it: kept there, and read as warily as anything from outside when it comes back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import gradio as gr
from pydantic import BaseModel as Schema
from pydantic import ConfigDict, Field, ValidationError

from core.base_models import BASE_MODELS
from core.errors import BadRequest
from core.request import LONGEST_PROMPT, MOST_LORAS, request_from
from ui.blend_rows import refitted
from ui.further import asked_further
from ui.previews import preview_address

if TYPE_CHECKING:
    from ui.create import CreateTab

VERSION = 1  # of what is stored: another one is left alone, and the page is as for a new visitor
_SETTINGS = ("steps", "guidance", "width", "height", "sampler")  # as the model allows them
_ANY_MODELS = ("seed", "images")
_FURTHER = ("upscale", "upscale_strength", "batch", "lossy")
_WORDS = ("prompt", "negative_prompt")
_Text = Annotated[str, Field(max_length=LONGEST_PROMPT)]
_Short = Annotated[str, Field(max_length=600)]


class _Stored(Schema):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class StoredRow(_Stored):
    """A row of the blend, as `weave` of its script makes it; whether it fits is judged anew."""

    ref: _Short
    title: _Short
    family: _Short
    also: _Short | None = None
    triggers: tuple[_Short, ...] = ()
    said: tuple[_Short, ...] = ()
    weight: float
    nsfw: bool = False
    caution: _Short | None = None
    muted: bool = False
    start: float | None = None
    end: float | None = None
    text_encoder: float | None = None
    blocks: dict[str, dict[str, Any]] | None = None
    picture: _Short | None = None


class StoredBlend(_Stored):
    rows: Annotated[tuple[StoredRow, ...], Field(max_length=MOST_LORAS)] = ()
    total_strength: float | None = None
    allow_partial: bool = False


class StoredForm(_Stored):
    """What form.js keeps. No picture that is drawn over, no token, nothing drawn."""

    version: Literal[1]
    model: _Short
    prompt: _Text
    negative_prompt: _Text = ""
    steps: Any = None
    guidance: Any = None
    width: Any = None
    height: Any = None
    sampler: Any = None
    seed: Any = None
    images: Any = None
    upscale: Any = None
    upscale_strength: Any = None
    batch: Any = None
    lossy: Any = None
    blend: StoredBlend = StoredBlend()


class Remembered:
    """`stored` is filled by the browser when the page has loaded, and left empty where a link says what to draw."""

    def __init__(self, create: CreateTab) -> None:
        self._create = create
        self.stored = gr.Textbox(visible="hidden", elem_id="stored-form")
        form = create.form
        boxes = {name: getattr(form, name) for name in ("model", *_WORDS, *_SETTINGS, *_ANY_MODELS, *_FURTHER)}
        gr.on(
            [box.change for box in boxes.values()],
            None,
            js=f"(...values) => window.loom.keepForm({json.dumps(list(boxes))}, values)",
            inputs=list(boxes.values()),
            api_visibility="private",
        )
        self.stored.change(
            self.restored,
            inputs=self.stored,
            outputs=[*create.of_model(create.studio.default_model), form.model, form.loras, form.prompt, form.seed,
                     form.images, form.upscale, form.upscale_strength, form.batch],
            queue=False,
            api_visibility="private",
            show_progress="hidden",
        )  # fmt: skip

    def restored(self, stored: Any) -> dict[Any, Any]:
        """The form as it was left; of another version, torn, or for a model that is gone: what of it still holds."""
        form, create = self._create.form, self._create
        try:
            left = StoredForm.model_validate_json(stored if isinstance(stored, str) else "")
        except ValidationError:
            return {form.prompt: gr.update()}
        known = left.model in BASE_MODELS
        key = left.model if known else create.studio.default_model
        updates: dict[Any, dict[str, Any]] = dict(create.of_model(key)) if known else {}
        for name in (*_WORDS, *_ANY_MODELS, *(_SETTINGS if known else ())):
            value = getattr(left, name)
            if name in _WORDS or _allowed(name, value, key):
                box = getattr(form, name)
                updates[box] = gr.update(**updates.get(box, {}) | {"value": value})
        if known and _allowed_further(left, key):
            for name in _FURTHER:
                box = getattr(form, name)
                updates[box] = gr.update(**updates.get(box, {}) | {"value": getattr(left, name)})
        updates[form.model] = gr.update(value=key, choices=create.models())
        updates[form.loras] = gr.update(value=refitted(restored_blend(left.blend), key))
        return updates


def _allowed(name: str, value: Any, model: str) -> bool:
    try:
        request_from({"prompt": "", "model": model, name: value}, model)
    except BadRequest:
        return False
    return value is not None


def _allowed_further(left: StoredForm, model: str) -> bool:
    """Together: a strength belongs to its pass, and a batch to the number of pictures."""
    values = {name: getattr(left, name) for name in ("images", *_FURTHER)}
    if any(values[name] is None for name in ("upscale_strength", "batch")):
        return False  # stored before there were any
    try:
        request_from({"prompt": "", "model": model, "images": left.images, **asked_further(values)}, model)
    except BadRequest:
        return False
    return True


def restored_blend(blend: StoredBlend) -> dict[str, Any]:
    """Its rows with the pictures' own addresses on this server: whatever was stored, the page asks no other."""
    said = blend.model_dump(mode="json")
    for row in said["rows"]:
        row["picture"] = preview_address(row["ref"]) if row["picture"] else None
    return said
