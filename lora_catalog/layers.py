"""A LoRA file's tensors put together to layers: what each changes, how, and at which rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lora_catalog.errors import quoted
from lora_catalog.families.keys import Writing, split_key
from lora_catalog.header import TensorFacts

Format = Literal["diffusers", "peft", "kohya", "loha", "lokr", "dora", "full", "unknown"]
Shapes = Mapping[str, tuple[int, ...]]  # of a layer's tensors, by `Key.tensor`


class Layer(NamedTuple):
    """One layer that a file changes: a weight of `rows` × `columns` (all that is not rows), None where untold.

    `name` is the file's own, `rank` None for a change that is not of low rank. `norm`: it scales a normalisation.
    """

    name: str
    format: Format
    rank: int | None
    rows: int
    columns: int | None
    alpha: bool = False
    dora: bool = False
    norm: bool = False


@dataclass(frozen=True, slots=True)
class Layers:
    """All layers of a file, and the names of tensors that belong to none."""

    layers: tuple[Layer, ...]
    strange: tuple[str, ...]


class Torn(Exception):
    """Why a file that is written like a LoRA cannot be one, as a clause."""


def layers_of(tensors: Mapping[str, TensorFacts]) -> Layers:
    """Raises Torn for a layer that lacks a tensor, or whose tensors do not fit each other."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    writings: dict[str, Writing] = {}
    strange = []
    for name, facts in tensors.items():
        key = split_key(name)
        if key is None:
            strange.append(name)
            continue
        if key.writing == "unread":
            raise Torn(f"it is written as {key.tensor}, a form that is not read here")
        mine = shapes.get(key.layer)
        if mine is None:
            mine = shapes[key.layer] = {}
        elif key.tensor in mine:
            raise Torn(f"{quoted(key.layer)} is there twice, written in two ways")
        mine[key.tensor] = facts.shape
        if key.writing == "full":  # a bias' change beside a LoRA is no layer of its own
            writings.setdefault(key.layer, key.writing)
        elif key.writing != "any":
            writings[key.layer] = key.writing
    found = [_layer(name, writings[name], shapes[name]) for name in writings]
    # a trainer may leave an alpha behind for a layer that it dropped; a lone magnitude is a loss
    for name in shapes.keys() - writings.keys():
        if "magnitude" in shapes[name]:
            raise Torn(f"{quoted(name)} has a DoRA magnitude and nothing else")
    return Layers(tuple(found), tuple(strange))


def _layer(name: str, writing: Writing, shapes: Shapes) -> Layer:
    if any(0 in shape for shape in shapes.values()):
        raise Torn(f"{quoted(name)} is empty")
    form, measure = _FORMS[writing]
    try:
        rank, rows, columns, sound = measure(shapes)
    except KeyError as missing:
        raise Torn(f"{quoted(name)} lacks its {missing.args[0]} part") from None
    except IndexError:  # a shape with too few dimensions
        sound = False
    if not sound:
        raise Torn(f"the parts of {quoted(name)} do not fit each other")
    norm = writing == "norm" or (writing == "full" and columns == 1)
    return Layer(name, form, rank, rows, columns, "alpha" in shapes, "magnitude" in shapes, norm)


Measure = tuple[int | None, int, int | None, bool]  # rank, rows, columns, and whether the parts fit each other


def _lora(shapes: Shapes) -> Measure:
    down, up = shapes["down"], shapes["up"]
    mid = shapes.get("mid", (down[0], down[0]))
    sound = len(down) > 1 and mid[:2] == (up[1], down[0]) and math.prod(up[2:]) == 1
    return down[0], up[0], math.prod(down[1:]) * math.prod(mid[2:]), sound


def _loha(shapes: Shapes) -> Measure:
    halves = [_product(shapes, f"w{n}_a", f"w{n}_b", f"t{n}") for n in (1, 2)]
    (rank, rows, columns, sound), other = halves
    return rank, rows, columns, sound and other[3] and other[1:3] == (rows, columns)


def _lokr(shapes: Shapes) -> Measure:
    (rank_1, rows_1, columns_1, sound_1), (rank_2, rows_2, columns_2, sound_2) = (
        (None, shapes[f"w{n}"][0], math.prod(shapes[f"w{n}"][1:]), len(shapes[f"w{n}"]) > 1)
        if f"w{n}" in shapes
        else _product(shapes, f"w{n}_a", f"w{n}_b", f"t{n}")
        for n in (1, 2)
    )
    return rank_2 or rank_1, rows_1 * rows_2, columns_1 * columns_2, sound_1 and sound_2


def _product(shapes: Shapes, a: str, b: str, core: str) -> tuple[int, int, int, bool]:
    """Of LyCORIS' `a @ b`, or of its Tucker form, where both are rank × width and a core lies between them."""
    first, second = shapes[a], shapes[b]
    if core in shapes:
        sound = shapes[core][:2] == (first[0], second[0])
        return first[0], first[1], second[1] * math.prod(shapes[core][2:]), sound and len(second) == 2
    return first[1], first[0], math.prod(second[1:]), len(first) == 2 and len(second) > 1 and second[0] == first[1]


def _change(shapes: Shapes) -> Measure:
    if "diff" not in shapes:  # of the bias alone
        return None, shapes["diff_b"][0], None, True
    return None, shapes["diff"][0], math.prod(shapes["diff"][1:]), True


_FORMS: Mapping[Writing, tuple[Format, Callable[[Shapes], Measure]]] = {
    "diffusers": ("diffusers", _lora),
    "old": ("diffusers", _lora),
    "peft": ("peft", _lora),
    "kohya": ("kohya", _lora),
    "loha": ("loha", _loha),
    "lokr": ("lokr", _lokr),
    "full": ("full", _change),
    "norm": ("full", _change),
}
