"""LOSSY: shortcuts that draw faster and change pixels, by the name that a request and a recipe have. Data, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from core.base_models import BaseModel
from lora_catalog.errors import quoted


@dataclass(frozen=True)
class Lossy:
    """`fewest` steps a model must take by default for it to make sense: fewer have nothing to spare."""

    title: str
    does: str
    fewest: int


LOSSY: Mapping[str, Lossy] = MappingProxyType(
    {
        "pab": Lossy(
            "Attention in every other step (PAB)",
            "The steps between take the last attention again: faster, and the picture changes a little.",
            fewest=10,
        ),
    }
)


def lossy_of(entry: BaseModel) -> tuple[str, ...]:
    """Those that make sense for a model."""
    return tuple(name for name, shortcut in LOSSY.items() if entry.steps >= shortcut.fewest)


def lossy_fault(names: Sequence[str], entry: BaseModel) -> str | None:
    """What is wrong with a request's `lossy` for a model, as the rest of a sentence; None where nothing is."""
    for name in names:
        if name not in LOSSY:
            return f"must name shortcuts that there are ({', '.join(LOSSY)}): {quoted(name)} is none"
        if name not in lossy_of(entry):
            return f"must leave {name} out for {entry.key}, which draws in so few steps that there is none to spare"
        if names.count(name) > 1:
            return f"must name each shortcut once: {name} stands there twice"
    return None
