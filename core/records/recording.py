"""Recording: what a visitor consents to goes into the journal, and what came of it in words."""

from __future__ import annotations

import io
import json
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from PIL import Image

from core.errors import NotRecorded
from core.recipe import Recipe
from core.records.journal import Journal
from core.records.schema import Record
from core.request import Consent

log = logging.getLogger(__name__)

THUMBNAIL = 320  # pixels of the longer side

_KEPT = {
    "none": ("Nothing of it is kept here.", "Nothing of them is kept here."),
    "recipe": ("Kept here: the recipe, without the picture.", "Kept here: the recipes, without the pictures."),
    "picture": ("Kept here: picture and recipe.", "Kept here: pictures and recipes."),
}


@dataclass(frozen=True)
class Recorded:
    """What is kept of `count` pictures: as much as `consent` says, or nothing where a sentence says why not."""

    consent: Consent
    count: int
    why_not: str = ""

    def __str__(self) -> str:
        return self.why_not or _KEPT[self.consent][self.count > 1]


def recorded(
    journal: Journal, pictures: Sequence[bytes], recipes: Sequence[Recipe], consent: Consent, visitor: str
) -> Recorded:
    """Keeps one record for each picture (a PNG) and its recipe, all or none; durable when it returns.

    Never raises: the pictures are drawn, and whatever keeps them from the journal must not cost them.
    """
    why_not = ""
    if consent != "none":
        try:
            journal.keep([_record(*drawn, consent, visitor) for drawn in zip(pictures, recipes, strict=True)])
        except NotRecorded as error:
            why_not = str(error)
        except Exception:  # a bug, or a fault that the journal has no name for
            log.exception("a picture could not be recorded")
            why_not = str(NotRecorded("a fault of LoRA Loom, which its log describes"))
    return Recorded(consent, len(pictures), why_not)


def _record(png: bytes, recipe: Recipe, consent: Consent, visitor: str) -> Record:
    said = recipe.as_json()
    pixels = (png, _thumbnail(png)) if consent == "picture" else (None, None)
    return Record(
        uuid.uuid4().hex, datetime.fromisoformat(recipe.created_at).astimezone(UTC), visitor, recipe.prompt,
        recipe.model.key, _text(said["loras"]), _text(said), *pixels,
    )  # fmt: skip


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _thumbnail(png: bytes) -> bytes:
    out = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        picture.save(out, "WEBP", quality=80, method=2)  # half the time of the default, a tenth more bytes
    return out.getvalue()
