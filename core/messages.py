"""What crosses the engine's seam: plain, picklable values, and the protocol of anything that draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from core.errors import LoomError
from core.request import GenerationRequest
from lora_catalog.errors import CatalogError


@dataclass(frozen=True)
class LoraFile:
    """A LoRA on this machine, ready to be parsed: its pinned ref, its file and what was asked of it.

    `weight` is the denoiser's, in the steps from `start` to `end` (core/lora/schedule.py) and multiplied by what
    `blocks` name (core/lora/blocks.py); `text_encoder` holds for the whole run.
    """

    ref: str
    sha256: str
    path: Path
    weight: float
    text_encoder: float
    accelerator: bool = False
    start: float = 0.0
    end: float = 1.0
    blocks: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Raster:
    """RGB pixels, row by row: `data` has 3 · width · height bytes."""

    width: int
    height: int
    data: bytes


@dataclass(frozen=True)
class Over:
    """What is drawn over: a picture of the request's size. `mask` has a byte for each pixel, 255 where it is drawn
    anew and 0 where it is kept; None draws all of it anew."""

    picture: Raster
    mask: bytes | None = None


@dataclass(frozen=True)
class Job:
    """One request with its files. `request.seed` is drawn: never -1 here.

    `revision` names the weights it must be drawn with; None leaves that open. `over` is there if `request.image` is.
    `quantisation` is what a recipe's plan says, empty for none; it is heard where this machine can. `id` names it in
    the log.
    """

    request: GenerationRequest
    loras: tuple[LoraFile, ...] = ()
    revision: str | None = None
    over: Over | None = None
    quantisation: str | None = None
    id: str = field(default="", compare=False)


@dataclass(frozen=True)
class Receipt:
    """What was really applied of a LoRA: layers matched, layers in the file, and why the others were left out.

    `text_encoder` of those applied are layers of text encoders.
    """

    applied: int
    total: int
    skipped: tuple[tuple[str, str], ...] = ()
    text_encoder: int = 0


@dataclass(frozen=True)
class Progress:
    """`done` of `total` steps over all pictures, or bytes of a download; `stage` is a short phrase for people.
    `together` pictures are drawn at once: each of their steps counts for all of them."""

    stage: str
    done: int = 0
    total: int = 0
    unit: Literal["steps", "bytes"] = "steps"
    together: int = 1


@dataclass(frozen=True)
class Preview:
    """An early look at picture number `index`."""

    index: int
    raster: Raster


@dataclass(frozen=True)
class Drawn:
    """Picture number `index`, finished."""

    index: int
    seed: int
    raster: Raster


@dataclass(frozen=True)
class Done:
    """The last message of a run that went well. Receipts are in the order of the job's LoRAs; `notes` are sentences
    about what could not be heard of the request."""

    pictures: tuple[Drawn, ...]
    receipts: tuple[Receipt, ...]
    revision: str | None
    plan: dict[str, str | int | None] = field(default_factory=dict)
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failed:
    """The last message of a run that did not; the weights are as they were."""

    error: LoomError | CatalogError


Message = Progress | Preview | Drawn | Done | Failed


class StopFlag(Protocol):
    """A threading.Event, or anything like it."""

    def is_set(self) -> bool: ...


class Engine(Protocol):
    """Draws. Nothing raises across `run`: it ends with exactly one Done or Failed."""

    def availability(self, key: str) -> str | None:
        """None if the model can run here, else a sentence that says why not."""

    def run(self, job: Job, stop: StopFlag) -> Iterator[Message]: ...


@runtime_checkable
class Metered(Protocol):
    """An Engine whose time visitors have a quota of."""

    def seconds(self, request: GenerationRequest) -> int:
        """How much of it a request asks for at most."""


@runtime_checkable
class Loads(Protocol):
    """An Engine that has to load a model before it draws."""

    def loaded(self) -> bool:
        """Whether there is one to draw with at once."""
