"""Axes: what a comparison varies, each value as a change of a raw request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from core.base_models import BASE_MODELS
from core.errors import BadRequest
from lora_catalog.errors import CatalogError
from lora_catalog.reference import LoraRef

Raw = dict[str, Any]
Change = Callable[[Raw], Raw]

MOST_VALUES = 16
NONE = "none"  # a value of a `lora` axis: nothing in that LoRA's place
LONGEST_LABEL = 60  # letters
_SAY_NOTHING = {"pytorch_lora_weights", "adapter_model", "lora", "model"}  # names of files that many repos share


@dataclass(frozen=True)
class Ground:
    """What a plan stands on: the model where none is named, where seeds come from, and titles of LoRAs by ref."""

    default_model: str
    any_seed: Callable[[], int]
    titles: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Axis:
    """`place` is the input it came from; `changes` stand beside `labels`; `lora` is the blend's place it turns at."""

    place: str
    field: str
    title: str
    labels: tuple[str, ...]
    changes: tuple[Change, ...]
    lora: int | None = None


@dataclass(frozen=True)
class Asked:
    """An axis as it was asked for: `base` is the raw request, its `loras` whole and its tags out of the prompt."""

    place: str
    field: str
    values: list[Any]
    base: Raw
    ground: Ground
    lora: Any = None
    find: Any = None

    def names(self, refs: Iterable[str]) -> list[str]:
        return names_of(refs, self.ground.titles)


def read_axis(place: str, said: object, base: Raw, ground: Ground) -> Axis:
    """The axis in an object {field, values} and, by its field, `lora` or `find`.

    `lora` is a ref of the blend or its number from 0; it may be left out where the blend has one. `find` is the part of
    the prompt that the values take the place of, the first value if left out. Raises BadRequest.
    """
    if not isinstance(said, Mapping):
        raise BadRequest(place, f'{place} must be an object such as {{"field": "steps", "values": [10, 20]}}.')
    given = {name: value for name, value in said.items() if value is not None}
    field, values = given.pop("field", None), given.pop("values", None)
    if not isinstance(field, str) or field not in _FIELDS:
        raise BadRequest(f"{place}.field", f"{place}.field must be one of {', '.join(_FIELDS)}.")
    if not isinstance(values, list | tuple) or not 1 <= len(values) <= MOST_VALUES:
        raise BadRequest(f"{place}.values", f"{place}.values must be a list of 1 to {MOST_VALUES} values.")
    if None in values:
        raise BadRequest(f"{place}.values", f"{place}.values must not hold null: write the value that is meant.")
    takes, made = _FIELDS[field]
    for name in given:
        if name not in takes:
            raise BadRequest(f"{place}.{name}", f"{place}.{name} is not part of an axis of {field}.")
    return made(Asked(place, field, list(values), base, ground, **given))


def names_of(refs: Iterable[str], titles: Mapping[str, str]) -> list[str]:
    """A title or short name for each ref, the whole ref where two would have the same."""
    listed = list(refs)
    short = [titles.get(ref) or _name(ref) for ref in listed]
    count = Counter(short)
    return [name if count[name] == 1 else ref for name, ref in zip(short, listed, strict=True)]


