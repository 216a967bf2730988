"""Recipes in picture files: written into PNG, JPEG and WebP, and found there without decoding a pixel.

PNG (https://www.w3.org/TR/png-3): our JSON in an iTXt chunk `lora-loom`, A1111's text in one called `parameters`.
JPEG and WebP: Exif, with A1111's text in UserComment, as UTF-16 behind `UNICODE`, where its heirs look for it, and our
JSON in ImageDescription.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal

from PIL import ExifTags, Image

from core.errors import BadRequest
from core.recipe import LONGEST, Recipe, RecipeLora, recipe_from_text
from core.recipe_text import a1111_text

CHUNK = "lora-loom"
PARAMETERS = "parameters"
MOST_BYTES = 4 * LONGEST  # of a text, however it is packed: UTF-8 takes up to four bytes a letter
MOST_PARTS = 100_000  # of a file: libpng writes one for every 8 kB of pixels
MOST_PIXELS = 64_000_000  # that are saved in another format
LARGEST_EXIF = 65_000  # bytes; a segment of a JPEG holds 65,533

Ending = Literal["jpg", "webp"]

_DESCRIPTION, _COMMENT = int(ExifTags.Base.ImageDescription), int(ExifTags.Base.UserComment)
_EXIF_PLACE = int(ExifTags.IFD.Exif)
_EXIF_HEAD = b"Exif\0\0"
_ENTRY = struct.Struct(">HHII")  # a tag, its type, how many of it, where they stand
_UNICODE, _ASCII = b"UNICODE\0", b"ASCII\0\0\0"
_BEHIND_HEADER = 8 + 25  # bytes: a PNG's signature and its first chunk
_FORMATS = {"jpg": ("JPEG", {"quality": 95, "subsampling": 0}), "webp": ("WEBP", {"quality": 92, "method": 4})}


class _Torn(Exception):
    """`args[0]` is a clause about the picture."""


def png_of(width: int, height: int, data: bytes) -> bytes:
    """PNG bytes of RGB pixels, without a text: all of the work that needs no recipe."""
    out = io.BytesIO()
    Image.frombytes("RGB", (width, height), data).save(out, "PNG", compress_level=1)
    return out.getvalue()


def with_recipe(png: bytes, recipe: Recipe) -> bytes:
    """A picture of `png_of` that carries the recipe in our chunk and beside it in A1111's, in front of its pixels."""
    texts = _itxt_chunk(CHUNK, recipe.as_text()), _itxt_chunk(PARAMETERS, a1111_text(recipe))
    return b"".join((png[:_BEHIND_HEADER], *texts, png[_BEHIND_HEADER:]))


def png_with_recipe(width: int, height: int, data: bytes, recipe: Recipe) -> bytes:
    """Both at once."""
    return with_recipe(png_of(width, height, data), recipe)


def _itxt_chunk(keyword: str, text: str) -> bytes:
    """Not compressed, of no language."""
    data = keyword.encode("latin-1") + b"\0\0\0\0\0" + text.encode()
    return struct.pack(">I", len(data)) + b"iTXt" + data + struct.pack(">I", zlib.crc32(b"iTXt" + data))


def picture_as(png: bytes, ending: Ending) -> bytes:
    """One of our PNG files as JPEG or WebP, its recipe in the Exif.

    Raises BadRequest for what is no picture of ours, and where a recipe is too long for a JPEG.
    """
    kind, how = _FORMATS[ending]
    exif = _exif(_recipe_in(png))
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise BadRequest("image", f"image must have at most {MOST_PIXELS // 10**6} megapixels.")
            out = io.BytesIO()
            picture.convert("RGB").save(out, kind, exif=exif, **how)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise BadRequest("image", "image must be a PNG picture that is whole: get it again.") from None
    return out.getvalue()


def _recipe_in(png: bytes) -> Recipe:
    text = _texts(io.BytesIO(png)).get(CHUNK)
    if text is None:
        raise BadRequest("image", "image carries no recipe: choose a PNG that LoRA Loom made.")
    return recipe_from_text(text)


