"""Which models have a LoRA's layers, and which of them it was made for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from lora_catalog.card import Family
from lora_catalog.errors import quoted
from lora_catalog.families.keys import Target, place, targets
from lora_catalog.families.others import OTHERS
from lora_catalog.families.table import MODELS, Model, modules
from lora_catalog.layers import Layer
from lora_catalog.said import Said

MOSTLY = 0.9  # of a LoRA's layers must be a model's own for it to count as made for it
ENOUGH = 500  # layers to look at for signs of another architecture: each of a real LoRA's shows them
# What is cut from SDXL has some of its layers and no others: where nothing tells them apart, SDXL is far likelier.
_CUT_FROM_SDXL = frozenset({"SSD-1B", "Segmind Vega"})


@dataclass(frozen=True, slots=True)
class Choice:
    """`families` is what the LoRA may have been made for, `family` the one that is meant, `reason` why it is not.

    `parts` has every layer's component, `outside` the names of layers that the model does not have.
    """

    family: Family | Literal["unknown"]
    families: tuple[Family, ...]
    parts: tuple[str, ...]
    outside: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Match:
    """A model, and what those of the layers are in it that it has, by their numbers."""

    model: Model
    targets: Mapping[int, Target]


def choose(layers: Sequence[Layer], said: Said) -> Choice:
    """By the rules that `lora_catalog.identify.identify` tells; `layers` are at least one."""
    places = [place(layer.name) for layer in layers]
    matches = _matches(layers, places)
    best = max(len(match.targets) for match in matches)
    likely = [match for match in matches if len(match.targets) == best]
    model, known = likely[0].model, likely[0].targets
    parts = tuple(
        known[number].component if number in known else model.backbone if part == "backbone" else part
        for number, (part, _) in enumerate(places)
    )
    outside = [number for number in range(len(layers)) if number not in known]
    names = tuple(layers[number].name for number in outside)
    for number in outside[:ENOUGH]:
        if (title := _foreign(layers[number], places[number][1])) is not None:
            return Choice("other", (), parts, names, f"it was made for {title}")
    if best < MOSTLY * len(layers):
        return Choice("unknown", (), parts, names, _strange(layers[outside[0]]))
    likely = _likeliest(likely, said)
    titles = {match.model.title for match in likely}
    families = tuple(dict.fromkeys(match.model.family for match in likely if match.model.family != "other"))
    if len(titles) > 1 and len(titles - _CUT_FROM_SDXL) > 1:
        *first, last = (m.model.title if m.model.family == "other" else m.model.family for m in likely)
        return Choice("unknown", families, parts, names, f"its layers fit {', '.join(first)} and {last} alike")
    model = likely[0].model
    if model.family == "other":
        return Choice("other", (), parts, names, f"it was made for {model.title}")
    if model.family == said.twin_of:
        return Choice(
            "other", (), parts, names, f"it was made for {said.base}, which is only built like {model.family}"
        )
    return Choice(model.family, families, parts, names)


def _matches(layers: Sequence[Layer], places: Sequence[tuple[str, str]]) -> list[_Match]:
    index = _index()
    found: list[dict[int, Target]] = [{} for _ in MODELS]
    for number, (layer, named) in enumerate(zip(layers, places, strict=True)):
        for model, target in index.get(named, ()):
            if target.shape[0] == layer.rows and layer.columns in (None, math.prod(target.shape[1:])):
                found[model][number] = target
    return [_Match(model, targets) for model, targets in zip(MODELS, found, strict=True)]


@cache
def _index() -> Mapping[tuple[str, str], Sequence[tuple[int, Target]]]:
    """What a name stands for in each of the models that have it, by their places in MODELS."""
    found: dict[tuple[str, str], list[tuple[int, Target]]] = {}
    for number, model in enumerate(MODELS):
        for named, target in targets(model).items():
            found.setdefault(named, []).append((number, target))
    return found


def _likeliest(matches: list[_Match], said: Said) -> list[_Match]:
    """Of models that have as many of the layers, those that it covers; else those that the metadata name; else all."""
    matches = [match for match in matches if _covers(match)] or matches
    for family in said.families:
        if named := [match for match in matches if match.model.family == family]:
            return named
    return matches


def _covers(match: _Match) -> bool:
    """Whether every layer of a kind is touched where one of them is, as trainers do it."""
    touched = {(target.component, path) for target in match.targets.values() for path in target.paths}
    kind_of, members = _kinds(match.model)
    return all(members[kind] <= touched for kind in {kind_of[module] for module in touched})


@cache
def _kinds(model: Model) -> tuple[Mapping[tuple[str, str], str], Mapping[str, frozenset[tuple[str, str]]]]:
    """What each module is, wherever it stands (its path without the numbers of blocks and layers), and the reverse."""
    kind_of = {
        (component, path): re.sub(r"(?<=\.)\d+(?=\.|$)", "#", f"{component}.{path}")
        for component, path in modules(model)
    }
    members: dict[str, set[tuple[str, str]]] = {}
    for module, kind in kind_of.items():
        members.setdefault(kind, set()).add(module)
    return kind_of, {kind: frozenset(found) for kind, found in members.items()}


def _foreign(layer: Layer, name: str) -> str | None:
    return next(
        (other.title for other in OTHERS if other.rows in (None, layer.rows) and other.names.search(name)), None
    )


def _strange(layer: Layer) -> str:
    width = "" if layer.columns is None else f"{layer.columns} to "
    first = f"{quoted(layer.name)}, {width}{layer.rows} wide"
    return f"no known model has all of its layers at their widths; the first is {first}"
