"""The second pass: the finished picture enlarged and drawn over once more, and how the steps of both are counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from core.messages import Over, Progress, Raster
from core.request import GenerationRequest
from core.together import Group


@dataclass(frozen=True)
class Stretch:
    """One pass of one batch. `request` is what is asked of it alone; `before` are steps done, over all pictures."""

    request: GenerationRequest
    stage: str
    before: int
    total: int
    together: int

    def after(self, steps: int) -> Progress:
        """The progress of the whole run behind so many steps of this stretch."""
        return Progress(self.stage, self.before + steps * self.together, self.total, together=self.together)


def passes_of(request: GenerationRequest) -> tuple[GenerationRequest, ...]:
    """What each pass draws: the second one at its own size, over what the first one drew."""
    if request.upscale is None:
        return (request,)
    width, height = request.result_size
    larger = {"width": width, "height": height, "strength": request.upscale_strength}
    return request, request.model_copy(update=larger)


def stretches_of(request: GenerationRequest, group: Group) -> Iterator[Stretch]:
    """The passes of one of a request's batches."""
    passes = passes_of(request)
    each, together = sum(one.steps_run for one in passes), len(group.pictures)
    before = group.pictures[0][0] * each
    for one, stage in zip(passes, ("Drawing", "Second pass"), strict=False):
        yield Stretch(one, stage, before, request.images * each, together)
        before += one.steps_run * together


def start_of(first: Raster, over: Over | None, width: int, height: int) -> Over:
    """What the second pass is drawn over. Outside a mask it is the picture that the first one was drawn over, enlarged:
    those pixels are kept once more."""
    drawn = _enlarged(first, width, height)
    if over is None or over.mask is None:
        return Over(_raster(drawn))
    mask = Image.frombytes("L", (first.width, first.height), over.mask).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    within = mask.point(lambda value: 255 if value else 0)
    return Over(_raster(Image.composite(drawn, _enlarged(over.picture, width, height), within)), mask.tobytes())


def _enlarged(raster: Raster, width: int, height: int) -> Image.Image:
    picture = Image.frombytes("RGB", (raster.width, raster.height), raster.data)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _raster(picture: Image.Image) -> Raster:
    return Raster(picture.width, picture.height, picture.tobytes())
