"""Over a picture: on Create, a picture to begin with, and over it a brush for the part that is to be drawn anew."""

from __future__ import annotations

import base64
import binascii
import io
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.processing_utils import save_bytes_to_cache
from PIL import Image

from core.errors import BadRequest
from core.pictures import Canvas, with_pictures
from core.recipe import RecipeInit
from core.request import OVER_STRENGTH
from ui import texts
from ui.folds import fold, unfolded
from ui.messages import alert_html
from ui.scripts import script

LARGEST_LOOK = 512  # px of the picture that is painted on, and of the paint that comes back
LONGEST_PAINT = 500_000  # letters of the paint as a data URL
_PNG = "data:image/png;base64,"
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass(frozen=True)
class Begun:
    """A picture that the page holds: its file in Gradio's cache and its size, upright, in pixels."""

    path: str
    width: int
    height: int


class OverPicture:
    """Lays out the panel. `file` is a gr.State: no path for it ever comes from a browser."""

    def __init__(self) -> None:
        with fold(texts.OVER, "over") as self.panel, gr.Column():
            with gr.Row(elem_id="over-tools"):
                self.choose = gr.UploadButton(
                    "Choose a picture", file_types=["image"], size="sm", elem_id="over-choose"
                )
                self.remove = gr.Button("Remove", size="sm", visible=False, elem_id="over-remove")
            self.said = gr.HTML(elem_id="over-said", apply_default_css=False)
            self.paint = gr.HTML(
                value={}, html_template='<div class="begun"></div>', js_on_load=script("over_picture"),
                apply_default_css=False, elem_id="over-paint",
            )  # fmt: skip
            self.strength = gr.Slider(
                0, 1, OVER_STRENGTH, step=0.05, label="Strength", visible=False, elem_id="strength",
                info="The more, the less of the picture stays",
            )  # fmt: skip
        self.file = gr.State(None)
        self.choose.upload(self.begun, inputs=self.choose, outputs=self.outputs, **_PRIVATE)
        self.remove.click(self.cleared, outputs=self.outputs, queue=False, **_PRIVATE)

    @property
    def outputs(self) -> list[Block]:
        """Everything of the panel that changes."""
        return [self.panel, self.remove, self.said, self.paint, self.strength, self.file]

    def begun(self, path: str | None) -> dict[Any, Any]:
        """The panel with a picture that Gradio keeps; a sentence, and the panel as it was, for what is none."""
        if not path:
            return {self.said: ""}
        try:
            _, canvas = with_pictures({"image": path})
        except BadRequest as error:
            return {self.said: alert_html(error)}
        if not isinstance(canvas, Canvas):
            return {self.said: ""}
        width, height = canvas.picture.size
        look = canvas.picture.copy()
        look.thumbnail((LARGEST_LOOK, LARGEST_LOOK))
        return self._held(Begun(path, width, height), {"look": _data_url(look), "paint": None}) | {self.said: ""}

    def cleared(self) -> dict[Any, Any]:
        """Without a picture, as at the beginning."""
        return self._held(None, {}) | {self.said: "", self.panel: gr.update()}

    def recalled(self, init: RecipeInit | None) -> dict[Any, Any]:
        """For a recipe: the picture it was drawn over is in no recipe, so it has to be chosen again."""
        if init is None:
            return self.cleared()
        masked = " and paints its own part of it anew: paint that again too" if init.mask_sha256 else ""
        told = f"This recipe begins with the picture whose sha256 is {init.sha256[:12]}…{masked}. Choose that file."
        return {
            self.panel: unfolded(), self.said: f'<p role="status">{escape(told)}</p>',
            self.strength: gr.update(value=init.strength),
        }  # fmt: skip

    def asked(self, begun: object, paint: Any, strength: Any) -> dict[str, Any]:
        """Of a raw request: `image`, `mask` where something is painted, and `strength`; nothing without a picture."""
        if not isinstance(begun, Begun):
            return {}
        mask = self._mask(paint.get("paint") if isinstance(paint, dict) else None, begun)
        return {"image": begun.path, "mask": mask, "strength": strength}

    def _held(self, begun: Begun | None, paint: dict[str, Any]) -> dict[Any, Any]:
        there = begun is not None
        return {
            self.panel: unfolded(), self.remove: gr.update(visible=there), self.paint: gr.update(value=paint),
            self.strength: gr.update(visible=there), self.file: begun,
        }  # fmt: skip

    def _mask(self, paint: object, begun: Begun) -> str | None:
        """A file of the picture's size; None where nothing is painted. The same paint makes the same bytes."""
        if not isinstance(paint, str) or not paint:
            return None
        drawn = _painted(paint)
        if drawn.getbbox() is None:
            return None
        out = io.BytesIO()
        drawn.resize((begun.width, begun.height), Image.Resampling.NEAREST).save(out, "PNG")
        path: str = save_bytes_to_cache(out.getvalue(), "mask.png", self.paint.GRADIO_CACHE)
        return path


def _painted(paint: str) -> Image.Image:
    """What the browser drew, white on black. Raises BadRequest."""
    refused = BadRequest("mask", "mask must be what was painted on the picture: paint it again.")
    if len(paint) > LONGEST_PAINT or not paint.startswith(_PNG):
        raise refused
    try:
        data = base64.b64decode(paint.removeprefix(_PNG), validate=True)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            if max(picture.size) > LARGEST_LOOK:
                raise refused
            return picture.convert("L").point(lambda value: 255 if value > 127 else 0)
    except (binascii.Error, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise refused from None


def _data_url(picture: Image.Image) -> str:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
