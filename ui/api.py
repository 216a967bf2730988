"""The contract's named endpoints, with inputs of their own: what is left out is the model's default, not a widget's."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component
from gradio.components.api_component import Api

from core.compare.run import Standing, compare_grid, compare_loras
from core.messages import Drawn, Preview, Progress, StopFlag
from core.records.schema import Record
from core.records.status import Sync
from core.studio import Generated, Studio
from ui.address import address_of
from ui.compared import Streamed, streamed
from ui.messages import sentence_for
from ui.pictures import early_look, gallery_items
from ui.runs import DRAWS, Pace, Runs
from ui.save_blend import MOST_SAVED, saved_blend
from ui.under_way import UnderWay
from ui.visitors import Visitors

_TEXT = {"type": "string"}
_WHOLE = {"type": "integer"}
_NUMBER = {"type": "number"}
_FLAG = {"type": "boolean"}
_OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": {}}
_FILE = "file"

_GENERATE: dict[str, Any] = {
    "prompt": _TEXT, "negative_prompt": _TEXT, "model": _TEXT, "loras": {"type": "array", "items": _OBJECT},
    "steps": _WHOLE, "guidance": _NUMBER, "width": _WHOLE, "height": _WHOLE, "seed": _WHOLE, "images": _WHOLE,
    "sampler": _TEXT, "total_strength": _NUMBER, "allow_partial": _FLAG, "image": _FILE, "mask": _FILE,
    "strength": _NUMBER, "consent": _TEXT, "visitor": _TEXT, "recipe": _OBJECT,
}  # fmt: skip
# Came later, and so stand last: whoever sends plain lists of inputs sends them as they were, without these.
_FURTHER: dict[str, Any] = {
    "upscale": _NUMBER, "upscale_strength": _NUMBER, "lossy": {"type": "array", "items": _TEXT},
}  # fmt: skip
_BATCH = {"batch": _WHOLE}
LATER = frozenset([*_FURTHER, *_BATCH])
_ONE: dict[str, Any] = {name: schema for name, schema in _GENERATE.items() if name not in ("images", "recipe")}
_COMPARE = _ONE | _FURTHER
_GRID: dict[str, Any] = _ONE | {"columns": _OBJECT, "rows": _OBJECT, "baseline": _FLAG} | _FURTHER
_SEARCH: dict[str, Any] = {
    "query": _TEXT, "family": _TEXT, "sort": _TEXT, "licence": _TEXT, "nsfw": _FLAG, "limit": _WHOLE, "cursor": _TEXT,
    "visitor": _TEXT,
}  # fmt: skip
_BLEND: dict[str, Any] = {
    "loras": {"type": "array", "items": _OBJECT}, "model": _TEXT, "total_strength": _NUMBER, "allow_partial": _FLAG,
    "visitor": _TEXT,
}  # fmt: skip
_SAVE: dict[str, Any] = _BLEND | {"rank": _WHOLE, "title": _TEXT, "precision": _TEXT}
_INSPECT: dict[str, Any] = {"ref": _TEXT, "model": _TEXT, "visitor": _TEXT}
_HISTORY: dict[str, Any] = {
    "query": _TEXT, "lora": _TEXT, "starred": _FLAG, "limit": _WHOLE, "cursor": _TEXT, "visitor": _TEXT,
}  # fmt: skip
_STAR: dict[str, Any] = {"id": _TEXT, "starred": _FLAG, "visitor": _TEXT}
_DELETE: dict[str, Any] = {"ids": {"type": "array", "items": _TEXT}, "visitor": _TEXT}
_READ: dict[str, Any] = {"image": _FILE, "text": _TEXT, "visitor": _TEXT}
_CODE: dict[str, Any] = {"recipe": _OBJECT, "address": _TEXT}
_UPLOAD: dict[str, Any] = {"file": _FILE, "model": _TEXT, "visitor": _TEXT}


MOST_LOOKS = 32  # at once: some wait for the Hub, and those that need not must not wait for them
Raw = dict[str, Any]


class Endpoints:
    """The API of one page. Everything arrives raw: the schema in core judges it, once, for page and API alike."""

    def __init__(self, studio: Studio, runs: Runs, visitors: Visitors, sync: Sync) -> None:
        self.studio, self.runs, self.visitors, self.sync = studio, runs, visitors, sync
        self.pictures = gr.Gallery(format="png", label="pictures", visible=False)

    def declare(self) -> None:
        """Adds the endpoints to the Blocks being built; nothing of them shows on the page."""
        recipe = gr.JSON(label="recipe", visible=False)
        drawn: dict[str, Any] = _GENERATE | _FURTHER | _BATCH
        _endpoint("generate", self.generate, drawn, [self.pictures, recipe], **DRAWS)
        table, sheet = gr.JSON(label="table", visible=False), gr.File(label="sheet", visible=False)
        compared = [self.pictures, table, sheet]
        _endpoint("compare_loras", self.compare_loras, _COMPARE, compared, **DRAWS)
        _endpoint("compare_grid", self.compare_grid, _GRID, compared, **DRAWS)
        _endpoint("models", self.models, {}, [gr.JSON(label="models", visible=False)])
        _endpoint("search_loras", self.search_loras, _SEARCH, [gr.JSON(label="page", visible=False)])
        _endpoint(
            "inspect_lora", self.inspect_lora, _INSPECT, [gr.JSON(label="preflight", visible=False)],
            concurrency_limit=MOST_LOOKS,
        )  # fmt: skip
        _endpoint("inspect_blend", self.inspect_blend, _BLEND, [gr.JSON(label="blend", visible=False)])
        saved = [gr.File(label="file", visible=False), gr.JSON(label="saved", visible=False)]
        _endpoint("save_blend", self.save_blend, _SAVE, saved, concurrency_id="save", concurrency_limit=MOST_SAVED)
        _endpoint("upload_lora", self.upload_lora, _UPLOAD, [gr.JSON(label="preflight", visible=False)])
        read: list[Component] = [gr.JSON(label="recipe", visible=False), gr.JSON(label="unreproducible", visible=False)]
        _endpoint("read_recipe", self.read_recipe, _READ, read, concurrency_limit=MOST_LOOKS)
        _endpoint("recipe_code", self.recipe_code, _CODE, [gr.JSON(label="code", visible=False)])
        _endpoint("history", self.history, _HISTORY, [gr.JSON(label="history", visible=False)])
        _endpoint("star_record", self.star_record, _STAR, [gr.JSON(label="star", visible=False)])
        _endpoint("delete_records", self.delete_records, _DELETE, [gr.JSON(label="deletion", visible=False)])
        _endpoint("records_status", self.records_status, {}, [gr.JSON(label="status", visible=False)])

    def generate(self, raw: Raw, request: gr.Request) -> Iterator[tuple[Any, Any]]:
        """Draws pictures and gives their recipe. `prompt` or `recipe` is required; all else has the model's defaults.

        Yields early looks with a null recipe, then PNG files that carry their recipes, with the recipe of all.
        """
        visitor = self.visitors.of(request, raw.get("visitor"))
        looks: dict[int, str] = {}
        pace = Pace()
        with self.runs.run(request.session_hash or "") as stop:
            for update in self.studio.generate(raw, visitor, stop):
                if isinstance(update, Generated):
                    yield gallery_items(update, self.pictures.GRADIO_CACHE), update.recipe.as_json()
                elif isinstance(update, Drawn) or (isinstance(update, Preview) and pace.due()):
                    looks[update.index] = early_look(update.raster, self.pictures.GRADIO_CACHE)
                    yield list(looks.values()), None

    def compare_loras(self, raw: Raw, request: gr.Request) -> Iterator[Streamed]:
        """What each LoRA does: pictures without LoRAs, with each alone, with all, and with all but each, from one seed.

        Yields pictures and their table as they are done: cells with label, state, recipe and differences in percent.
        The last yield brings them all as one labelled PNG.
        """
        yield from self._compared(compare_loras, raw, request)

    def compare_grid(self, raw: Raw, request: gr.Request) -> Iterator[Streamed]:
        """Pictures side by side that differ in what `columns` and `rows` say, such as
        {"field": "steps", "values": [10, 20]}.

        Fields: weight and lora (with `lora`, a ref of the blend), steps, guidance, seed, prompt (with `find`, a part of
        the prompt to be replaced) and model. `baseline` false leaves out the pictures without LoRAs. Yields as
        /compare_loras does.
        """
        yield from self._compared(compare_grid, raw, request)

    def _compared(
        self, compare: Callable[..., Iterator[Standing]], raw: Raw, request: gr.Request
    ) -> Iterator[Streamed]:  # fmt: skip
        visitor = self.visitors.of(request, raw.get("visitor"))
        with self.runs.run(request.session_hash or "") as stop:
            yield from streamed(compare(self.studio, raw, visitor, stop), self.pictures.GRADIO_CACHE)

    def models(self, raw: Raw, request: gr.Request) -> list[Raw]:
        """Every model and speed mode: its key, defaults, ranges, and whether it runs here."""
        return self.studio.models()

    def search_loras(self, raw: Raw, request: gr.Request) -> Raw:
        """LoRAs that match, bundled ones first: {cards, next}. Give `next` back as `cursor` for those behind them.

        `note` says where the answer is an old one; `refreshing` that the same search may find more in a moment.
        """
        visitor = self.visitors.of(request, raw.pop("visitor"))
        return self.studio.search_loras(raw, visitor).model_dump(mode="json")

    def inspect_lora(self, raw: Raw, request: gr.Request) -> Raw:
        """What a LoRA is before anything of it is fetched but its header, and whether it fits `model`."""
        visitor = self.visitors.of(request, raw["visitor"])
        return self.studio.inspect_lora(raw["ref"], raw["model"], visitor).model_dump(mode="json")

    def inspect_blend(self, raw: Raw, request: gr.Request) -> Iterator[Raw | None]:
        """How the LoRAs of a blend lie to each other, each one's norm against the model's, and weights to begin with.

        `conflict` is the cosine of two LoRAs' whole changes as weighted: 1 pulls the same way, -1 undoes the other.
        Pairs of which no step draws with both are left out. A LoRA of which less than 90% fits the model is refused
        without `allow_partial`.
        """
        visitor = self.visitors.of(request, raw.pop("visitor"))
        yield from self._answered(request, lambda stop: self.studio.inspect_blend(raw, visitor, stop), None)

    def save_blend(self, raw: Raw, request: gr.Request) -> Iterator[tuple[str | None, Raw | None]]:
        """A blend as one LoRA in diffusers' format, a safetensors file, and what of the blend it holds.

        Left out, `rank` loses nothing: ranks add up. With it each layer is cut to that rank; `error` is the share of
        the blend's change that is lost, of all layers and of the `worst`. `precision` is float16 or float32.
        A LoRA of which less than 90% fits the model is refused without `allow_partial`.
        """
        visitor = self.visitors.of(request, raw.pop("visitor"))
        cache = self.pictures.GRADIO_CACHE
        yield from self._answered(
            request, lambda stop: saved_blend(self.studio, raw, visitor, cache, stop), (None, None)
        )

    def _answered(
        self, request: gr.Request, work: Callable[[StopFlag], Generator[Progress, None, Any]], early: Any
    ) -> Iterator[Any]:
        """The answer at the end, and `early` at times before: a client's cancel, or its leaving, arrives at a yield."""
        with self.runs.run(request.session_hash or "") as stop:
            working = UnderWay(work(stop))
            for _ in working:
                yield early
        yield working.answer

    def read_recipe(self, raw: Raw, request: gr.Request) -> tuple[Raw, list[Raw]]:
        """The recipe in `image` (PNG, JPEG or WebP) or `text` (JSON, a permalink or A1111's parameters), as /generate
        takes it, and a list of {field, reason}: what of it is not here, or cannot be the same here.
        """
        recipe, reasons = self.studio.read_recipe(raw, self.visitors.of(request, raw.pop("visitor")))
        return recipe.as_json(), [asdict(reason) for reason in reasons]

    def recipe_code(self, raw: Raw, request: gr.Request) -> Raw:
        """A recipe as scripts: `python` for gradio_client and the page at `address` (left out: this one), `diffusers`
        for plain diffusers, where comments say what that cannot do.
        """
        return self.studio.recipe_code(raw["recipe"], raw["address"] or address_of(request))

    def upload_lora(self, raw: Raw, request: gr.Request) -> Raw:
        """Keeps a safetensors file of one's own as `local:FILE`, and tells of it as `/inspect_lora` does.

        On a public server only the same `visitor` finds it again.
        """
        visitor = self.visitors.of(request, raw["visitor"])
        ref = self.studio.keep_lora(raw["file"], visitor)
        return self.studio.inspect_lora(ref, raw["model"], visitor).model_dump(mode="json")

    def history(self, raw: Raw, request: gr.Request) -> Raw:
        """Records of one's own pictures, newest first: {records, next}. Give `next` back as `cursor` for older ones.

        Each word of `query` begins a word of the prompt or of a LoRA's name; `lora` is a LoRA's ref, or a part of it.
        Whoever gives a `visitor` to /generate and here finds their records again; else they last as the session does.
        """
        visitor = self.visitors.of(request, raw.pop("visitor"))
        page = self.studio.history(raw, visitor)
        return {"records": [_listed(record) for record in page.records], "next": page.next}

    def star_record(self, raw: Raw, request: gr.Request) -> Raw:
        """Stars one of one's own records, or takes its star away where `starred` is false."""
        visitor = self.visitors.of(request, raw.pop("visitor"))
        return self.studio.star_record(raw, visitor).model_dump()

    def records_status(self, raw: Raw, request: gr.Request) -> Raw:
        """How many records of all visitors are saved here and in the dataset, when the last one arrived there, and all
        of it in words: {here, on_hub, last, said}."""
        status = self.sync.status()
        return asdict(status) | {"last": status.last and status.last.isoformat()}

    def delete_records(self, raw: Raw, request: gr.Request) -> Raw:
        """Deletes records of one's own: {deleted}, how many of `ids` there were. A dataset follows within days."""
        visitor = self.visitors.of(request, raw.pop("visitor"))
        return {"deleted": self.studio.delete_records(raw, visitor)}


