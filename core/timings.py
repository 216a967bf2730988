"""Timings: how long pictures took on this machine, so that the next can be told beforehand; measured, never guessed."""

from __future__ import annotations

from collections import defaultdict, deque
from statistics import median
from threading import Lock

from core.request import GenerationRequest
from core.samplers import SAMPLERS
from core.second_pass import passes_of

REMEMBERED = 20  # runs of each model: the newest say best how busy the machine is
_Shape = tuple[float, bool]  # numbers through the denoiser: its passes times pixels; whether guidance doubles them


class Timings:
    """Safe to use from several threads. Knows nothing of a model before its first picture."""

    def __init__(self) -> None:
        self._runs: defaultdict[str, deque[tuple[_Shape, float]]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._lock = Lock()

    def note(self, request: GenerationRequest, seconds: float) -> None:
        """Takes in a run: `seconds` for all its pictures, without the loading of the model."""
        with self._lock:
            self._runs[request.model].append((_shape(request), seconds / request.images))

    def seconds(self, request: GenerationRequest) -> float | None:
        """Of one picture: as runs of the same shape took, else in proportion to the work; None where none was run."""
        with self._lock:
            runs = list(self._runs.get(request.model, ()))
        asked = _shape(request)
        alike = [seconds for shape, seconds in runs if shape == asked]
        if alike:
            return median(alike)
        return median(seconds * _work(asked) / _work(shape) for shape, seconds in runs) if runs else None


def _shape(request: GenerationRequest) -> _Shape:
    passes = [(SAMPLERS[one.sampler].passes(one.steps_run), one.width * one.height) for one in passes_of(request)]
    return float(sum(count * pixels for count, pixels in passes)), request.guidance > 1


def _work(shape: _Shape) -> float:
    numbers, guided = shape
    return numbers * (2 if guided else 1)
