"""The contract's named endpoints, with inputs of their own: what is left out is the model's default, not a widget's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component
from gradio.components.api_component import Api

from core.messages import Drawn, Preview
from core.studio import Generated, Studio
from ui.messages import sentence_for
from ui.pictures import early_look, gallery_items
from ui.runs import Pace, Runs
from ui.save_blend import saved_blend
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
_SEARCH: dict[str, Any] = {
    "query": _TEXT, "family": _TEXT, "sort": _TEXT, "licence": _TEXT, "nsfw": _FLAG, "limit": _WHOLE, "cursor": _TEXT,
    "visitor": _TEXT,
}  # fmt: skip
_BLEND: dict[str, Any] = {
    "loras": {"type": "array", "items": _OBJECT}, "model": _TEXT, "total_strength": _NUMBER, "visitor": _TEXT,
}  # fmt: skip
_SAVE: dict[str, Any] = _BLEND | {"rank": _WHOLE, "title": _TEXT, "precision": _TEXT}
_INSPECT: dict[str, Any] = {"ref": _TEXT, "model": _TEXT, "visitor": _TEXT}
_UPLOAD: dict[str, Any] = {"file": _FILE, "model": _TEXT, "visitor": _TEXT}


MOST_LOOKS = 32  # at once: some wait for the Hub, and those that need not must not wait for them
Raw = dict[str, Any]


class Endpoints:
    """The API of one page. Everything arrives raw: the schema in core judges it, once, for page and API alike."""

    def __init__(self, studio: Studio, runs: Runs, visitors: Visitors) -> None:
        self.studio, self.runs, self.visitors = studio, runs, visitors
        self.pictures = gr.Gallery(format="png", label="pictures", visible=False)

    def declare(self) -> None:
        """Adds the endpoints to the Blocks being built; nothing of them shows on the page."""
        recipe = gr.JSON(label="recipe", visible=False)
        _endpoint("generate", self.generate, _GENERATE, [self.pictures, recipe], concurrency_id="draw")
        _endpoint("models", self.models, {}, [gr.JSON(label="models", visible=False)])
        _endpoint("search_loras", self.search_loras, _SEARCH, [gr.JSON(label="page", visible=False)])
        _endpoint(
            "inspect_lora", self.inspect_lora, _INSPECT, [gr.JSON(label="preflight", visible=False)],
            concurrency_limit=MOST_LOOKS,
        )  # fmt: skip
        _endpoint("inspect_blend", self.inspect_blend, _BLEND, [gr.JSON(label="blend", visible=False)])
        saved = [gr.File(label="file", visible=False), gr.JSON(label="saved", visible=False)]
        _endpoint("save_blend", self.save_blend, _SAVE, saved, concurrency_id="save", concurrency_limit=1)
        _endpoint("upload_lora", self.upload_lora, _UPLOAD, [gr.JSON(label="preflight", visible=False)])

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
                    continue
                if isinstance(update, Preview | Drawn):
                    looks[update.index] = early_look(update.raster, self.pictures.GRADIO_CACHE)
                if isinstance(update, Drawn) or pace.due():  # a client's cancel arrives at a yield, whatever it brings
                    yield list(looks.values()), None

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

    def inspect_blend(self, raw: Raw, request: gr.Request) -> Raw:
        """How the LoRAs of a blend lie to each other, each one's norm against the model's, and weights to begin with.

        `conflict` is the cosine of two LoRAs' whole changes as weighted: 1 pulls the same way, -1 undoes the other.
        """
        return self.studio.inspect_blend(raw, self.visitors.of(request, raw.pop("visitor")))

    def save_blend(self, raw: Raw, request: gr.Request) -> tuple[str, Raw]:
        """A blend as one LoRA in diffusers' format, a safetensors file, and what of the blend it holds.

        Left out, `rank` loses nothing: ranks add up. With it each layer is cut to that rank; `error` is the share of
        the blend's change that is lost, of all layers and of the `worst`. `precision` is float16 or float32.
        """
        visitor = self.visitors.of(request, raw.pop("visitor"))
        return saved_blend(self.studio, raw, visitor, self.pictures.GRADIO_CACHE)

    def upload_lora(self, raw: Raw, request: gr.Request) -> Raw:
        """Keeps a safetensors file of one's own as `local:FILE`, and tells of it as `/inspect_lora` does.

        On a public server only the same `visitor` finds it again.
        """
        visitor = self.visitors.of(request, raw["visitor"])
        ref = self.studio.keep_lora(raw["file"], visitor)
        return self.studio.inspect_lora(ref, raw["model"], visitor).model_dump(mode="json")


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
