"""GenerationRequest: everything that decides the pixels, built and validated in one place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel as Schema
from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from core.base_models import BASE_MODELS, BaseModel
from core.errors import BadRequest
from core.lora.blocks import fault_of
from core.lossy import lossy_fault
from core.prompt import has_lora_tag, without_lora_tags
from core.prompt_forms import combinations, forms_in, longest, texts_of
from lora_catalog.errors import CatalogError
from lora_catalog.reference import MAX_LETTERS, LoraRef

LONGEST_PROMPT = 4000  # characters
MOST_LORAS = 16
LARGEST_SEED = 2**32 - 1
MOST_IMAGES = 8
OVER_STRENGTH, MASKED_STRENGTH, UPSCALE_STRENGTH = 0.6, 0.9, 0.35
MOST_TOGETHER = 8  # pictures at once
Consent = Literal["none", "recipe", "picture"]


def _whole(value: Any) -> Any:
    """JSON and sliders write 20 as 20.0; nothing else passes for a whole number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _number(value: Any) -> Any:
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf  # refused as not finite


Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=LONGEST_PROMPT)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(Schema):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class WeightedLora(_Frozen):
    """One LoRA of a blend. `start` and `end` are shares of the steps (core/lora/schedule.py); `blocks` multiply
    `weight` in blocks of the denoiser (core/lora/blocks.py); `text_encoder` None means `weight`."""

    ref: Annotated[str, Field(min_length=1, max_length=MAX_LETTERS)]
    weight: Annotated[Number, Field(ge=-5, le=5)] = 1.0
    start: Annotated[Number, Field(ge=0, le=1)] = 0.0
    end: Annotated[Number, Field(ge=0, le=1)] = 1.0
    blocks: dict[str, Number] | None = None
    text_encoder: Annotated[Number, Field(ge=-5, le=5)] | None = None
    muted: bool = False
    sha256: Sha256 | None = None

    @model_validator(mode="after")
    def _names_a_lora_and_some_time(self) -> Self:
        if "://" not in self.ref:  # which addresses are the Hub's own, the catalogue knows
            try:
                LoraRef.parse(self.ref)
            except CatalogError as error:
                raise Unfit("ref", str(error)) from error
        if not self.start < self.end:
            raise Unfit("start", f"start must be less than end, not {self.start:g} and {self.end:g}.")
        return self


