"""What visitors upload is read here and never given out again, and no refusal of a file repeats its path."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable, Container
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from gradio.route_utils import FileUploadProgress
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.limits import answer

Value = TypeVar("Value")
MOST_FOLLOWED = 1000  # uploads of which the newest bytes are told
_FILE = "/file="
_DEPRECATED = "/file/"  # Gradio's older form of the same
_KEPT = "What was uploaded is not given out again: this server only reads it."
_REFUSED = 403
_NOT_SERVED = "There is no such file here for you: pictures are kept for a day, and files of the server never served."


class Newest(OrderedDict[str, Value]):
    """Lets the oldest go; `make` makes what is asked for and is not there."""

    def __init__(self, make: Callable[[], Value] | None = None, most: int = MOST_FOLLOWED) -> None:
        super().__init__()
        self._make, self._most = make, most

    def __missing__(self, key: str) -> Value:
        if self._make is None:
            raise KeyError(key)
        self[key] = self._make()
        return self[key]

    def __setitem__(self, key: str, value: Value) -> None:
        super().__setitem__(key, value)
        while len(self) > self._most:
            self.popitem(last=False)


def forgetful(progress: FileUploadProgress) -> None:
    """Gradio keeps the name of each upload for ever, of those too that were only asked after."""
    progress._statuses = Newest()
    progress._signals = Newest(asyncio.Event)  # type: ignore[assignment]


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
