"""The LoRAs that come with the project: one folder each, NAME/{NAME.safetensors, card.json, preview.png}."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lora_catalog.card import Family, LoraCard, LoraWeight
from lora_catalog.errors import BadHeader, BadRef, FileTorn, UnknownRef
from lora_catalog.header import Header, read_header
from lora_catalog.reference import LoraRef, SourceName
from lora_catalog.search import Search
from lora_catalog.sources.base import FetchedLora, Fetching, Found
from lora_catalog.visitor import Visitor

log = logging.getLogger(__name__)


_State = tuple[Path, int, int]  # a file, its mtime in ns and its size


class CardFile(BaseModel):
    """What card.json holds; `sha256` is that of the safetensors file beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: Annotated[str, Field(min_length=1)]
    family: Family
    triggers: tuple[str, ...]
    licence: str
    weight: LoraWeight
    description: str
    base: str
    author: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class BundledSource:
    """Reads `folder` anew at each call: an edited card shows at once. Nobody counts downloads or likes of these."""

    name: SourceName = "bundled"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digests: dict[_State, str] = {}
        self._headers: dict[_State, Header] = {}

    def search(self, wanted: Search, skip: int, limit: int, visitor: Visitor) -> Found:
        """By title, whatever `wanted.sort`: these LoRAs have neither counts nor dates."""
        found = sorted((card for card in self._cards() if wanted.matches(card)), key=lambda card: card.title.casefold())
        return Found(found[skip : skip + limit])

    def pin(self, ref: LoraRef, visitor: Visitor) -> LoraRef:
        """Raises UnknownRef."""
        self._file(ref)
        return ref

    def card(self, ref: LoraRef, visitor: Visitor) -> LoraCard:
        """Raises UnknownRef, or FileTorn for a card that cannot be read."""
        return self._card(ref, self._card_file(ref))

    def header(self, ref: LoraRef, visitor: Visitor) -> Header:
        """Raises UnknownRef, or FileTorn for a file that cannot be read."""
        path = self._file(ref)
        try:
            state = _state(path)
            if state not in self._headers:
                self._headers[state] = read_header(path)
            return self._headers[state]
        except OSError as error:
            raise FileTorn(ref.name, "its file is missing or cannot be opened") from error
        except BadHeader as error:
            raise FileTorn(ref.name, error.reason) from error

    def preview(self, ref: LoraRef, visitor: Visitor) -> bytes | None:
        """Raises UnknownRef."""
        try:
            return self._preview(ref).read_bytes()
        except OSError:
            return None

    def fetch(self, ref: LoraRef, visitor: Visitor) -> Fetching:
        """Raises UnknownRef, or FileTorn for a file that is missing or is not the one its card was written for."""
        written = self._card_file(ref)
        path = self._file(ref)
        try:
            digest = self._digest(path)
        except OSError as error:
            raise FileTorn(ref.name, "its file is missing or cannot be opened") from error
        if digest != written.sha256:
            raise FileTorn(ref.name, "its file is damaged: it is not the one its card was written for")
        yield from ()  # nothing to wait for
        return FetchedLora(ref, path, digest, self._card(ref, written))

    def _cards(self) -> Iterator[LoraCard]:
        """Every card that can be read; of the others the log tells, so that one torn file hides no other LoRA."""
        for path in self._folder.glob("*/card.json"):
            try:
                ref = LoraRef("bundled", path.parent.name)
                yield self._card(ref, self._card_file(ref))
            except (BadRef, FileTorn) as error:
                log.warning("left out of the search: %s", error)

    def _file(self, ref: LoraRef) -> Path:
        folder = self._folder / ref.name
        if not folder.is_dir():
            raise UnknownRef(str(ref))
        return folder / f"{ref.name}.safetensors"

    def _preview(self, ref: LoraRef) -> Path:
        return self._file(ref).with_name("preview.png")

    def _card_file(self, ref: LoraRef) -> CardFile:
        path = self._file(ref).with_name("card.json")
        try:
            return CardFile.model_validate_json(path.read_bytes())
        except OSError as error:
            raise FileTorn(ref.name, "its card is missing or cannot be opened") from error
        except ValidationError as error:
            field = ".".join(map(str, error.errors()[0]["loc"])) or "the whole"
            raise FileTorn(ref.name, f"its card is damaged at {field}") from error

    def _card(self, ref: LoraRef, written: CardFile) -> LoraCard:
        preview = self._preview(ref)
        return LoraCard(
            ref=str(ref),
            downloads=0,
            likes=0,
            nsfw=False,
            gated=False,
            source=self.name,
            preview=preview.name if preview.is_file() else None,
            **written.model_dump(exclude={"sha256"}),
        )

    def _digest(self, path: Path) -> str:
        """The file's sha256 in hex; read once for each state of the file."""
        state = _state(path)
        if state not in self._digests:
            with path.open("rb") as file:
                self._digests[state] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._digests[state]


def _state(path: Path) -> _State:
    status = path.stat()
    return path, status.st_mtime_ns, status.st_size
