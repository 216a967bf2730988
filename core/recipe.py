"""Recipe: all that is needed to make the same picture again, as JSON, in PNG chunks and as a link."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

from PIL import Image, PngImagePlugin
from pydantic import BaseModel as Schema
from pydantic import ConfigDict, Field, ValidationError

from core.base_models import BASE_MODELS
from core.errors import BadRequest
from core.lora.strength import factor_for
from core.messages import Done, Job
from core.request import GenerationRequest, request_from
from lora_catalog.errors import CatalogError
from lora_catalog.reference import LoraRef

APP = "LoRA Loom"
APP_VERSION = "0.1.0"
CHUNK = "lora-loom"
LONGEST = 200_000  # characters of JSON


class _Part(Schema):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class RecipeModel(_Part):
    """`repo` is null for an embedded model; `revision` is the Hub's commit or the hash of the embedded files."""

    key: str
    repo: str | None
    revision: str | None
    accelerator: str | None


class RecipeReceipt(_Part):
    applied: int
    total: int
    skipped: tuple[tuple[str, str], ...] = ()


class RecipeLora(_Part):
    ref: str
    sha256: str
    weight: float
    start: float = 0.0
    end: float = 1.0
    blocks: dict[str, float] | None = None
    text_encoder: float | None = None
    muted: bool = False
    receipt: RecipeReceipt | None = None


class Plan(_Part):
    dtype: str
    quantisation: str | None = None
    device: str
    batch: int = 1


class Recipe(_Part):
    """Version 1. Unknown versions and unknown fields are refused by name."""

    version: Literal[1] = 1
    app: str
    model: RecipeModel
    prompt: str
    negative_prompt: str = ""
    steps: int
    guidance: float
    sampler: str
    width: int
    height: int
    seed: int
    images: int
    loras: tuple[RecipeLora, ...] = ()
    allow_partial: bool = False
    total_strength: float | None = None
    init: dict[str, Any] | None = None
    plan: Plan
    lossy: tuple[str, ...] = ()
    libraries: dict[str, str] = Field(default_factory=dict)
    created_at: str

    def as_json(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return self.model_dump(mode="json")

    def of_picture(self, index: int) -> Recipe:
        """The recipe of one picture of a batch: its own seed, one image."""
        return self.model_copy(update={"seed": self.seed + index, "images": 1})

    def request(self) -> GenerationRequest:
        """The request that makes it again. Raises BadRequest if a value is out of its range."""
        loras = [lora.model_dump(exclude={"receipt"}) for lora in self.loras]
        return request_from(
            {
                "prompt": self.prompt, "negative_prompt": self.negative_prompt, "model": self.model.key, "loras": loras,
                "steps": self.steps, "guidance": self.guidance, "width": self.width, "height": self.height,
                "seed": self.seed, "images": self.images, "sampler": self.sampler,
                "allow_partial": self.allow_partial, "total_strength": self.total_strength,
            },
            self.model.key,
        )  # fmt: skip


def read_recipe(raw: Any) -> Recipe:
    """A recipe from a client's object; BadRequest names what is unknown, missing or of the wrong kind."""
    if not isinstance(raw, Mapping):
        raise BadRequest("recipe", "recipe must be an object, as /generate returned it.")
    text = json.dumps(raw, default=str)
    if len(text) > LONGEST:
        raise BadRequest("recipe", f"recipe must have at most {LONGEST} characters.")
    if type(raw.get("version")) is not int or raw["version"] != 1:
        raise BadRequest("recipe", "recipe.version must be 1: this version of LoRA Loom reads no other.")
    try:
        recipe = Recipe.model_validate_json(text)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        place = "recipe" + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in found["loc"])
        rule = {"missing": "is required", "extra_forbidden": "is not a field of version 1"}.get(
            found["type"], "has a value it cannot have"
        )
        raise BadRequest(place, f"{place} {rule}.") from None
    for name, said, ours in _only_here(recipe):
        if said != ours:
            raise BadRequest(
                f"recipe.{name}",
                f"recipe.{name} must be {json.dumps(ours)}: this version can make no other picture again.",
            )
    if recipe.seed < 0:
        raise BadRequest("recipe.seed", "recipe.seed must be the seed that was drawn: from 0 on.")
    return recipe


