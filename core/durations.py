"""How long a request will draw, from how long the last ones did."""

from __future__ import annotations

from core.request import GenerationRequest

_NEWEST = 0.3  # the weight of the newest of all that were measured


class Durations:
    """Seconds for each unit of work of a model; a model that has not drawn yet takes what a job took on average."""

    def __init__(self) -> None:
        self._rates: dict[str, float] = {}
        self._mean: float | None = None

    def learn(self, request: GenerationRequest, seconds: float) -> None:
        """`seconds` are those that the device was busy with it."""
        rate = seconds / work_of(request)
        self._rates[request.model] = _mixed(self._rates.get(request.model), rate)
        self._mean = _mixed(self._mean, seconds)

    def of(self, request: GenerationRequest) -> float | None:
        """In seconds; None before anything has been drawn."""
        rate = self._rates.get(request.model)
        return self._mean if rate is None else rate * work_of(request)


def work_of(request: GenerationRequest) -> float:
    """Steps × pixels × pictures, twice with guidance, which asks the denoiser with and without the prompt."""
    forwards = request.steps * (2 if request.guidance > 1 else 1)
    return float(forwards * request.width * request.height * request.images)


def _mixed(old: float | None, new: float) -> float:
    return new if old is None else old + _NEWEST * (new - old)
