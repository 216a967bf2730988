"""The overlap: a small picture, under the blend, of how its LoRAs lie to each other, made when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.errors import Cancelled
from core.studio import Studio
from ui.form import Form, blend_in
from ui.messages import sentence_for
from ui.runs import Runs
from ui.scripts import script
from ui.under_way import UnderWay, in_words
from ui.visitors import Visitors

_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


class Overlap:
    """Lays out where it is drawn; `wire` makes it work once the form is there.

    Its script asks by a number, and draws what `look` gives under the same: what `/inspect_blend` does.
    """

    def __init__(self, studio: Studio, runs: Runs, visitors: Visitors) -> None:
        self.studio, self.runs, self.visitors = studio, runs, visitors
        self.view = gr.HTML(
            html_template='<div class="overlap"></div>',
            js_on_load=script("overlap"),
            apply_default_css=False,
            elem_id="overlap",
        )

    def wire(self, form: Form, visitor: gr.Textbox, token: gr.Textbox) -> None:
        """`visitor` and `token` say whose LoRAs may be read."""
        self.view.submit(
            self.look,
            inputs_kwargs={"model": form.model, "loras": form.loras, "visitor": visitor, "token": token},
            outputs=self.view,
            preprocess=False,  # our own schema judges the values
            trigger_mode="multiple",  # a newer look takes the place of an older one
            concurrency_id="look",
            **_PRIVATE,
        )
        self.view.stop(self.left, queue=False, **_PRIVATE)

    def look(
        self, request: gr.Request, event: gr.EventData, visitor: Any, token: Any, **values: Any
    ) -> Iterator[dict[str, Any]]:
        """How far it is, then the overlap or the sentence why there is none; nobody waits for the look before."""
        self.left(request)
        asked = {"asked": event._data.get("asked") if isinstance(event._data, dict) else None}
        try:
            with self.runs.run(_session(request)) as stop:
                who = self.visitors.of(request, visitor, token)
                looking = UnderWay(self.studio.inspect_blend(blend_in(values), who, stop))
                for progress in looking:
                    yield asked | {"under_way": in_words(progress), "fetching": progress.unit == "bytes"}
        except Cancelled:
            yield asked | {"under_way": "Cancelled.", "fetching": False}
        except Exception as error:  # noqa: BLE001 - the script shows every error as its sentence; bugs are logged there
            yield asked | {"error": sentence_for(error)}
        else:
            yield asked | looking.answer

    def left(self, request: gr.Request) -> None:
        """Hidden, or the tab closed: nobody waits for it."""
        self.runs.stop(_session(request))


def _session(request: gr.Request) -> str:
    """The visitor's looks, among their runs."""
    return f"{request.session_hash or ''}/look"
