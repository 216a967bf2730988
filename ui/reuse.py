"""Reuse: under a picture, its recipe back into the form, and the picture in other formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache

from core.errors import BadRequest
from core.recipe import Recipe, read_recipe
from core.recipe_files import Ending, picture_as
from ui.messages import alert_html
from ui.over_picture import OverPicture
from ui.recall import Recall

_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_DOWNLOAD = """() => requestAnimationFrame(() =>
  requestAnimationFrame(() => document.querySelector("#picture-file").click()))"""  # once the page shows the new file
_FORMATS: dict[str, Ending] = {"JPEG": "jpg", "WebP": "webp"}


class Reuse:
    """Lays out the buttons; `wire` makes them work once the form is there."""

    def __init__(self, gallery: gr.Gallery) -> None:
        self.gallery = gallery
        self.chosen = gr.State(0)  # which picture of the gallery
        with gr.Row(elem_id="reuse"):
            gr.HTML("<span>Use again</span>", apply_default_css=False)
            self.everything = gr.Button("Everything", size="sm", elem_id="use-everything")
            self.seed = gr.Button("Seed", size="sm", elem_id="use-seed")
            self.remix = gr.Button("Remix", size="sm", elem_id="use-remix")
            self.start = gr.Button("As start", size="sm", elem_id="use-as-start")
            gr.HTML("<span>Save as</span>", apply_default_css=False)
            self.formats = {
                ending: gr.Button(label, size="sm", elem_id=f"save-{ending}") for label, ending in _FORMATS.items()
            }
        self.file = gr.DownloadButton(visible="hidden", elem_id="picture-file")

    def wire(self, recall: Recall, over: OverPicture, shown: gr.JSON, notice: gr.HTML) -> None:
        """`shown` holds the recipe of what the gallery shows; errors go to `notice`."""

        def told(answer: Callable[[Any, int], dict[Any, Any]], **failed: Any) -> Callable[[Any, Any], dict[Any, Any]]:
            def answered(what: Any, index: Any) -> dict[Any, Any]:
                try:
                    return answer(what, index if type(index) is int and index >= 0 else 0) | {notice: ""}
                except Exception as error:  # noqa: BLE001 - each becomes a sentence; alert_html logs those that are bugs
                    return {notice: alert_html(error)} | {getattr(self, name): value for name, value in failed.items()}

            return answered

        ways: dict[gr.Button, Callable[[Recipe, int], dict[Any, Any]]] = {
            self.everything: lambda recipe, _: recall.everything(recipe),
            self.seed: recall.seed,
            self.remix: lambda recipe, _: recall.remix(recipe),
        }
        for button, way in ways.items():
            button.click(
                told(partial(_of_shown, way)),
                inputs=[shown, self.chosen],
                outputs=[*recall.outputs, notice],
                queue=False,
                **_PRIVATE,
            )
        self.start.click(
            told(lambda gallery, index: over.begun(str(_picture(gallery, index, Path(self.gallery.GRADIO_CACHE))))),
            inputs=[self.gallery, self.chosen],
            outputs=[*over.outputs, notice],
            preprocess=False,  # a path from outside must be judged before anything opens it
            **_PRIVATE,
        )
        self.gallery.select(_selected, outputs=self.chosen, queue=False, **_PRIVATE)
        for ending, button in self.formats.items():
            button.click(
                told(partial(self.saved, ending), file=None),
                inputs=[self.gallery, self.chosen],
                outputs=[self.file, notice],
                preprocess=False,  # a path from outside must be judged before anything opens it
                **_PRIVATE,
            ).then(None, js=_DOWNLOAD, api_visibility="private")

    def saved(self, ending: Ending, gallery: Any, index: int) -> dict[Any, Any]:
        """The chosen picture in another format with its recipe, as a file in Gradio's cache. Raises BadRequest."""
        png = _picture(gallery, index, Path(self.gallery.GRADIO_CACHE))
        saved = save_bytes_to_cache(
            picture_as(png.read_bytes(), ending), f"{png.stem}.{ending}", self.file.GRADIO_CACHE
        )
        return {self.file: saved}


def _of_shown(way: Callable[[Recipe, int], dict[Any, Any]], recipe: Any, index: int) -> dict[Any, Any]:
    return way(read_recipe(recipe), index)


def _selected(event: gr.SelectData) -> int:
    return int(event.index)


def _picture(gallery: Any, index: int, cache: Path) -> Path:
    """The file behind one of the gallery's pictures: only one that Gradio itself keeps and serves."""
    items = gallery if isinstance(gallery, list) else []
    item = items[index] if index < len(items) else None
    image = item.get("image") if isinstance(item, Mapping) else None
    path = image.get("path") if isinstance(image, Mapping) else None
    if not isinstance(path, str) or not Path(path).resolve().is_relative_to(cache.resolve()):
        raise BadRequest("picture", "There is no picture to save yet: press Generate.")
    return Path(path)
