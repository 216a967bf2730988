"""ZeroGPU: runs in a Space's GPU worker, the time that they ask for, and what is said when there is none."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any

from core.base_models import BASE_MODELS
from core.bugs import in_words
from core.engine import LocalEngine
from core.errors import Cancelled, LoomError, ModelUnavailable, NoGpu
from core.messages import Done, Failed, Job, Message, Progress, StopFlag
from core.request import GenerationRequest, request_from
from core.samplers import SAMPLERS
from core.second_pass import passes_of
from core.work import forward_tflop
from lora_catalog.errors import CatalogError

log = logging.getLogger(__name__)

_DECODE = 10.5  # TFLOP of decoding 1024 × 1024
_READ = 5.0  # TFLOP of reading both prompts, T5 among the readers
# TFLOP per second: an estimate, not measured. Half an RTX Pro 6000 is worth about 250 in bf16, of which diffusers
# without compilation was seen to get 47 %.
_SPEED = 110.0
_STEP = 0.03  # seconds that a step takes at least, whatever it computes
COMPILING = 1500  # seconds at most, of the owner's own quota
_START = 8.0  # seconds for a fresh worker to take up 28 GB of weights, and to blend
_MARGIN = 1.25  # what is asked for and not used costs nothing; a run that exceeds it is killed

Lend = Callable[..., Callable[[Job], Generator[Message, None, None]]]
"""spaces.GPU: takes a generator function and its `duration`, and gives one that runs it in a process with a GPU."""


class ZeroEngine:
    """An Engine on ZeroGPU: `local` has loaded `key`'s model before the page is launched, and draws in forked workers.

    A worker begins with pristine weights, and knows afterwards what it has blended; nothing that it changes reaches
    this process. What needs no GPU is done here, before one is asked for.
    """

    def __init__(self, local: LocalEngine, key: str, lend: Lend) -> None:
        self._local, self._held = local, BASE_MODELS[key]
        self._sound: set[str] = set()  # hashes of LoRA files that could be parsed
        self._lent = lend(self._drawn, duration=seconds_of)  # one function: each would have workers of its own

    def availability(self, key: str) -> str | None:
        if BASE_MODELS[key].home != self._held.home:
            return (
                f"This Space holds {self._held.title} and nothing else: duplicate it and set LOOM_MODEL to {key} for "
                f"{BASE_MODELS[key].title}."
            )
        return self._local.availability(key)

    def seconds(self, request: GenerationRequest) -> int:
        return _seconds(request)

    def loaded(self) -> bool:
        return self._local.loaded()

    def run(self, job: Job, stop: StopFlag) -> Iterator[Message]:
        """Messages as they come from the worker. Closing the iterator stops its run within a step."""
        try:
            yield Progress("Reading the LoRAs")
            self._checked(job)
            yield Progress("Waiting for a GPU")
            yield from self._followed(job, stop)
        except LoomError as error:
            yield Failed(error)
        except Exception as error:  # noqa: BLE001 (the seam: nothing raises across it)
            yield Failed(_translated(error, job.id))

    def _checked(self, job: Job) -> None:
        """Raises LoomError for what the worker would refuse, where it costs nobody's quota."""
        from core.lora.parse import parse_lora  # torch takes seconds to import: not before it is needed

        if not self._local.holds(job):
            raise ModelUnavailable(
                f"This recipe asks for other weights of {self._held.title} than this Space holds: use its settings "
                "without the recipe."
            )
        for file in job.loras:
            if file.sha256 not in self._sound:
                parse_lora(file.path, file.sha256, file.ref, job.request.entry.family)
                self._sound.add(file.sha256)

    def _followed(self, job: Job, stop: StopFlag) -> Iterator[Message]:
        """A flag of this process is not seen in the worker: each of its messages is the occasion to look at it."""
        with closing(self._lent(job)) as messages:
            for message in messages:
                if stop.is_set() and not isinstance(message, Done | Failed):
                    raise Cancelled("Cancelled.")
                yield message

    def _drawn(self, job: Job) -> Generator[Message, None, None]:
        """In the worker, whose engine is a copy of this process'."""
        with closing(self._local.run(job, _Never())) as messages:  # type: ignore[type-var]
            yield from messages


