"""Bounds on what a request may carry, before anything reads it."""

from __future__ import annotations

import json
import re

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.recipe import LONGEST_ADDRESS

DEEPEST = 64  # lists and objects within each other; a page's own calls have about ten
_BESIDE_FILES = 100_000  # bytes of an upload's body that are not the file
_UPLOAD, _UPLOADING = "/upload", "/upload_progress"
_LONGEST_OF_UPLOADS = 200  # letters after the “?”: Gradio keeps the name of each upload that is asked for
_TOO_LONG = (
    f"This address is too long: at most {LONGEST_ADDRESS} characters are read; open the page without it, and paste the "
    "link there under “Open a recipe”."
)
_TOO_DEEP = f"The request holds lists or objects more than {DEEPEST} deep: send it flatter."
# What Gradio serves and this page has no use for: it writes files, runs ffmpeg or asks other hosts for any caller.
_CLOSED = re.compile(r"/(gradio_api/)?(deep_link|process_recording|monitoring|proxy=|vibe-|undo-vibe-|custom_compo)")
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_OPENING, _BRACKETS = re.compile(rb"[\[{]"), re.compile(rb"[\[\]{}]")


class LimitedBody:
    """Answers 413 to a body of more than `most` bytes, an upload of more than `largest_upload` bytes in all, 400 to
    JSON that is nested deeper than anything needs, 414 to an address that is longer than Gradio can read, and 404 to
    doors of Gradio's that lead nowhere on this page."""

    def __init__(self, app: ASGIApp, most: int, largest_upload: int) -> None:
        self._app, self._most, self._largest_upload = app, most, largest_upload

    @classmethod
    def at(cls, most: int, largest_upload: int) -> Middleware:
        """For `app_kwargs` of launch()."""
        return Middleware(cls, most=most, largest_upload=largest_upload)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif _target_length(scope) > LONGEST_ADDRESS:
            await answer(send, 414, _TOO_LONG, plain=True)
        elif _CLOSED.match(scope["path"]):
            await answer(send, 404, "This is not served here.")
        elif _names_much(scope):
            await answer(send, 414, f"After the “?” at most {_LONGEST_OF_UPLOADS} characters are read here.")
        elif scope["path"].rstrip("/").endswith(_UPLOAD):
            await self._upload(scope, receive, send)
        elif scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
        else:
            await self._whole(scope, receive, send)

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads the body before it is handed on, as far as it may go."""
        too_large = f"The request is too large: at most {self._most} bytes are read."
        if _said_length(scope) > self._most:
            await answer(send, 413, too_large)
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._most:
                await answer(send, 413, too_large)
                return
        if too_deep(body):
            await answer(send, 400, _TOO_DEEP)
            return
        handed_on = False

        async def again() -> Message:
            nonlocal handed_on
            if handed_on:
                return await receive()
            handed_on = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, again, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Gradio bounds each file, by max_file_size; this all files of a request together."""
        most = self._largest_upload + _BESIDE_FILES
        too_large = f"The upload is too large: at most {self._largest_upload // 10**6} MB in all are read."
        if _said_length(scope) > most:
            await answer(send, 413, too_large)
            return
        read, refused = 0, False

        async def counted() -> Message:
            nonlocal read, refused
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                refused = True
                return {"type": "http.disconnect"}
            return message

        async def unless_refused(message: Message) -> None:
            if not refused:
                await send(message)

        try:
            await self._app(scope, counted, unless_refused)
        except Exception:
            if not refused:  # else it is Gradio's word for a body that broke off
                raise
        if refused:
            await answer(send, 413, too_large)


def too_deep(body: bytes) -> bool:
    """Whether JSON nests more than DEEPEST; what is no JSON is left to whoever parses it."""
    bare = _STRINGS.sub(b"", body)
    if len(_OPENING.findall(bare)) <= DEEPEST:
        return False
    depth = 0
    for bracket in _BRACKETS.findall(bare):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEEPEST:
            return True
    return False


def _said_length(scope: Scope) -> int:
    """What the request says of its body; more than anything where it says nonsense."""
    said = dict(scope["headers"]).get(b"content-length", b"0")
    return int(said) if said.isdigit() and len(said) < 20 else 10**20


def _target_length(scope: Scope) -> int:
    return len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"])


def _names_much(scope: Scope) -> bool:
    of_upload = scope["path"].rstrip("/").endswith((_UPLOAD, _UPLOADING))
    return of_upload and len(scope["query_string"]) > _LONGEST_OF_UPLOADS


async def answer(send: Send, status: int, sentence: str, plain: bool = False) -> None:
    """A refusal as FastAPI writes its own, {"detail": sentence}; `plain` where people meet it in a browser."""
    body = sentence if plain else json.dumps({"detail": sentence})
    kind = b"text/plain; charset=utf-8" if plain else b"application/json"
    headers = [(b"content-type", kind), (b"x-content-type-options", b"nosniff")]
    if status == 413:
        headers.append((b"connection", b"close"))  # or the server would wait for the rest of it
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})
