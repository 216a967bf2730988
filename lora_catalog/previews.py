"""Previews: the cards' pictures, re-encoded small, so that no picture reaches a page as its author saved it."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from PIL import Image

SIDE = 384  # pixels, of the longer side; cards show them at half of that
LARGEST_SOURCE = 17_000_000  # pixels: larger pictures, which take 100 MB and more to decode, are not
GOOD_FOR, NONE_FOR = 7 * 86_400, 3_600  # seconds for which a picture is kept, and that there is none to show
MOST_KEPT = 2_000  # files of about 15 KB
_DECODING = threading.BoundedSemaphore(2)  # at a time: each takes memory and a core
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


def thumbnail(picture: bytes) -> bytes | None:
    """A small WebP of a picture's first frame, without its metadata; None where it is none that can be shown."""
    try:
        with _DECODING, Image.open(io.BytesIO(picture), formats=_FORMATS) as opened:
            if opened.width * opened.height > LARGEST_SOURCE:
                return None
            opened.draft("RGB", (2 * SIDE, 2 * SIDE))
            small = opened.convert("RGB")
    except Exception:  # noqa: BLE001 - Pillow's decoders raise anything on a broken picture, and none is our bug
        return None
    small.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    small.save(out, "WEBP", quality=80)
    return out.getvalue()


class PreviewShelf:
    """Thumbnails by name in `folder`, made at the first one; the oldest go when there are too many. None: none kept."""

    def __init__(self, folder: Path | None, most: int = MOST_KEPT) -> None:
        self._folder, self._most = folder, most

    def get(self, name: str) -> bytes | None:
        """None where there is none yet; empty where it is known that there is none to show."""
        if self._folder is None:
            return None
        path = _path(self._folder, name)
        try:
            status = path.stat()
            if time.time() - status.st_mtime > (GOOD_FOR if status.st_size else NONE_FOR):
                return None
            return path.read_bytes()
        except OSError:
            return None

    def put(self, name: str, picture: bytes) -> None:
        """Does nothing where the disk is full: a preview is a comfort."""
        if self._folder is None:
            return
        path = _path(self._folder, name)
        partial = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(picture)
            partial.replace(path)
            _trim(self._folder, self._most)
        except OSError:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


NO_SHELF = PreviewShelf(None)


def _path(folder: Path, name: str) -> Path:
    return folder / f"{hashlib.sha256(name.encode()).hexdigest()[:40]}.webp"


def _trim(folder: Path, most: int) -> None:
    with os.scandir(folder) as entries:
        kept = [(entry.stat().st_mtime, entry.path) for entry in entries if entry.name.endswith(".webp")]
    for _, path in sorted(kept)[: max(0, len(kept) - most)]:
        Path(path).unlink(missing_ok=True)
