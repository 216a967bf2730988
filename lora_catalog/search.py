"""A search of the catalogue: its fields, defaults and ranges, the page it gives, the cursor between pages."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from lora_catalog.card import Family, LoraCard
from lora_catalog.errors import BadField

SearchFamily = Family | Literal["sd3"]
Sort = Literal["downloads", "likes", "recent"]

FAMILIES_OF: dict[str, frozenset[str]] = {family: frozenset([family]) for family in get_args(Family)} | {
    "sd3": frozenset(["sd3-medium", "sd3.5-medium", "sd3.5-large"])
}


class Search(BaseModel):
    """What to look for. `nsfw` false leaves such LoRAs out; `licence` is compared whole, whatever its case."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    query: Annotated[StrictStr, Field(max_length=200)] = ""
    family: SearchFamily | None = None
    sort: Sort = "downloads"
    licence: Annotated[StrictStr, Field(max_length=100)] | None = None
    nsfw: StrictBool = False
    limit: Annotated[StrictInt, Field(ge=1, le=100)] = 20
    cursor: Annotated[StrictStr, Field(max_length=1000)] | None = None

    @classmethod
    def read(cls, fields: Mapping[str, object]) -> Search:
        """A search from raw values, where null or an empty text means the default.

        Raises BadField for the first that is wrong.
        """
        try:
            return cls.model_validate({name: value for name, value in fields.items() if value not in (None, "")})
        except ValidationError as error:
            field = str(error.errors()[0]["loc"][0])
            raise BadField(field, _ALLOWED.get(field, f"one of {', '.join(_ALLOWED)}")) from None

    def matches(self, card: LoraCard) -> bool:
        """Whether a card passes the filters, and has every word of the query somewhere in its texts."""
        texts = " ".join([card.ref, card.title, *card.triggers, card.description]).casefold()
        return (
            (self.family is None or card.family in FAMILIES_OF[self.family])
            and (self.licence is None or self.licence.casefold() == (card.licence or "").casefold())
            and (self.nsfw or not card.nsfw)
            and all(word in texts for word in self.query.casefold().split())
        )


CURSOR_ALLOWED = "the value “next” of an earlier answer, or empty"
_ALLOWED = {
    "query": "a text of at most 200 letters",
    "family": f"one of {', '.join(FAMILIES_OF)}, or empty",
    "sort": f"one of {', '.join(get_args(Sort))}",
    "licence": "a text of at most 100 letters, or empty",
    "nsfw": "true or false",
    "limit": "a whole number from 1 to 100",
    "cursor": CURSOR_ALLOWED,
}


class SearchPage(BaseModel):
    """Some cards, and the cursor that asks for those behind them: null where these were the last.

    `note` is a sentence where the cards may be out of date; `refreshing` says that the same search, asked again in a
    moment, may find more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cards: tuple[LoraCard, ...]
    next: str | None
    note: str | None = None
    refreshing: bool = False


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page begins: how many of a source's matching cards come before it. Opaque as text."""

    source: str
    skip: int

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(json.dumps([self.source, self.skip]).encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raises BadField for anything that `str()` did not write."""
        try:
            match json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)):
                case [str(source), int(skip)] if skip >= 0:
                    return cls(source, skip)
        except (ValueError, RecursionError):
            pass
        raise BadField("cursor", CURSOR_ALLOWED)
