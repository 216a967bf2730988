"""Pictures become PNG files as they come, while the engine draws the next; their recipes are put in at the end."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

import core.studio
from core.messages import Done, Drawn, Job, Message, Raster, StopFlag
from core.recipe import recipe_from_text
from core.recipe_files import png_of, text_in_picture, with_recipe
from core.studio import Generated, Studio
from lora_catalog.catalog import Catalog
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.visitor import ANYONE
from tests.core.recipes import recipe

COLOURS = tuple(Raster(64, 64, bytes([shade, 10, 20]) * 64 * 64) for shade in (1, 2, 3))


@dataclass
class Listed:
    """An engine that says what it is given, and goes on to the next picture only when the one before is packed."""

    messages: tuple[Message, ...]
    packed: list[Raster] = field(default_factory=list)
    packing: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    waited_in_vain: bool = False

    def availability(self, key: str) -> str | None:
        return None

    def run(self, job: Job, stop: StopFlag) -> Iterator[Message]:
        for message in self.messages:
            yield message
            if isinstance(message, Drawn) and not self.packing.acquire(timeout=30):
                self.waited_in_vain = True


def generated(engine: Listed, images: int, monkeypatch: pytest.MonkeyPatch) -> Generated:
    def watched(width: int, height: int, data: bytes) -> bytes:
        engine.packed.append(Raster(width, height, data))
        engine.packing.release()
        return png_of(width, height, data)

    monkeypatch.setattr(core.studio, "png_of", watched)
    studio = Studio(engine, Catalog([BundledSource(Path("nowhere"))]), "pocket-sd3")
    raw = {"prompt": "a cat", "seed": 7, "images": images, "width": 64, "height": 64}
    *_, last = studio.generate(raw, ANYONE, threading.Event())
    assert isinstance(last, Generated)
    return last


def done(*rasters: Raster) -> Done:
    plan = {"dtype": "float32", "quantisation": None, "device": "cpu", "batch": 1}
    return Done(tuple(Drawn(n, 7 + n, raster) for n, raster in enumerate(rasters)), (), "0" * 64, plan)


def pixels(png: bytes) -> bytes:
    with Image.open(io.BytesIO(png)) as picture:
        return picture.tobytes()


def test_each_is_packed_while_the_next_is_drawn_and_none_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = done(*COLOURS)
    engine = Listed((*whole.pictures, whole))
    made = generated(engine, 3, monkeypatch)
    assert not engine.waited_in_vain
    assert engine.packed == list(COLOURS)
    assert [pixels(png) for png in made.pictures] == [raster.data for raster in COLOURS]
    assert [recipe_from_text(text_in_picture(png)) for png in made.pictures] == list(made.recipes)


def test_what_was_drawn_anew_or_never_announced_is_given_as_it_is_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a lack of memory, where the smaller plan begins again with the first picture."""
    whole = done(COLOURS[1], COLOURS[2])
    engine = Listed((Drawn(0, 7, COLOURS[0]), whole.pictures[0], whole))
    made = generated(engine, 2, monkeypatch)
    assert [pixels(png) for png in made.pictures] == [COLOURS[1].data, COLOURS[2].data]


def test_the_texts_stand_in_whole_chunks_in_front_of_the_pixels() -> None:
    plain = png_of(64, 64, COLOURS[0].data)
    png = with_recipe(plain, recipe(prompt="ein Käfer 🐞"))
    kinds, at = [], 8
    while at < len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        data, check = png[at + 8 : at + 8 + length], png[at + 8 + length : at + 12 + length]
        assert zlib.crc32(kind + data) == int.from_bytes(check, "big")
        kinds.append(kind)
        at += 12 + length
    assert kinds[:3] == [b"IHDR", b"iTXt", b"iTXt"]
    assert set(kinds[3:-1]) == {b"IDAT"}
    assert kinds[-1] == b"IEND"
    assert pixels(png) == pixels(plain) == COLOURS[0].data
