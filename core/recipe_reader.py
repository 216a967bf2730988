"""RecipeReader: a recipe out of a picture, a link, JSON or another program's text, and what cannot be the same here."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.base_models import BASE_MODELS
from core.errors import BadRequest
from core.fine_tunes import LISTED_ONLY, Models
from core.prompt_forms import escaped
from core.recipe import (
    APP,
    LONGEST_LINK,
    Plan,
    Recipe,
    RecipeLora,
    RecipeModel,
    recipe_from_text,
    text_of_link,
    upscale_of,
)
from core.recipe_files import text_in_picture
from core.recipe_here import UNKNOWN, Here, Unreproducible
from core.recipe_text import UPSCALER, NamedLora, Said, added, read_a1111, sampler_in
from core.request import LARGEST_SEED, request_from
from lora_catalog.catalog import Catalog
from lora_catalog.errors import BadRef, CatalogError, quoted
from lora_catalog.reference import LoraRef
from lora_catalog.visitor import Visitor

LARGEST_WEIGHT, LARGEST_TOTAL = 5.0, 10.0  # as core.request has them
MOST_PASSED_OVER = 12  # settings of another program that are named; a text may hold hundreds

_NUMBER = re.compile(r"[+-]?\d{1,15}(\.\d{1,15})?")
_SIZE = re.compile(r"(\d{1,6})\s*x\s*(\d{1,6})")
_TAKEN = {"Steps": "steps", "CFG scale": "guidance", "Seed": "seed"}
_OF_NO_MATTER = frozenset(
    ("Sampler", "Size", "Model", "Model hash", "Lora hashes", "Lora details", "Hashes", "Version", "Schedule type",
     "Partial LoRAs", "Created Date", "Civitai resources", "Civitai metadata", "Batch size", "Batch pos")
)  # fmt: skip
_UNREAD = "image carries a recipe that cannot be read: it is torn or was changed, so use the file as first saved."
_HIRES = {"Hires upscale": "upscale", "Denoising strength": "upscale_strength"}
_SECOND_PASS = ("upscale", "upscale_strength")
_DECIDED_HERE = ("steps", "guidance", "width", "height", "seed", "images", "sampler", "negative_prompt")


class RecipeReader:
    """Reads for one machine; `default_model` stands in for models that are not known here."""

    def __init__(self, catalog: Catalog, here: Here, default_model: str, models: Models = LISTED_ONLY) -> None:
        self._catalog, self._here, self._default_model, self._models = catalog, here, default_model, models

    def read(self, raw: Mapping[str, Any], visitor: Visitor) -> tuple[Recipe, list[Unreproducible]]:
        """`raw` has `image` (the path of an upload) or `text`. What comes out can be asked for here, whatever it names.

        Raises BadRequest for what holds no recipe, or one that is forged, torn or of another version.
        """
        image, text = raw.get("image"), raw.get("text")
        if (image is None) == (text is None):
            raise BadRequest("text", "Either image or text is required: a picture with its recipe, or the text of one.")
        if image is not None and not isinstance(image, str | Path):
            raise BadRequest("image", "image must be an uploaded picture.")
        if text is not None and not isinstance(text, str):
            raise BadRequest("text", "text must be text.")
        if image is None:
            return self._read(str(text), visitor)
        try:
            return self._read(text_in_picture(Path(image)), visitor)
        except BadRequest as error:
            if error.field != "text":
                raise
            raise BadRequest("image", _UNREAD) from None

    def _read(self, text: str, visitor: Visitor) -> tuple[Recipe, list[Unreproducible]]:
        if len(text) > LONGEST_LINK:
            raise BadRequest("text", f"text must have at most {LONGEST_LINK} characters.")
        plain = text.strip()
        linked = None if re.search(r"\s", plain) else text_of_link(plain)
        if linked is not None:
            return self._of_ours(recipe_from_text(linked), visitor)
        if plain.startswith("{") and _is_json(plain):  # braces begin many an A1111 prompt too
            return self._of_ours(recipe_from_text(plain), visitor)
        said = read_a1111(text)
        if said is not None:
            return self._of_a1111(said, visitor)
        raise BadRequest("text", "text must be a recipe: its whole JSON, its link, or what A1111 puts into pictures.")

    def _of_ours(self, recipe: Recipe, visitor: Visitor) -> tuple[Recipe, list[Unreproducible]]:
        key = recipe.model.key
        with suppress(BadRequest, CatalogError):  # what cannot be had gives way to the default model
            self._models.key_of(key, visitor.token)
        if key in BASE_MODELS:
            recipe.request()  # raises BadRequest for values that the model cannot have
            return recipe, self._here.differences(recipe, visitor)
        raw = {name: getattr(recipe, name) for name in ("prompt", "allow_partial", "total_strength", *_DECIDED_HERE)}
        raw["loras"] = [lora.model_dump(exclude={"receipt"}) for lora in recipe.loras]
        if recipe.upscale is not None:
            raw |= {"upscale": recipe.upscale.factor, "upscale_strength": recipe.upscale.strength}
        fitted, unfit = self._fitted(raw | {"model": self._default_model}, recipe)
        return fitted, [self._instead_of(key), *unfit, *self._here.differences(fitted, visitor)]

    def _of_a1111(self, said: Said, visitor: Visitor) -> tuple[Recipe, list[Unreproducible]]:
        settings = said.settings
        found: list[Unreproducible] = []
        model = said.model
        if model not in BASE_MODELS:
            found.append(self._instead_of(model))
            model = self._default_model
        raw: dict[str, Any] = {name: _number(settings[theirs]) for theirs, name in _TAKEN.items() if theirs in settings}
        if "Hires upscale" in settings:
            raw |= {name: _number(settings[theirs]) for theirs, name in _HIRES.items() if theirs in settings}
        if size := _SIZE.fullmatch(settings.get("Size", "")):
            raw |= {"width": int(size[1]), "height": int(size[2])}
        if "Sampler" in settings:
            raw["sampler"], schedule = sampler_in(settings, BASE_MODELS[model].samplers)
            if schedule:
                why = f"{quoted(raw['sampler'])} has no schedule type {quoted(schedule)} here: its own one is taken."
                found.append(Unreproducible("sampler", why))
        loras: list[dict[str, Any]] = []
        left: list[str] = []  # in the prompt, where they mean the same to a request
        for named in said.loras:
            lora, reasons = self._lora(named, visitor)
            found += reasons
            if named.unread:
                why = f"{quoted(named.name)}: {quoted(', '.join(named.unread))} is no setting here: it was passed over."
                found.append(Unreproducible("loras", why))
            if lora is not None:
                same = next((one for one in loras if one["ref"] == lora["ref"]), None)
                loras = [one for one in loras if one is not same] + [added(same, lora) if same else lora]
            elif _on_the_hub(named.name):
                left.append(named.tag)
        for name in said.unheld[:MOST_PASSED_OVER]:
            why = f"{quoted(name)} was left out: the text names no file that could be used here."
            found.append(Unreproducible("loras", why))
        # Other programs mean other things by such brackets: their texts are read as they stand.
        as_meant = str if settings.get("Version", "").startswith(APP) else escaped
        raw |= {"prompt": as_meant(said.prompt), "negative_prompt": as_meant(said.negative_prompt)}
        raw |= {**_within_reach(loras), "model": model}
        raw["allow_partial"] = settings.get("Partial LoRAs") == "allowed"
        fitted, unfit = self._fitted(raw, None, settings.get("Version", "")[:100])
        fitted = fitted.model_copy(update={"prompt": " ".join([fitted.prompt, *left])})
        fitted.request()  # raises BadRequest for a tag that says what it cannot
        return fitted, [*found, *unfit, *_passed_over(settings), *self._here.differences(fitted, visitor)]

    def _lora(self, named: NamedLora, visitor: Visitor) -> tuple[dict[str, Any] | None, list[Unreproducible]]:
        """As a request has it, pinned by its sha256, or None where no such file is here."""
        asked = dict(named.asked)
        if named.details:
            return {**asked, **named.details}, []
        told = quoted(named.name)
        for ref in (f"bundled:{named.name}", f"local:{named.name}.safetensors", named.name):
            try:
                fetched = self._here.of_this_machine(ref, visitor)
            except CatalogError:
                continue
            if fetched is not None:
                lora = {"ref": str(fetched.ref), "sha256": fetched.sha256, **asked}
                if named.hash and not fetched.sha256.startswith(named.hash):
                    return lora, [Unreproducible("loras", f"{told} was found by name: its hash is another one here.")]
                return lora, []
        if _on_the_hub(named.name):
            return None, [Unreproducible("loras", f"{told} names no commit of the Hub: its newest file will be taken.")]
        for card in self._catalog.bundled() if len(named.hash) >= 10 else ():
            fetched = self._here.of_this_machine(card.ref, visitor)
            if fetched is not None and fetched.sha256.startswith(named.hash):
                return {"ref": str(fetched.ref), "sha256": fetched.sha256, **asked}, []
        missing = f"There is no LoRA {told} here, by name or hash: it was left out; look for it on the LoRAs tab."
        return None, [Unreproducible("loras", missing)]

    def _instead_of(self, model: str) -> Unreproducible:
        ours = BASE_MODELS[self._default_model].title
        named = f"There is no model {quoted(model)} here" if model else "The text names no model"
        return Unreproducible("model.key", f"{named}: {ours} stands in for it, and the picture will be another one.")

    def _fitted(self, raw: dict[str, Any], recipe: Recipe | None, app: str = "") -> tuple[Recipe, list[Unreproducible]]:
        """A recipe of what the model takes; what it does not take gets the model's own default, and is told."""
        unfit: list[Unreproducible] = []
        if "seed" not in raw or raw["seed"] == -1:
            raw["seed"] = _new_seed()
            unfit.append(Unreproducible("seed", "The text names no seed: a new one was drawn."))
        while True:
            try:
                request = request_from(raw, self._default_model)
                break
            except BadRequest as error:
                if error.field in _SECOND_PASS and "upscale" in raw:
                    unfit.append(Unreproducible("upscale", f"{error} The second pass was left out."))
                    raw = {name: value for name, value in raw.items() if name not in _SECOND_PASS}
                    continue
                if error.field not in _DECIDED_HERE or error.field not in raw:
                    raise
                instead = "A new one was drawn." if error.field == "seed" else "The model's own default stands there."
                unfit.append(Unreproducible(error.field, f"{error} {instead}"))
                del raw[error.field]
                if error.field == "seed":
                    raw["seed"] = _new_seed()
        entry = request.entry
        loras = tuple(
            RecipeLora(**lora.model_dump(exclude={"sha256"}), sha256=lora.sha256 or "") for lora in request.loras
        )
        fitted = Recipe(
            version=1 if request.upscale is None else 2,
            app=recipe.app if recipe else app or "A1111 text",
            model=RecipeModel(key=entry.key, repo=entry.published, revision=None, accelerator=entry.accelerator),
            loras=loras,
            upscale=upscale_of(request),
            plan=recipe.plan if recipe else Plan(dtype=UNKNOWN, device=UNKNOWN),
            libraries=recipe.libraries if recipe else {},
            created_at=recipe.created_at if recipe else datetime.now(UTC).isoformat(timespec="seconds"),
            **{name: getattr(request, name) for name in ("prompt", "allow_partial", "total_strength", *_DECIDED_HERE)},
        )
        return fitted, unfit


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _new_seed() -> int:
    return secrets.randbelow(LARGEST_SEED // 2)


def _within_reach(loras: list[dict[str, Any]]) -> dict[str, Any]:
    """The same blend with weights that a request may have, where a total strength made them larger."""
    largest = max((abs(lora.get(name, 0.0)) for lora in loras for name in ("weight", "text_encoder")), default=0.0)
    total = sum(abs(lora["weight"]) for lora in loras)
    if largest <= LARGEST_WEIGHT or not 0 < total <= 1.001 * LARGEST_TOTAL:
        return {"loras": loras}
    scale = LARGEST_WEIGHT / largest
    scaled = [lora | {n: round(scale * lora[n], 9) for n in ("weight", "text_encoder") if n in lora} for lora in loras]
    return {"loras": scaled, "total_strength": min(total, LARGEST_TOTAL)}


def _number(text: str) -> Any:
    """As JSON would have it; what is no number stays text, and is refused by its field's own rule."""
    if not _NUMBER.fullmatch(text):
        return text
    return float(text) if "." in text else int(text)


def _on_the_hub(name: str) -> bool:
    try:
        return LoraRef.parse(name).source == "hub"
    except BadRef:
        return False


def _hires_as_here(settings: Mapping[str, str]) -> dict[str, bool]:
    """Whether a second pass is enlarged, and counts its steps, as ours is: by Lanczos, and as the first one."""
    return {
        "Hires upscaler": settings.get("Hires upscaler") == UPSCALER,
        "Hires steps": settings.get("Hires steps") in ("0", settings["Steps"]),
    }


def _passed_over(settings: Mapping[str, str]) -> list[Unreproducible]:
    known = {*_TAKEN, *_OF_NO_MATTER}
    if "Hires upscale" in settings:
        known |= {*_HIRES, *(name for name, same in _hires_as_here(settings).items() if same)}
    others = [name for name in settings if name not in known]
    found = [
        Unreproducible(name[:60], f"{quoted(f'{name}: {settings[name]}')} is no setting here: it was passed over.")
        for name in others[:MOST_PASSED_OVER]
    ]
    if not settings.get("Version", "").startswith(APP):
        found.append(
            Unreproducible("app", "The text is another program's, whose noise is another one: expect a like picture.")
        )
    return found
