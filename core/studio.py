"""Studio.generate: from what was asked to pictures with recipes, readable as the story it is."""

from __future__ import annotations

import re
import secrets
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.base_models import BASE_MODELS, BaseModel
from core.errors import BadRequest, ModelUnavailable, TooBusy
from core.fine_tunes import LISTED_ONLY, Models
from core.gathering import Gathering
from core.job_line import JobLine, job_line
from core.memory import table_of
from core.messages import Done, Drawn, Engine, Failed, Job, Message, Preview, Progress, Raster, StopFlag
from core.pictures import with_pictures
from core.recipe import Recipe, read_recipe, recipe_of
from core.recipe_code import as_diffusers, as_python
from core.recipe_files import png_of, with_recipe
from core.recipe_here import Here, Unreproducible
from core.recipe_reader import RecipeReader
from core.records.asking import Deletion, Look, Star
from core.records.journal import Journal, NoJournal
from core.records.recording import Recorded, recorded
from core.records.schema import HistoryPage
from core.request import LARGEST_SEED, Consent, GenerationRequest, entry_of, request_from
from core.samplers import SAMPLERS
from core.timings import Timings
from core.turns import Place, Turns
from lora_catalog.catalog import Catalog
from lora_catalog.preflight import Preflight
from lora_catalog.reference import LoraRef
from lora_catalog.search import SearchPage
from lora_catalog.visitor import Visitor

if TYPE_CHECKING:
    from core.blends import Blends, SavedBlend


@dataclass(frozen=True)
class Generated:
    """The end of a generation: PNG files in memory, each with its own recipe inside, the recipe of all, what of it
    is in the journal by now, and sentences about what of the request could not be heard."""

    pictures: tuple[bytes, ...]
    recipes: tuple[Recipe, ...]
    recipe: Recipe
    seconds: float
    recorded: Recorded
    notes: tuple[str, ...] = ()


Update = Progress | Preview | Drawn | Generated


