"""The Compare tab: the picture that Create asks for, drawn again with one or two things changed, side by side."""

from __future__ import annotations

import io
import re
import secrets
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
from gradio.blocks import Block
from gradio.processing_utils import save_bytes_to_cache
from gradio.route_utils import API_PREFIX
from PIL import Image

from core.base_models import BASE_MODELS
from core.compare.run import ABOUT, Standing, compare_grid, compare_loras
from core.errors import BadRequest, Cancelled
from core.recipe import read_recipe
from core.studio import Generated, Studio
from ui import texts
from ui.compared import sheet_file
from ui.create import CreateTab
from ui.durations import TimeLeft
from ui.form import raw_request
from ui.messages import alert_html
from ui.recall import Recall
from ui.runs import DRAWS, Pace, Runs
from ui.scripts import script
from ui.under_way import in_words
from ui.visitors import Visitors

PACE = 0.25  # seconds between two looks at a picture that is being drawn
LARGEST_LOOK = 384  # px of a picture in the table: recalling or saving brings the whole one
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_NUMBERS = ("weight", "steps", "guidance", "seed")
_FOLLOWS_MODEL = ("steps", "guidance", "width", "height", "sampler")


class CompareTab:
    """Lays out the tab and answers its events. Holds nothing of a visitor."""

    def __init__(self, studio: Studio, runs: Runs, visitors: Visitors, create: CreateTab, recall: Recall) -> None:
        self.studio, self.runs, self.visitors, self.recall, self.over = studio, runs, visitors, recall, create.over
        accelerators = {entry.accelerator for entry in BASE_MODELS.values()}
        cards = [
            {"ref": card.ref, "title": card.title, "family": card.family}
            for card in studio.catalog.bundled()
            if card.ref not in accelerators
        ]
        with gr.Column(elem_id="compare"):
            ask = gr.HTML(
                value={}, html_template='<div class="compare-ask"></div>', js_on_load=script("compare_ask"),
                apply_default_css=False, elem_id="compare-ask", models=studio.models(), cards=cards,
            )  # fmt: skip
            with gr.Row(elem_id="compare-do"):
                self.compare = gr.Button("Compare", variant="primary", size="lg", elem_id="compare-button")
                self.cancel = gr.Button("Cancel", variant="stop", size="lg", elem_id="compare-cancel", visible=False)
                self.sheet = gr.DownloadButton("Save as one picture", size="lg", elem_id="compare-sheet", visible=False)
            self.said = gr.HTML(_said(texts.NO_COMPARISON), elem_id="compare-said", apply_default_css=False)
            self.table = gr.HTML(
                value={}, html_template='<div class="compare-found" hidden></div>', js_on_load=script("compare_table"),
                apply_default_css=False, elem_id="compare-table",
            )  # fmt: skip
        who: dict[str, Block] = {"visitor": create.visitor, "token": create.token}
        self.compare.click(
            self.draw,
            inputs_kwargs={
                "ask": ask, "consent": create.consent, "begun": create.over.file, "paint": create.over.paint,
                "strength": create.over.strength, **who, **create.form.by_name(),
            },
            outputs=[self.table, self.said, self.sheet, self.compare, self.cancel],
            preprocess=False,  # our schema judges the values, and its sentences name the fields
            **DRAWS,
            **_PRIVATE,
        )  # fmt: skip
        self.cancel.click(self.stop, outputs=self.cancel, queue=False, **_PRIVATE)
        self.table.select(
            self.recalled, inputs_kwargs=who, outputs=[*recall.outputs, self.said], queue=False, **_PRIVATE
        )

    def draw(
        self,
        request: gr.Request,
        ask: Any,
        visitor: Any,
        token: Any,
        begun: Any,
        paint: Any,
        strength: Any,
        **values: Any,
    ) -> Iterator[dict[Any, Any]]:
        """Draws what is asked for, cell by cell; ends with the buttons as they were, whatever happens."""
        cancel = gr.update(visible=True, value="Cancel", interactive=True)
        yield (
            {self.said: _said("Starting …"), self.sheet: gr.update(visible=False)}
            | self._busy()
            | {self.cancel: cancel}
        )
        shown: dict[Any, Any] = {}
        try:
            raw, compare = asked(ask, values)
            raw |= self.over.asked(begun, paint, strength)
            with self.runs.run(_session(request)) as stop:
                standings = compare(self.studio, raw, self.visitors.of(request, visitor, token), stop)
                for shown in self._shown(standings):
                    yield shown
        except Cancelled:
            yield {self.said: _said("Cancelled.")} | self._left_of(shown) | self._idle()
        except Exception as error:  # noqa: BLE001 - every error must give the buttons back; alert_html logs bugs
            yield {self.said: alert_html(in_page_words(error))} | self._left_of(shown) | self._idle()

    def _shown(self, standings: Iterator[Standing]) -> Iterator[dict[Any, Any]]:
        """How it stands, whole at each yield: a browser that is behind leaves out all but the newest."""
        looks: dict[str, str] = {}
        table: dict[str, Any] = {}
        run, done, pace, left = secrets.token_hex(4), -1, Pace(PACE), TimeLeft()
        for standing in standings:
            if standing.done != done:
                done = standing.done
                looks |= {key: self._look(drawn) for key, drawn in standing.drawn.items() if key not in looks}
                table = _with_looks(standing, looks) | {"run": run}
            elif not (standing.ended or pace.due()):
                continue
            table = table | {"ended": standing.ended}
            shown: dict[Any, Any] = {
                self.table: table,
                self.said: _progress(standing, left.of(standing.done, standing.pictures)),
            }
            if standing.ended:
                path = sheet_file(standing, self.sheet.GRADIO_CACHE)
                yield shown | {self.sheet: gr.update(value=path, visible=True)} | self._idle()
            else:
                yield shown | {self.sheet: gr.update(visible=False)} | self._busy()

    def _left_of(self, shown: Mapping[Any, Any]) -> dict[Any, Any]:
        """The table of a comparison that broke off, without one that has no pictures; what was there before stays."""
        if self.table not in shown:
            return {}
        table = shown[self.table]
        return {self.table: table | {"ended": True} if any(cell["src"] for cell in table["cells"]) else {}}

    def _look(self, drawn: Generated) -> str:
        """The address of a small picture, relative to the page: a table is sent often, and each time whole."""
        out = io.BytesIO()
        with Image.open(io.BytesIO(drawn.pictures[0])) as picture:
            look = picture.convert("RGB")
            look.thumbnail((LARGEST_LOOK, LARGEST_LOOK))
            look.save(out, "WEBP", quality=88)
        path: str = save_bytes_to_cache(out.getvalue(), "look.webp", self.table.GRADIO_CACHE)
        return f".{API_PREFIX}/file={quote(Path(path).as_posix())}"

    def _idle(self) -> dict[Any, Any]:
        return {self.compare: gr.update(visible=True), self.cancel: gr.update(visible=False)}

    def _busy(self) -> dict[Any, Any]:
        return {self.compare: gr.update(visible=False), self.cancel: gr.update(visible=True)}

    def stop(self, request: gr.Request) -> dict[str, Any]:
        """The run notices within a step, keeps what is drawn and gives the buttons back itself."""
        self.left(request)
        return gr.update(value="Cancelling …", interactive=False)

    def left(self, request: gr.Request) -> None:
        """A closed page stops its comparison: nobody waits for it."""
        self.runs.stop(_session(request))

    def recalled(self, event: gr.EventData, request: gr.Request, visitor: Any, token: Any) -> dict[Any, Any]:
        """The form filled from the recipe of the clicked picture."""
        try:
            recipe = read_recipe(event._data.get("recipe") if isinstance(event._data, dict) else None)
            return self.recall.everything(recipe, self.visitors.of(request, visitor, token)) | {self.said: ""}
        except Exception as error:  # noqa: BLE001 - each becomes a sentence; alert_html logs those that are bugs
            return {self.said: alert_html(error)}


