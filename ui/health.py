"""GET /healthz for monitors: whether this server can draw, and how much waits; no secrets, and not behind any queue."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from core.messages import Loads
from core.recipe import APP_VERSION
from core.studio import Studio
from ui.hosts import HEALTH


class Health:
    """Of one server, since its start."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began = clock, clock()
        self._loading, self._tried = False, False

    def watching(self, warm_up: Callable[[], None]) -> Callable[[], None]:
        """The same; before it is done, and where it loaded nothing, this server cannot draw."""
        self._loading = True

        def watched() -> None:
            warm_up()
            self._loading, self._tried = False, True

        return watched

    def route(self, studio: Studio) -> Route:
        """Answers 200 where it can draw, else 503."""

        async def health(request: Request) -> JSONResponse:
            said = self.said(studio)
            return JSONResponse(said, 200 if said["status"] == "ok" else 503, {"cache-control": "no-store"})

        return Route(HEALTH, health, methods=["GET", "HEAD"])

    def said(self, studio: Studio) -> dict[str, str | int | float]:
        """As it is now. A picture that was drawn proves more than how the start went."""
        standing = studio.turns.standing()
        failed = self._tried and isinstance(studio.engine, Loads) and not studio.engine.loaded()
        able = standing.drawn > 0 or not (self._loading or failed)
        doing = "drawing" if standing.drawing else "loading" if self._loading else "idle"
        return {
            "status": "ok" if able else "loading" if self._loading else "failing", "model": studio.default_model,
            "doing": doing, "waiting": standing.waiting, "drawing": standing.drawing, "drawn": standing.drawn,
            "uptime_s": round(self._clock() - self._began, 1), "version": APP_VERSION,
        }  # fmt: skip
