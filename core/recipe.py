"""Recipe: all that is needed to make the same picture again, as JSON and as a link, and how either is checked."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from pydantic import BaseModel as Schema
from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from core.base_models import BASE_MODELS
from core.errors import BadRequest
from core.lossy import lossy_of
from core.messages import Done, Job
from core.prompt_forms import escaped, texts_of
from core.request import LARGEST_SEED, MOST_TOGETHER, GenerationRequest, request_from
from lora_catalog.errors import CatalogError, quoted
from lora_catalog.reference import LoraRef

APP = "LoRA Loom"
APP_VERSION = "0.2.0"
_WITHOUT_FORMS = f"{APP} 0.1.0"  # whose prompts meant every {a|b} as it stands
LONGEST = 200_000  # characters of JSON
LONGEST_LINK = 4 * LONGEST // 3 + 1_000
LONGEST_ADDRESS = 60_000  # characters of a link that servers take: uvicorn's h11 and httpx end at 65,536

# What no model of any version has ever taken: a forged recipe is refused before anything else is made of it. The
# models' own ranges are the request's to judge.
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Pixels = Annotated[int, Field(ge=1, le=65_536)]
Strength = Annotated[float, Field(ge=-1_000, le=1_000)]
Short = Annotated[str, Field(max_length=1_000)]


class _Part(Schema):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class RecipeModel(_Part):
    """`repo` is null for an embedded model; `revision` is the Hub's commit or the hash of the embedded files."""

    key: Short
    repo: Short | None
    revision: Short | None
    accelerator: Short | None


class RecipeReceipt(_Part):
    """What was applied of a LoRA; `text_encoder` of those layers are of text encoders."""

    applied: Count
    total: Count
    skipped: tuple[tuple[str, str], ...] = ()
    text_encoder: Count = 0


class RecipeLora(_Part):
    ref: Short
    sha256: Short
    weight: Strength
    start: Strength = 0.0
    end: Strength = 1.0
    blocks: dict[str, Strength] | None = None
    text_encoder: Strength | None = None
    muted: bool = False
    receipt: RecipeReceipt | None = None


class RecipeInit(_Part):
    """What it was drawn over: the sha256 of the picture's file and of its mask's, and how strongly."""

    sha256: Short
    mask_sha256: Short | None = None
    strength: Strength


class RecipeUpscale(_Part):
    """Its second pass: by how much the picture was enlarged, and how strongly it was drawn over then."""

    factor: Strength
    strength: Strength


class Plan(_Part):
    """`batch` pictures went through the denoiser at once; which row each had, core/together.py says."""

    dtype: Short
    quantisation: Short | None = None
    device: Short
    batch: Count = 1


