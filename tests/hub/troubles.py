"""Sixteen ways in which a Hub can keep records from its dataset: each plans its faults, for the first tries to fail."""

from __future__ import annotations

from collections.abc import Callable

from tests.hub import EmulatedHub, faults
from tests.hub.wire import Send

Trouble = Callable[[EmulatedHub], None]
_COMMIT, _BATCH, _SEEN, _LOOK = "/commit/main", "/objects/batch", "/paths-info/", "/api/datasets/me/log"


def _when(path: str, fault: Send, done: bool, times: int = 2, method: str | None = None) -> Trouble:
    return lambda hub: hub.fail(path, fault, times, method=method, done=done)


TROUBLES: dict[str, Trouble] = {
    "the Hub is gone": _when("/", faults.cut(None), done=False, times=6),
    "look: 504": _when(_LOOK, faults.status(504), done=False, method="GET"),
    "create: 500, though it was made": _when("/repos/create", faults.status(500), done=True),
    "batch: a login page": _when(_BATCH, faults.html_page(), done=False),
    "batch: RateLimit": _when(_BATCH, faults.rate_limited(30), done=False),
    "storage: 502": _when("/repos/", faults.status(502), done=False, method="PUT"),
    "storage: cut, though it has the bytes": _when("/repos/", faults.cut(None, reset=True), done=True, method="PUT"),
    "storage: stalls": _when("/repos/", faults.stalled(60), done=False, times=1, method="PUT"),
    "commit: 500": _when(_COMMIT, faults.status(500), done=False),
    "commit: 503, though it was made": _when(_COMMIT, faults.status(503), done=True),
    "commit: 429 with Retry-After": _when(_COMMIT, faults.too_many("90"), done=False),
    "commit: reset, though it was made": _when(_COMMIT, faults.cut(5, reset=True), done=True),
    "commit: stalls, though it was made": _when(_COMMIT, faults.stalled(60), done=True, times=1),
    "commit: half an answer": _when(_COMMIT, faults.lying_length(40), done=True),
    "seen: not JSON": _when(_SEEN, faults.not_json(), done=True),
    "seen: 404": _when(_SEEN, faults.gone(), done=True),
}
