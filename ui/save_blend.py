"""Saving a blend as one LoRA: a quiet panel under the blend on Create, and the file that it and the API give."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_file_to_cache

from core.errors import Cancelled
from core.messages import Progress, StopFlag
from core.studio import Studio
from lora_catalog.errors import megabytes
from lora_catalog.visitor import Visitor
from ui import texts
from ui.folds import fold
from ui.form import Form, blend_in
from ui.messages import sentence_for
from ui.runs import Runs
from ui.under_way import UnderWay, in_words
from ui.visitors import Visitors

MOST_SAVED = 4  # at once: some fetch what they need, and one at a time computes
_LONGEST_TITLE = 100
_RANKS = [
    ("As it is: its ranks add up, nothing is lost", 0),
    *((f"Cut to rank {rank}", rank) for rank in (4, 8, 16, 32, 64)),
]


def saved_blend(
    studio: Studio, raw: dict[str, Any], visitor: Visitor, cache: str, stop: StopFlag
) -> Generator[Progress, None, tuple[str, dict[str, Any]]]:
    """A blend's file in Gradio's cache, which drops it after a day, and what it is. Tells and raises as
    `Studio.save_blend`."""
    with tempfile.TemporaryDirectory() as folder:
        saved = yield from studio.save_blend(raw, visitor, Path(folder), stop)
        return save_file_to_cache(saved.path, cache), saved.about


class SaveBlend:
    """Lays out the panel; `wire` makes it work once the form is there. Its runs are told apart from drawings."""

    def __init__(self, studio: Studio, runs: Runs, visitors: Visitors) -> None:
        self.studio, self.runs, self.visitors = studio, runs, visitors
        with fold(texts.SAVE_BLEND, "save-blend"), gr.Column():
            self.title = gr.Textbox(
                label="Title", placeholder="the names of its LoRAs", max_lines=1, max_length=_LONGEST_TITLE,
                elem_id="save-title",
            )  # fmt: skip
            self.rank = gr.Dropdown(_RANKS, value=0, label="Size", filterable=False, elem_id="save-rank")
            self.button = gr.Button("Save", size="md", elem_id="save-button")
            self.cancel = gr.Button("Cancel", size="md", visible=False, elem_id="save-cancel")
            self.said = gr.HTML(elem_id="save-said", apply_default_css=False)
            self.file = gr.File(label="One LoRA", interactive=False, visible=False, elem_id="save-file")

    def wire(self, form: Form, visitor: gr.Textbox, token: gr.Textbox) -> None:
        """`visitor` and `token` say whose LoRAs may be read."""
        self.button.click(
            self.save,
            inputs_kwargs={
                "title": self.title, "rank": self.rank, "model": form.model, "loras": form.loras, "visitor": visitor,
                "token": token,
            },
            outputs=[self.button, self.cancel, self.said, self.file],
            preprocess=False,  # our own schema judges the values
            concurrency_id="save",
            concurrency_limit=MOST_SAVED,
            api_visibility="private",
            show_progress="hidden",
        )  # fmt: skip
        self.cancel.click(self.stop, outputs=self.cancel, queue=False, api_visibility="private", show_progress="hidden")

    def save(
        self, request: gr.Request, title: Any, rank: Any, visitor: Any, token: Any, **values: Any
    ) -> Iterator[dict[Any, Any]]:
        """The file with a sentence about it, or the sentence why there is none; the button comes back either way."""
        raw = blend_in(values) | {"title": title or None, "rank": rank or None}
        idle = {self.button: gr.update(visible=True), self.cancel: gr.update(visible=False)}
        yield {
            self.button: gr.update(visible=False),
            self.cancel: gr.update(visible=True, value="Cancel", interactive=True),
            self.said: _line("Saving …"),
            self.file: gr.update(visible=False),
        }
        try:
            with self.runs.run(_session(request)) as stop:
                who = self.visitors.of(request, visitor, token)
                saving = UnderWay(saved_blend(self.studio, raw, who, self.file.GRADIO_CACHE, stop))
                for progress in saving:
                    yield {self.said: _line(in_words(progress))}
        except Cancelled:
            yield {self.said: _line("Cancelled.")} | idle
        except Exception as error:  # noqa: BLE001 - every error must give the button back; sentence_for logs bugs
            yield {self.said: _line(sentence_for(error), role="alert")} | idle
        else:
            path, about = saving.answer
            yield {self.said: _line(_sentence(about)), self.file: gr.update(value=path, visible=True)} | idle

    def stop(self, request: gr.Request) -> dict[str, Any]:
        """The run notices at its next piece and gives the button back itself."""
        self.runs.stop(_session(request))
        return gr.update(value="Cancelling …", interactive=False)

    def left(self, request: gr.Request) -> None:
        """A closed tab waits for nothing."""
        self.runs.stop(_session(request))


def _session(request: gr.Request) -> str:
    """The visitor's savings, among their runs."""
    return f"{request.session_hash or ''}/save"


def _line(text: str, role: str = "status") -> str:
    return f'<p role="{role}">{escape(text)}</p>'


def _sentence(about: dict[str, Any]) -> str:
    count = len(about["parents"])
    what = f"{count} LoRAs in one" if count > 1 else "One LoRA with its weight in it"
    lost = "exact but for rounding" if about["exact"] else f"{100 * about['error']:.2g}% of the blend's change is lost"
    return f"{what}: rank {about['rank']}, {about['layers']} layers, {megabytes(about['bytes'])}, {lost}."