class Recipe(_Part):
    """Version 2 if it has a second pass (`upscale`), else version 1, which has no such field: what an older LoRA Loom
    reads, it draws. `width` and `height` are the first pass's. Unknown versions and fields are refused by name."""

    version: Literal[1, 2] = 1
    app: Short
    model: RecipeModel
    prompt: str
    negative_prompt: str = ""
    steps: Count
    guidance: Strength
    sampler: Short
    width: Pixels
    height: Pixels
    seed: int
    images: Count
    loras: tuple[RecipeLora, ...] = ()
    allow_partial: bool = False
    total_strength: Strength | None = None
    init: RecipeInit | None = None
    upscale: RecipeUpscale | None = None
    plan: Plan
    lossy: tuple[Short, ...] = ()
    libraries: dict[str, Short] = Field(default_factory=dict)
    created_at: Short

    @model_serializer(mode="wrap")
    def _without_later_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        if self.version == 1:
            written.pop("upscale", None)
        return written

    def as_json(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return self.model_dump(mode="json")

    def as_text(self) -> str:
        """Compact JSON, letters beyond ASCII as they are."""
        return json.dumps(self.as_json(), ensure_ascii=False, separators=(",", ":"))

    def of_picture(self, index: int) -> Recipe:
        """The recipe of one picture of a batch: its own seed, its own texts, one image."""
        prompt, negative = map(escaped, texts_of(self.prompt, self.negative_prompt, self.seed, index))
        own = {"prompt": prompt, "negative_prompt": negative, "seed": self.seed + index, "images": 1}
        return self.model_copy(update=own)

    def request(self) -> GenerationRequest:
        """The request that makes it again. Raises BadRequest if a value is out of its range."""
        loras = [lora.model_dump(exclude={"receipt"}) for lora in self.loras]
        as_read = escaped if self.app == _WITHOUT_FORMS else str
        return request_from(
            {
                "prompt": as_read(self.prompt), "negative_prompt": as_read(self.negative_prompt),
                "model": self.model.key, "loras": loras,
                "steps": self.steps, "guidance": self.guidance, "width": self.width, "height": self.height,
                "seed": self.seed, "images": self.images, "sampler": self.sampler,
                "allow_partial": self.allow_partial, "total_strength": self.total_strength,
                "image": self.init and self.init.sha256, "mask": self.init and self.init.mask_sha256,
                "strength": self.init and self.init.strength,
                "upscale": self.upscale and self.upscale.factor,
                "upscale_strength": self.upscale and self.upscale.strength,
                "batch": _batch_here(self), "lossy": _lossy_here(self),
            },
            self.model.key,
        )  # fmt: skip


def recipe_from(raw: Any) -> Recipe:
    """A recipe from a client's object, wherever it can be made; BadRequest names what is unknown, missing or wrong."""
    if not isinstance(raw, Mapping):
        raise BadRequest("recipe", "recipe must be an object, as /generate returned it.")
    try:
        text = json.dumps(raw, default=str, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        raise BadRequest("recipe", "recipe must be plain JSON: finite numbers, and no deep nesting.") from None
    if len(text) > LONGEST:
        raise BadRequest("recipe", f"recipe must have at most {LONGEST} characters.")
    if type(raw.get("version")) is not int or raw["version"] not in (1, 2):
        raise BadRequest("recipe", "recipe.version must be 1 or 2: this version of LoRA Loom reads no other.")
    if raw["version"] == 1 and "upscale" in raw:
        raise BadRequest("recipe.upscale", "recipe.upscale is not a field of version 1.")
    if raw["version"] == 2 and raw.get("upscale") is None:
        raise BadRequest("recipe", "recipe.version must be 1 where there is no recipe.upscale.")
    try:
        recipe = Recipe.model_validate_json(text)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        place = "recipe" + "".join(_step(part) for part in found["loc"])
        rule = {"missing": "is required", "extra_forbidden": f"is not a field of version {raw['version']}"}.get(
            found["type"], "has a value it cannot have"
        )
        raise BadRequest(place, f"{place} {rule}.") from None
    if not 0 <= recipe.seed <= LARGEST_SEED:
        raise BadRequest("recipe.seed", f"recipe.seed must be the seed that was drawn: from 0 to {LARGEST_SEED}.")
    return recipe


def recipe_from_text(text: str) -> Recipe:
    """The same from JSON as text."""
    if len(text) > LONGEST:
        raise BadRequest("recipe", f"recipe must have at most {LONGEST} characters.")
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raise BadRequest("recipe", "recipe is not valid JSON: copy all of it, from { to }.") from None
    return recipe_from(raw)


def read_recipe(raw: Any) -> Recipe:
    """The same, where this version can make the picture again at all; else BadRequest says why not."""
    recipe = recipe_from(raw)
    for name, said, ours in only_here(recipe):
        if said != ours:
            raise BadRequest(
                f"recipe.{name}",
                f"recipe.{name} must be {json.dumps(ours)}, not {quoted(json.dumps(said))}: this version can make no "
                "other picture again.",
            )
    return recipe


def _step(part: int | str) -> str:
    """Of the way to a field; a name that somebody made up is shown in part."""
    return f"[{part}]" if isinstance(part, int) else f".{quoted(part) if not part.isidentifier() else part[:80]}"


def only_here(recipe: Recipe) -> list[tuple[str, Any, Any]]:
    """Fields that this version reads but can honour in one way only: name, what is said, what it can be."""
    found: list[tuple[str, Any, Any]] = [
        ("lossy", list(recipe.lossy), _lossy_here(recipe)),
        ("plan.batch", recipe.plan.batch, _batch_here(recipe)),
    ]
    entry = BASE_MODELS.get(recipe.model.key)
    if entry is not None:  # an unknown key is refused with the request
        found += [
            ("model.repo", recipe.model.repo, entry.published),
            ("model.accelerator", _unpinned(recipe.model.accelerator, entry.accelerator), entry.accelerator),
        ]
    return found


def _lossy_here(recipe: Recipe) -> list[str]:
    """Of its shortcuts those that this version takes with its model."""
    entry = BASE_MODELS.get(recipe.model.key)
    return [name for name in dict.fromkeys(recipe.lossy) if entry is not None and name in lossy_of(entry)]


def _batch_here(recipe: Recipe) -> int:
    """As many at once as it says, where this version draws so many; else one by one."""
    batch = recipe.plan.batch
    return batch if 1 <= batch <= MOST_TOGETHER and (recipe.images == 1 or batch <= recipe.images) else 1


def _unpinned(said: str | None, ours: str | None) -> str | None:
    """Our ref where the recipe's means the same LoRA, be it at a commit of its own; else what the recipe says."""
    try:
        same = said is not None and ours is not None and LoraRef.parse(said).same_lora(LoraRef.parse(ours))
    except CatalogError:
        same = False
    return ours if same else said


@cache
def libraries_here() -> dict[str, str]:
    """What draws here, by version."""
    return {name: version(name) for name in ("torch", "diffusers", "transformers")}


def recipe_of(job: Job, done: Done) -> Recipe:
    """What was really made: refs pinned, receipts in."""
    request = job.request
    entry = request.entry
    files = {
        file.ref: (file, receipt)
        for file, receipt in zip(job.loras, done.receipts, strict=True)
        if not file.accelerator
    }
    accelerators = [file for file in job.loras if file.accelerator]
    loras = []
    for lora in request.loras:
        file, receipt = files[lora.ref]
        loras.append(
            RecipeLora(
                ref=file.ref, sha256=file.sha256, weight=lora.weight, start=lora.start, end=lora.end,
                blocks=lora.blocks, text_encoder=lora.text_encoder, muted=lora.muted,
                receipt=RecipeReceipt(
                    applied=receipt.applied, total=receipt.total, skipped=receipt.skipped,
                    text_encoder=receipt.text_encoder,
                ),
            )
        )  # fmt: skip
    return Recipe(
        version=1 if request.upscale is None else 2,
        app=f"{APP} {APP_VERSION}",
        model=RecipeModel(
            key=entry.key,
            repo=entry.published,
            revision=done.revision,
            accelerator=accelerators[0].ref if accelerators else None,
        ),
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        steps=request.steps,
        guidance=request.guidance,
        sampler=request.sampler,
        width=request.width,
        height=request.height,
        seed=request.seed,
        images=request.images,
        loras=tuple(loras),
        allow_partial=request.allow_partial,
        total_strength=request.total_strength,
        init=_init_of(request),
        upscale=upscale_of(request),
        plan=Plan.model_validate(done.plan),
        lossy=request.lossy,
        libraries=libraries_here(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _init_of(request: GenerationRequest) -> RecipeInit | None:
    if request.image is None or request.strength is None:
        return None
    return RecipeInit(sha256=request.image, mask_sha256=request.mask, strength=request.strength)


def upscale_of(request: GenerationRequest) -> RecipeUpscale | None:
    """The recipe's words for a request's second pass."""
    if request.upscale is None or request.upscale_strength is None:
        return None
    return RecipeUpscale(factor=request.upscale, strength=request.upscale_strength)


def permalink(recipe: Recipe) -> str:
    """`/?recipe=` and the recipe as unpadded base64url of its UTF-8 JSON: needs no state on a server.

    Receipts are left out: hundreds of names of skipped layers make an address that no server takes. It may still be
    longer than LONGEST_ADDRESS.
    """
    asked = recipe.model_copy(
        update={"loras": tuple(lora.model_copy(update={"receipt": None}) for lora in recipe.loras)}
    )
    return "/?recipe=" + base64.urlsafe_b64encode(asked.as_text().encode()).rstrip(b"=").decode()


_IN_ADDRESS = re.compile(r"[?&]recipe=([^&#]*)")
_BARE = re.compile(r"eyJ[A-Za-z0-9_-]*=*")  # base64url of what begins as a JSON object does


def text_of_link(text: str) -> str | None:
    """The JSON in a permalink, in any address that ends in one, or in its base64url alone; None where it is no link.

    Raises BadRequest for a link that is torn.
    """
    if found := _IN_ADDRESS.search(text):
        coded = unquote(found[1])
    elif _BARE.fullmatch(text):
        coded = text
    else:
        return None
    coded = coded.rstrip("=")
    try:
        data = base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True)
        return data.decode()
    except (binascii.Error, ValueError):
        raise BadRequest("text", "The recipe in this link is torn: copy the whole link again.") from None