def _exif(recipe: Recipe) -> bytes:
    """As much as fits into a JPEG: the names of what was left out of LoRAs go first, then A1111's text."""
    short = recipe.model_copy(update={"loras": tuple(_without_names(lora) for lora in recipe.loras)})
    parameters = a1111_text(recipe)
    for ours, theirs in ((recipe, parameters), (short, parameters), (short, "")):
        text = json.dumps(ours.as_json(), separators=(",", ":"))  # ASCII, as the tag has to be
        packed = _packed(text.encode("ascii") + b"\0", _UNICODE + theirs.encode("utf-16-be", "replace"))
        if len(packed) <= LARGEST_EXIF:
            return packed
    raise BadRequest("image", "The recipe of this picture is too long for other formats: save it as PNG.")


def _packed(description: bytes, comment: bytes) -> bytes:
    """A directory of the description and of where the second stands, which holds Exif's version and the comment.

    By hand, because Pillow writes the comment as bytes, and readers want it UNDEFINED, as Exif has it.
    """
    second, texts = 8 + 2 + 2 * 12 + 4, 8 + 2 * (2 + 2 * 12 + 4)
    first_entries = _ENTRY.pack(_DESCRIPTION, 2, len(description), texts) + _ENTRY.pack(_EXIF_PLACE, 4, 1, second)
    version = struct.pack(">HHI4s", 0x9000, 7, 4, b"0232")
    second_entries = version + _ENTRY.pack(_COMMENT, 7, len(comment), texts + len(description))
    directories = b"".join(struct.pack(">H", 2) + entries + bytes(4) for entries in (first_entries, second_entries))
    return _EXIF_HEAD + b"MM\0*" + struct.pack(">I", 8) + directories + description + comment


def _without_names(lora: RecipeLora) -> RecipeLora:
    receipt = lora.receipt and lora.receipt.model_copy(update={"skipped": ()})
    return lora.model_copy(update={"receipt": receipt})


def text_in_picture(picture: Path | bytes) -> str:
    """What a picture says of how it was made: our JSON if it is there, else A1111's text; no pixel is decoded.

    Raises BadRequest, in one sentence, for what is no picture, is torn, or carries neither.
    """
    try:
        with io.BytesIO(picture) if isinstance(picture, bytes) else picture.open("rb") as file:
            texts = _texts(file)
    except OSError:
        raise BadRequest("image", "image cannot be read: upload the picture again.") from None
    text = texts.get(CHUNK) or texts.get(PARAMETERS, "")
    if not text.strip():
        raise BadRequest(
            "image",
            "This picture carries no recipe: many sites and editors take it out, so use the file as first saved.",
        )
    return text


def _texts(file: IO[bytes]) -> dict[str, str]:
    """Its texts under our own name and A1111's."""
    start = file.read(12)
    read = next((read for is_it, read in _READERS if is_it(start)), None)
    if read is None:
        raise BadRequest("image", "image must be a PNG, JPEG or WebP picture.")
    try:
        return read(file)
    except _Torn as fault:
        raise BadRequest("image", f"The recipe of this picture cannot be read: {fault}.") from None


# PNG ------------------------------------------------------------------------------------------------------------------


def _png(file: IO[bytes]) -> dict[str, str]:
    file.seek(8)
    texts: dict[str, str] = {}
    for _ in range(MOST_PARTS):
        head = file.read(8)
        if len(head) < 8:
            if texts:
                return texts
            raise _Torn("the file is cut short")
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            return texts
        start = file.tell()
        if kind in _PNG_TEXTS:
            keyword = file.read(min(length, 80)).partition(b"\0")[0].decode("latin-1")
            if keyword in (CHUNK, PARAMETERS) and keyword not in texts:
                file.seek(start)
                texts[keyword] = _PNG_TEXTS[kind](_whole_chunk(file, kind, length))
        if CHUNK in texts and PARAMETERS in texts:
            return texts
        file.seek(start + length + 4)
    raise _Torn(f"the file has more than {MOST_PARTS} parts")


def _whole_chunk(file: IO[bytes], kind: bytes, length: int) -> bytes:
    """What stands behind its keyword."""
    if length > MOST_BYTES + 1_000:
        raise _Torn(f"its text is longer than {LONGEST} letters")
    data, check = file.read(length), file.read(4)
    if len(check) < 4 or zlib.crc32(kind + data) != int.from_bytes(check, "big"):
        raise _Torn("its text is damaged")
    return data.partition(b"\0")[2]


