"""What the API's inputs mean, in words for who reads a tool's schema; ranges come from the schemas that judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from core.base_models import BASE_MODELS
from core.lossy import LOSSY
from core.records.asking import Deletion, Look, Star
from core.request import GenerationRequest, WeightedLora
from lora_catalog.search import Search

_JUDGES: tuple[tuple[str, type[BaseModel]], ...] = (
    ("search_loras", Search), ("history", Look), ("star_record", Star), ("delete_records", Deletion),
    ("", GenerationRequest),  # everywhere else
)  # fmt: skip
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "inspect_lora": ("ref",), "compare_loras": ("prompt", "loras"), "compare_grid": ("prompt", "columns"),
    "inspect_blend": ("loras",), "save_blend": ("loras",), "upload_lora": ("file",), "recipe_code": ("recipe",),
    "star_record": ("id",), "delete_records": ("ids",),
}  # fmt: skip
"""/generate wants `prompt` or `recipe`, /read_recipe `image` or `text`: which of them is left to the caller."""

FILE = (
    "The address of a file on this server, as another tool gave it or as POST /gradio_api/upload answered, or a small "
    "data: URI. No other address is fetched."
)
_OWN = "Left out: the chosen model's own default, which the tool models tells with the range."
_REF = "USER/REPO, USER/REPO@REVISION:path/file.safetensors, bundled:NAME or local:FILE"
_MODEL = (
    f"A model key, one of {', '.join(BASE_MODELS)}; the tool models tells which of them run here. Left out: the "
    "server's own."
)
_RECIPE = "A recipe, as generate and read_recipe give it"

_WORDS: Mapping[str, str] = {
    "prompt": "What the picture shows. <lora:REF:WEIGHT> in it adds a LoRA. Required, unless recipe is given.",
    "negative_prompt": "What the picture must not show; models that draw without guidance take none.",
    "model": _MODEL,
    "loras": f"The blend, at most 16 LoRAs. ref: {_REF}.",
    "steps": f"Denoising steps. {_OWN}",
    "guidance": f"How closely the prompt is followed; 1 is none. {_OWN}",
    "width": f"Pixels, a multiple of 16 from 64 to the model's largest side. {_OWN}",
    "height": f"Pixels, a multiple of 16 from 64 to the model's largest side. {_OWN}",
    "seed": "Where the noise begins; -1 is a random one, and the recipe tells which it was.",
    "images": "How many pictures, with the seeds seed, seed + 1, and so on.",
    "sampler": f"The way from noise to picture. {_OWN}",
    "total_strength": "Scales the weights so that their magnitudes sum to this. Left out: as they are.",
    "allow_partial": "Whether a LoRA may be used of which less than 90 % fits the model.",
    "image": f"A PNG, JPEG or WebP picture to draw over. {FILE}",
    "mask": f"White is drawn anew, black stays; of the size of image. {FILE}",
    "strength": "How much of the steps is drawn over image. Left out: 0.6, or 0.9 with a mask.",
    "upscale": "The finished picture is enlarged by this and drawn over once more, to sides at most twice the model's"
    " largest. Left out: no second pass.",
    "upscale_strength": "How much of the steps the second pass draws; only with upscale. Left out: 0.35.",
    "batch": "How many pictures go through the model at once, at most images; the last bits of each depend on it.",
    "lossy": f"Shortcuts that change pixels, any of {', '.join(LOSSY)}; models of few steps take none.",
    "consent": "What is kept of the picture in the history: nothing, its recipe, or both.",
    "visitor": "An id of your own choosing, kept secret: pictures drawn with it are found again in history with it.",
    "recipe": f"{_RECIPE}: the same pixels again. Then prompt and all other settings must be left out.",
    "read_recipe.image": f"A PNG, JPEG or WebP picture that carries a recipe; or give text. {FILE}",
    "text": "A recipe as JSON, as a link of this page or as A1111's parameters; or give image.",
    "recipe_code.recipe": f"{_RECIPE}.",
    "address": "The address of the page that the Python script asks. Left out: this one.",
    "query": "Words that all occur in the LoRA's title, name, trigger words or description.",
    "family": "Only LoRAs of this family; sd3 means sd3-medium, sd3.5-medium and sd3.5-large.",
    "sort": "What comes first, after the bundled LoRAs.",
    "licence": "Only LoRAs of this licence, as their cards name it.",
    "nsfw": "Whether LoRAs that are not for all audiences are shown too.",
    "limit": "How many at most.",
    "cursor": "The value next of an earlier answer, for what comes behind it.",
    "ref": f"Which LoRA: {_REF}.",
    "history.query": "Words that begin words of the prompt or of a LoRA's name.",
    "lora": "A LoRA's ref, or a part of one.",
    "starred": "Whether only starred records are given, or only the others. Left out: all.",
    "star_record.starred": "Whether the record has a star from now on.",
    "id": "The id of a record, as history gives it.",
    "ids": "Ids of records, as history gives them.",
    "columns": 'What changes from left to right: {"field": "weight", "values": [0.5, 1]}. Fields: weight and lora (with'
    " lora, a ref of the blend), steps, guidance, seed, prompt (with find, a part of the prompt) and model.",
    "rows": "What changes from top to bottom, as columns.",
    "baseline": "Whether the pictures without LoRAs stand beside the others. Left out: they do.",
    "rank": "Each layer is cut to this rank. Left out: exact, ranks add up.",
    "title": "The new LoRA's name.",
    "precision": "float16 or float32.",
    "file": f"A LoRA as a safetensors file. {FILE}",
}  # fmt: skip
# How pydantic's JSON schema names a range, also where a validator stands before the number; "const" joins an enum.
_BOUNDS: Mapping[str, str] = {
    "minimum": "minimum", "ge": "minimum", "maximum": "maximum", "le": "maximum", "gt": "exclusiveMinimum",
    "minLength": "minLength", "maxLength": "maxLength", "minItems": "minItems", "maxItems": "maxItems",
}  # fmt: skip


def described(tool: str, name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """An input's schema with its meaning, range and default. Raises KeyError for one that nobody has described."""
    words = _WORDS.get(f"{tool}.{name}") or _WORDS.get(name)
    if words is None:
        raise KeyError(f"{tool} takes {name}, which nobody has described: give it a line in ui/tool_words.py")
    judge = next(model for judged, model in _JUDGES if judged in (tool, ""))
    bounds = _bounds(judge.model_json_schema().get("properties", {}).get(name, {}))
    if name == "loras":
        return {**schema, "description": words, **_of_lora()}
    return {**schema, "description": words, **bounds}


