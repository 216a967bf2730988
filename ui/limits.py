"""Bounds on what a request may carry, before anything reads it."""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.recipe import LONGEST_ADDRESS

_UPLOAD = "/upload"  # Gradio bounds these itself, by max_file_size
_TOO_LONG = (
    f"This address is too long: at most {LONGEST_ADDRESS} characters are read; open the page without it, and paste the "
    "link there under “Open a recipe”."
)


class LimitedBody:
    """Answers 413 to a body of more than `most` bytes, whether it says its length or just goes on.

    And 414 to an address that is longer than Gradio can read.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    @classmethod
    def at(cls, most: int) -> Middleware:
        """For `app_kwargs` of launch()."""
        return Middleware(cls, most=most)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        if scope["type"] == "http" and _target_length(scope) > LONGEST_ADDRESS:
            await _answer(send, 414, b"text/plain; charset=utf-8", _TOO_LONG.encode())
            return
        if scope["type"] != "http" or scope["path"].endswith(_UPLOAD):
            await self._app(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if not said.isdigit() or int(said) > self._most:
            sentence = f'{{"detail": "The request is too large: at most {self._most} bytes are read."}}'
            await _answer(send, 413, b"application/json", sentence.encode())
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


def _target_length(scope: Scope) -> int:
    return len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"])


async def _answer(send: Send, status: int, kind: bytes, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": body})
