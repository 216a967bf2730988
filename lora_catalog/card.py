"""LoraCard: what people read about a LoRA before they use it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from lora_catalog.plain import Line, Title
from lora_catalog.reference import SourceName

Family = Literal[
    "sd3-medium",
    "sd3.5-medium",
    "sd3.5-large",
    "sdxl",
    "ssd-1b",
    "sd1",
    "sd2",
    "flux",
    "other",
    "pocket-sd3",
    "pocket-sdxl",
]

CardSource = Literal[SourceName, "curated"]  # a curated card's ref is one of the Hub

LoraWeight = Annotated[float, Field(ge=-5, le=5, allow_inf_nan=False)]


class LoraCard(BaseModel):
    """One card, as `/search_loras` gives it. Texts are its author's, made plain: escape them where shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ref: str = Field(description="the text of a LoraRef")
    title: Title
    family: Family
    licence: Line | None = Field(description="an SPDX id or the Hub's own name for it; null where none is given")
    triggers: tuple[Line, ...] = Field(description="words that call the LoRA, best first")
    weight: LoraWeight = Field(description="the weight its author prefers")
    downloads: int = Field(ge=0, description="in the last 30 days; 0 where nobody counts")
    likes: int = Field(ge=0)
    nsfw: bool
    gated: bool = Field(description="its author asks people to accept terms on the Hub first")
    private: bool = False
    source: CardSource
    base: Line | None = Field(description="the model it was trained on: a model key or a repo of the Hub")
    preview: str | None = Field(description="a picture's path within the LoRA's source")
    description: Line
    author: Line | None
    updated: str | None = Field(default=None, description="when its repo last changed, as ISO 8601 in UTC")
    checked: bool = Field(default=True, description="false for a curated card that the Hub has not confirmed yet")