def _of_lora() -> dict[str, Any]:
    properties = WeightedLora.model_json_schema()["properties"]
    takes = {
        field: {"type": kind, "description": words, **_bounds(properties[field])}
        for field, kind, words in (
            ("ref", "string", f"Which LoRA: {_REF}."),
            ("weight", "number", "How strong."),
            ("start", "number", "The share of the steps from which it counts."),
            ("end", "number", "The share of the steps until which it counts."),
            ("blocks", "object", 'Weights of blocks, such as {"in": 1, "mid": 0}, which multiply its weight.'),
            ("text_encoder", "number", "A weight of its own in the text encoders. Left out: weight."),
            ("muted", "boolean", "Stays in the recipe and counts nothing."),
        )
    }
    return {"maxItems": 16, "items": {"type": "object", "properties": takes, "required": ["ref"]}}


def _bounds(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a judge's JSON schema says of a field's range and default; of a field that may be null, what else it is."""
    kinds = [said, *(kind for kind in said.get("anyOf", ()) if kind.get("type") != "null")]
    found = {_BOUNDS[key]: value for kind in kinds for key, value in kind.items() if key in _BOUNDS}
    names = [name for kind in kinds for name in [*kind.get("enum", ()), *([kind["const"]] if "const" in kind else ())]]
    if names:
        found["enum"] = names
    if said.get("default") not in (None, "", (), []):
        found["default"] = said["default"]
    return found
