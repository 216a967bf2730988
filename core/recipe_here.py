"""What of a recipe cannot be the same here, by name: missing models, changed files, other devices and versions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import core.base_models
from core.base_models import BASE_MODELS, BaseModel
from core.checkpoints import sha256_of
from core.memory import plans_making
from core.recipe import Recipe, RecipeInit, RecipeLora, libraries_here, only_here
from core.request import MOST_TOGETHER
from lora_catalog.catalog import Catalog
from lora_catalog.errors import CatalogError, HubBusy, HubUnreachable, UnknownRef, quoted
from lora_catalog.reference import LoraRef
from lora_catalog.sources.base import FetchedLora
from lora_catalog.visitor import Visitor

MOST_SAID = 64

_HOW = {
    "lossy": "It was drawn with shortcuts that change pixels, and not all of them can be taken here with its model.",
    "plan.batch": "It was drawn together with others, but no batch of that size is drawn here (at most "
    f"{MOST_TOGETHER} pictures, and no more than were asked for): each is drawn by itself, "
    "and the last bits may differ.",
    "model.repo": "Its model came from another repo than the one that this model has here.",
    "model.accelerator": "Its speed mode used another few-step LoRA than this model has here.",
}


@dataclass(frozen=True)
class Unreproducible:
    """`field` of the recipe, in dotted form, cannot be had or cannot be the same; `reason` is a sentence."""

    field: str
    reason: str


class Here:
    """This machine, as recipes see it. `device` is torch's word; `why_not` says why a model cannot run."""

    def __init__(self, catalog: Catalog, device: str, why_not: Callable[[str], str | None]) -> None:
        self._catalog, self._device, self._why_not = catalog, device, why_not

    def differences(self, recipe: Recipe, visitor: Visitor) -> list[Unreproducible]:
        """In the order of the recipe's fields; empty where the same pixels come out. The model's key is known.

        Nothing is downloaded but headers of LoRAs.
        """
        entry = BASE_MODELS[recipe.model.key]
        found = [*self._of_model(recipe, entry), *self._of_loras(recipe, entry, visitor), *self._of_plan(recipe, entry)]
        return found[:MOST_SAID]

    def of_this_machine(self, ref: str, visitor: Visitor) -> FetchedLora | None:
        """A bundled or local LoRA's file; None for one of the Hub, of which nobody is asked. Raises CatalogError."""
        if self._catalog.ref(ref).source == "hub":
            return None
        fetching = self._catalog.fetch(ref, visitor)
        try:
            next(fetching)
        except StopIteration as end:
            fetched: FetchedLora = end.value
            return fetched
        fetching.close()
        return None

    def _of_model(self, recipe: Recipe, entry: BaseModel) -> Iterator[Unreproducible]:
        if why_not := self._why_not(entry.key):
            yield Unreproducible("model.key", why_not)
        for name, said, ours in only_here(recipe):
            if said != ours:
                yield Unreproducible(name, _HOW[name])
        if recipe.init is not None:
            yield Unreproducible("init", drawn_over(recipe.init))
        commit = recipe.model.revision
        if entry.embedded and commit not in (None, embedded_revision(entry)):
            yield Unreproducible("model.revision", f"It was made with other weights of {entry.title} than are here.")
        if entry.own is not None:
            if commit is not None and (not entry.own.is_file() or commit != sha256_of(entry.own)):
                yield Unreproducible("model.revision", f"It was made with another file {entry.title} than is here.")
        elif not entry.embedded and commit not in (None, entry.revision):
            yield Unreproducible("model.revision", _of_another_commit(entry, str(commit)))

    def _of_loras(self, recipe: Recipe, entry: BaseModel, visitor: Visitor) -> Iterator[Unreproducible]:
        """The Hub is asked no more once it did not answer: sixteen LoRAs must not wait for it sixteen times."""
        silent = False
        for number, lora in enumerate(recipe.loras):
            try:
                why_not = _UNASKED if silent and "/" in lora.ref else self._of_lora(lora, entry, visitor)
            except (HubUnreachable, HubBusy):
                silent, why_not = True, _UNASKED
            except UnknownRef:
                why_not = "it is not on this machine: bring the file on the LoRAs tab, under the same name."
            except CatalogError as error:
                why_not = str(error)
            if why_not:
                yield Unreproducible(f"loras[{number}]", f"{quoted(lora.ref)}: {why_not}")

    def _of_lora(self, lora: RecipeLora, entry: BaseModel, visitor: Visitor) -> str | None:
        here = self.of_this_machine(lora.ref, visitor)
        if here is not None and lora.sha256 != here.sha256:
            return "its file is another one now than the recipe's (their sha256 differ)."
        look = self._catalog.inspect(lora.ref, entry.family, visitor)
        if self._catalog.ref(look.ref) != self._catalog.ref(lora.ref):
            return f"it is not pinned to a commit: {quoted(look.ref)} is what it means now."
        return look.why_not if look.fits == "no" else None

    def _of_plan(self, recipe: Recipe, entry: BaseModel) -> Iterator[Unreproducible]:
        plan, device = recipe.plan, self._device
        said: dict[str, tuple[Any, Any]] = {
            "plan.device": (plan.device, device),
            "plan.dtype": (plan.dtype, "float32" if device == "cpu" else entry.dtype),
        }
        if not plans_making(entry, device, plan.quantisation or ""):
            said["plan.quantisation"] = (plan.quantisation, "none of it")
        elif plan.quantisation:
            packed = f"It was drawn with {quoted(plan.quantisation)}"
            now = f"Generate lays {entry.title} out as memory allows now, which may give other pixels."
            yield Unreproducible("plan.quantisation", f"{packed}: {now}")
        ours = libraries_here()
        said |= {f"libraries.{name}": (theirs, ours.get(name, theirs)) for name, theirs in recipe.libraries.items()}
        for name, (theirs, here) in said.items():
            if theirs != here and theirs != UNKNOWN:
                what = name.partition(".")[2]
                yield Unreproducible(
                    name,
                    f"It was drawn with {what} {quoted(theirs)}, here with {quoted(here)}: pixels may differ.",
                )


