"""The line under Generate that says how much of a visitor's GPU quota a picture takes, where there is such a quota."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from core.base_models import BASE_MODELS
from core.errors import BadRequest
from core.messages import Metered
from core.request import request_from
from core.studio import Studio
from ui.form import Form
from ui.further import asked_further


class Quota:
    """Nothing at all where the engine's time is nobody's quota."""

    def __init__(self, studio: Studio) -> None:
        self._engine, self._model = studio.engine, studio.default_model
        if isinstance(self._engine, Metered):
            self._line = gr.HTML(self._said(self._engine, {}), elem_id="quota", apply_default_css=False)

    def wire(self, form: Form) -> None:
        """Said anew whenever something changes that decides on the time."""
        if not isinstance(engine := self._engine, Metered):
            return
        deciding: Mapping[str, Any] = {
            "model": form.model, "width": form.width, "height": form.height, "steps": form.steps,
            "guidance": form.guidance, "images": form.images, "sampler": form.sampler, "upscale": form.upscale,
            "upscale_strength": form.upscale_strength, "batch": form.batch,
        }  # fmt: skip
        gr.on(
            [component.change for component in deciding.values()],
            lambda **values: self._said(engine, values),
            inputs_kwargs=dict(deciding),
            outputs=self._line,
            queue=False,
            show_progress="hidden",
            api_visibility="private",
            preprocess=False,
        )

    def _said(self, engine: Metered, values: Mapping[str, Any]) -> str:
        try:
            request = request_from({**values, **asked_further(values), "prompt": ""}, self._model)
        except BadRequest:  # said when it is asked for
            return ""
        if BASE_MODELS[request.model].repo != BASE_MODELS[self._model].repo:
            return ""
        return f'<p class="hint">About {engine.seconds(request)} s of your GPU quota.</p>'
