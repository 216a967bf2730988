"""The line under the model that says how long a picture takes here, or how much it takes of a visitor's GPU quota."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import gradio as gr

from core.base_models import BASE_MODELS
from core.errors import BadRequest
from core.messages import Metered
from core.request import GenerationRequest, request_from
from core.studio import Studio
from ui import texts
from ui.durations import in_short
from ui.form import Form, pictures_in
from ui.further import asked_further

_DECIDING = ("model", "width", "height", "steps", "guidance", "sampler")


class Estimate:
    """Says what was measured, and nothing before: no figure is made up."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        metered = isinstance(studio.engine, Metered)
        self.line = gr.HTML(
            self.said({}), elem_id="quota" if metered else "estimate", elem_classes="estimate", apply_default_css=False
        )

    def wire(self, form: Form) -> None:
        """Said anew whenever something changes that decides on the time."""
        deciding: Mapping[str, Any] = {
            "model": form.model, "width": form.width, "height": form.height, "steps": form.steps,
            "guidance": form.guidance, "images": form.images, "sampler": form.sampler, "upscale": form.upscale,
            "upscale_strength": form.upscale_strength, "batch": form.batch,
        }  # fmt: skip
        written = {"prompt": form.prompt, "negative_prompt": form.negative_prompt}  # which may ask for several pictures
        gr.on(
            [component.change for component in deciding.values()] + [text.blur for text in written.values()],
            lambda **values: self.said(values),
            inputs_kwargs={**deciding, **written},
            outputs=self.line,
            queue=False,
            trigger_mode="always_last",  # a slider on its way changes many times
            show_progress="hidden",
            api_visibility="private",
            preprocess=False,
        )

    def said(self, values: Mapping[str, Any]) -> str:
        """For the form's values, unchecked: what cannot be asked for has no time."""
        pictures = {"images": pictures_in(values)}
        asked = {name: values.get(name) for name in _DECIDING} | pictures | asked_further({**values, **pictures})
        try:
            request = request_from({**asked, "lossy": None, "prompt": ""}, self._studio.default_model)
        except BadRequest:  # said when it is asked for
            return ""
        engine = self._studio.engine
        sentence = self._of_quota(engine, request) if isinstance(engine, Metered) else self._of_time(request)
        return f'<p class="hint">{escape(sentence)}</p>' if sentence else ""

    def _of_quota(self, engine: Metered, request: GenerationRequest) -> str:
        same_weights = request.entry.home == BASE_MODELS[self._studio.default_model].home
        return texts.OF_QUOTA.format(engine.seconds(request)) if same_weights else ""

    def _of_time(self, request: GenerationRequest) -> str:
        each = self._studio.timings.seconds(request)
        if each is None:
            return ""
        all_of_them = texts.ALL_OF_THEM.format(request.images, in_short(each * request.images))
        return texts.A_PICTURE.format(in_short(each)) + (all_of_them if request.images > 1 else "")


def usual_time(studio: Studio, model: str) -> float | None:
    """Seconds of a picture as the model draws it by itself, where some were measured."""
    return studio.timings.seconds(request_from({"prompt": "", "model": model}, model))
