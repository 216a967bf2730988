"""ZeroGPU: runs in a Space's GPU worker, the time that they ask for, and what is said when there is none."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from types import MappingProxyType
from typing import Any

from core.base_models import BASE_MODELS, BaseModel
from core.bugs import in_words
from core.engine import LocalEngine
from core.errors import Cancelled, LoomError, ModelUnavailable, NoGpu
from core.messages import Done, Failed, Job, Message, Progress, StopFlag
from core.request import GenerationRequest
from lora_catalog.card import Family
from lora_catalog.errors import CatalogError

# TFLOP of one forward of the denoiser at the family's own size (`_SIDE`, else 1024 px), computed from its shapes:
# two for each multiplication of its matrices, convolutions and attentions; SSD-1B's and SD's are estimates.
_FORWARD: Mapping[Family, float] = MappingProxyType({
    "sd3.5-large": 31.1, "sd3.5-medium": 11.3, "sd3-medium": 8.9, "sdxl": 6.8, "ssd-1b": 4.0, "sd1": 0.8, "sd2": 2.0,
    "pocket-sd3": 0.01, "pocket-sdxl": 0.01,
})  # fmt: skip
_SIDE: Mapping[Family, int] = MappingProxyType({"sd1": 512, "sd2": 768, "pocket-sd3": 128, "pocket-sdxl": 128})
_DECODE = 10.5  # TFLOP of decoding 1024 × 1024
_READ = 5.0  # TFLOP of reading both prompts, T5 among the readers
# TFLOP per second: an estimate, not measured. Half an RTX Pro 6000 is worth about 250 in bf16, of which diffusers
# without compilation was seen to get 47 %.
_SPEED = 110.0
_STEP = 0.03  # seconds that a step takes at least, whatever it computes
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
        if BASE_MODELS[key].repo != self._held.repo:
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


class _Never:
    """The stop flag of a run that is stopped by closing it."""

    def is_set(self) -> bool:
        return False


def seconds_of(job: Job) -> int:
    """The GPU time that a job asks for, in seconds; spaces calls it with what the lent function is called with."""
    return _seconds(job.request)


def _seconds(request: GenerationRequest) -> int:
    entry = request.entry
    forwards = request.steps * (2 if request.guidance > 1 else 1)
    step = max(_STEP, _forward(entry, request.width * request.height) / _SPEED)
    decode = _DECODE * request.width * request.height / 1024**2 / _SPEED
    return math.ceil(_MARGIN * (_START + request.images * (_READ / _SPEED + forwards * step + decode)))


def _forward(entry: BaseModel, pixels: int) -> float:
    """TFLOP; about a quarter is attention among the picture's own parts, and grows with the square of its size."""
    share = pixels / _SIDE.get(entry.family, 1024) ** 2
    return _FORWARD[entry.family] * share * (0.75 + 0.25 * share)


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
