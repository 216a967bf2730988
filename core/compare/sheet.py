"""The contact sheet: a comparison as one labelled PNG, with all its recipes in a text chunk."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from core.base_models import BASE_MODELS
from core.compare.plan import Cell
from core.compare.run import Standing

CHUNK = "lora-loom-grid"
LARGEST_SIDE = 6000  # px of all pictures together; they are shrunk to it
SMALLEST_PICTURE = 192  # px: below that a label does not fit; smaller ones are enlarged to a whole multiple
_PAPER, _CARD, _INK, _PENCIL, _SEAM = "#f4efe4", "#fffdf8", "#241f1a", "#685d50", "#dfd4c0"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(standing: Standing, font: Path | None = None) -> bytes:
    """A PNG of what is drawn so far, under its headings. `font` is a file that FreeType reads; None: Pillow's own.

    Text that is too long is shortened here; the chunk `lora-loom-grid` holds all of it, as `Standing.table` has it.
    """
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(CHUNK, json.dumps(standing.table(), ensure_ascii=False, separators=(",", ":")))
    out = io.BytesIO()
    _Sheet(standing, font).drawn().save(out, "PNG", pnginfo=chunks)
    return out.getvalue()


class _Sheet:
    """Lays out one sheet; lengths are in pixels."""

    def __init__(self, standing: Standing, font: Path | None) -> None:
        self._standing = standing
        plan = standing.plan
        self._columns, self._rows = len(plan.columns.labels), len(plan.rows.labels)
        self._tiles = _tiles(standing, max(self._columns, self._rows))
        self._wide = max(tile.width for tile in self._tiles.values())
        self._high = max(tile.height for tile in self._tiles.values())
        self._unit = max(13, self._wide // 18)  # height of the letters
        self._font = _font(font, self._unit)
        self._large = _font(font, round(1.5 * self._unit))
        gutter = max(_width(self._font, text) for text in (*plan.rows.labels, plan.rows.title))
        self._gap = self._unit
        self._left = self._gap + (min(math.ceil(gutter), self._wide) + self._gap if gutter else 0)
        self._line = round(1.5 * self._unit)

    def drawn(self) -> Image.Image:
        plan, gap, line = self._standing.plan, self._gap, self._line
        width = max(self._left + self._columns * (self._wide + gap), 40 * self._unit)
        header = self._header()
        top = gap + 2 * line + len(header) * line + gap
        captions = 2 * line
        titled = [text for text in (plan.columns.title,) if text]
        first = top + (len(titled) + 1) * line
        height = first + self._rows * (self._high + captions) + line + gap
        self._page = Image.new("RGB", (width, height), _PAPER)
        self._pen = ImageDraw.Draw(self._page)
        self._say(gap, gap, plan.base.prompt or "No prompt", width - 2 * gap, self._large)
        for number, text in enumerate(header):
            self._say(gap, gap + 2 * line + number * line, text, width - 2 * gap, fill=_PENCIL)
        for text in titled:
            self._say(self._left, top, text, width - self._left - gap, fill=_PENCIL)
        self._say(gap, first - line, plan.rows.title, self._left - 2 * gap, fill=_PENCIL)
        for column, text in enumerate(plan.columns.labels):
            self._say(self._at(column), first - line, text, self._wide)
        for row, text in enumerate(plan.rows.labels):
            self._say(gap, first + row * (self._high + captions), text, self._left - 2 * gap)
        for cell in plan.cells:
            self._cell(cell, self._at(cell.column), first + cell.row * (self._high + captions))
        said = "Differences: root mean square of the pixels, in percent of the full range. Made with LoRA Loom."
        self._say(gap, height - line - gap // 2, said, width - 2 * gap, fill=_PENCIL)
        return self._page

    def _at(self, column: int) -> int:
        return self._left + column * (self._wide + self._gap)

    def _header(self) -> list[str]:
        base = self._standing.plan.base
        facts = [
            BASE_MODELS[base.model].title, f"seed {base.seed}", f"{base.steps} steps", f"guidance {base.guidance:g}",
            f"{base.width} × {base.height}",
        ]  # fmt: skip
        blend = ", ".join(self._standing.plan.blend)
        without = f"without {base.negative_prompt}" if base.negative_prompt else ""
        return [text for text in (" · ".join(facts), blend, without) if text]

    def _cell(self, cell: Cell, x: int, y: int) -> None:
        tile = self._tiles.get(cell.key)
        if tile is not None:
            self._page.paste(tile, (x, y))
            below = y + tile.height
        else:
            self._pen.rectangle((x, y, x + self._wide - 1, y + self._high - 1), _CARD, _SEAM)
            why = self._standing.failed.get(cell.key, "Not drawn.")
            for number, text in enumerate(_wrapped(why, self._font, self._wide - self._gap)):
                if (number + 2) * self._line < self._high:
                    self._say(x + self._gap // 2, y + self._gap // 2 + number * self._line, text, self._wide)
            below = y + self._high
        self._say(x, below + self._gap // 4, caption(self._standing, cell), self._wide, fill=_PENCIL)

    def _say(self, x: int, y: int, text: str, room: float, font: Font | None = None, fill: str = _INK) -> None:
        font = font or self._font
        self._pen.text(
            (x, y), _shortened(" ".join(text.split()), font, room), fill=fill, font=font, features=_figures(font)
        )


def caption(standing: Standing, cell: Cell) -> str:
    """What stands under a cell: how far it is from the bare picture, and from the whole blend."""
    said = zip(standing.apart(cell), ("bare", "all"), strict=True)
    return ", ".join(f"{apart:.1f}% from {what}" for apart, what in said if apart is not None)


def _tiles(standing: Standing, most_in_line: int) -> Mapping[str, Image.Image]:
    """The pictures at the size they have on the sheet; an empty one where nothing is drawn."""
    pictures = {}
    for key, generated in standing.drawn.items():
        with Image.open(io.BytesIO(generated.pictures[0])) as picture:
            pictures[key] = picture.convert("RGB")
    base = standing.plan.base
    side = max([max(picture.size) for picture in pictures.values()] or [max(base.width, base.height)])
    scale = min(1.0, LARGEST_SIDE / (side * most_in_line))
    if side < SMALLEST_PICTURE:
        scale = float(-(-SMALLEST_PICTURE // side))
    resized = {
        key: picture.resize(
            (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.LANCZOS
        )
        for key, picture in pictures.items()
    }
    return resized or {"": Image.new("RGB", (round(base.width * scale), round(base.height * scale)), _CARD)}


def _font(file: Path | None, size: int) -> Font:
    if file is not None:
        try:
            return ImageFont.truetype(file, size)
        except OSError:  # a FreeType without the file's compression
            pass
    return ImageFont.load_default(size)


def _width(font: Font, text: str) -> float:
    if not isinstance(font, ImageFont.FreeTypeFont):
        return font.getlength(text)
    return font.getlength(text, features=_figures(font))


def _figures(font: Font) -> list[str] | None:
    """Figures as high as letters, where the machine can choose them: a low 1 looks like an I."""
    chooses = isinstance(font, ImageFont.FreeTypeFont) and font.layout_engine == ImageFont.Layout.RAQM
    return ["lnum"] if chooses else None


def _shortened(text: str, font: Font, room: float) -> str:
    if _width(font, text) <= room:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _width(font, text[:middle] + "…") <= room else (low, middle - 1)
    return text[:low].rstrip() + "…"


def _wrapped(text: str, font: Font, room: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _width(font, longer) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