def _of_another_commit(entry: BaseModel, commit: str) -> str:
    """What the page draws with; the recipe itself, given to the API, is drawn at its own commit."""
    drawn = f"It was drawn with {entry.title} at commit {quoted(commit[:12])}"
    if entry.revision is None:
        return f"{drawn}: Generate takes the newest one, laid out as memory allows now, and either may be another."
    return f"{drawn}, and Generate takes {quoted(entry.revision[:12])}: pixels may differ."


def drawn_over(init: RecipeInit) -> str:
    """Which files a recipe wants along, in a sentence: no recipe holds them."""
    mask = f" and its mask the one of {quoted(init.mask_sha256)}" if init.mask_sha256 else ""
    return f"It was drawn over a picture: give it along, the file whose sha256 is {quoted(init.sha256)}{mask}."


UNKNOWN = "unknown"  # what a recipe's plan says that was made of another program's text
_UNASKED = "it is not on this machine, and the Hub does not answer now: try again later."


def embedded_revision(entry: BaseModel) -> str | None:
    """What names an embedded model's weights as they were shipped, from the list beside them; no file is checked.

    It is `core.loading.checked_revision` without torch; None where the list is missing or torn.
    """
    try:
        shipped = json.loads((core.base_models.POCKET / "files.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    parts = [f"{entry.repo}/"]
    if entry.accelerator is not None:
        parts.append(f"loras/{LoraRef.parse(entry.accelerator).name}/")
    own = {name: sha for name, sha in sorted(shipped.items()) if name.startswith(tuple(parts))}
    return hashlib.sha256(json.dumps(own).encode()).hexdigest()
