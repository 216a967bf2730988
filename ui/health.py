"""GET /healthz for monitors: whether this server can draw, and how much waits; no secrets, and not behind any queue."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from core.recipe import APP_VERSION
from core.studio import Studio
from ui.hosts import HEALTH


class Health:
    """`warmed` is set once what was to be loaded before the first picture is, or could not be.

    `loaded` says whether it could.
    """

    def __init__(
        self, warmed: Event | None = None, loaded: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._warmed, self._loaded, self._clock, self._began = warmed, loaded, clock, clock()

    def route(self, studio: Studio) -> Route:
        """Answers 200 where it can draw, else 503."""

        async def health(request: Request) -> JSONResponse:
            said = self.said(studio)
            return JSONResponse(said, 200 if said["status"] == "ok" else 503, {"cache-control": "no-store"})

        return Route(HEALTH, health, methods=["GET", "HEAD"])

    def said(self, studio: Studio) -> dict[str, str | int | float]:
        """As it is now. A picture that was drawn proves more than how the start went."""
        standing = studio.turns.standing()
        loading = self._warmed is not None and not self._warmed.is_set()
        able = standing.drawn > 0 or (not loading and self._loaded())
        doing = "drawing" if standing.drawing else "loading" if loading else "idle"
        return {
            "status": "ok" if able else "loading" if loading else "failing", "model": studio.default_model,
            "doing": doing, "waiting": standing.waiting, "drawing": standing.drawing, "drawn": standing.drawn,
            "uptime_s": round(self._clock() - self._began, 1), "version": APP_VERSION,
        }  # fmt: skip
