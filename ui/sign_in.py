"""Sign in with Hugging Face, on a Space: who did may use their own gated and private LoRAs, and their own GPU quota."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

_IN, _OUT = "Sign in with Hugging Face", "Sign out ({})"


def sign_in_button(page: gr.Blocks) -> None:
    """Gradio's own button, whose status is no endpoint of ours. A page with it serves only where OAuth is set up."""
    button = gr.LoginButton(_IN, _OUT, size="sm", elem_id="sign-in")
    button.load_event_to_attach = None  # of a public name
    page.load(_named, outputs=button, queue=False, show_progress="hidden", api_visibility="private")


def _named(request: gr.Request) -> dict[str, Any]:
    who = _session(request).get("userinfo")
    name = who.get("preferred_username") if isinstance(who, dict) else None
    return gr.update(value=_OUT.format(name) if name else _IN)


def signed_in_token(request: gr.Request) -> str | None:
    """The Hub token of whoever signed in on this page, as long as it holds."""
    token = _session(request).get("access_token")
    return token if isinstance(token, str) else None


def _session(request: gr.Request) -> dict[str, Any]:
    """What Gradio keeps of a sign-in, in a cookie that it signs; empty without one."""
    scope = getattr(request.request, "scope", {})
    found = scope.get("session", {}).get("oauth_info")
    if not isinstance(found, dict) or found.get("expires_at", 0) < time.time():
        return {}
    return found
