"""From a header to family, format and rank, by the names and the shapes of its layers; unsure is an answer too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal
from weakref import WeakKeyDictionary

from lora_catalog.card import Family
from lora_catalog.families.match import choose
from lora_catalog.header import Header
from lora_catalog.layers import Format, Layer, Layers, Torn, layers_of
from lora_catalog.said import Said, read_said

Verdict = Literal["yes", "no", "unknown"]


@dataclass(frozen=True, slots=True)
class Identity:
    """What a header says of a LoRA.

    `layers` counts what it changes but normalisations, `parts` the same by component, `outside` those of them that
    `family` does not have. `rank` is the largest of `ranks`. `alphas`: where the layers' alphas stand, in tensors of
    their own, in the metadata (then `alpha` is theirs) or nowhere (then each is its rank). `candidates` are the
    families that the LoRA may have been made for, `family` the one of them that is meant. `reason`, a clause, tells
    why the family is unknown or other, else it is empty. The rest is what its author wrote: escape it where it shows.
    """

    family: Family | Literal["unknown"]
    format: Format
    rank: int | None
    layers: int
    reason: str
    ranks: tuple[int, ...] = ()
    alphas: Literal["tensors", "metadata", "none"] = "none"
    alpha: float | None = None
    parts: dict[str, int] = field(default_factory=dict)
    outside: int = 0
    candidates: tuple[Family, ...] = ()
    triggers: tuple[str, ...] = ()
    base: str | None = None
    title: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


_KNOWN: WeakKeyDictionary[Header, Identity] = WeakKeyDictionary()


def identify(header: Header) -> Identity:
    """What a LoRA is and which family it was made for; thought of once for each reading of a header. Never raises.

    A family has a layer if its model has a weight of that name and that shape. The LoRA was made for the family that
    has all of its layers, or else for the one that has most of them and at least nine of ten. Where several have as
    many, it is the one that the LoRA covers: trainers take every layer of a kind, so what touches all the attention of
    SSD-1B and nothing else was made for SSD-1B, though SDXL has those layers too. Else it is the one that the metadata
    name; else SDXL rather than what was cut from it; else nobody knows.
    """
    known = _KNOWN.get(header)
    if known is None:
        known = _KNOWN[header] = _identified(header)
    return known


def _identified(header: Header) -> Identity:
    said = read_said(header.metadata)
    try:
        found = layers_of(header.tensors)
    except Torn as torn:
        identity = Identity("unknown", "unknown", None, 0, str(torn))
    else:
        judged = [layer for layer in found.layers if not layer.norm]
        identity = _identity(judged, said) if judged else _without_layers(found)
    return replace(identity, triggers=said.triggers, base=said.base, title=said.title, metadata=dict(said.shown))


def fits(identity: Identity, model_family: Family | None) -> tuple[Verdict, str | None]:
    """Whether a LoRA can be used with models of a family, and a sentence where there is more to say than yes.

    `yes` with a sentence: some layers, at most one of ten, are not the model's and would be left out. `no`: it was made
    for another family, or it cannot be used at all. `unknown`: it may have been made for this family or for another one
    with the same layers, what it was made for cannot be told, or `model_family` is None.
    """
    if identity.layers == 0:
        return "no", f"This file cannot be used as a LoRA: {identity.reason}."
    if identity.family == "unknown" and not identity.candidates:
        return "unknown", f"What this LoRA was made for cannot be told: {identity.reason}."
    if model_family is None:
        return "unknown", "Name a model to learn whether this LoRA fits it."
    if identity.family == "other":
        return "no", f"This LoRA does not fit {model_family}: {identity.reason}."
    if identity.family == model_family:
        left_out = f"{identity.outside} of this LoRA's {identity.layers} layers are not in the model and are left out."
        return "yes", left_out if identity.outside else None
    if model_family not in identity.candidates:
        return "no", f"This LoRA was made for {' or '.join(identity.candidates)}, and the model is {model_family}."
    if identity.family == "unknown":
        return "unknown", f"Whether this LoRA was made for {model_family} cannot be told: {identity.reason}."
    return "unknown", f"This LoRA was made for {identity.family} more likely than for {model_family}."


def _identity(layers: Sequence[Layer], said: Said) -> Identity:
    choice = choose(layers, said)
    ranks = tuple(sorted({layer.rank for layer in layers if layer.rank is not None}))
    in_tensors = any(layer.alpha for layer in layers)
    return Identity(
        family=choice.family,
        format=_format(layers),
        rank=ranks[-1] if ranks else None,
        layers=len(layers),
        reason=choice.reason,
        ranks=ranks,
        alphas="tensors" if in_tensors else "none" if said.alpha is None else "metadata",
        alpha=None if in_tensors else said.alpha,
        parts=dict(Counter(choice.parts)),
        outside=len(choice.outside),
        candidates=choice.families,
    )


def _format(layers: Sequence[Layer]) -> Format:
    """DoRA where any layer is, else what most layers are written as."""
    if any(layer.dora for layer in layers):
        return "dora"
    return Counter(layer.format for layer in layers).most_common(1)[0][0]


def _without_layers(found: Layers) -> Identity:
    """Of a file in which no layer is changed."""
    if found.layers:
        return Identity("unknown", "full", None, 0, "it changes nothing but normalisations")
    names = found.strange
    if any("emb_params" in name or "string_to_param" in name for name in names):
        return Identity("other", "unknown", None, 0, "it is a textual inversion, not a LoRA")
    if any(name.endswith((".weight", ".bias")) for name in names):
        return Identity("other", "full", None, 0, "it holds a model's own weights, not a LoRA")
    return Identity("unknown", "unknown", None, 0, "it holds no tensors that are named as a LoRA's are")
