"""A captioned folder: pictures beside a metadata.jsonl, as the `datasets` library's imagefolder reads it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image


@dataclass(frozen=True)
class Captioned:
    """One picture and every caption it may be trained with."""

    path: Path
    captions: tuple[str, ...]


class CaptionedFolder:
    """Reads `metadata.jsonl` (one object a line: `file_name`, `text` as one caption or a list of them).

    Raises ValueError, naming folder and line, for a folder that holds no usable picture.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        metadata = root / "metadata.jsonl"
        if not metadata.is_file():
            raise ValueError(f"{root} has no metadata.jsonl: one line per picture, with file_name and text.")
        self.items = [
            self._read(number, line)
            for number, line in enumerate(metadata.read_text(encoding="utf-8").splitlines(), 1)
            if line.strip()
        ]
        if not self.items:
            raise ValueError(f"{metadata} names no picture.")

    def _read(self, number: int, line: str) -> Captioned:
        try:
            row = json.loads(line)
            text = row["text"]
            captions = (text,) if isinstance(text, str) else tuple(text)
            path = self.root / row["file_name"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self._line(number)} is not a captioned picture.") from error
        if not captions or not all(isinstance(caption, str) for caption in captions):
            raise ValueError(f"{self._line(number)} has no caption, or one that is not text.")
        if not path.is_file():
            raise ValueError(f"{self._line(number)} names {path}, which is not there.")
        return Captioned(path, captions)

    def _line(self, number: int) -> str:
        return f"Line {number} of {self.root / 'metadata.jsonl'}"

    def __len__(self) -> int:
        return len(self.items)

    def pixels(self, index: int, width: int, height: int) -> torch.Tensor:
        """The picture as (3, height, width) floats in -1…1, cropped to the aspect and resized if it must be."""
        with Image.open(self.items[index].path) as image:
            picture = image.convert("RGB")
        if picture.size != (width, height):
            scale = max(width / picture.width, height / picture.height)
            picture = picture.resize(
                (max(width, round(picture.width * scale)), max(height, round(picture.height * scale))),
                Image.Resampling.LANCZOS,
            )
            left, top = (picture.width - width) // 2, (picture.height - height) // 2
            picture = picture.crop((left, top, left + width, top + height))
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div_(127.5).sub_(1)

    def caption(self, index: int, rng: random.Random) -> str:
        return rng.choice(self.items[index].captions)


def write_folder(root: Path, items: Iterable[tuple[Image.Image, list[str]]]) -> None:
    """Writes pictures and their captions so that CaptionedFolder, or anybody's trainer, reads them."""
    root.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (image, captions) in enumerate(items):
        name = f"{number // 1000:03d}/{number:06d}.png"
        (root / name).parent.mkdir(exist_ok=True)
        image.save(root / name, compress_level=1)
        lines.append(json.dumps({"file_name": name, "text": captions[0] if len(captions) == 1 else captions}))
    (root / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
