"""Catalog: the one door to every LoRA: search, inspect, fetch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from lora_catalog.card import Family, LoraCard
from lora_catalog.errors import BadField, NotAvailable
from lora_catalog.identify import Format, Identity, identify
from lora_catalog.reference import HUB_ENDPOINT, LoraRef
from lora_catalog.search import CURSOR_ALLOWED, Cursor, Search, SearchPage
from lora_catalog.sources.base import FetchedLora, Source
from lora_catalog.visitor import ANYONE, Visitor


class Preflight(BaseModel):
    """What is known of a LoRA before it is fetched, as `/inspect_lora` gives it; its header alone decides on `fits`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ref: str = Field(description="pinned where the source has revisions")
    family: Family | Literal["unknown"]
    format: Format
    rank: int | None = Field(description="the largest of its layers'; null where unknown")
    layers: int = Field(description="how many layers it touches; 0 where unknown")
    bytes: int = Field(description="of the file")
    triggers: tuple[str, ...]
    licence: str | None
    gated: bool
    fits: Literal["yes", "no", "unknown"]
    why_not: str | None = Field(description="a sentence; null where it fits")


class Catalog:
    """Asks the source that a ref names; a search asks all, in the order given. Safe to call from several threads.

    `endpoint` is the Hub's own address: refs may be written as addresses below it. Wherever a ref is taken, its text
    may be given instead, and is refused by BadRef.
    """

    def __init__(self, sources: Sequence[Source], endpoint: str = HUB_ENDPOINT) -> None:
        self._sources = {source.name: source for source in sources}
        self._endpoint = endpoint

    def ref(self, text: object) -> LoraRef:
        """The ref that a user's text means; a ref is itself. Raises BadRef."""
        return text if isinstance(text, LoraRef) else LoraRef.parse(text, self._endpoint)

    def search(
        self,
        query: str | None = None,
        family: str | None = None,
        sort: str | None = None,
        licence: str | None = None,
        nsfw: bool | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        visitor: Visitor = ANYONE,
    ) -> SearchPage:
        """The next `limit` cards behind `cursor`; values come raw and null means the default (`Search` holds both).

        Raises BadField, naming the field and what it may be.
        """
        wanted = Search.read(
            {
                "query": query,
                "family": family,
                "sort": sort,
                "licence": licence,
                "nsfw": nsfw,
                "limit": limit,
                "cursor": cursor,
            }
        )
        sources, skip = self._start(wanted)
        cards: list[LoraCard] = []
        for source in sources:
            room = wanted.limit - len(cards)
            found = source.search(wanted, skip, room + 1, visitor)  # one more tells whether any are left
            cards += found[:room]
            if len(found) > room:
                return SearchPage(cards=tuple(cards), next=str(Cursor(source.name, skip + room)))
            skip = 0
        return SearchPage(cards=tuple(cards), next=None)

    def card(self, ref: LoraRef | str, visitor: Visitor = ANYONE) -> LoraCard:
        """What people read about a LoRA. Raises BadRef, NotAvailable, UnknownRef, FileTorn."""
        ref = self.ref(ref)
        return self._source(ref).card(ref, visitor)

    def inspect(self, ref: LoraRef | str, model_family: Family | None = None, visitor: Visitor = ANYONE) -> Preflight:
        """What a LoRA is, and whether it fits models of `model_family`. Raises as `card` does."""
        ref = self.ref(ref)
        source = self._source(ref)
        card = source.card(ref, visitor)
        header = source.header(ref, visitor)
        identity = identify(header)
        fits, why_not = _verdict(identity, model_family)
        return Preflight(
            ref=str(ref),
            family=identity.family,
            format=identity.format,
            rank=identity.rank,
            layers=identity.layers,
            bytes=header.bytes,
            triggers=card.triggers,
            licence=card.licence,
            gated=card.gated,
            fits=fits,
            why_not=why_not,
        )

    def fetch(self, ref: LoraRef | str, visitor: Visitor = ANYONE) -> FetchedLora:
        """The LoRA's file on this machine, its sha256 checked. Raises as `card` does."""
        ref = self.ref(ref)
        return self._source(ref).fetch(ref, visitor)

    def _source(self, ref: LoraRef) -> Source:
        if ref.source not in self._sources:
            raise NotAvailable(str(ref), tuple(self._sources))
        return self._sources[ref.source]

    def _start(self, wanted: Search) -> tuple[list[Source], int]:
        """The sources that are still to be asked, and how many cards of the first have been shown."""
        sources = list(self._sources.values())
        if wanted.cursor is None:
            return sources, 0
        start = Cursor.parse(wanted.cursor)
        while sources and sources[0].name != start.source:
            sources.pop(0)
        if not sources:
            raise BadField("cursor", CURSOR_ALLOWED)
        return sources, start.skip


def _verdict(identity: Identity, model_family: Family | None) -> tuple[Literal["yes", "no", "unknown"], str | None]:
    if identity.family == "unknown":
        return "unknown", f"What this LoRA was made for cannot be told: {identity.reason}."
    if model_family is None:
        return "unknown", "Name a model to learn whether this LoRA fits it."
    if identity.family == model_family:
        return "yes", None
    return "no", f"This LoRA was made for {identity.family}, and the model is {model_family}."
