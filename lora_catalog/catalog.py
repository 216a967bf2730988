"""Catalog: the one door to every LoRA: search, inspect, fetch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lora_catalog.card import Family, LoraCard
from lora_catalog.errors import BadField, FileGone, Gated, NotAvailable, NotShown, TooLarge
from lora_catalog.preflight import Preflight, preflight
from lora_catalog.previews import NO_SHELF, PreviewShelf, thumbnail
from lora_catalog.reference import HUB_ENDPOINT, LoraRef
from lora_catalog.search import CURSOR_ALLOWED, Cursor, Search, SearchPage
from lora_catalog.sources.base import Fetching, Source
from lora_catalog.sources.folder import FolderSource
from lora_catalog.visitor import ANYONE, Visitor


class Catalog:
    """Asks the source that a ref names; a search asks all, in the order given. Safe to call from several threads.

    `endpoint` is the Hub's own address: refs may be written as addresses below it. Wherever a ref is taken, its text
    may be given instead, and is refused by BadRef. `previews` keeps pictures that came over the network, `uploads` the
    files that visitors bring.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        endpoint: str = HUB_ENDPOINT,
        previews: PreviewShelf = NO_SHELF,
        uploads: FolderSource | None = None,
    ) -> None:
        self._sources = {source.name: source for source in sources}
        self._endpoint = endpoint
        self._previews = previews
        self._uploads = uploads

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
        notes: list[str] = []
        following, refreshing = None, False
        for source in sources:
            room = wanted.limit - len(cards)
            found = source.search(wanted, skip, room + 1, visitor)  # one more tells whether any are left
            cards += found.cards[:room]
            notes += [found.note] if found.note else []
            refreshing |= found.refreshing
            if len(found.cards) > room:
                following = str(Cursor(source.name, skip + room))
                break
            skip = 0
        return SearchPage(cards=tuple(cards), next=following, note=" ".join(notes) or None, refreshing=refreshing)

    def bundled(self) -> Sequence[LoraCard]:
        """The cards that come with the project; nobody is asked for them."""
        return self._sources["bundled"].search(Search(limit=100), 0, 100, ANYONE).cards

    def card(self, ref: LoraRef | str, visitor: Visitor = ANYONE) -> LoraCard:
        """What people read about a LoRA. Raises BadRef, NotAvailable, UnknownRef, FileTorn."""
        ref = self.ref(ref)
        return self._source(ref).card(ref, visitor)

    def inspect(self, ref: LoraRef | str, model_family: Family | None = None, visitor: Visitor = ANYONE) -> Preflight:
        """What a LoRA is, and whether it fits models of `model_family`, by its header alone. Raises CatalogError."""
        ref = self.ref(ref)
        source = self._source(ref)
        pinned = source.pin(ref, visitor)
        return preflight(pinned, source.card(pinned, visitor), source.header(pinned, visitor), model_family)

    def fetch(self, ref: LoraRef | str, visitor: Visitor = ANYONE) -> Fetching:
        """The LoRA's file on this machine, its sha256 checked, with word of the download on the way."""
        ref = self.ref(ref)
        return self._source(ref).fetch(ref, visitor)

    def preview(self, ref: LoraRef | str) -> bytes | None:
        """The card's picture as a small WebP of our own making, as anyone may see it; None where there is none.

        Raises CatalogError where it cannot be had now, or no search has shown the LoRA.
        """
        ref = self.ref(ref)
        kept = self._previews.get(ref.name) if ref.source == "hub" else None
        if kept is None:
            try:
                picture = self._source(ref).preview(ref, ANYONE)
            except (Gated, NotShown, FileGone, TooLarge):
                picture = b""
            if picture is None:
                return None
            kept = thumbnail(picture) or b""
            if ref.source == "hub":
                self._previews.put(ref.name, kept)
        return kept or None

    def keep(self, file: Path, visitor: Visitor) -> LoraRef:
        """Keeps an uploaded file, for this visitor alone on a public server. Raises CatalogError."""
        if self._uploads is None:
            raise NotAvailable(f"local:{file.name}", tuple(self._sources))
        return self._uploads.add(file, file.name, visitor)

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
