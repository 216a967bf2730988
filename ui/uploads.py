"""Uploads: read here, never given out again or remembered for ever, and no refusal of a file repeats its path."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Container
from pathlib import Path
from urllib.parse import unquote

from gradio.route_utils import FileUploadProgress
from gradio.utils import LRUCache
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.limits import answer

MOST_FOLLOWED = 1000  # uploads of which the newest bytes are told
_FILE = "/file="
_DEPRECATED = "/file/"  # Gradio's older form of the same
_KEPT = "What was uploaded is not given out again: this server only reads it."
_REFUSED = 403
_NOT_SERVED = "There is no such file here for you: pictures are kept for a day, and files of the server never served."


class _Signals(LRUCache[str, asyncio.Event]):
    """One for each upload that is asked after."""

    def __missing__(self, upload: str) -> asyncio.Event:
        self[upload] = asyncio.Event()
        return self[upload]


def forgetful(progress: FileUploadProgress) -> None:
    """Gradio keeps the name of each upload for ever, of those too that were only asked after."""
    progress._statuses = LRUCache(MOST_FOLLOWED)
    progress._signals = _Signals(MOST_FOLLOWED)  # type: ignore[assignment]


class UploadsStay:
    """Answers 404 to whoever asks for an uploaded file by its address."""

    def __init__(self, app: ASGIApp, uploaded: Callable[[], Container[str]]) -> None:
        self._app, self._uploaded = app, uploaded

    @classmethod
    def of(cls, uploaded: Callable[[], Container[str]]) -> Middleware:
        """For `app_kwargs` of launch(). `uploaded` gives the paths of all uploads."""
        return Middleware(cls, uploaded=uploaded)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        if scope["type"] == "http" and self._asks_for_an_upload(scope["path"]):
            await answer(send, 404, _KEPT)
        elif scope["type"] == "http" and (_FILE in scope["path"] or _DEPRECATED in scope["path"]):
            await self._without_its_path(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _without_its_path(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Gradio's own refusal says which path it made of what was asked for."""
        refused = False

        async def sent(message: Message) -> None:
            nonlocal refused
            refused = refused or (message["type"] == "http.response.start" and message["status"] == _REFUSED)
            if not refused:
                await send(message)

        await self._app(scope, receive, sent)
        if refused:
            await answer(send, _REFUSED, _NOT_SERVED)

    def _asks_for_an_upload(self, path: str) -> bool:
        for mark in (_FILE, _DEPRECATED):
            _, found, asked = path.partition(mark)
            if found:
                paths = {asked, os.path.normpath(unquote(asked)), str(Path(unquote(asked)).resolve())}
                return any(path in self._uploaded() for path in paths)
        return False
