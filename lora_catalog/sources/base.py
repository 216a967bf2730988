"""What every source of LoRAs can do; the catalogue knows sources by this protocol only."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lora_catalog.card import LoraCard
from lora_catalog.header import Header
from lora_catalog.reference import LoraRef, SourceName
from lora_catalog.search import Search
from lora_catalog.visitor import Visitor


@dataclass(frozen=True, slots=True)
class FetchedLora:
    """A LoRA that lies on this machine: its pinned ref, its safetensors file, that file's sha256 (hex) and its card.

    Whoever uses `path` does so inside `in_use`: outside it a full store may drop the file.
    """

    ref: LoraRef
    path: Path
    sha256: str
    card: LoraCard
    in_use: AbstractContextManager[object] = field(default_factory=nullcontext, compare=False)


@dataclass(frozen=True, slots=True)
class Downloading:
    """How far a fetch has come, in bytes; `total` is 0 where the Hub did not say."""

    name: str
    done: int
    total: int


# Yields while it downloads, returns the file; closing it gives the download up unless somebody else waits for it too.
Fetching = Generator[Downloading, None, FetchedLora]


@dataclass(frozen=True, slots=True)
class Found:
    """Some cards of a search, and a sentence for people where they may be out of date, else None.

    `refreshing`: the same search, asked again in a moment, may find more.
    """

    cards: Sequence[LoraCard]
    note: str | None = None
    refreshing: bool = False


class Source(Protocol):
    """Serves the refs whose `source` is its `name`. Every method may raise CatalogError, and nothing else on purpose.

    `pin`, `card`, `header`, `preview` and `fetch` raise UnknownRef or a HubError for a ref that the source does not
    hold, or does not show to this visitor.
    """

    @property
    def name(self) -> SourceName: ...

    def search(self, wanted: Search, skip: int, limit: int, visitor: Visitor) -> Found:
        """At most `limit` cards that `wanted.matches`, in the order of `wanted.sort`, less the first `skip`."""
        ...

    def pin(self, ref: LoraRef, visitor: Visitor) -> LoraRef:
        """The ref of exactly one file, at a commit where the source has revisions."""
        ...

    def card(self, ref: LoraRef, visitor: Visitor) -> LoraCard: ...

    def header(self, ref: LoraRef, visitor: Visitor) -> Header:
        """The file's header, without its weights."""
        ...

    def preview(self, ref: LoraRef, visitor: Visitor) -> bytes | None:
        """The card's picture as its author saved it, unchecked; None where there is none."""
        ...

    def fetch(self, ref: LoraRef, visitor: Visitor) -> Fetching:
        """The file itself, checked against the sha256 that the source knows."""
        ...
