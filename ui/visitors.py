"""Visitors: who a request comes from, and with whose Hub token it may look."""

from __future__ import annotations

import ipaddress
import re
import secrets
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from core.errors import BadRequest
from lora_catalog.visitor import Visitor
from ui.hosts import parted
from ui.sign_in import signed_in_token

LONGEST_ID = 200  # letters
_ID = re.compile(rf"[!-~]{{1,{LONGEST_ID}}}")
# Proxies within a proxy's own network, which may name each other behind whoever asks.
_WITHIN = tuple(map(ipaddress.ip_network, (
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "::1/128", "fc00::/7",
)))  # fmt: skip
_ASKED_BY = "x-loom-asked-by"
_WITH_PORT = re.compile(r"([0-9.]+):[0-9]+")  # as some proxies write a hop
_SHARED = ".gradio.live"
_BEARER = "Bearer "
_TOKEN = re.compile(r"[!-~]{1,200}")  # what may stand in a header


@dataclass(frozen=True)
class Visitors:
    """`lent_token` is the owner's, for every visitor of a server that only its owner reaches; else None."""

    lent_token: str | None = field(default=None, repr=False)
    behind_proxy: bool = False  # as on a Space: whoever asks is the last from outside of those that the proxy names
    _key: str = field(default_factory=secrets.token_hex, repr=False)  # by which this server knows its own calls

    def of(self, request: gr.Request, own_id: object = None, own_token: object = None) -> Visitor:
        """The visitor of that id, or of this session where none is given. Raises BadRequest for an odd id.

        The token is their own, as typed on the page, as gradio_client sends it (`Client(…, token=…)`) or as they signed
        in with, else the lent one.
        """
        if own_id not in (None, "") and not (isinstance(own_id, str) and _ID.fullmatch(own_id)):
            raise BadRequest(
                "visitor", f"visitor must be a text of at most {LONGEST_ID} plain letters, without spaces."
            )
        said = request.headers.get("x-hf-authorization", "")
        sent = said.removeprefix(_BEARER) if said.startswith(_BEARER) else ""
        own = (own_token, sent, signed_in_token(request))
        token = next((text for text in own if isinstance(text, str) and _TOKEN.fullmatch(text)), None)
        return Visitor(
            str(own_id or request.session_hash or ""),
            token or self.lent_token,
            lent=token is None and self.lent_token is not None,
            address=self.network_of(request),
        )

    def network_of(self, request: Any) -> str:
        """Of a request as Gradio or as the web server has it; empty for this machine itself."""
        key, _, asks = request.headers.get(_ASKED_BY, "").partition(";")
        if secrets.compare_digest(key.encode(), self._key.encode()):
            return str(asks)
        peer = request.client.host if request.client else ""
        lines = _chain_of(request.headers) if self.behind_proxy or _tunnelled(request) else []
        chain = [hop.strip() for line in lines for hop in line.split(",") if hop.strip()]
        asks = next((hop for hop in reversed(chain) if not _within(hop)), chain[-1] if chain else "")
        return network(asks or peer)

    def passed_on(self, request: Any) -> dict[str, str]:
        """Headers with which this server calls itself for whoever sent the request."""
        return {_ASKED_BY: f"{self._key};{self.network_of(request)}"}


def _tunnelled(request: Any) -> bool:
    """Whether a share link's tunnel brought it, which ends on this machine.

    uvicorn reads the chain of a proxy on this machine by itself, puts its end in the peer's place, with port 0, and is
    right unless that is a hop within the tunnel, the same for all.
    """
    client = request.client
    from_here = client is not None and (not network(client.host) or getattr(client, "port", None) == 0)
    name, _ = parted(request.headers.get("host", ""))
    return from_here and name.endswith(_SHARED) and _within(client.host)


def _chain_of(headers: Any) -> list[str]:
    """Every line of it: a proxy may add its own behind that of whoever asks."""
    lines = headers.getlist("x-forwarded-for") if hasattr(headers, "getlist") else [headers.get("x-forwarded-for", "")]
    return list(lines)


def _bare(hop: str) -> str:
    found = _WITH_PORT.fullmatch(hop)
    return found[1] if found else hop


def _within(hop: str) -> bool:
    try:
        address = ipaddress.ip_address(_bare(hop))
    except ValueError:
        return False
    return any(address in inner for inner in _WITHIN)


def network(host: str) -> str:
    """What tells this host's network from others: of IPv6 the half that a household has; empty for this machine."""
    host = _bare(host)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host[:LONGEST_ID].encode("ascii", "replace").decode()  # it goes into a header
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return "" if address.is_loopback else str(ipaddress.ip_network((address, 64), strict=False))
        address = address.ipv4_mapped
    return "" if address.is_loopback else str(address)