class Studio:
    """The product without its page: models, LoRAs, pictures."""

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        default_model: str,
        journal: Journal | None = None,
        default_consent: Consent = "none",
        device: str = "cpu",
        models: Models = LISTED_ONLY,
        turns: Turns | None = None,
    ) -> None:
        self.turns = turns or Turns()
        self.engine, self.catalog, self.default_model, self._models = engine, catalog, default_model, models
        self._recipes = RecipeReader(catalog, Here(catalog, device, engine.availability), default_model, models)
        self.journal, self.default_consent = journal or NoJournal(), default_consent

    def models(self) -> list[dict[str, Any]]:
        """Every model with its defaults, and whether it runs here."""
        return [self._described(entry) for entry in BASE_MODELS.values()]

    def generate(
        self, raw: dict[str, Any], visitor: Visitor, stop: StopFlag, place: Place | None = None
    ) -> Iterator[Update]:
        """Draws what `raw` asks for: a request's fields, or `recipe`. Raises LoomError or CatalogError.

        `place` is the visitor's where they have one already, for several pictures one after the other.
        """
        with job_line() as line, ExitStack() as held:
            place = place or held.enter_context(self.turns.place(visitor))
            raw, canvas = with_pictures(raw)
            request, recipe = self.understood(self.with_model_known(raw, visitor))
            line.request = request
            self._must_run_here(request.entry)
            accelerator = recipe.model.accelerator if recipe else request.entry.accelerator
            gathering = Gathering(self.catalog, visitor, stop, held)
            request, loras = yield from gathering.gather(request, accelerator)
            revision = recipe.model.revision if recipe else None
            quantisation = (recipe.plan.quantisation or "") if recipe else None
            over = canvas.fitted(request.width, request.height)
            job = Job(_with_seed(request), loras, revision, over, quantisation, line.id)
            packed: dict[Raster, bytes] = {}
            try:
                done = yield from _drawn(place.draw(self.engine, job, stop), packed)
            finally:
                line.turn = place.turn
            held.close()  # the next one may draw while this one's files are written
            generated = self._finished(job, done, packed, visitor)
        yield generated

    def refusal(self, visitor: Visitor) -> str | None:
        """Why `generate` would raise TooBusy for the visitor now, for whoever asks before anything else is done."""
        said = self.turns.refusal(visitor)
        if said is not None:
            JobLine().write("refused", TooBusy.__name__)
        return said

    @property
    def timings(self) -> Timings:
        """How long pictures took here."""
        return self.turns.timings

    def search_loras(self, raw: dict[str, Any], visitor: Visitor) -> SearchPage:
        """Cards that match. Raises BadField."""
        return self.catalog.search(**raw, visitor=visitor)

    def inspect_lora(self, ref: object, model: object, visitor: Visitor) -> Preflight:
        """What a LoRA's header says, and whether it fits `model` (None: the default one).

        Raises BadRequest or a CatalogError.
        """
        if ref is None:
            raise BadRequest("ref", "ref is required: the text that names a LoRA, such as USER/REPO.")
        entry = entry_of(self.default_model if model is None else self._models.key_of(model, visitor.token))
        look = self.catalog.inspect(self.catalog.ref(ref), entry.family, visitor)
        if entry.accelerator and self.catalog.ref(look.ref).same_lora(self.catalog.ref(entry.accelerator)):
            return look.model_copy(update={"fits": "no", "why_not": f"{entry.title} has this LoRA in it already."})
        return look

    def inspect_blend(
        self, raw: dict[str, Any], visitor: Visitor, stop: StopFlag
    ) -> Generator[Progress, None, dict[str, Any]]:
        """How the LoRAs of a blend lie to each other and to the model; `raw` has `loras` and what decides on weights.

        Tells of its progress and returns the answer. Raises BadRequest, LoraRefused, ModelUnavailable, Cancelled or a
        CatalogError.
        """
        raw = self.with_model_known(raw, visitor) | {"prompt": ""}
        return self._blends.inspect(request_from(raw, self.default_model), visitor, stop)

    def save_blend(
        self, raw: dict[str, Any], visitor: Visitor, folder: Path, stop: StopFlag
    ) -> Generator[Progress, None, SavedBlend]:
        """A blend as one LoRA in a file in `folder`, with `title`, `rank` (None: exact) and `precision` beside `raw`'s
        blend. Tells and raises as `inspect_blend` does."""
        how = {name: raw.get(name) for name in ("rank", "title", "precision")}
        blend = {name: value for name, value in raw.items() if name not in how}
        request = request_from(self.with_model_known(blend, visitor) | {"prompt": ""}, self.default_model)
        return self._blends.save(request, **how, visitor=visitor, folder=folder, stop=stop)

    @cached_property
    def _blends(self) -> Blends:
        from core.blends import Blends  # torch takes seconds to import: not before it is needed

        return Blends(self.catalog)

    def keep_lora(self, file: object, visitor: Visitor) -> LoraRef:
        """Keeps an uploaded safetensors file under its own name. Raises BadRequest or a CatalogError."""
        if not isinstance(file, str):
            raise BadRequest("file", "file is required: a safetensors file to upload.")
        return self.catalog.keep(Path(file), visitor)

    def understood(self, raw: dict[str, Any]) -> tuple[GenerationRequest, Recipe | None]:
        """The request in `raw`, and the recipe it comes from if it does; pictures are named by their sha256."""
        if raw.get("recipe") is None:
            return request_from({k: v for k, v in raw.items() if k != "recipe"}, self.default_model), None
        beside = ("recipe", "image", "mask", "consent", "visitor")
        others = [name for name, v in raw.items() if v is not None and name not in beside]
        if others:
            raise BadRequest(others[0], f"{others[0]} must be left out where a recipe is given: it decides everything.")
        recipe = read_recipe(raw["recipe"])
        _must_bring_its_pictures(recipe, raw)
        own = {name: raw.get(name) for name in ("consent", "visitor")}
        return request_from(recipe.request().model_dump() | own, self.default_model), recipe

    def read_recipe(self, raw: dict[str, Any], visitor: Visitor) -> tuple[Recipe, list[Unreproducible]]:
        """The recipe in `image` (an upload's path) or `text`, and what of it cannot be the same here.

        Raises BadRequest where there is none, or one that is forged, torn or of another version.
        """
        return self._recipes.read(raw, visitor)

    def recipe_code(self, recipe: object, address: object) -> dict[str, str]:
        """Scripts that draw a recipe, ours or a client's object: `python` through the page at `address`, `diffusers`
        without it. Raises BadRequest."""
        asked = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
        asked.request()
        if not isinstance(address, str) or not re.fullmatch(r"https?://[!-~]{1,300}", address):
            raise BadRequest("address", "address must be the address of a page, such as http://127.0.0.1:7860.")
        return {"python": as_python(asked, address), "diffusers": as_diffusers(asked)}

    def history(self, raw: dict[str, Any], visitor: Visitor) -> HistoryPage:
        """The visitor's own records, newest first. Raises BadRequest or JournalRefused, as the next two do."""
        return self.journal.page(visitor.id, **dict(Look.read(raw)))

    def star_record(self, raw: dict[str, Any], visitor: Visitor) -> Star:
        """Stars one of the visitor's records, or takes the star away."""
        star = Star.read(raw)
        self.journal.star(star.id, visitor.id, star.starred)
        return star

    def delete_records(self, raw: dict[str, Any], visitor: Visitor) -> int:
        """Deletes those of the ids that are records of the visitor, and says how many."""
        return self.journal.delete(Deletion.read(raw).ids, visitor.id)

    def _finished(self, job: Job, done: Done, packed: Mapping[Raster, bytes], visitor: Visitor) -> Generated:
        """The pictures, recorded before anybody sees them; those that memory ran out after were drawn anew."""
        recipe = recipe_of(job, done)
        recipes = tuple(recipe.of_picture(index) for index in range(len(done.pictures)))
        pictures = tuple(
            with_recipe(packed.get(drawn.raster) or _packed(drawn.raster), own)
            for drawn, own in zip(done.pictures, recipes, strict=True)
        )
        consent = job.request.consent or self.default_consent
        kept = recorded(self.journal, pictures, recipes, consent, visitor.id)
        return Generated(pictures, recipes, recipe, done.seconds, kept, done.notes)

    def with_model_known(self, raw: dict[str, Any], visitor: Visitor) -> dict[str, Any]:
        """The same with a fine-tune under its key, which names a commit; a recipe has that already."""
        recipe = raw.get("recipe")
        if isinstance(recipe, Mapping) and isinstance(recipe.get("model"), Mapping):
            self._models.key_of(recipe["model"].get("key"), visitor.token)
        return raw if raw.get("model") is None else raw | {"model": self._models.key_of(raw["model"], visitor.token)}

    def _must_run_here(self, entry: BaseModel) -> None:
        why_not = self.engine.availability(entry.key)
        if why_not is not None:
            raise ModelUnavailable(why_not)

    def _described(self, entry: BaseModel) -> dict[str, Any]:
        why_not = self.engine.availability(entry.key)
        return {
            "key": entry.key, "title": entry.title, "family": entry.family, "steps": entry.steps,
            "guidance": entry.guidance, "width": entry.side, "height": entry.side, "available": why_not is None,
            "why_not": why_not, "steps_range": list(entry.steps_range), "guidance_range": list(entry.guidance_range),
            "largest_side": entry.largest_side, "samplers": list(entry.samplers),
            "sampler_titles": {name: SAMPLERS[name].title for name in entry.samplers}, "licence": entry.licence,
            "takes_negative_prompt": entry.takes_negative_prompt, "note": entry.note, "notes": entry.notes,
            "accelerator": entry.accelerator, "repo": entry.published,
            "gated": entry.gated, "memory_gb": {} if entry.embedded else table_of(entry),
        }  # fmt: skip


