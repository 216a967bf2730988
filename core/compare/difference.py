"""How far two pictures lie apart, as one number."""

from __future__ import annotations

import io
import math

from PIL import Image, ImageChops, ImageStat


def difference(one: bytes, other: bytes) -> float | None:
    """The root mean square of the difference of two PNGs' RGB values, in percent of the full range.

    0 is the same picture, 100 is white against black. None where the sizes differ.
    """
    with Image.open(io.BytesIO(one)) as a, Image.open(io.BytesIO(other)) as b:
        if a.size != b.size:
            return None
        squares = ImageStat.Stat(ImageChops.difference(a.convert("RGB"), b.convert("RGB"))).rms
    return 100 / 255 * math.sqrt(sum(channel**2 for channel in squares) / len(squares))
