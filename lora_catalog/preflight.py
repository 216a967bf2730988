"""Preflight: what is known of a LoRA before it is fetched, and whether it fits a model."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from lora_catalog.card import CardSource, Family, LoraCard, LoraWeight
from lora_catalog.header import Header
from lora_catalog.identify import fits, identify
from lora_catalog.layers import Format
from lora_catalog.plain import Line, Title
from lora_catalog.reference import LoraRef


class Preflight(BaseModel):
    """As `/inspect_lora` gives it. The file's header alone decides on `family` and `fits`; texts are its author's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ref: str = Field(description="pinned where the source has revisions")
    title: Title
    family: Family | Literal["unknown"]
    format: Format
    rank: int | None = Field(description="the largest of its layers'; null where unknown")
    ranks: tuple[int, ...] = Field(description="every rank among its layers")
    alphas: Literal["tensors", "metadata", "none"] = Field(description="where the layers' alphas stand")
    alpha: float | None = Field(description="of all layers, where the metadata say it")
    layers: int = Field(description="how many layers it touches; 0 where unknown")
    parts: dict[str, int] = Field(description="how many of them in each part of the pipeline")
    bytes: int = Field(description="of the file")
    triggers: tuple[Line, ...]
    weight: LoraWeight = Field(description="the weight its author prefers")
    licence: Line | None
    gated: bool
    private: bool
    nsfw: bool
    source: CardSource
    base: Line | None = Field(description="what it was trained on, as its card or its metadata say")
    metadata: dict[str, Line] = Field(description="what trainers wrote into the header that is of use to people")
    reason: Line | None = Field(description="a clause: why the family is unknown; null where it is not")
    fits: Literal["yes", "no", "unknown"]
    why_not: str | None = Field(description="a sentence; null where it fits without a reserve")


def preflight(ref: LoraRef, card: LoraCard, header: Header, model_family: Family | None) -> Preflight:
    """`ref` is pinned; `model_family` None leaves `fits` unknown."""
    identity = identify(header)
    verdict, why_not = fits(identity, model_family)
    return Preflight(
        ref=str(ref),
        title=card.title,
        family=identity.family,
        format=identity.format,
        rank=identity.rank,
        ranks=identity.ranks,
        alphas=identity.alphas,
        alpha=identity.alpha,
        layers=identity.layers,
        parts=identity.parts,
        bytes=header.bytes,
        triggers=card.triggers or identity.triggers,
        weight=card.weight,
        licence=card.licence,
        gated=card.gated,
        private=card.private,
        nsfw=card.nsfw,
        source=card.source,
        base=card.base or identity.base,
        metadata=identity.metadata,
        reason=identity.reason or None,
        fits=verdict,
        why_not=why_not,
    )
