"""The stage: what stands where the picture will be: nothing yet, an early look with its progress, or how it ended."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable
from html import escape

from PIL import Image

from core.messages import Drawn, Preview, Progress, Raster
from core.studio import Generated, Update
from lora_catalog.errors import megabytes
from ui import texts
from ui.durations import in_short

EMPTY = (
    f'<div class="loom idle empty"><p>{texts.NO_PICTURE}</p></div>'
    f'<div class="status"><p class="said">{texts.NO_PICTURE_STATUS}</p></div>'
)


class Stage:
    """Follows one run and draws it as HTML; everything it shows comes from the run's updates."""

    def __init__(self, images: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._images, self._clock = images, clock
        self._first: tuple[float, int] | None = None  # when the first step, or piece of a file, was done, and which
        self._progress = Progress("Starting")
        self._begun = 0  # pictures that were there when those of now were begun
        self._look: str | None = None  # the newest preview, as a data URI
        self._drawn: dict[int, str] = {}

    def follow(self, update: Update) -> None:
        """Takes in one update of the run."""
        match update:
            case Progress():
                if update.stage != self._progress.stage:
                    self._first = None
                self._progress, self._begun = update, len(self._drawn)
                if update.total and self._first is None:
                    self._first = (self._clock(), update.done)
            case Preview(_, raster):
                self._look = _data_uri(raster)
            case Drawn(index, _, raster):
                self._look = self._drawn[index] = _data_uri(raster)
            case Generated():
                pass

    def drawing(self) -> str:
        """The run as it stands: the look, the finished ones, a bar and its figures."""
        look = f'<img class="look" src="{self._look}" alt="An early look at the picture">' if self._look else ""
        finished = "".join(f'<img src="{uri}" alt="">' for uri in self._drawn.values()) if self._images > 1 else ""
        kind = f"{'looking' if look else 'idle busy'}{' many' if self._images > 1 else ''}"
        return (
            f'<div class="loom {kind}">{look}<div class="finished">{finished}</div></div>'
            f'<div class="status">{self._bar()}<p class="said">{escape(self._said())}</p></div>'
        )

    def _said(self) -> str:
        parts = [self._progress.stage.rstrip(" .…")]
        if self._progress.unit == "bytes":
            parts.append(f"{megabytes(self._progress.done)} of {megabytes(self._progress.total)}")
            parts += self._left()
        elif self._progress.total:
            each = max(1, self._progress.total // max(1, self._images))
            together = self._progress.together
            picture = self._begun if together > 1 else min(len(self._drawn), self._images - 1)
            step = min(each, max(0, (self._progress.done - picture * each) // together))
            parts.append(f"step {step} of {each}")
            if together > 1:
                parts.append(f"pictures {picture + 1} to {picture + together} of {self._images}")
            elif self._images > 1:
                parts.append(f"picture {picture + 1} of {self._images}")
            parts += self._left()
        return " · ".join(parts) + (" …" if len(parts) == 1 else "")

    def _left(self) -> list[str]:
        """How long it will take, from what was done since the first: a first step waits for the prompt to be read."""
        if self._first is None or self._progress.done <= self._first[1]:
            return []
        each = (self._clock() - self._first[0]) / (self._progress.done - self._first[1])
        left = each * (self._progress.total - self._progress.done)
        return [texts.TIME_LEFT.format(in_short(round(left)))] if left >= 1 else []

    def _bar(self) -> str:
        if not self._progress.total:
            return '<div class="bar waiting" role="progressbar" aria-label="Working"><i></i></div>'
        share = round(100 * self._progress.done / self._progress.total)
        return (
            f'<div class="bar" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100" '
            f'aria-valuenow="{share}"><i style="width:{share}%"></i></div>'
        )


def finished(generated: Generated) -> str:
    """The stage steps aside for the gallery and says how long it took."""
    many = len(generated.pictures)
    what = "One picture" if many == 1 else f"{many} pictures"
    told = (f"{what} in {generated.seconds:.1f} s.", *generated.notes, "Each PNG carries its recipe.")
    return _ended(f"{' '.join(told)} {generated.recorded}")


def ended(sentence: str, pictures_there: bool) -> str:
    """A run without a picture: what was there before stays."""
    return _ended(sentence) if pictures_there else EMPTY.split('<div class="status">', 1)[0] + _ended(sentence)


def _ended(sentence: str) -> str:
    return f'<div class="status"><p class="said" role="status">{escape(sentence)}</p></div>'


def _data_uri(raster: Raster) -> str:
    out = io.BytesIO()
    Image.frombytes("RGB", (raster.width, raster.height), raster.data).save(out, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()
