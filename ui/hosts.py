"""Names that this server answers to, and pages that may ask it: no other site may act as its owner or its visitors."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.limits import answer

AT_HOME = frozenset({"127.0.0.1", "localhost", "[::1]"})
HEALTH = "/healthz"  # monitors ask by whatever address they know, and learn no secret
_ASKED_FOR = b"x-forwarded-host"
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
_ORIGIN = re.compile(r"https?://(?P<host>[^/]+)")
_NOT_MINE = (
    "This server does not answer to that name: use the address that it printed at its start, or tell it this name with "
    "--hosts."
)
_NOT_YOURS = "A page of another site asked for this, which is not allowed: open this server's own page."

# What Gradio's page needs (scripts in the page, eval for templates of gr.HTML, looks as data: and blob:), and no
# outside host.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors {}"
)


@dataclass(frozen=True)
class Hosts:
    """`names` are those that it answers to beside localhost, in small letters; one that begins with a dot stands for
    all that end so, `*` for every one. `in_numbers`: also to any address in numbers, which no other site's name is.
    `embedding` are sites that may show the page within theirs, and ask."""

    names: frozenset[str] = frozenset()
    in_numbers: bool = False
    embedding: tuple[str, ...] = ()

    def known(self, host: str, shared: str | None = None) -> bool:
        """Whether a Host header, such as `localhost:7860`, is one of ours; `shared` is the share link, if there is
        one."""
        name, _ = parted(host)
        return bool(name) and (name in AT_HOME or self._named(name, shared) or (self.in_numbers and _in_numbers(name)))

    def may_ask(self, origin: str, host: str, shared: str | None = None) -> bool:
        """Whether a page of that Origin may ask what was sent to that Host, which is known."""
        found = _ORIGIN.fullmatch(origin.lower())
        if found is None:  # null, as a file or a frame in a sandbox has
            return False
        if found["host"] == host.lower() or origin.lower() in self.embedding:
            return True
        (name, port), (own, own_port) = parted(found["host"]), parted(host)
        if {name, own} <= AT_HOME:
            return port == own_port
        return bool(name) and name not in AT_HOME and "*" not in self.names and self._named(name, shared)

    def _named(self, name: str, shared: str | None) -> bool:
        if name in self.names or "*" in self.names or (shared is not None and shared.lower() == f"https://{name}"):
            return True
        return any(each.startswith(".") and name.endswith(each) for each in self.names)

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """What every answer carries."""
        return [
            (b"content-security-policy", _POLICY.format(" ".join(["'self'", *self.embedding])).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"same-origin"),
        ]


def hosts_for(listens_on: str, told: frozenset[str], machine: str, space: str | None) -> Hosts:
    """Of a server that listens on an address, of a machine with a name; `told` are further names, `space` a Space's."""
    names, at_home = set(told), listens_on in (*AT_HOME, "::1")
    if not at_home:
        names |= {listens_on.lower(), machine.lower(), f"{machine.lower()}.local"}
    if space is None:
        return Hosts(frozenset(names), in_numbers=not at_home)
    names |= {".hf.space", *filter(None, space.lower().split(","))}
    return Hosts(frozenset(names), in_numbers=True, embedding=("https://huggingface.co",))


class OwnHosts:
    """Answers 421 to a foreign Host and 403 to a page of a foreign Origin; adds the headers to every other answer."""

    def __init__(self, app: ASGIApp, hosts: Hosts, shared: Callable[[], str | None]) -> None:
        self._app, self._hosts, self._shared, self._headers = app, hosts, shared, hosts.headers

    @classmethod
    def only(cls, hosts: Hosts, shared: Callable[[], str | None]) -> Middleware:
        """For `app_kwargs` of launch(). `shared` gives the share link once there is one."""
        return Middleware(cls, hosts=hosts, shared=shared)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = None if scope["path"] == HEALTH else self._refusal(Headers(scope=scope))
        if refusal is not None and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif refusal is not None:
            await answer(send, *refusal, plain=True)
        else:
            await self._app(self._without_strange_names(scope), receive, self._with_headers(send))

    def _refusal(self, headers: Headers) -> tuple[int, str] | None:
        hosts, origins, shared = headers.getlist("host"), headers.getlist("origin"), self._shared()
        if len(hosts) != 1 or not self._hosts.known(hosts[0], shared):
            return 421, _NOT_MINE
        if not all(self._hosts.may_ask(origin, hosts[0], shared) for origin in origins):
            return 403, _NOT_YOURS
        return None

    def _without_strange_names(self, scope: Scope) -> Scope:
        """What a proxy says that it was asked for is written into the page's links: only names of ours are believed."""
        said = [value.decode("latin-1") for name, value in scope["headers"] if name == _ASKED_FOR]
        if all(self._hosts.known(host.strip(), self._shared()) for value in said for host in value.split(",")):
            return scope
        return {**scope, "headers": [header for header in scope["headers"] if header[0] != _ASKED_FOR]}

    def _with_headers(self, send: Send) -> Send:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message.get("headers", ())}
                added = [header for header in self._headers if header[0] not in own]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        return sent


def parted(host: str) -> tuple[str, str]:
    """Name and port of what a Host header says, in small letters; both empty for what is no host."""
    found = _HOST.fullmatch(host.lower())
    return (found["name"], found["port"] or "") if found else ("", "")


def _in_numbers(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
