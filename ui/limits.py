"""Bounds on what a request may carry, before anything reads it."""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_UPLOAD = "/upload"  # Gradio bounds these itself, by max_file_size


class LimitedBody:
    """Answers 413 to a body of more than `most` bytes, whether it says its length or just goes on."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    @classmethod
    def at(cls, most: int) -> Middleware:
        """For `app_kwargs` of launch()."""
        return Middleware(cls, most=most)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        if scope["type"] != "http" or scope["path"].endswith(_UPLOAD):
            await self._app(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if not said.isdigit() or int(said) > self._most:
            await self._refuse(send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                return {"type": "http.disconnect"}  # an endless body: nobody is left to answer
            return message

        await self._app(scope, counted, send)

    async def _refuse(self, send: Send) -> None:
        sentence = f'{{"detail": "The request is too large: at most {self._most} bytes are read."}}'.encode()
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": sentence})
