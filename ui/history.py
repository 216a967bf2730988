"""The History tab: one's own pictures, newest first: found, starred, deleted, compared, used again, taken away."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
from gradio.blocks import Block
from gradio.processing_utils import save_bytes_to_cache
from gradio.route_utils import API_PREFIX

from core.base_models import BASE_MODELS
from core.errors import BadRequest
from core.recipe import Recipe, read_recipe
from core.recipe_files import picture_as
from core.records.asking import Deletion
from core.records.schema import Record
from core.records.status import Sync
from core.studio import Studio
from lora_catalog.visitor import Visitor
from ui.create import CreateTab
from ui.differences import differences
from ui.messages import sentence_for
from ui.recall import Recall
from ui.recipe_view import recipe_html
from ui.record_files import RecordFiles
from ui.scripts import script
from ui.served import Raw, served
from ui.take_away import take_away_html
from ui.visitors import Visitors

PAGE = 60  # cards: whole rows in any number of columns up to six
LONGEST_SHOWN = 240  # letters of a prompt on a card
_ENDINGS: dict[str, Callable[[bytes], bytes]] = {
    "png": lambda png: png,
    "jpg": lambda png: picture_as(png, "jpg"),
    "webp": lambda png: picture_as(png, "webp"),
}


class HistoryTab:
    """Lays out the tab and answers its script. Holds nothing of a visitor, but which files show their pictures."""

    def __init__(self, studio: Studio, visitors: Visitors, create: CreateTab, recall: Recall, sync: Sync) -> None:
        self.studio, self.visitors, self.sync, self._files = studio, visitors, sync, RecordFiles()
        self._ways: dict[str, Callable[[Recipe, Visitor], dict[Any, Any]]] = {
            "everything": recall.everything,
            "seed": lambda recipe, _: recall.seed(recipe),
            "remix": recall.remix,
        }
        answers = (self.records, self.thumbnails, self.picture, self.save, self.compare, self.star, self.erase)
        self.view = gr.HTML(
            html_template='<div class="history"></div>',
            js_on_load=script("history_dialogs", "history"),
            server_functions=[served(visitors, answer.__name__, answer) for answer in answers],
            apply_default_css=False,
            elem_id="history",
            at_once=PAGE,
        )
        self.view.submit(
            self.recalled,
            inputs_kwargs={"visitor": create.visitor, "token": create.token},
            outputs=[*recall.outputs, self.view],
            api_visibility="private",
            show_progress="hidden",
        )

    def records(self, asked: Raw, visitor: Visitor) -> Raw:
        """Records that match, without their pictures; `said` tells of the dataset."""
        fields = {name: asked.get(name) for name in ("query", "lora", "starred", "cursor")}
        found = self.studio.history(fields | {"limit": PAGE}, visitor)
        return {
            "records": [_shown(record) for record in found.records],
            "next": found.next,
            "said": self.sync.status().said,
        }

    def thumbnails(self, asked: Raw, visitor: Visitor) -> Raw:
        """Small pictures by id, as data URIs; null where none is kept."""
        ids = asked.get("ids")
        wanted = [str(one) for one in ids[:PAGE]] if isinstance(ids, list) else []
        return {"thumbnails": {one: _data_uri(self.studio.journal.thumbnail(one, visitor.id)) for one in wanted}}

    def picture(self, asked: Raw, visitor: Visitor) -> Raw:
        """One record at full size, with its recipe to read; `address` is null where no picture is kept."""
        record = self._record(asked.get("id"), visitor)
        recipe = _recipe(record)
        return {
            "address": self._address(record, "png"),
            "recipe": recipe_html(recipe) + take_away_html(recipe, {}),
        }

    def save(self, asked: Raw, visitor: Visitor) -> Raw:
        """The address of a picture as a file to keep, its recipe inside, and what to call it."""
        ending = str(asked.get("ending"))
        if ending not in _ENDINGS:
            raise BadRequest("ending", f"ending must be one of {', '.join(_ENDINGS)}.")
        record = self._record(asked.get("id"), visitor)
        return {"address": self._address(record, ending), "name": _file_name(record, ending)}

    def compare(self, asked: Raw, visitor: Visitor) -> Raw:
        """Two records: the addresses of their pictures, the first one's width to its height, and what differs."""
        ids = asked.get("ids")
        if not isinstance(ids, list) or len(ids) != 2:
            raise BadRequest("ids", "ids must be those of two records.")
        one, other = (self._record(named, visitor) for named in ids)
        left, right = _recipe(one), _recipe(other)
        return {
            "pictures": [self._address(one, "png"), self._address(other, "png")],
            "ratio": left.width / left.height,
            "differences": differences(left, right),
        }

    def star(self, asked: Raw, visitor: Visitor) -> Raw:
        """Stars a record, or takes the star away."""
        star = self.studio.star_record({name: asked.get(name) for name in ("id", "starred")}, visitor)
        return {"starred": star.starred}

    def erase(self, asked: Raw, visitor: Visitor) -> Raw:
        """Deletes records for good, with the files that showed them here, and says how many."""
        fields = {"ids": asked.get("ids")}
        deleted = self.studio.delete_records(fields, visitor)
        self._files.delete(visitor.id, Deletion.read(fields).ids)
        return {"deleted": deleted}

    def recalled(
        self, request: gr.Request, event: gr.EventData, visitor: Any = None, token: Any = None
    ) -> dict[Block, Any]:
        """Fills the form from a record; or a sentence, and the form as it was."""
        asked = event._data if isinstance(event._data, dict) else {}
        try:
            way = self._ways.get(str(asked.get("how")))
            if way is None:
                raise BadRequest("how", f"how must be one of {', '.join(self._ways)}.")
            who = self.visitors.of(request, visitor, token)
            return way(_recipe(self._record(asked.get("id"), who)), who)
        except Exception as error:  # noqa: BLE001 - the script shows every error as its sentence; bugs are logged there
            return {self.view: {"error": sentence_for(error), "at": time.time_ns()}}  # twice the same is told twice

    def _record(self, named: object, visitor: Visitor) -> Record:
        return self.studio.journal.record(str(named), visitor.id)

    def _address(self, record: Record, ending: str) -> str | None:
        """Where Gradio serves the picture from its cache; the address is relative to the page."""
        if record.image is None:
            return None
        data = _ENDINGS[ending](record.image)
        path = save_bytes_to_cache(data, _file_name(record, ending), self.view.GRADIO_CACHE)
        self._files.add(record.visitor, record.id, Path(path))
        self.view.temp_files.add(path)  # so that Gradio deletes it with the others
        return f".{API_PREFIX}/file={quote(Path(path).as_posix())}"


def _shown(record: Record) -> Raw:
    """What a card tells; the whole recipe comes when it is opened."""
    entry = BASE_MODELS.get(record.model)
    return {
        "id": record.id,
        "at": record.created_at.isoformat(),
        "prompt": record.prompt[:LONGEST_SHOWN],
        "model": entry.title if entry else record.model,
        "loras": [lora["ref"].removeprefix("bundled:") for lora in json.loads(record.loras)],
        "seed": json.loads(record.recipe)["seed"],
        "starred": record.starred,
        "pictured": record.pictured,
    }


def _recipe(record: Record) -> Recipe:
    return read_recipe(json.loads(record.recipe))


def _data_uri(webp: bytes | None) -> str | None:
    return None if webp is None else "data:image/webp;base64," + base64.b64encode(webp).decode()


def _file_name(record: Record, ending: str) -> str:
    return f"lora-loom-{json.loads(record.recipe)['seed']}.{ending}"