def _only_here(recipe: Recipe) -> list[tuple[str, Any, Any]]:
    """Fields that this version reads but can honour in one way only: name, what is said, what it can be."""
    found: list[tuple[str, Any, Any]] = [
        ("init", recipe.init, None),
        ("lossy", list(recipe.lossy), []),
        ("plan.batch", recipe.plan.batch, 1),
    ]
    entry = BASE_MODELS.get(recipe.model.key)
    if entry is not None:  # an unknown key is refused with the request
        found += [
            ("model.repo", recipe.model.repo, None if entry.embedded else entry.repo),
            ("model.accelerator", _unpinned(recipe.model.accelerator, entry.accelerator), entry.accelerator),
        ]
    return found


def _unpinned(said: str | None, ours: str | None) -> str | None:
    """Our ref where the recipe's means the same LoRA, be it at a commit of its own; else what the recipe says."""
    try:
        same = said is not None and ours is not None and LoraRef.parse(said).same_lora(LoraRef.parse(ours))
    except CatalogError:
        same = False
    return ours if same else said


@cache
def _libraries() -> dict[str, str]:
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
                receipt=RecipeReceipt(applied=receipt.applied, total=receipt.total, skipped=receipt.skipped),
            )
        )  # fmt: skip
    return Recipe(
        app=f"{APP} {APP_VERSION}",
        model=RecipeModel(
            key=entry.key,
            repo=None if entry.embedded else entry.repo,
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
        plan=Plan.model_validate(done.plan),
        libraries=_libraries(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def a1111_text(recipe: Recipe) -> str:
    """The `parameters` text that A1111 and its heirs read, LoRA hashes included, with the weights that counted."""
    heard = [lora for lora in recipe.loras if not lora.muted]
    factor = factor_for((lora.weight for lora in heard), recipe.total_strength)
    tags = "".join(f" <lora:{_name(lora.ref)}:{factor * lora.weight:g}>" for lora in heard)
    lines = [recipe.prompt + tags]
    if recipe.negative_prompt:
        lines.append(f"Negative prompt: {recipe.negative_prompt}")
    fields = {
        "Steps": recipe.steps,
        "Sampler": recipe.sampler,
        "CFG scale": f"{recipe.guidance:g}",
        "Seed": recipe.seed,
        "Size": f"{recipe.width}x{recipe.height}",
        "Model": recipe.model.key,
    }
    hashes = ", ".join(f"{_name(lora.ref)}: {lora.sha256[:12]}" for lora in heard)
    if hashes:
        fields["Lora hashes"] = f'"{hashes}"'
    fields["Version"] = recipe.app
    lines.append(", ".join(f"{name}: {value}" for name, value in fields.items()))
    return "\n".join(lines)


def _name(ref: str) -> str:
    return ref.rsplit("/", 1)[-1].rsplit(":", 1)[-1].removesuffix(".safetensors")


def png_with_recipe(width: int, height: int, data: bytes, recipe: Recipe) -> bytes:
    """PNG bytes that carry the recipe in our chunk and beside it in A1111's."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(CHUNK, json.dumps(recipe.as_json(), ensure_ascii=False, separators=(",", ":")))
    chunks.add_itxt("parameters", a1111_text(recipe))
    out = io.BytesIO()
    Image.frombytes("RGB", (width, height), data).save(out, "PNG", pnginfo=chunks, compress_level=1)
    return out.getvalue()


def permalink(recipe: Recipe) -> str:
    """`/?recipe=` and the recipe as unpadded base64url of its UTF-8 JSON: needs no state on a server."""
    text = json.dumps(recipe.as_json(), ensure_ascii=False, separators=(",", ":")).encode()
    return "/?recipe=" + base64.urlsafe_b64encode(text).rstrip(b"=").decode()
