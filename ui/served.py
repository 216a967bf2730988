"""Server functions of gr.HTML: what a script asks of the server by itself, answered with an object or a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from lora_catalog.visitor import Visitor
from ui.messages import sentence_for
from ui.visitors import Visitors

Raw = dict[str, Any]


def served(visitors: Visitors, name: str, answer: Callable[[Raw, Visitor], Raw]) -> Callable[..., Raw]:
    """`answer` under the name that the script calls it by, no attribute of gr.HTML, for whatever the net sends.

    `visitor` and `token` of what is asked say who asks; every error becomes `{"error": sentence}`.
    """

    def function(asked: Any, request: gr.Request) -> Raw:
        bare: Any = request  # here Gradio hands over the web server's own request
        raw = asked if isinstance(asked, dict) else {}
        try:
            return answer(raw, visitors.of(gr.Request(bare), raw.get("visitor"), raw.get("token")))
        except Exception as error:  # noqa: BLE001 - the script shows every error as its sentence; bugs are logged there
            return {"error": sentence_for(error)}

    function.__name__ = name
    return function
