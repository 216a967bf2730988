"""The page itself, gzipped: with fonts, styles and languages inside it is 0.7 MB, of which a fourth needs to travel."""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

LEVEL = 4  # 10 ms a page, in a thread; 6 takes 17 for 4 % less
_WHERE = ("/", "/config")  # Gradio compresses its scripts by itself, and pictures and event streams gain nothing


class CompressedPage:
    """For browsers that take gzip, which all do."""

    def __init__(self, app: ASGIApp) -> None:
        self._app, self._compressed = app, GZipMiddleware(app, compresslevel=LEVEL)

    @classmethod
    def here(cls) -> Middleware:
        """For `app_kwargs` of launch()."""
        return Middleware(cls)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        of_page = scope["type"] == "http" and scope["path"].removeprefix(scope.get("root_path", "")) in _WHERE
        await (self._compressed if of_page else self._app)(scope, receive, send)
