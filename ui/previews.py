"""Serves the cards' pictures from our own address, so that the page asks no other host."""

from __future__ import annotations

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lora_catalog.catalog import Catalog
from lora_catalog.errors import CatalogError

PATH = "/loom/preview"
_SHOWN = {"Cache-Control": "public, max-age=86400", "X-Content-Type-Options": "nosniff"}
_MISSING = {"Cache-Control": "no-store"}


def preview_address(ref: str) -> str:
    """Where the page finds the picture of a card, relative to the page."""
    return f".{PATH}?ref={quote(ref, safe='')}"


def preview_route(catalog: Catalog) -> Route:
    """Answers with a WebP, or 404 for whatever has none."""

    def preview(request: Request) -> Response:
        try:
            picture = catalog.preview(request.query_params.get("ref", ""))
        except CatalogError:
            picture = None
        if picture is None:
            return Response(status_code=404, headers=_MISSING)
        return Response(picture, media_type="image/webp", headers=_SHOWN)

    return Route(PATH, preview, methods=["GET"])
