"""The LoRAs tab: search all sources, look into any LoRA by its header, bring a file, and weave what fits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import gradio as gr

from core.studio import Studio
from lora_catalog.errors import FileGone, Gated, SeveralFiles
from lora_catalog.reference import LoraRef
from lora_catalog.search import SearchFamily
from lora_catalog.visitor import Visitor
from ui.blend_rows import shown
from ui.create import CreateTab
from ui.messages import sentence_for
from ui.previews import preview_address
from ui.scripts import script
from ui.visitors import Visitors

FAMILIES: dict[SearchFamily, str] = {
    "sd3": "SD3 and SD3.5",
    "sd3.5-large": "SD3.5 Large",
    "sd3.5-medium": "SD3.5 Medium",
    "sd3-medium": "SD3 Medium",
    "sdxl": "SDXL",
    "ssd-1b": "SSD-1B",
    "sd1": "SD 1",
    "sd2": "SD 2",
    "flux": "FLUX",
    "other": "Others",
    "pocket-sd3": "Pocket SD3",
    "pocket-sdxl": "Pocket SDXL",
}

Raw = dict[str, Any]
_SEARCHED = ("query", "family", "sort", "licence", "nsfw", "limit", "cursor")


class LorasTab:
    """Lays out the tab and answers its script. Holds nothing of a visitor."""

    def __init__(self, studio: Studio, visitors: Visitors, create: CreateTab, largest_upload: int) -> None:
        self.studio, self.visitors = studio, visitors
        with gr.HTML(
            html_template='<div class="loras-ask"></div>@children<div class="loras-found"></div>',
            js_on_load=script("lora_panel", "loras"),
            server_functions=[self._served("search", self.search), self._served("inspect", self.inspect)],
            apply_default_css=False,
            elem_id="loras",
            families=FAMILIES,
            largest=largest_upload,
        ) as self.view:
            # Any name may be given: what a file is, its header says, and our own sentence tells of it.
            upload = gr.UploadButton("Upload a file", size="md", elem_id="upload-lora")
        upload.upload(
            self.keep,
            inputs=[upload, create.visitor, create.form.model],
            outputs=self.view,
            api_visibility="private",
            show_progress="hidden",
        )

    def search(self, asked: Raw, visitor: Visitor) -> Raw:
        """A page of cards with their pictures' addresses."""
        page = self.studio.search_loras({field: asked.get(field) for field in _SEARCHED}, visitor)
        return page.model_dump(mode="json", exclude={"cards"}) | {"cards": [shown(card) for card in page.cards]}

    def inspect(self, asked: Raw, visitor: Visitor) -> Raw:
        """A preflight; where a file must be chosen first, `files` offers them."""
        try:
            preflight = self.studio.inspect_lora(asked.get("ref"), asked.get("model"), visitor)
        except SeveralFiles as error:
            said = "Which of its files? Each is a LoRA of its own."
            return {"error": said, "files": self._offered(asked["ref"], error.repo, error.files)}
        except FileGone as error:
            return {"error": str(error), "files": self._offered(asked["ref"], error.repo, error.files)}
        except Gated as error:
            return {"error": str(error), "address": error.address}
        picture = None if preflight.source == "local" else preview_address(preflight.ref)
        return preflight.model_dump(mode="json") | {"picture": picture}

    def _offered(self, ref: str, repo: str, files: Iterable[str]) -> list[Raw]:
        """The files of a repo, each with a ref at the revision that was asked for."""
        revision = self.studio.catalog.ref(ref).revision
        return [{"name": file, "ref": str(LoraRef("hub", repo, revision, file))} for file in files]

    def keep(self, file: Any, visitor: Any, model: Any, request: gr.Request) -> Raw:
        """Keeps an uploaded file and tells of it; `at` makes the same answer twice two answers."""

        def kept(asked: Raw, who: Visitor) -> Raw:
            return self.inspect({"ref": self.studio.keep_lora(file, who), "model": model}, who)

        return self._answer(kept, {"visitor": visitor}, request) | {"at": time.time_ns()}

    def _served(self, name: str, answer: Callable[[Raw, Visitor], Raw]) -> Callable[..., Raw]:
        """`answer` as a server function of gr.HTML, which takes whatever anyone on the net sends."""

        def served(asked: Any, request: gr.Request) -> Raw:
            bare: Any = request  # here Gradio hands over the web server's own request
            return self._answer(answer, asked if isinstance(asked, dict) else {}, gr.Request(bare))

        served.__name__ = name
        return served

    def _answer(self, answer: Callable[[Raw, Visitor], Raw], asked: Raw, request: gr.Request) -> Raw:
        try:
            return answer(asked, self.visitors.of(request, asked.get("visitor"), asked.get("token")))
        except Exception as error:  # noqa: BLE001 - the script shows every error as its sentence; bugs are logged there
            return {"error": sentence_for(error)}