def _packed(raster: Raster) -> bytes:
    return png_of(raster.width, raster.height, raster.data)


def _must_bring_its_pictures(recipe: Recipe, raw: dict[str, Any]) -> None:
    """A recipe holds no picture that it was drawn over: who wants it again gives the same files along."""
    wanted = {"image": recipe.init and recipe.init.sha256, "mask": recipe.init and recipe.init.mask_sha256}
    for name, sha256 in wanted.items():
        if sha256 == raw.get(name):
            continue
        if sha256 is None:
            raise BadRequest(name, f"{name} must be left out: this recipe was drawn without one.")
        raise BadRequest(name, f"{name} must be the file that this recipe was drawn over: its sha256 is {sha256}.")


def _drawn(
    messages: Iterator[Message], packed: dict[Raster, bytes]
) -> Generator[Progress | Preview | Drawn, None, Done]:
    """Tells what comes, packs pictures while the engine draws the next ones, and returns the end.

    Raises the error of a run that failed.
    """
    done = None
    for message in messages:
        match message:
            case Failed(error):
                raise error
            case Done():
                done = message
            case Drawn():
                yield message
                packed[message.raster] = _packed(message.raster)
            case _:
                yield message
    assert done is not None, "an engine ends with Done or Failed"
    return done


def _with_seed(request: GenerationRequest) -> GenerationRequest:
    if request.seed >= 0:
        return request
    return request.model_copy(update={"seed": secrets.randbelow(LARGEST_SEED - request.images + 2)})
