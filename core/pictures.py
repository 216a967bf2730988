"""Pictures from outside: read within bounds, upright, and fitted to what is drawn over them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageFilter, ImageOps

from core.errors import BadRequest
from core.messages import Over, Raster

MOST_BYTES = 40_000_000
MOST_PIXELS = 40_000_000  # what large telephones take at once; decoded, 120 MB
SEAM = 4  # px within a mask's edge over which old and new run into each other


@dataclass(frozen=True)
class Canvas:
    """A picture to draw over, RGB and upright, with its mask (L, of the same size) where only a part is drawn anew."""

    picture: Image.Image
    mask: Image.Image | None = None

    def fitted(self, width: int, height: int) -> Over:
        """Scaled to cover the size and cut to it around its middle, the mask as the picture."""
        picture = ImageOps.fit(self.picture, (width, height), Image.Resampling.LANCZOS)
        if self.mask is None:
            return Over(Raster(width, height, picture.tobytes()))
        mask = ImageOps.fit(self.mask, (width, height), Image.Resampling.BILINEAR)
        if mask.getbbox() is None:
            raise BadRequest("mask", "mask must show white within the part of the picture that fits into the size.")
        return Over(Raster(width, height, picture.tobytes()), mask.tobytes())


@dataclass(frozen=True)
class _Nothing:
    """No picture: what is drawn begins with noise alone."""

    def fitted(self, width: int, height: int) -> None:
        """There is nothing to fit."""


NOTHING = _Nothing()


def with_pictures(raw: Mapping[str, Any]) -> tuple[dict[str, Any], Canvas | _Nothing]:
    """A raw request whose `image` and `mask`, paths of uploads, became their files' sha256, and what they show.

    White of a mask is drawn anew, black is kept. Raises BadRequest.
    """
    named = dict(raw)
    image, mask = raw.get("image"), raw.get("mask")
    if image is None:
        if mask is not None:
            raise BadRequest("mask", "mask must come together with image, the picture that it covers.")
        return named, NOTHING
    named["image"], picture = _read("image", image)
    if mask is None:
        return named, Canvas(_opaque(picture, "white").convert("RGB"))
    named["mask"], drawn = _read("mask", mask)
    if drawn.size != picture.size:
        raise BadRequest(
            "mask", f"mask must have the size of image, {_said(picture.size)}, not {_said(drawn.size)} pixels."
        )
    where = _opaque(drawn, "black").convert("L")
    if where.getbbox() is None:
        raise BadRequest("mask", "mask must show white where the picture is drawn anew: it is black all over.")
    return named, Canvas(_opaque(picture, "white").convert("RGB"), where)


def within(drawn: Raster, over: Over) -> Raster:
    """What was drawn inside the mask and, to the bit, what was there outside; their seam lies inside."""
    if over.mask is None:
        return drawn
    size = (drawn.width, drawn.height)
    mask = Image.frombytes("L", size, over.mask)
    soft = ImageChops.darker(mask, mask.filter(ImageFilter.GaussianBlur(SEAM / 2)))
    new, old = (Image.frombytes("RGB", size, data) for data in (drawn.data, over.picture.data))
    return Raster(*size, Image.composite(new, old, soft).tobytes())


def _read(name: str, file: object) -> tuple[str, Image.Image]:
    """The file's sha256 and its picture, upright. Sizes are judged before a pixel is decoded."""
    if not isinstance(file, str | Path):
        raise BadRequest(name, f"{name} must be an uploaded picture.")
    try:
        with Path(file).open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except OSError:
        raise BadRequest(name, f"{name} cannot be read any more: upload the picture again.") from None
    if len(data) > MOST_BYTES:
        raise BadRequest(name, f"{name} must have at most {MOST_BYTES // 10**6} MB.")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise BadRequest(name, f"{name} must have at most {MOST_PIXELS // 10**6} megapixels.")
            upright = ImageOps.exif_transpose(picture)
            upright.load()
    except Image.DecompressionBombError:
        raise BadRequest(name, f"{name} must have at most {MOST_PIXELS // 10**6} megapixels.") from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError):
        raise BadRequest(name, f"{name} must be a whole PNG, JPEG or WebP picture.") from None
    return hashlib.sha256(data).hexdigest(), _in_eight_bits(upright)


def _in_eight_bits(picture: Image.Image) -> Image.Image:
    """Pillow cuts 16-bit greys off at 255, which makes nearly all of them white."""
    return picture.point(lambda value: value / 256).convert("L") if picture.mode.startswith("I") else picture


def _opaque(picture: Image.Image, ground: str) -> Image.Image:
    """Laid on a ground where it lets something through."""
    if not picture.has_transparency_data:
        return picture
    page = Image.new("RGBA", picture.size, ground)
    page.alpha_composite(picture.convert("RGBA"))
    return page


def _said(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"
