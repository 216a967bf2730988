"""Serves the cards' pictures from our own address, so that the page asks no other host."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lora_catalog.catalog import Catalog
from lora_catalog.errors import CatalogError

PATH = "/loom/preview"
MOST_AT_ONCE = 6
_SHOWN = {"Cache-Control": "public, max-age=86400", "X-Content-Type-Options": "nosniff"}
_MISSING = {"Cache-Control": "no-store"}


def preview_address(ref: str) -> str:
    """Where the page finds the picture of a card, relative to the page."""
    return f".{PATH}?ref={quote(ref, safe='')}"


def preview_route(catalog: Catalog) -> Route:
    """Answers with a WebP, or 404 for whatever has none."""

    waiting = ThreadPoolExecutor(MOST_AT_ONCE, "preview")  # of its own: a slow picture must hold up nothing else

    async def preview(request: Request) -> Response:
        ref = request.query_params.get("ref", "")
        try:
            picture = await asyncio.get_running_loop().run_in_executor(waiting, catalog.preview, ref)
        except CatalogError:
            picture = None
        if picture is None:
            return Response(status_code=404, headers=_MISSING)
        return Response(picture, media_type="image/webp", headers=_SHOWN)

    return Route(PATH, preview, methods=["GET"])
