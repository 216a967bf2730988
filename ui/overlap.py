"""The overlap: a small picture, under the blend, of how its LoRAs lie to each other, made when it is asked for."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.studio import Studio
from ui.form import raw_request
from ui.messages import sentence_for
from ui.scripts import script
from ui.visitors import Visitors

_BLEND = ("model", "loras", "total_strength")


def overlap(studio: Studio, visitors: Visitors) -> gr.HTML:
    """Its script asks the server function for what `/inspect_blend` gives, and draws it."""

    def inspect(asked: Any, request: gr.Request) -> dict[str, Any]:
        bare: Any = request  # here Gradio hands over the web server's own request
        said = asked if isinstance(asked, dict) else {}
        blend = said.get("blend")
        values = {"model": blend.get("model") if isinstance(blend, dict) else None, "loras": blend}
        raw = {name: value for name, value in raw_request(values).items() if name in _BLEND}
        try:
            visitor = visitors.of(gr.Request(bare), said.get("visitor"), said.get("token"))
            return studio.inspect_blend(raw, visitor)
        except Exception as error:  # noqa: BLE001 - the script shows every error as its sentence; bugs are logged there
            return {"error": sentence_for(error)}

    return gr.HTML(
        html_template='<div class="overlap"></div>',
        js_on_load=script("overlap"),
        server_functions=[inspect],
        apply_default_css=False,
        elem_id="overlap",
    )
