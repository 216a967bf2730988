"""Recipes in picture files: every format carries its own back, other tools find theirs, and bombs stay folded."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, PngImagePlugin

from core.errors import BadRequest
from core.recipe import recipe_from_text
from core.recipe_files import CHUNK, MOST_BYTES, Ending, picture_as, png_with_recipe, text_in_picture
from core.recipe_text import a1111_text
from tests.core.recipes import HUB, NEON, lora, recipe

MADE = recipe(prompt="ein Käfer 🐞 und 雪", loras=(lora(NEON), lora(HUB)))
PIXELS = bytes(range(256)) * (3 * 64 * 64 // 256)
PNG = png_with_recipe(64, 64, PIXELS, MADE)
SIGNATURE = b"\x89PNG\r\n\x1a\n"
MEGABYTE = 2**20


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width: int, height: int) -> bytes:
    return SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def refusal(data: bytes) -> str:
    with pytest.raises(BadRequest) as refused:
        text_in_picture(data)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_png_carries_its_recipe_and_its_pixels(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(PNG)
    for picture in (PNG, tmp_path / "picture.png"):
        assert recipe_from_text(text_in_picture(picture)) == MADE
    with Image.open(io.BytesIO(PNG)) as opened:
        assert (opened.tobytes(), opened.info["parameters"]) == (PIXELS, a1111_text(MADE))


@pytest.mark.parametrize("ending", ["jpg", "webp"])
def test_other_formats_carry_it_in_their_exif(ending: Ending) -> None:
    picture = picture_as(PNG, ending)
    assert recipe_from_text(text_in_picture(picture)) == MADE
    with Image.open(io.BytesIO(picture)) as opened:
        assert (opened.format, opened.size) == ({"jpg": "JPEG", "webp": "WEBP"}[ending], (64, 64))
        comment = opened.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert comment.startswith(b"UNICODE\0")
    assert comment[8:].decode("utf-16-be") == a1111_text(MADE)


def saved(kind: str, comment: bytes) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, kind, exif=exif)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize(
    "coded",
    [b"UNICODE\0" + "{}".encode("utf-16-le"), b"ASCII\0\0\0", bytes(8), b""],
    ids=["little endian", "ascii", "no kind", "bare"],
)
def test_texts_of_other_tools_are_found_however_they_wrote_them(kind: str, coded: bytes) -> None:
    text = "a cat\nSteps: 20, Seed: 5"
    little = coded.startswith(b"UNICODE")
    comment = b"UNICODE\0" + text.encode("utf-16-le") if little else coded + text.encode()
    assert text_in_picture(saved(kind, comment)) == text


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"compressed iTXt"])
def test_a1111s_text_is_found_in_every_kind_of_chunk(kind: bytes) -> None:
    text = b"a cat\nSteps: 20"
    packed = zlib.compress(text)
    data = {
        b"tEXt": text, b"zTXt": b"\0" + packed, b"iTXt": b"\0\0en\0\0" + text, b"compressed iTXt": b"\1\0\0\0" + packed,
    }[kind]  # fmt: skip
    body = header(8, 8) + chunk(b"IDAT", b"?") + chunk(kind[-4:], b"parameters\0" + data) + chunk(b"IEND", b"")
    assert text_in_picture(body) == text.decode()


def test_a_recipe_too_long_for_a_jpeg_goes_without_what_can_be_spared() -> None:
    left_out = tuple((f"transformer_blocks.{number}.attn.to_q", "the file has half of it") for number in range(2_000))
    receipt: Any = {"applied": 9, "total": 2_009, "skipped": left_out}
    long = recipe(prompt="🐞" * 2_000, loras=(lora(NEON, receipt=receipt),))
    read = recipe_from_text(text_in_picture(picture_as(png_with_recipe(64, 64, PIXELS, long), "jpg")))
    assert read.loras[0].receipt is not None
    assert (read.prompt, read.loras[0].receipt.total, read.loras[0].receipt.skipped) == (long.prompt, 2_009, ())
    endless = recipe(prompt="🐞" * 3_000, negative_prompt="🐞" * 3_000)
    with pytest.raises(BadRequest, match="save it as PNG"):
        picture_as(png_with_recipe(64, 64, PIXELS, endless), "jpg")


def test_a_cut_png_gives_its_recipe_while_it_has_it() -> None:
    end = PNG.index(b"IDAT")
    assert recipe_from_text(text_in_picture(PNG[: end + 100])) == MADE
    assert "cut short" in refusal(PNG[: PNG.index(b"lora-loom") - 4])
    assert "damaged" in refusal(PNG[:60] + b"\0" + PNG[61:])


def test_what_carries_no_recipe_says_so() -> None:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG")
    assert "no recipe" in refusal(out.getvalue())
    for kind in ("JPEG", "WEBP"):
        out = io.BytesIO()
        Image.new("RGB", (8, 8)).save(out, kind)
        assert "no recipe" in refusal(out.getvalue())
    for data in (b"", b"GIF89a", b"<svg/>", b"RIFF\0\0\0\0WAVEfmt "):
        assert "PNG, JPEG or WebP" in refusal(data)
    with pytest.raises(BadRequest, match="upload"):
        text_in_picture(Path("/no/such/picture.png"))


def bombs() -> dict[str, bytes]:
    """Small files that would fill a memory if they were believed."""
    folded = zlib.compress(b" " * 200 * MEGABYTE, 9)
    huge = header(65_000, 65_000) + chunk(b"IDAT", zlib.compress(b"\0" * 10 * MEGABYTE))
    entry = struct.pack(">HHII", 0x010E, 2, 2**31, 8)
    tiff = b"MM\0*" + struct.pack(">IH", 8, 65_535) + entry * 5_000
    return {
        "10 gigapixels": huge + chunk(b"IEND", b""),
        "zTXt": header(8, 8) + chunk(b"zTXt", b"lora-loom\0\0" + folded),
        "iTXt": header(8, 8) + chunk(b"iTXt", b"lora-loom\0\1\0\0\0" + folded),
        "many zTXt": header(8, 8) + chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b" " * MOST_BYTES)) * 2_000,
        "10,000 chunks": header(8, 8) + chunk(b"tEXt", b"Comment\0x") * 10_000 + chunk(b"IEND", b""),
        "endless chunks": header(8, 8) + chunk(b"tEXt", b"a\0") * 150_000,
        "a length that lies": header(8, 8) + struct.pack(">I", 2**31) + b"iTXtlora-loom\0",
        "an Exif that points to itself": b"RIFF\0\0\0\0WEBPEXIF" + struct.pack("<I", len(tiff)) + tiff,
        "long text": header(8, 8) + chunk(b"tEXt", b"lora-loom\0" + b"x" * (MOST_BYTES + 2_000)),
    }


BOMBS = bombs()


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_one_sentence_and_little_memory(name: str, tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(BOMBS[name])
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest) as refused:
            text_in_picture(tmp_path / "bomb")
        assert tracemalloc.get_traced_memory()[1] < 4 * MEGABYTE
    finally:
        tracemalloc.stop()
    assert "\n" not in str(refused.value)


def test_a_file_of_ever_more_parts_is_given_up() -> None:
    assert "more than 100000 parts" in refusal(BOMBS["endless chunks"])


def test_a_recipe_in_front_of_a_hundred_megapixels_is_read_and_nothing_decoded() -> None:
    text = chunk(b"iTXt", b"lora-loom\0\0\0\0\0" + MADE.as_text().encode())
    bomb = header(10_000, 10_000) + text + chunk(b"IDAT", b"no pixels at all") + chunk(b"IEND", b"")
    assert recipe_from_text(text_in_picture(bomb)) == MADE
    with pytest.raises(BadRequest), pytest.warns(Image.DecompressionBombWarning):
        picture_as(bomb, "jpg")


def written_by_pillow(info: PngImagePlugin.PngInfo) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def test_only_a_picture_of_ours_is_saved_in_another_format() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a cat\nSteps: 20")
    with pytest.raises(BadRequest, match="no recipe"):
        picture_as(written_by_pillow(info), "webp")
    info.add_itxt(CHUNK, json.dumps({"version": 1}))
    with pytest.raises(BadRequest, match="required"):
        picture_as(written_by_pillow(info), "webp")


JPEG, WEBP = picture_as(PNG, "jpg"), picture_as(PNG, "webp")


@given(st.sampled_from([PNG, JPEG, WEBP]), st.data())
@settings(deadline=None, max_examples=400)
def test_however_a_picture_is_mutilated_it_is_read_or_refused(picture: bytes, data: st.DataObject) -> None:
    broken = bytearray(picture)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(len(broken) - 1, 4_000)))
        broken[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    broken = broken[: data.draw(st.integers(len(broken) // 4, len(broken)))]
    try:
        text_in_picture(bytes(broken))
    except BadRequest as refused:
        assert "\n" not in str(refused)