def asked(ask: Any, values: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """What the page asks for as the API would get it, unchecked, and what makes it: a strip or a grid."""
    said = ask if isinstance(ask, dict) else {}
    raw = raw_request(values) | {"images": None, "batch": None}
    if said.get("kind") != "grid":
        return raw, compare_loras
    axes = {side: axis_in(said.get(side)) for side in ("columns", "rows")}
    if any(isinstance(axis, dict) and axis.get("field") == "model" for axis in axes.values()):
        raw |= _following(raw)
    return raw | axes | {"baseline": said.get("baseline")}, compare_grid


def axis_in(said: Any) -> Any:
    """An axis as the page's script says it, as the API takes it: what was chosen, and what was written beside it."""
    if not isinstance(said, dict):
        return said
    field = said.get("field")
    chosen, written = (_listed(said.get(name)) for name in ("chosen", "written"))
    values = [*chosen, *(map(_number, written) if field in _NUMBERS else written)]
    return {"field": field, "lora": said.get("lora"), "values": values}


def _listed(said: Any) -> list[Any]:
    return said if isinstance(said, list) else []


# What the API says of an axis, where it begins a sentence, as the page says it; of several rules the later ones too.
_PAGE_WORDS = tuple(
    (re.compile(api), page)
    for api, page in (
        (r"^(columns|rows)\.values must be a list of (.+) values\.$", r"\1 needs \2 values with commas between them."),
        (
            r"^(columns|rows)\.find, or else the first of its values, must be",
            r"\1 replaces its first words by each: they must be",
        ),
        (r"^(columns|rows)\.lora must be", r"\1 varies a LoRA, which must be"),
        (r"^(columns|rows)\.(\w+)", r"\1: \2"),
        (r"^(columns|rows) needs a LoRA in loras, whose", r"\1 needs a LoRA of the blend on Create, whose"),
        (r"^rows must vary something else than columns, which vary", "Down must vary something else than Across:"),
        (r"^columns( \(.*?\))? and rows\b", r"Across\1 and Down"),
        (r"^columns\b", "Across"),
        (r"^rows\b", "Down"),
        (r"^loras is required: name the LoRAs whose", "Pick LoRAs on Create first: those whose"),
        (r"\bloras must name\b", "the blend must name"),
    )
)
_LORA = re.compile(r"\bloras\[(\d+)\](?:\.(\w+))?")


def in_page_words(error: Exception) -> Exception:
    """The same error in the words that stand on the page, which has Across where the API has columns."""
    if not isinstance(error, BadRequest):
        return error
    sentence = str(error)
    for api, page in _PAGE_WORDS:
        sentence = api.sub(page, sentence)
    return BadRequest(error.field, _LORA.sub(_numbered, sentence))


def _numbered(found: re.Match[str]) -> str:
    lora = f"LoRA {int(found[1]) + 1}"
    return f"{found[2]} of {lora}" if found[2] else lora


def _following(raw: Mapping[str, Any]) -> dict[str, None]:
    """What stands at the chosen model's own default follows the model; what was changed holds for all."""
    entry = BASE_MODELS.get(str(raw.get("model")))
    if entry is None:
        return {}
    own = {
        "steps": entry.steps, "guidance": entry.guidance, "width": entry.side, "height": entry.side,
        "sampler": entry.samplers[0],
    }  # fmt: skip
    return {name: None for name in _FOLLOWS_MODEL if raw.get(name) == own[name]}


def _number(text: Any) -> Any:
    """What is no number stays as it was written: the schema refuses it by its field's name."""
    for kind in (int, float):
        try:
            return kind(text)
        except (ValueError, TypeError):
            continue
    return text


def _session(request: gr.Request) -> str:
    return f"compare:{request.session_hash or ''}"


def _with_looks(standing: Standing, looks: Mapping[str, str]) -> dict[str, Any]:
    table = standing.table()
    for place, cell in zip(table["cells"], standing.plan.cells, strict=True):
        place["src"] = looks.get(cell.key)
        place["from_bare"], place["from_blend"] = standing.apart(cell)
    return {name: table[name] for name in ("kind", "columns", "rows", "cells")}


def _progress(standing: Standing, left: str) -> str:
    if standing.ended:
        kept = f"Cancelled; {standing.done} of {standing.pictures} pictures are kept." if standing.cancelled else ""
        whole = f"{len(standing.drawn)} of {standing.pictures} pictures, seed {standing.plan.base.seed}."
        return _said(f"{kept or whole} {standing.recorded}", ABOUT)
    at = min(standing.done + 1, standing.pictures)
    progress = standing.progress
    counted = progress.unit == "steps" and progress.total > 0
    doing = f"step {progress.done} of {progress.total}" if counted else in_words(progress)
    return _said(f"Picture {at} of {standing.pictures} · {doing}{f' · {left}' if left else ''}")


def _said(sentence: str, more: str = "") -> str:
    about = f'<p class="hint">{escape(more)}</p>' if more else ""
    return f'<p class="said" role="status">{escape(sentence)}</p>{about}'
