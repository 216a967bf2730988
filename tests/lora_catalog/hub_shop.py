"""A catalogue over an emulated Hub, with a clock of its own, and LoRA repos to stock the Hub with."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lora_catalog.card import LoraCard
from lora_catalog.catalog import Catalog
from lora_catalog.hub.api import HubApi
from lora_catalog.index import CardIndex
from lora_catalog.previews import PreviewShelf
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.sources.hub import HubSource
from lora_catalog.store import LoraStore
from lora_catalog.visitor import Visitor
from tests.hub import EmulatedHub
from tests.lora_catalog.conftest import SD3_ATTENTION, lora_bytes

SD3 = {SD3_ATTENTION.format(block=block, layer="to_q"): (192, 192) for block in range(6)}
WEIGHTS = lora_bytes(SD3)
ANN = Visitor("ann", "hf_of_ann")
BOB = Visitor("bob", "hf_of_bob")


@dataclass
class Clock:
    """Seconds since the epoch, as far as the catalogue knows."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Shop:
    """A catalogue over an emulated Hub, and the ways to begin it anew on the same disk."""

    hub: EmulatedHub
    home: Path
    clock: Clock
    curated: tuple[LoraCard, ...] = ()
    largest_file: int = 10_000_000
    patience: float = 10.0

    def open(self) -> Catalog:
        self.index = CardIndex(self.home / "catalog.sqlite")
        store = LoraStore(self.home / "store", largest_file=self.largest_file)
        api = HubApi(self.hub.endpoint, sleep=lambda seconds: None)
        source = HubSource(api, self.index, store, self.curated, self.clock, self.patience)
        previews = PreviewShelf(self.home / "previews")
        return Catalog([BundledSource(self.home / "none"), source], self.hub.endpoint, previews)

    def reopened(self) -> Catalog:
        self.index.close()
        return self.open()


@pytest.fixture
def shop(hub: EmulatedHub, tmp_path: Path) -> Iterator[Shop]:
    """A catalogue over an empty Hub; where it was opened, its index is closed at the end."""
    hub.add_user("hf_of_bob")
    shop = Shop(hub, tmp_path, Clock())
    yield shop
    shop.index.close()


def add(hub: EmulatedHub, name: str = "weaver/neon", files: dict[str, bytes] | None = None, **more: Any) -> str:
    """A LoRA repo of a pocket family."""
    card = {"base_model": "lora-loom/pocket-sd3", "license": "mit", "instance_prompt": "neon lights"}
    more = {"card": card | more.pop("card", {}), "tags": ["lora"]} | more
    return hub.add_repo(name, {"neon.safetensors": WEIGHTS} if files is None else files, **more)


def refs(catalog: Catalog, **fields: Any) -> list[str]:
    return [card.ref for card in catalog.search(**fields).cards]


def eventually(holds: Any, seconds: float = 10.0) -> bool:
    """Whether something comes true within bounds that no healthy run meets."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def _picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 40, 40)).save(out, "PNG")
    return out.getvalue()


PICTURE = _picture()
