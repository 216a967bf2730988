"""Example blends: five for the model in use, a click away: words, LoRAs and a seed that look well together."""

from __future__ import annotations

import base64
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr

from core.base_models import BaseModel
from core.request import GenerationRequest, entry_of, request_from
from core.studio import Studio
from lora_catalog.curated import curated_cards
from ui import texts
from ui.messages import alert_html
from ui.recall import Recall
from ui.scripts import script
from ui.visitors import Visitors

FOLDER = Path(__file__).parent / "examples"


@dataclass(frozen=True)
class Example:
    """`asked` is a request's fields without its model; `models` are keys or families that it is for; `picture` is what
    it draws, small, as a data URL, or None where nobody drew it here."""

    name: str
    title: str
    models: tuple[str, ...]
    asked: dict[str, Any]
    picture: str | None

    def request(self, entry: BaseModel) -> GenerationRequest:
        """What it asks of that model."""
        return request_from({**self.asked, "model": entry.key}, entry.key)


@cache
def examples() -> tuple[Example, ...]:
    """All of them, as `examples/examples.toml` has them."""
    found = tomllib.loads((FOLDER / "examples.toml").read_text("utf-8"))["example"]
    return tuple(
        Example(one["name"], one["title"], tuple(one["models"]), one["asked"], _picture(one["name"])) for one in found
    )


def examples_for(entry: BaseModel) -> list[Example]:
    """Those for the model itself, else those for its family, which its fine-tunes and speed modes share."""
    own = [one for one in examples() if entry.key in one.models]
    return own or [one for one in examples() if entry.family in one.models]


class Examples:
    """Lays out the cards over the empty loom; `wire` makes them work once the form is there."""

    def __init__(self, studio: Studio, visitors: Visitors) -> None:
        self.visitors = visitors
        known = (*studio.catalog.bundled(), *curated_cards())  # the Hub is asked when one of its LoRAs is wanted
        self._titles = {card.ref: card.title for card in known}
        self.view = gr.HTML(
            value=self._shown(entry_of(studio.default_model)),
            html_template='<div class="blends"></div>',
            js_on_load=script("examples"),
            apply_default_css=False,
            elem_id="blends",
        )

    def of_model(self, entry: BaseModel) -> dict[str, Any]:
        """The update that brings a model's own."""
        return gr.update(value=self._shown(entry))

    def wire(self, recall: Recall, visitor: gr.Textbox, token: gr.Textbox, model: gr.Dropdown, notice: gr.HTML) -> None:
        """`visitor` and `token` say whose LoRAs may be read; errors go to `notice`."""
        self.recall, self.notice = recall, notice
        self.view.submit(
            self.chosen,
            inputs=[visitor, token, model],
            outputs=[*recall.outputs, notice],
            queue=False,
            api_visibility="private",
            show_progress="hidden",
        ).then(None, js="() => window.loom.ready()", api_visibility="private")

    def chosen(self, event: gr.EventData, request: gr.Request, visitor: Any, token: Any, model: Any) -> dict[Any, Any]:
        """The form filled as the example says, for the model that is chosen."""
        name = event._data.get("name") if isinstance(event._data, dict) else None
        try:
            entry = entry_of(model)
            who = self.visitors.of(request, visitor, token)
            found = next((one for one in self._here(entry) if one.name == name), None)
            if found is None:
                return {self.notice: ""}
            return self.recall.asked(found.request(entry), who) | {self.notice: ""}
        except Exception as error:  # noqa: BLE001 - each becomes a sentence; alert_html logs those that are bugs
            return {self.notice: alert_html(error)}

    def _shown(self, entry: BaseModel) -> dict[str, Any]:
        cards = [
            {"name": one.name, "title": one.title, "picture": one.picture, "loras": self._loras(one)}
            for one in self._here(entry)
        ]
        return {"said": texts.NO_PICTURE_EXAMPLES if cards else "", "cards": cards}

    def _here(self, entry: BaseModel) -> list[Example]:
        """Without those whose LoRAs this catalogue does not have."""
        return [one for one in examples_for(entry) if all(lora["ref"] in self._titles for lora in one.asked["loras"])]

    def _loras(self, example: Example) -> str:
        """“Neon lines × 0.6, Polka dots”."""
        return ", ".join(
            self._titles[lora["ref"]] + ("" if lora["weight"] == 1 else f" × {lora['weight']:g}")
            for lora in example.asked["loras"]
        )


def _picture(name: str) -> str | None:
    path = FOLDER / f"{name}.webp"
    return "data:image/webp;base64," + base64.b64encode(path.read_bytes()).decode() if path.is_file() else None
