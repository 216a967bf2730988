"""Reads curated.toml, our own hand-picked list of well-known LoRAs of the Hub, into cards."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from lora_catalog.card import Family, LoraCard, LoraWeight
from lora_catalog.errors import BadRef
from lora_catalog.reference import LoraRef

SHIPPED = Path(__file__).with_name("curated.toml")

_Text = Annotated[str, Field(min_length=1, pattern=r"^\S(.*\S)?$")]  # one line, no spaces around it


class CuratedEntry(BaseModel):
    """One LoRA as the file writes it. `file` is left out where its name is not known; the author is the repo's user."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    repo: str
    file: str | None = None
    title: _Text
    family: Family
    base: _Text
    triggers: tuple[_Text, ...] = Field(default=(), strict=False)  # TOML has lists only
    licence: _Text | None = None
    weight: LoraWeight = 1.0
    description: _Text
    author: _Text | None = None
    verified: bool = Field(description="whether some source names this repo and this file together")
    source: _Text = Field(description="where the entry was read, and what of it could not be verified")

    @field_validator("repo", "file")
    @classmethod
    def _stands_in_a_ref(cls, value: str, info: ValidationInfo) -> str:
        try:
            LoraRef("hub", value) if info.field_name == "repo" else LoraRef("hub", "USER/REPO", None, value)
        except BadRef as error:
            raise ValueError(error.reason) from None
        return value

    def card(self) -> LoraCard:
        """Its card, without what only the Hub knows: downloads, likes, previews, whether it is gated."""
        return LoraCard(
            ref=str(LoraRef("hub", self.repo, None, self.file)),
            title=self.title,
            family=self.family,
            licence=self.licence,
            triggers=self.triggers,
            weight=self.weight,
            downloads=0,
            likes=0,
            nsfw=False,
            gated=False,
            source="curated",
            base=self.base,
            preview=None,
            description=self.description,
            author=self.author or self.repo.partition("/")[0],
            checked=self.verified,
        )


class _CuratedFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    lora: tuple[CuratedEntry, ...]


def curated_cards(path: Path | None = None) -> tuple[LoraCard, ...]:
    """The cards of a curated list, by default the shipped one, in its order.

    The file is our own, so a mistake in it is a bug: ValueError, naming the entry and its field.
    """
    file = path or SHIPPED
    told = tomllib.loads(file.read_text(encoding="utf-8"))
    try:
        return tuple(entry.card() for entry in _CuratedFile.model_validate(told).lora)
    except ValidationError as error:
        raise ValueError(f"{file.name}: {_first_fault(error, told)}") from None


def _first_fault(error: ValidationError, told: dict[str, Any]) -> str:
    first = error.errors()[0]
    match first["loc"]:
        case ("lora", int(place), str(field), *_):
            repo = told["lora"][place].get("repo", "no repo")
            return f"entry {place + 1} ({repo}), field {field}: {first['msg']}"
        case place:
            return f"{'.'.join(map(str, place))}: {first['msg']}"