def run_ahead(local: LocalEngine, key: str, above: Path, lend: Lend) -> None:
    """Before the page is launched: makes `key`'s model run blocks that were compiled ahead of time, compiled now in a
    worker where the folder `above` lacks them. What goes wrong costs speed, never the start."""
    from core.aot import folder_for, is_complete

    def compiled(job: Job) -> Generator[Message, None, None]:
        local.compile_ahead(key, folder)
        yield Progress("Compiled")

    folder = folder_for(above, key)
    try:
        if not is_complete(folder):
            for _ in lend(compiled, duration=lambda job: COMPILING)(Job(request_from({"prompt": ""}, key))):
                pass
        log.info("%d blocks run what was compiled ahead of time", local.take_ahead(key, folder))
    except Exception as error:  # noqa: BLE001 (spaces' refusals, the compiler's errors, a full disk)
        log.warning("No block was compiled ahead of time (%s): drawing without.", type(error).__name__)


class _Never:
    """The stop flag of a run that is stopped by closing it."""

    def is_set(self) -> bool:
        return False


def seconds_of(job: Job) -> int:
    """The GPU time that a job asks for, in seconds; spaces calls it with what the lent function is called with."""
    return _seconds(job.request)


def _seconds(request: GenerationRequest) -> int:
    seconds = sum(_pass(one) for one in passes_of(request))
    return math.ceil(_MARGIN * (_START + seconds))


def _pass(request: GenerationRequest) -> float:
    """Rows that fill a batch up cost what the others do."""
    forwards = SAMPLERS[request.sampler].passes(request.steps_run) * (2 if request.guidance > 1 else 1)
    pixels = request.width * request.height
    batches = math.ceil(request.images / request.batch)
    step = max(_STEP, request.batch * forward_tflop(request.entry, pixels) / _SPEED)
    decode = _DECODE * pixels / 1024**2 / _SPEED
    return batches * (_READ / _SPEED + forwards * step) + request.images * decode


# What spaces 0.51 calls its errors (gr.Error's `title`), and what people can do then.
_SAID = MappingProxyType({
    "ZeroGPU quota exceeded": "Your GPU quota does not cover this picture{left}: ask for fewer steps or pictures, log "
    "in to Hugging Face for more of it, or try again {when}.",
    "ZeroGPU pending credits exceeded": "Too many of your pictures are drawn at once: try again when one is done.",
    "ZeroGPU illegal duration": "This takes longer than a GPU is lent for: ask for fewer pictures or steps.",
    "ZeroGPU queue timeout": "No GPU became free within a minute: try again later.",
    "ZeroGPU client error": "No GPU could be had just now: reload the page and try again.",
})  # fmt: skip
_ABORTED = "The GPU was taken away before the pictures were done: ask for fewer pictures or steps, and try again."


def _translated(error: Exception, number: str = "") -> LoomError | CatalogError:
    """What spaces raises, told by its title, since the core knows no Gradio; all else is a bug."""
    title, text = str(getattr(error, "title", "")), str(getattr(error, "message", ""))
    if title == "ZeroGPU worker error" and text == "GPU task aborted":
        return NoGpu(_ABORTED)
    if text.startswith("No GPU was available"):  # of a visitor without an account, spaces says that as of a quota
        title = "ZeroGPU queue timeout"
    if title not in _SAID:
        return in_words(error, number)
    left = re.search(r"\((\d+)s requested vs\. (\d+)s left\)", text)
    when = re.search(r"Try again in ([\d:]+(?: days?, [\d:]+)?)", text)
    return NoGpu(_SAID[title].format(
        left=f" ({left[1]} s asked for, {left[2]} s left)" if left else "", when=f"in {when[1]}" if when else "later",
    ))  # fmt: skip


def lender() -> Lend:
    """spaces.GPU. It must be asked for before anything uses CUDA, and changes torch where SPACES_ZERO_GPU is set."""
    import spaces

    lend: Any = spaces.GPU
    return lend  # type: ignore[no-any-return]