class GenerationRequest(_Frozen):
    """A picture asked for, complete: no field is left to be decided later but a random seed (-1).

    Sizes are pixels; `guidance` 1 means none; pictures of one request have the seeds seed, seed + 1, ….
    `total_strength` is what the weights of the LoRAs that are not muted sum to, None for as they are. `image` and
    `mask` are the sha256 of the files that are drawn over, `strength` how much of `steps` is drawn over them. With
    `upscale` the finished picture is enlarged by that factor and drawn over again with `upscale_strength`. `batch` is
    how many pictures go through the denoiser at once: it decides on their last bits. `lossy` names shortcuts
    (core/lossy.py).
    """

    prompt: Text
    model: str
    negative_prompt: Text = ""
    loras: Annotated[tuple[WeightedLora, ...], Field(max_length=MOST_LORAS)] = ()
    steps: Whole
    guidance: Number
    width: Whole
    height: Whole
    seed: Annotated[Whole, Field(ge=-1, le=LARGEST_SEED)] = -1
    images: Annotated[Whole, Field(ge=1, le=MOST_IMAGES)] = 1
    sampler: str
    allow_partial: bool = False
    total_strength: Annotated[Number, Field(gt=0, le=10)] | None = None
    image: Sha256 | None = None
    mask: Sha256 | None = None
    strength: Annotated[Number, Field(ge=0, le=1)] | None = None
    upscale: Annotated[Number, Field(gt=1, le=4)] | None = None
    upscale_strength: Annotated[Number, Field(ge=0, le=1)] | None = None
    batch: Annotated[Whole, Field(ge=1, le=MOST_TOGETHER)] = 1
    lossy: tuple[str, ...] = ()
    consent: Consent | None = None  # the owner's default
    visitor: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_-]*$")] = ""

    @property
    def entry(self) -> BaseModel:
        return BASE_MODELS[self.model]

    def texts_of(self, index: int) -> tuple[str, str]:
        """Prompt and negative prompt of picture number `index`, without their forms (core/prompt_forms.py)."""
        return texts_of(self.prompt, self.negative_prompt, self.seed, index)

    @property
    def steps_run(self) -> int:
        """The last of the steps, where a picture stands at the beginning; else all."""
        return self.steps if self.strength is None else steps_run(self.steps, self.strength)

    @property
    def result_size(self) -> tuple[int, int]:
        """Width and height of the finished picture."""
        if self.upscale is None:
            return self.width, self.height
        return enlarged(self.width, self.upscale), enlarged(self.height, self.upscale)

    @model_validator(mode="after")
    def _within_the_model(self) -> Self:
        entry = self.entry
        _within("steps", self.steps, entry.steps_range, entry)
        _within("guidance", self.guidance, entry.guidance_range, entry)
        for name in ("width", "height"):
            size = getattr(self, name)
            if size % 16 or not 64 <= size <= entry.largest_side:
                raise Unfit(
                    name,
                    f"{name} must be a multiple of 16 from 64 to {entry.largest_side} for {entry.key}{_not(size)}.",
                )
        if self.sampler not in entry.samplers:
            raise Unfit("sampler", f"sampler must be {_either(entry.samplers)} for {entry.key}.")
        if self.image is None and (self.mask is not None or self.strength is not None):
            name = "strength" if self.mask is None else "mask"
            raise Unfit(name, f"{name} must come together with image, the picture to draw over.")
        if self.image is not None and self.strength is None:
            raise Unfit("strength", "strength is required where a picture is drawn over.")
        if self.steps_run < 1:
            raise Unfit("strength", _too_weak("strength", self.steps))
        for name in ("prompt", "negative_prompt"):
            if longest(getattr(self, name)) > LONGEST_PROMPT:
                raise Unfit(
                    name,
                    f"{name} must have at most {LONGEST_PROMPT} characters, where it has forms such as {{a|b}} with "
                    "one more for each brace, bracket and backslash.",
                )
        self._second_pass_fits()
        if self.images > 1 and self.batch > self.images:
            raise Unfit("batch", f"batch must not exceed images, which is {self.images}.")
        if fault := lossy_fault(self.lossy, entry):
            raise Unfit("lossy", f"lossy {fault}.")
        if self.negative_prompt and not entry.takes_negative_prompt:
            raise Unfit("negative_prompt", f"negative_prompt must be left empty: {entry.key} draws without guidance.")
        if self.seed + self.images - 1 > LARGEST_SEED:
            raise Unfit("seed", f"seed + images must not pass {LARGEST_SEED + 1}: every picture has its own seed.")
        refs = [lora.ref for lora in self.loras]
        if len(set(refs)) < len(refs):
            raise Unfit("loras", "loras must name each LoRA once: one ref stands there twice.")
        for number, lora in enumerate(self.loras):
            if fault := fault_of(lora.blocks or {}, entry.family, entry.key):
                raise Unfit(f"loras[{number}].blocks", f"loras[{number}].blocks {fault}.")
        return self

    def _second_pass_fits(self) -> None:
        if self.upscale is None:
            if self.upscale_strength is not None:
                raise Unfit("upscale_strength", "upscale_strength must come together with upscale, which enlarges.")
            return
        largest, sides = self.entry.largest_result, f"{self.width} × {self.height}"
        if max(self.result_size) > largest:
            most = math.floor(100 * (largest + 7.5) / max(self.width, self.height)) / 100  # 7.5: rounded down to it
            rule = f"from above 1 to {most:g}" if most > 1 else "left out"
            raise Unfit(
                "upscale",
                f"upscale must be {rule} for {sides}: {self.entry.key} draws at most {largest} pixels a side.",
            )
        if self.upscale_strength is None:
            raise Unfit("upscale_strength", "upscale_strength is required where a picture is enlarged.")
        if steps_run(self.steps, self.upscale_strength) < 1:
            raise Unfit("upscale_strength", _too_weak("upscale_strength", self.steps))


