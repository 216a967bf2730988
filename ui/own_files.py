"""Files of this server by their address: read as the uploads they are, while every other address is refused unasked."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

from gradio.exceptions import Error
from gradio_client.utils import is_file_obj_with_meta, traverse
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

SERVED = "/gradio_api/file="
_SENTENCE = (
    "A file must be uploaded here, or be the address of a file on this server: LoRA Loom fetches nothing from other "
    "addresses."
)


def path_of(address: str) -> str | None:
    """The path that an address of this server's files names; None for any other text."""
    try:
        _, served, path = unquote(urlsplit(address).path).partition(SERVED)
    except ValueError:
        return None
    return path if served and not _elsewhere(path) else None


def as_uploads(value: Any) -> Any:
    """An input in which each file that is named by an address is named by its path instead.

    Gradio fetches what such an address leads to. Raises gr.Error for addresses that are not this server's own; whether
    a path is that of an upload is for Gradio to check, as with every other.
    """
    return traverse(value, _as_upload, is_file_obj_with_meta)


def _as_upload(file: dict[str, Any]) -> dict[str, Any]:
    path = file["path"]
    if not isinstance(path, str) or not _elsewhere(path):
        return file
    own = path_of(path)
    if own is None:
        raise Error(_SENTENCE, print_exception=False)
    return {**file, "path": own, "url": None}


def _elsewhere(path: str) -> bool:
    return path.lstrip().lower().startswith(("http:", "https:"))


_CLOSED = ("/gradio_api/dev/", "/gradio_api/profiling", "/openapi.json")  # for developers; the first never ends


class NoProxy:
    """Answers 404 where Gradio would fetch another host's file and pass it on, and where nothing of this page is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    @classmethod
    def here(cls) -> Middleware:
        """For `app_kwargs` of launch()."""
        return Middleware(cls)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        if scope["type"] == "http" and _closed(scope["path"].removeprefix(scope.get("root_path", ""))):
            head = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 404, "headers": head})
            await send({"type": "http.response.body", "body": b'{"detail": "There is nothing at this address."}'})
            return
        await self._app(scope, receive, send)


def _closed(path: str) -> bool:
    return path.startswith(_CLOSED) or _elsewhere(path.partition(SERVED)[2])
