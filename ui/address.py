"""The address at which people reach this page, as their own request shows it."""

from __future__ import annotations

import gradio as gr


def address_of(request: gr.Request) -> str:
    """`http://HOST:PORT`, or what a proxy before the server, as on a Space, says it was asked for."""
    headers = request.headers
    host = headers.get("x-forwarded-host") or headers.get("host", "")
    scheme = headers.get("x-forwarded-proto") or request.url.scheme
    return f"{scheme.split(',')[0].strip()}://{host.split(',')[0].strip()}"
