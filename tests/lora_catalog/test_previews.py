"""Previews: re-encoded small, whatever their authors saved; kept on a shelf that does not grow without end."""

from __future__ import annotations

import io
import struct
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from lora_catalog.previews import NO_SHELF, SIDE, PreviewShelf, thumbnail


def encoded(size: tuple[int, int], form: str, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, 120 if mode == "L" else None).save(out, form)
    return out.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_picture_becomes_a_small_webp(form: str) -> None:
    small = Image.open(io.BytesIO(thumbnail(encoded((1024, 512), form)) or b""))
    assert (small.format, small.size) == ("WEBP", (SIDE, SIDE // 2))


def test_what_its_author_wrote_into_it_is_gone() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "secret words of the author")
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "PNG", pnginfo=info)
    assert b"secret" in out.getvalue()
    assert b"secret" not in (thumbnail(out.getvalue()) or b"")


def bomb() -> bytes:
    """A PNG of a few bytes that claims 100,000 × 100,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data",
    [b"", b"no picture", encoded((64, 64), "PNG")[:60], bomb(), encoded((9000, 9000), "PNG", "L"),
     encoded((8, 8), "TIFF"), b"<svg xmlns='http://www.w3.org/2000/svg'/>"],
    ids=["empty", "text", "torn", "bomb", "huge", "tiff", "svg"],
)  # fmt: skip
def test_what_cannot_be_shown_safely_is_none(data: bytes) -> None:
    assert thumbnail(data) is None


def test_a_shelf_keeps_by_name_and_outlives_its_object(tmp_path: Path) -> None:
    PreviewShelf(tmp_path / "previews").put("weaver/neon", b"picture")
    shelf = PreviewShelf(tmp_path / "previews")
    assert (shelf.get("weaver/neon"), shelf.get("weaver/other")) == (b"picture", None)


def test_a_full_shelf_drops_the_oldest(tmp_path: Path) -> None:
    shelf = PreviewShelf(tmp_path, most=3)
    for number in range(5):
        shelf.put(str(number), b"x")
        time.sleep(0.02)  # files' times are coarse
    kept = [number for number in range(5) if shelf.get(str(number)) is not None]
    assert kept == [2, 3, 4]


def test_a_shelf_that_cannot_be_written_keeps_nothing_and_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "previews").write_text("a file in the folder's place")
    shelf = PreviewShelf(tmp_path / "previews")
    shelf.put("weaver/neon", b"picture")
    NO_SHELF.put("weaver/neon", b"picture")
    assert (shelf.get("weaver/neon"), NO_SHELF.get("weaver/neon")) == (None, None)
