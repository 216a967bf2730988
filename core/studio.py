"""Studio.generate: from what was asked to pictures with recipes, readable as the story it is."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from core.base_models import BASE_MODELS, BaseModel
from core.errors import BadRequest, LoraDoesNotFit, LoraRefused, ModelUnavailable
from core.messages import Done, Drawn, Engine, Failed, Job, LoraFile, Preview, Progress, StopFlag
from core.recipe import Recipe, png_with_recipe, read_recipe, recipe_of
from core.request import LARGEST_SEED, GenerationRequest, request_from
from lora_catalog.catalog import Catalog
from lora_catalog.visitor import Visitor


@dataclass(frozen=True)
class Generated:
    """The end of a generation: PNG files in memory, each with its own recipe inside, and the recipe of all."""

    pictures: tuple[bytes, ...]
    recipes: tuple[Recipe, ...]
    recipe: Recipe
    seconds: float


Update = Progress | Preview | Drawn | Generated


class Studio:
    """The product without its page: models, LoRAs, pictures."""

    def __init__(self, engine: Engine, catalog: Catalog, default_model: str) -> None:
        self.engine, self.catalog, self.default_model = engine, catalog, default_model

    def models(self) -> list[dict[str, Any]]:
        """Every model with its defaults, and whether it runs here."""
        return [self._described(entry) for entry in BASE_MODELS.values()]

    def generate(self, raw: dict[str, Any], visitor: Visitor, stop: StopFlag) -> Iterator[Update]:
        """Draws what `raw` asks for: a request's fields, or `recipe`. Raises LoomError or CatalogError."""
        request, wanted = self.understood(raw)
        self._must_run_here(request.entry)
        loras = self._fetched(request, visitor)
        job = Job(_with_seed(request), loras, wanted.model.revision if wanted else None)
        for message in self.engine.run(job, stop):
            match message:
                case Failed(error):
                    raise error
                case Done():
                    yield _finished(job, message)
                case _:
                    yield message

    def understood(self, raw: dict[str, Any]) -> tuple[GenerationRequest, Recipe | None]:
        """The request in `raw`, and the recipe it comes from if it does."""
        if raw.get("recipe") is None:
            return request_from({k: v for k, v in raw.items() if k != "recipe"}, self.default_model), None
        others = [name for name, v in raw.items() if v is not None and name not in ("recipe", "consent", "visitor")]
        if others:
            raise BadRequest(others[0], f"{others[0]} must be left out where a recipe is given: it decides everything.")
        recipe = read_recipe(raw["recipe"])
        return recipe.request(), recipe

    def _must_run_here(self, entry: BaseModel) -> None:
        why_not = self.engine.availability(entry.key)
        if why_not is not None:
            raise ModelUnavailable(why_not)

    def _fetched(self, request: GenerationRequest, visitor: Visitor) -> tuple[LoraFile, ...]:
        entry = request.entry
        files = []
        for lora in request.loras:
            if lora.ref == entry.accelerator:
                raise BadRequest("loras", f"loras must leave out {lora.ref}: {entry.title} has it already.")
            fetched = self.catalog.fetch(lora.ref, visitor)
            if lora.sha256 not in (None, fetched.sha256):
                raise LoraRefused(f"{lora.ref} has changed since this recipe was made: its file is another one now.")
            preflight = self.catalog.inspect(lora.ref, entry.family, visitor)
            if preflight.fits == "no":
                raise LoraDoesNotFit(
                    f"{lora.ref} was made for {preflight.family} and does not fit {entry.title}: "
                    f"choose a LoRA for {entry.family}, or another model."
                )
            weight = 0.0 if lora.muted else lora.weight
            words = 0.0 if lora.muted else lora.weight if lora.text_encoder is None else lora.text_encoder
            files.append(LoraFile(str(fetched.ref), fetched.sha256, fetched.path, weight, words))
        if entry.accelerator is not None:
            fetched = self.catalog.fetch(entry.accelerator, visitor)
            files.append(LoraFile(str(fetched.ref), fetched.sha256, fetched.path, 1.0, 1.0, accelerator=True))
        return tuple(files)

    def _described(self, entry: BaseModel) -> dict[str, Any]:
        why_not = self.engine.availability(entry.key)
        return {
            "key": entry.key, "title": entry.title, "family": entry.family, "steps": entry.steps,
            "guidance": entry.guidance, "width": entry.side, "height": entry.side, "available": why_not is None,
            "why_not": why_not, "steps_range": list(entry.steps_range), "guidance_range": list(entry.guidance_range),
            "largest_side": entry.largest_side, "samplers": list(entry.samplers), "licence": entry.licence,
            "takes_negative_prompt": entry.takes_negative_prompt, "note": entry.note,
            "accelerator": entry.accelerator, "repo": None if entry.embedded else entry.repo,
        }  # fmt: skip


def _with_seed(request: GenerationRequest) -> GenerationRequest:
    if request.seed >= 0:
        return request
    return request.model_copy(update={"seed": secrets.randbelow(LARGEST_SEED - request.images + 2)})


def _finished(job: Job, done: Done) -> Generated:
    recipe = recipe_of(job, done)
    recipes = tuple(recipe.of_picture(index) for index in range(len(done.pictures)))
    pictures = tuple(
        png_with_recipe(drawn.raster.width, drawn.raster.height, drawn.raster.data, own)
        for drawn, own in zip(done.pictures, recipes, strict=True)
    )
    return Generated(pictures, recipes, recipe, done.seconds)
