"""Saving a blend as one LoRA: a quiet panel under the blend on Create, and the file that it and the API give."""

from __future__ import annotations

import tempfile
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_file_to_cache

from core.studio import Studio
from lora_catalog.errors import megabytes
from lora_catalog.visitor import Visitor
from ui.form import Form, raw_request
from ui.messages import sentence_for
from ui.visitors import Visitors

_LONGEST_TITLE = 100
_RANKS = [
    ("As it is: its ranks add up, nothing is lost", 0),
    *((f"Cut to rank {rank}", rank) for rank in (4, 8, 16, 32, 64)),
]
_BLEND = ("model", "loras", "total_strength")


def saved_blend(studio: Studio, raw: dict[str, Any], visitor: Visitor, cache: str) -> tuple[str, dict[str, Any]]:
    """A blend's file in Gradio's cache, which drops it after a day, and what it is. Raises as `Studio.save_blend`."""
    with tempfile.TemporaryDirectory() as folder:
        saved = studio.save_blend(raw, visitor, Path(folder))
        return save_file_to_cache(saved.path, cache), saved.about


class SaveBlend:
    """Lays out the panel; `wire` makes it work once the form is there."""

    def __init__(self, studio: Studio, visitors: Visitors) -> None:
        self.studio, self.visitors = studio, visitors
        with gr.Accordion("Save this blend as one LoRA", open=False, elem_id="save-blend"):
            self.title = gr.Textbox(
                label="Title", placeholder="the names of its LoRAs", max_lines=1,
                elem_id="save-title",
            )  # fmt: skip
            self.rank = gr.Dropdown(_RANKS, value=0, label="Size", filterable=False, elem_id="save-rank")
            self.button = gr.Button("Save", size="md", elem_id="save-button")
            self.said = gr.HTML(elem_id="save-said", apply_default_css=False)
            self.file = gr.File(label="One LoRA", interactive=False, visible=False, elem_id="save-file")

    def wire(self, form: Form, visitor: gr.Textbox, token: gr.Textbox) -> None:
        """`visitor` and `token` say whose LoRAs may be read."""
        self.button.click(
            lambda: {self.button: gr.update(interactive=False), self.said: '<p role="status">Saving …</p>'},
            outputs=[self.button, self.said],
            queue=False,
            api_visibility="private",
            show_progress="hidden",
        ).then(
            self.save,
            inputs_kwargs={
                "title": self.title, "rank": self.rank, "model": form.model, "loras": form.loras, "visitor": visitor,
                "token": token,
            },
            outputs=[self.button, self.said, self.file],
            preprocess=False,  # our own schema judges the values
            concurrency_id="save",
            concurrency_limit=1,
            api_visibility="private",
            show_progress="hidden",
        )  # fmt: skip

    def save(
        self, request: gr.Request, title: Any, rank: Any, visitor: Any, token: Any, **values: Any
    ) -> dict[Any, Any]:
        """The file with a sentence about it, or the sentence why there is none; the button comes back either way."""
        raw = {name: value for name, value in raw_request(values).items() if name in _BLEND}
        try:
            path, about = saved_blend(
                self.studio, raw | {"title": title or None, "rank": rank or None},
                self.visitors.of(request, visitor, token), self.file.GRADIO_CACHE,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - every error must give the button back; sentence_for logs bugs
            said = f'<p role="alert">{escape(sentence_for(error))}</p>'
            return {self.button: gr.update(interactive=True), self.said: said, self.file: gr.update(visible=False)}
        said = f'<p role="status">{escape(_sentence(about))}</p>'
        return {
            self.button: gr.update(interactive=True), self.said: said, self.file: gr.update(value=path, visible=True),
        }  # fmt: skip


def _sentence(about: dict[str, Any]) -> str:
    count = len(about["parents"])
    what = f"{count} LoRAs in one" if count > 1 else "One LoRA with its weight in it"
    lost = "exact but for rounding" if about["exact"] else f"{100 * about['error']:.2g}% of the blend's change is lost"
    return f"{what}: rank {about['rank']}, {about['layers']} layers, {megabytes(about['bytes'])}, {lost}."