def _itxt(data: bytes) -> str:
    flags, rest = data[:2], data[2:]
    _language, _, rest = rest.partition(b"\0")
    _translated, _, text = rest.partition(b"\0")
    return _decoded(_unpacked(text) if flags[:1] == b"\1" else text, "utf-8")


def _unpacked(data: bytes) -> bytes:
    """Stops where it gets longer than any recipe: a thousand bytes may hide a megabyte."""
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data, MOST_BYTES + 1)
    except zlib.error:
        raise _Torn("its text is damaged") from None
    if len(text) > MOST_BYTES:
        raise _Torn(f"its text is longer than {LONGEST} letters")
    return text


def _decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise _Torn("its text is damaged") from None


_PNG_TEXTS: dict[bytes, Callable[[bytes], str]] = {
    b"tEXt": lambda data: _decoded(data, "latin-1"),
    b"zTXt": lambda data: _decoded(_unpacked(data[1:]), "latin-1"),
    b"iTXt": _itxt,
}

# JPEG and WebP: where their Exif stands -------------------------------------------------------------------------------


def _jpeg(file: IO[bytes]) -> dict[str, str]:
    file.seek(2)
    for _ in range(MOST_PARTS):
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] in (0xD9, 0xDA):  # the end, or the pixels: no Exif comes later
            return {}
        length = int.from_bytes(head[2:], "big") - 2
        start = file.tell()
        if head[1] == 0xE1 and file.read(6) == _EXIF_HEAD:
            return _tiff(file.read(max(0, length - 6)))
        file.seek(start + max(0, length))
    raise _Torn(f"the file has more than {MOST_PARTS} parts")


def _webp(file: IO[bytes]) -> dict[str, str]:
    file.seek(12)
    for _ in range(MOST_PARTS):
        head = file.read(8)
        if len(head) < 8:
            return {}
        kind, length = struct.unpack("<4sI", head)
        if kind == b"EXIF":
            return _tiff(file.read(min(length, 2 * MOST_BYTES)).removeprefix(_EXIF_HEAD))
        file.seek(file.tell() + length + length % 2)
    raise _Torn(f"the file has more than {MOST_PARTS} parts")


# Exif is a TIFF: https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf, pages 13 to 16 ------------------------


def _tiff(data: bytes) -> dict[str, str]:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        raise _Torn("its Exif is damaged")
    try:
        (first,) = struct.unpack_from(f"{order}I", data, 4)
        ours = _entry(data, order, first, _DESCRIPTION)
        texts = {CHUNK: _decoded(ours.rstrip(b"\0"), "utf-8")} if ours.startswith(b"{") else {}
        if pointer := _entry(data, order, first, _EXIF_PLACE):
            (second,) = struct.unpack(f"{order}I", pointer)
            texts[PARAMETERS] = _comment(_entry(data, order, second, _COMMENT))
    except struct.error:
        raise _Torn("its Exif is damaged") from None
    return texts


def _entry(data: bytes, order: str, offset: int, wanted: int) -> bytes:
    """The text or pointer under a tag of the directory that begins there; empty where it has none."""
    (count,) = struct.unpack_from(f"{order}H", data, offset)
    for at in range(offset + 2, offset + 2 + 12 * count, 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", data, at)
        if tag == wanted:
            size = length * {1: 1, 2: 1, 4: 4, 7: 1, 13: 4}.get(kind, 0)  # BYTE, ASCII, LONG, UNDEFINED and IFD
            (place,) = struct.unpack_from(f"{order}I", data, at + 8) if size > 4 else (at + 8,)
            return data[place : place + size]
    return b""


def _comment(value: bytes) -> str:
    """UTF-16 of either order, since writers differ, or UTF-8; what none of them can be is no text."""
    kind, text = value[:8], value[8:]
    if kind == _UNICODE:
        for encoding in ("utf-16-be", "utf-16-le"):
            said = text.decode(encoding, "replace")
            if "Steps: " in said:
                return said
        return ""
    return (text if kind in (_ASCII, bytes(8)) else value).decode("utf-8", "replace")


_READERS: tuple[tuple[Callable[[bytes], bool], Callable[[IO[bytes]], dict[str, str]]], ...] = (
    (lambda start: start.startswith(b"\x89PNG\r\n\x1a\n"), _png),
    (lambda start: start.startswith(b"\xff\xd8\xff"), _jpeg),
    (lambda start: start[:4] == b"RIFF" and start[8:] == b"WEBP", _webp),
)
