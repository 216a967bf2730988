"""Gathers the LoRAs of a request: pinned, checked against the model by their headers, and only then fetched."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack

from core.base_models import BaseModel
from core.errors import BadRequest, Cancelled, LoraDoesNotFit, LoraFileBroken, LoraRefused
from core.lora.strength import factor_for
from core.messages import LoraFile, Progress, StopFlag
from core.request import GenerationRequest, WeightedLora
from lora_catalog.catalog import Catalog
from lora_catalog.sources.base import FetchedLora
from lora_catalog.visitor import Visitor

Gathered = tuple[GenerationRequest, tuple[LoraFile, ...]]


class Gathering:
    """One request's LoRAs, asked for by `visitor`. The files stay on this machine until `held` is closed."""

    def __init__(self, catalog: Catalog, visitor: Visitor, stop: StopFlag, held: ExitStack) -> None:
        self._catalog, self._visitor, self._stop, self._held = catalog, visitor, stop, held

    def gather(self, request: GenerationRequest, accelerator: str | None) -> Generator[Progress, None, Gathered]:
        """The request with its refs pinned, and their files, the accelerator's last; downloads are told on the way.

        Raises BadRequest, LoraRefused, Cancelled or a CatalogError. Every header is looked at before any download.
        """
        pinned = tuple(self._pinned(lora, request.entry) for lora in request.loras)
        refs = [lora.ref for lora in pinned]
        if len(set(refs)) < len(refs):
            raise BadRequest("loras", "loras must name each LoRA once: two refs mean the same file.")
        factor = factor_for((lora.weight for lora in pinned if not lora.muted), request.total_strength)
        files = []
        for lora in pinned:
            fetched = yield from self._fetched(lora.ref)
            if lora.sha256 not in (None, fetched.sha256):
                raise LoraRefused(f"{lora.ref} has changed since this recipe was made: its file is another one now.")
            files.append(_asked(lora, fetched, factor))
        if accelerator is not None:
            fetched = yield from self._fetched(accelerator)
            files.append(LoraFile(str(fetched.ref), fetched.sha256, fetched.path, 1.0, 1.0, accelerator=True))
        return request.model_copy(update={"loras": pinned}), tuple(files)

    def _pinned(self, lora: WeightedLora, entry: BaseModel) -> WeightedLora:
        """The same with the ref of exactly one file, which fits the model as far as its header tells."""
        ref = self._catalog.ref(lora.ref)
        if entry.accelerator is not None and ref.same_lora(self._catalog.ref(entry.accelerator)):
            raise BadRequest("loras", f"loras must leave out {ref}: {entry.title} has it already.")
        preflight = self._catalog.inspect(ref, entry.family, self._visitor)
        if preflight.layers == 0:
            raise LoraFileBroken(f"{ref} cannot be used as a LoRA: {preflight.reason}.")
        if preflight.fits == "no":
            why_not = (preflight.why_not or "").rstrip(".").replace("This", "this", 1)
            raise LoraDoesNotFit(
                f"{ref} does not fit {entry.title}: {why_not}; choose a LoRA for {entry.family}, or another model."
            )
        return lora.model_copy(update={"ref": preflight.ref})

    def _fetched(self, ref: str) -> Generator[Progress, None, FetchedLora]:
        """The file, kept until the end of the run; a stop while it is fetched gives the download up."""
        fetching = self._catalog.fetch(ref, self._visitor)
        try:
            while True:
                at = next(fetching)
                if self._stop.is_set():
                    raise Cancelled("Cancelled.")
                yield Progress(f"Fetching {at.name}", at.done, at.total, "bytes")
        except StopIteration as end:
            fetched: FetchedLora = end.value
        finally:
            fetching.close()
        self._held.enter_context(fetched.in_use)
        return fetched


def _asked(lora: WeightedLora, fetched: FetchedLora, factor: float) -> LoraFile:
    """The file with what was asked of it; words are read once, before the first step, so `start` decides on them."""
    words = lora.weight if lora.text_encoder is None else lora.text_encoder
    return LoraFile(
        str(fetched.ref),
        fetched.sha256,
        fetched.path,
        weight=0.0 if lora.muted else factor * lora.weight,
        text_encoder=0.0 if lora.muted or lora.start > 0 else factor * words,
        start=lora.start,
        end=lora.end,
        blocks=lora.blocks or {},
    )
