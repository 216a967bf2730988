"""Visitors: who a request comes from, and with whose Hub token it may look."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import gradio as gr

from lora_catalog.visitor import Visitor

LONGEST_ID = 200  # letters
_BEARER = "Bearer "
_TOKEN = re.compile(r"[!-~]{1,200}")  # what may stand in a header


@dataclass(frozen=True)
class Visitors:
    """`lent_token` is the owner's, for every visitor of a server that only its owner reaches; else None."""

    lent_token: str | None = field(default=None, repr=False)

    def of(self, request: gr.Request, own_id: object = None, own_token: object = None) -> Visitor:
        """The visitor of that id, or of this session where none is given.

        The token is their own, as typed on the page or as gradio_client sends it (`Client(…, token=…)`), else the lent
        one.
        """
        name = own_id if isinstance(own_id, str) and 0 < len(own_id) <= LONGEST_ID else request.session_hash
        said = request.headers.get("x-hf-authorization", "")
        sent = said.removeprefix(_BEARER) if said.startswith(_BEARER) else ""
        token = next((text for text in (own_token, sent) if isinstance(text, str) and _TOKEN.fullmatch(text)), None)
        return Visitor(name or "", token or self.lent_token)
