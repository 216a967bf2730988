"""What every source of LoRAs can do; the catalogue knows sources by this protocol only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lora_catalog.card import LoraCard
from lora_catalog.header import Header
from lora_catalog.reference import LoraRef, SourceName
from lora_catalog.search import Search
from lora_catalog.visitor import Visitor


@dataclass(frozen=True, slots=True)
class FetchedLora:
    """A LoRA that lies on this machine: its pinned ref, its safetensors file, that file's sha256 (hex) and its card."""

    ref: LoraRef
    path: Path
    sha256: str
    card: LoraCard


class Source(Protocol):
    """Serves the refs whose `source` is its `name`. Every method may raise CatalogError, and nothing else on purpose.

    `card`, `header` and `fetch` raise UnknownRef for a ref that the source does not hold.
    """

    @property
    def name(self) -> SourceName: ...

    def search(self, wanted: Search, skip: int, limit: int, visitor: Visitor) -> Sequence[LoraCard]:
        """At most `limit` cards that `wanted.matches`, in the order of `wanted.sort`, less the first `skip`."""
        ...

    def card(self, ref: LoraRef, visitor: Visitor) -> LoraCard: ...

    def header(self, ref: LoraRef, visitor: Visitor) -> Header:
        """The file's header, without its weights."""
        ...

    def fetch(self, ref: LoraRef, visitor: Visitor) -> FetchedLora:
        """The file itself, checked against the sha256 that the source knows."""
        ...
