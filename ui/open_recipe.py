"""Opening a recipe: a picture dropped, a text pasted or a link followed fills the form, and what cannot be is said."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from core.studio import Studio
from ui import texts
from ui.folds import fold
from ui.messages import alert_html
from ui.recall import Recall
from ui.visitors import Visitors

_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
# What stands behind ?recipe= goes away once it was read: a reload must not undo what was changed since.
ON_LOAD = """() => {
  const address = new URL(location.href);
  const link = address.searchParams.get("recipe");
  address.searchParams.delete("recipe");
  if (link !== null) history.replaceState(null, "", address);
  return [window.loom.visitor(), link, window.loom.consent(), window.loom.keptForm(link)];
}"""


class OpenRecipe:
    """Lays out the panel; `wire` makes it work once the form is there."""

    def __init__(self, studio: Studio, visitors: Visitors) -> None:
        self.studio, self.visitors = studio, visitors
        with fold(texts.OPEN_A_RECIPE, "opening"), gr.Column():
            with gr.Row(elem_id="open-recipe"):
                gr.HTML(f"<span>{texts.DROP_A_PICTURE}</span>", apply_default_css=False)
                self.picture = gr.UploadButton(texts.CHOOSE_ONE, size="sm", elem_id="recipe-picture")
            self.text = gr.Textbox(
                label=texts.PASTE_A_RECIPE, lines=2, max_lines=6, elem_id="recipe-text",
            )  # fmt: skip
            self.open = gr.Button(texts.OPEN, size="md", elem_id="recipe-open")
        self.said = gr.HTML(elem_id="opened", apply_default_css=False)
        self.link = gr.Textbox(
            visible="hidden", elem_id="recipe-link"
        )  # what the address held when the page was loaded

    def wire(self, recall: Recall, visitor: gr.Textbox, token: gr.Textbox) -> None:
        """`visitor` and `token` say whose LoRAs may be read."""
        self.recall = recall
        who = {"visitor": visitor, "token": token}
        outputs = [*recall.outputs, self.said]
        for event, source in (
            (self.picture.upload, {"image": self.picture}),
            (self.open.click, {"text": self.text}),
            (self.link.change, {"text": self.link}),
        ):
            event(self.opened, inputs_kwargs={**source, **who}, outputs=outputs, **_PRIVATE)

    def opened(
        self, request: gr.Request, visitor: Any, token: Any, image: str | None = None, text: str | None = None
    ) -> dict[Any, Any]:
        """The form filled, with what cannot be the same here; or a sentence, and the form as it was."""
        if not image and not text:
            return {self.said: ""}
        try:
            who = self.visitors.of(request, visitor, token)
            recipe, reasons = self.studio.read_recipe({"image": image or None, "text": text or None}, who)
            return self.recall.everything(recipe, who) | {self.said: _opened_html(reasons)}
        except Exception as error:  # noqa: BLE001 - each becomes a sentence; alert_html logs those that are bugs
            return {self.said: alert_html(error)}


def _opened_html(reasons: Sequence[Any]) -> str:
    if not reasons:
        return '<p role="status">The form is filled from the recipe: Generate makes the same picture again.</p>'
    lines = "".join(f"<li><b>{escape(reason.field)}</b> {escape(reason.reason)}</li>" for reason in reasons)
    told = "The form is filled from the recipe. What may not be the same here:"
    return f'<div role="status"><p>{told}</p><ul>{lines}</ul></div>'