def _listed(record: Record) -> Raw:
    """A record as a list shows it; `picture` says whether the picture itself is kept here."""
    return {
        "id": record.id, "created_at": record.created_at.isoformat(), "recipe": json.loads(record.recipe),
        "starred": record.starred, "picture": record.pictured,
    }  # fmt: skip


def _endpoint(
    name: str, fn: Callable[[Raw, gr.Request], Any], takes: Mapping[str, Any], gives: list[Component], **options: Any
) -> None:
    """One public endpoint: `takes` maps each input to its JSON schema, or to a file that is only ever uploaded."""
    inputs: dict[str, Block] = {
        field: gr.File(label=field, visible=False) if schema == _FILE else Api(None, schema, label=field)
        for field, schema in takes.items()
    }
    button = gr.Button(visible=False)
    button.click(
        _handler(name, fn, takes),
        inputs_kwargs=inputs,
        outputs=gives,
        api_name=name,
        api_description=inspect.cleandoc(fn.__doc__ or ""),
        **options,
    )


def _handler(name: str, fn: Callable[[Raw, gr.Request], Any], takes: Mapping[str, Any]) -> Callable[..., Any]:
    """`fn` as Gradio calls it: named inputs that default to null, errors as one sentence."""

    def stream(request: gr.Request, **raw: Any) -> Iterator[Any]:
        try:
            yield from fn(raw, request)
        except Exception as error:  # noqa: BLE001 - all are told apart in sentence_for, which logs the bugs
            raise gr.Error(sentence_for(error), print_exception=False) from None

    def answer(request: gr.Request, **raw: Any) -> Any:
        try:
            return fn(raw, request)
        except Exception as error:  # noqa: BLE001 - as above
            raise gr.Error(sentence_for(error), print_exception=False) from None

    handler: Callable[..., Any] = stream if inspect.isgeneratorfunction(fn) else answer
    named = [inspect.Parameter(field, inspect.Parameter.KEYWORD_ONLY, default=None) for field in takes]
    first = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request)
    handler.__signature__ = inspect.Signature([first, *named])  # type: ignore[attr-defined]
    handler.__name__ = name
    return handler