def label_of(value: object) -> str:
    """A value as a heading says it."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"


def _name(ref: str) -> str:
    try:
        parsed = LoraRef.parse(ref)
    except CatalogError:  # an address on the Hub
        return PurePosixPath(ref).stem
    name = PurePosixPath(parsed.name)
    if parsed.source != "hub":
        return name.stem if parsed.source == "local" else parsed.name
    stem = PurePosixPath(parsed.file or "").stem
    return name.name if stem in ("", name.name) or stem in _SAY_NOTHING else f"{name.name} {stem}"


def _plain(asked: Asked) -> Axis:
    changes = tuple(_set(asked.field, value) for value in asked.values)
    return Axis(asked.place, asked.field, asked.field, tuple(map(label_of, asked.values)), changes)


def _set(field: str, value: Any) -> Change:
    return lambda raw: raw | {field: value}


def _seed(asked: Asked) -> Axis:
    seeds = [asked.ground.any_seed() if value == -1 else value for value in asked.values]
    return Axis(asked.place, "seed", "seed", tuple(map(label_of, seeds)), tuple(_set("seed", seed) for seed in seeds))


def _model(asked: Asked) -> Axis:
    labels = [
        BASE_MODELS[key].title if isinstance(key, str) and key in BASE_MODELS else str(key) for key in asked.values
    ]
    return Axis(asked.place, "model", "model", tuple(labels), tuple(map(_drawn_by, asked.values)))


def _drawn_by(key: Any) -> Change:
    """A model that takes no negative prompt draws without it, as it does on the page."""
    takes = not isinstance(key, str) or key not in BASE_MODELS or BASE_MODELS[key].takes_negative_prompt
    return lambda raw: raw | {"model": key} | ({} if takes else {"negative_prompt": None})


def _prompt(asked: Asked) -> Axis:
    if not all(isinstance(value, str) for value in asked.values):
        raise BadRequest(f"{asked.place}.values", f"{asked.place}.values must be texts for the prompt.")
    find = asked.values[0] if asked.find is None else asked.find
    if not isinstance(find, str) or not find or find not in asked.base["prompt"]:
        raise BadRequest(
            f"{asked.place}.find",
            f"{asked.place}.find, or else the first of its values, must be a part of the prompt: “{label_of(find)}” is "
            "none.",
        )
    changes = tuple(_replaced(find, value) for value in asked.values)
    return Axis(asked.place, "prompt", f"“{label_of(find)}” as", tuple(map(label_of, asked.values)), changes)


def _replaced(find: str, by: str) -> Change:
    return lambda raw: raw | {"prompt": raw["prompt"].replace(find, by)}


def _weight(asked: Asked) -> Axis:
    loras = asked.base["loras"]
    if not loras:
        raise BadRequest(asked.place, f"{asked.place} needs a LoRA in loras, whose weight it can vary.")
    place = _place_of(asked)
    changes = tuple(_at(place, {"weight": value}) for value in asked.values)
    title = f"weight of {asked.names(lora['ref'] for lora in loras)[place]}"
    return Axis(asked.place, "weight", title, tuple(map(label_of, asked.values)), changes, place)


def _lora(asked: Asked) -> Axis:
    if not all(isinstance(value, str) and value for value in asked.values):
        raise BadRequest(f"{asked.place}.values", f"{asked.place}.values must be refs of LoRAs, or “{NONE}”.")
    loras = asked.base["loras"]
    place = _place_of(asked) if loras else 0
    title = f"in place of {asked.names(lora['ref'] for lora in loras)[place]}" if loras else "LoRA"
    changes = tuple(_at(place, None if ref == NONE else {"ref": ref, "sha256": None}) for ref in asked.values)
    return Axis(asked.place, "lora", title, tuple(map(label_of, asked.names(asked.values))), changes, place)


def _at(place: int, edit: Mapping[str, Any] | None) -> Change:
    """Edits the LoRA at a place, or puts None there; where there never was one, the edit alone is it."""

    def changed(raw: Raw) -> Raw:
        loras = list(raw["loras"]) or [{}]
        if loras[place] is not None:
            loras[place] = None if edit is None else loras[place] | edit
        return raw | {"loras": loras}

    return changed


def _place_of(asked: Asked) -> int:
    refs = [lora["ref"] for lora in asked.base["loras"]]
    said = asked.lora
    if said is None and len(refs) == 1:
        return 0
    if isinstance(said, str) and said in refs:
        return refs.index(said)
    if isinstance(said, int) and not isinstance(said, bool) and 0 <= said < len(refs):
        return said
    raise BadRequest(f"{asked.place}.lora", f"{asked.place}.lora must be one of the blend's LoRAs: {', '.join(refs)}.")


# What an axis of each field takes beside its values, and how it is made.
_FIELDS: dict[str, tuple[tuple[str, ...], Callable[[Asked], Axis]]] = {
    "weight": (("lora",), _weight),
    "lora": (("lora",), _lora),
    "steps": ((), _plain),
    "guidance": ((), _plain),
    "seed": ((), _seed),
    "prompt": (("find",), _prompt),
    "model": ((), _model),
}
FIELDS = tuple(_FIELDS)