class Unfit(ValueError):
    """Raised inside validators; `request_from` turns it into a BadRequest."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field, self.sentence = field, sentence


def _within(name: str, value: float, allowed: tuple[float, float], entry: BaseModel) -> None:
    low, high = allowed
    if not low <= value <= high:
        range_ = f"from {low:g} to {high:g}" if low < high else f"{low:g}"
        raise Unfit(name, f"{name} must be {range_} for {entry.key}{_not(value)}.")


def _not(value: float) -> str:
    """What was asked for, where it is short enough to be told."""
    return f", not {value:g}" if abs(value) < 1e9 else ""


def _too_weak(name: str, steps: int) -> str:
    return f"{name} must be at least {math.ceil(1000 / steps) / 1000:g} for {steps} steps: less leaves no step to draw."


def _either(values: tuple[str, ...]) -> str:
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"


def steps_run(steps: int, strength: float) -> int:
    """Rounded down, but for what floats lose: 0.29 of 100 are 29."""
    return int(steps * strength + 1e-9)


def enlarged(side: int, factor: float) -> int:
    """A side of the second pass: to the nearest multiple of 16 pixels, halves up."""
    return 16 * int(side * factor / 16 + 0.5)


def strength_for(steps: int, masked: bool) -> float:
    """How strongly a picture is drawn over where nobody says: in a mask nearly anew, and always one step at least."""
    return max(MASKED_STRENGTH if masked else OVER_STRENGTH, 1 / steps)


def request_from(raw: Mapping[str, Any], default_model: str) -> GenerationRequest:
    """The one way in, for page, API and recipes: nulls mean the model's own default, tags leave the prompt.

    Raises BadRequest, whose one sentence names the field and what it may be.
    """
    given = {name: value for name, value in raw.items() if value is not None}
    if "prompt" not in given:
        raise BadRequest("prompt", "prompt is required: say what to draw, or give a recipe.")
    entry = entry_of(given.get("model", default_model))
    filled: dict[str, Any] = {
        "model": entry.key, "steps": entry.steps, "guidance": entry.guidance, "width": entry.side, "height": entry.side,
        "sampler": entry.samplers[0],
    }  # fmt: skip
    filled |= given
    filled["steps"] = _whole(filled["steps"])
    if "image" in filled and "strength" not in filled and type(filled["steps"]) is int and filled["steps"] > 0:
        filled["strength"] = strength_for(filled["steps"], "mask" in filled)
    if "upscale" in filled and type(filled["steps"]) is int and filled["steps"] > 0:
        filled.setdefault("upscale_strength", max(UPSCALE_STRENGTH, 1 / filled["steps"]))
    if isinstance(filled.get("lossy"), list):
        filled["lossy"] = tuple(filled["lossy"])
    if isinstance(filled["prompt"], str) and len(filled["prompt"]) <= LONGEST_PROMPT:
        if any(has_lora_tag(form) for form in forms_in(filled["prompt"])):
            raise BadRequest(
                "prompt",
                "prompt has a LoRA tag within {a|b} or [[a, b]], where it would count whatever is chosen: write each "
                "<lora:…> outside of them.",
            )
        filled["prompt"], tagged = without_lora_tags(filled["prompt"])
        if without_lora_tags(filled["prompt"])[1]:
            raise BadRequest("prompt", "prompt has a LoRA tag inside another: write each <lora:…> by itself.")
        if tagged:
            filled["loras"] = [*_listed(filled.get("loras", [])), *tagged]
    if "images" not in filled:
        filled["images"] = _images_for(filled["prompt"], filled.get("negative_prompt", ""))
    if "loras" in filled:
        filled["loras"] = tuple(_listed(filled["loras"]))
    try:
        return GenerationRequest.model_validate(filled)
    except ValidationError as error:
        raise _in_words(error, entry) from None


def _images_for(*texts: Any) -> int:
    """One for each combination of what stands in arrays; 1 for texts that are refused."""
    if not all(isinstance(text, str) and len(text) <= LONGEST_PROMPT for text in texts):
        return 1
    asked = combinations(*texts)
    if asked > MOST_IMAGES:
        many = str(asked) if asked < 1_000_000 else "more than a million"
        raise BadRequest(
            "prompt",
            f"prompt must ask for at most {MOST_IMAGES} pictures with its [[…, …]], not {many}: shorten these lists, "
            "or say how many images are wanted.",
        )
    return asked


def entry_of(key: object) -> BaseModel:
    """The model of that key. Raises BadRequest, naming all keys."""
    if isinstance(key, str) and key in BASE_MODELS:
        return BASE_MODELS[key]
    shown = f" {_shown(key)} is not" if isinstance(key, str) else " That is not"
    raise BadRequest("model", f"model must be one of {', '.join(BASE_MODELS)}.{shown}.")


def _listed(loras: Any) -> list[Any]:
    if not isinstance(loras, list | tuple):
        raise BadRequest("loras", "loras must be a list of objects, each with a ref and a weight.")
    return [{k: v for k, v in lora.items() if v is not None} if isinstance(lora, Mapping) else lora for lora in loras]


def _shown(value: str) -> str:
    text = "".join(c for c in value if c.isprintable())
    return f"“{text[:40]}…”" if len(text) > 40 else f"“{text}”"


def _in_words(error: ValidationError, entry: BaseModel) -> BadRequest:
    """One pydantic finding as one sentence that names the field and its range."""
    found = error.errors(include_url=False)[0]
    place = ""
    for part in found["loc"]:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else str(part)
    cause = found.get("ctx", {}).get("error")
    if isinstance(cause, Unfit):
        prefix = f"{place}: " if place else ""
        return BadRequest(f"{place}.{cause.field}" if place else cause.field, prefix + cause.sentence)
    context = found.get("ctx", {})
    allowed = _RANGES | _ranges_of(entry)
    rules = {
        "missing": "is required",
        "extra_forbidden": "is not an input of this endpoint",
        "int_type": f"must be {allowed.get(place, 'a whole number')}",
        "float_type": f"must be {allowed.get(_tail(place), 'a number')}",
        "finite_number": f"must be {allowed.get(_tail(place), 'a finite number')}",
        "bool_type": "must be true or false",
        "string_type": "must be text",
        "string_too_long": f"must have at most {context.get('max_length')} characters",
        "string_too_short": "must not be empty",
        "string_pattern_mismatch": "has characters it cannot have",
        "literal_error": f"must be {context.get('expected')}",
        "too_long": f"must name at most {context.get('max_length')} LoRAs",
        "tuple_type": "must be a list",
        "dict_type": "must be an object",
        "model_type": "must be an object with a ref and a weight",
        "greater_than": f"must be {allowed.get(_tail(place), 'larger')}",
        "greater_than_equal": f"must be {allowed.get(_tail(place), 'larger')}",
        "less_than_equal": f"must be {allowed.get(_tail(place), 'smaller')}",
    }
    return BadRequest(place, f"{place} {rules.get(found['type'], 'has a value it cannot have')}.")


def _tail(place: str) -> str:
    return place.rsplit(".", 1)[-1]


def _ranges_of(entry: BaseModel) -> dict[str, str]:
    side = f"a multiple of 16 from 64 to {entry.largest_side}"
    return {
        "steps": "a whole number from {} to {}".format(*entry.steps_range),
        "guidance": "a number from {:g} to {:g}".format(*entry.guidance_range),
        "width": side,
        "height": side,
    }


_RANGES = {
    "seed": f"a whole number from -1 (random) to {LARGEST_SEED}",
    "images": f"a whole number from 1 to {MOST_IMAGES}",
    "weight": "a number from -5 to 5",
    "text_encoder": "a number from -5 to 5",
    "start": "a number from 0 to 1",
    "end": "a number from 0 to 1",
    "total_strength": "a number above 0, at most 10",
    "strength": "a number from 0 to 1",
    "upscale": "a number above 1, at most 4",
    "upscale_strength": "a number from 0 to 1",
    "batch": f"a whole number from 1 to {MOST_TOGETHER}",
}
