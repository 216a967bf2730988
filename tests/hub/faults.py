"""What can go wrong between the Hub and us: each function gives a fault for `EmulatedHub.fail`.

A fault sends something in place of the good answer, and the connection ends after it.
"""

from __future__ import annotations

from tests.hub.answers import Answer, entry_not_found, error
from tests.hub.wire import Send, Wire


def instead(other: Answer) -> Send:
    """Another answer altogether."""

    async def send(answer: Answer, wire: Wire) -> None:
        await wire.send(other.plus(headers={**other.headers, "Connection": "close"}))

    return send


def status(code: int) -> Send:
    """An error of the server, such as 500, 502 or 503."""
    return instead(error(code, "Internal Error - We're working hard to fix this as soon as possible!"))


def too_many(retry_after: str) -> Send:
    """429 with the old header: seconds, or a date."""
    return instead(error(429, "We had to rate limit your IP.", headers={"Retry-After": retry_after}))


def rate_limited(seconds: int, bucket: str = "api") -> Send:
    """429 with the newer headers (draft-ietf-httpapi-ratelimit-headers-09)."""
    headers = {"RateLimit": f'"{bucket}";r=0;t={seconds}', "RateLimit-Policy": f'"fixed window";"{bucket}";q=500;w=300'}
    return instead(error(429, "We had to rate limit your IP.", headers=headers))


def sent_to(address: str, code: int = 302) -> Send:
    """A redirect to any address; the other headers stay as they were."""

    async def send(answer: Answer, wire: Wire) -> None:
        await wire.send(answer.plus(status=code, headers={**answer.headers, "Location": address}, body=b""))

    return send


def gone() -> Send:
    """The file is no longer there."""
    return instead(entry_not_found("0" * 40))


def not_json() -> Send:
    return instead(Answer(200, {"Content-Type": "application/json; charset=utf-8"}, b'[{"id": "weaver/ne'))


def html_page(code: int = 200) -> Send:
    """What a captive portal or a proxy says."""
    page = b"<!doctype html><html><body>Please log in to this network.</body></html>"
    return instead(Answer(code, {"Content-Type": "text/html; charset=utf-8"}, page))


def other_content(data: bytes) -> Send:
    """Other bytes under the same name, commit and ETag."""

    async def send(answer: Answer, wire: Wire) -> None:
        await wire.send(answer.plus(body=data))

    return send


def ignored_range() -> Send:
    """200 and the whole file, though a part was asked for."""

    async def send(answer: Answer, wire: Wire) -> None:
        headers = {name: value for name, value in answer.headers.items() if name != "Content-Range"}
        whole = answer.body if answer.whole is None else answer.whole
        await wire.send(answer.plus(status=200, headers=headers, body=whole))

    return send


def stalled(seconds: float, after: int | None = None) -> Send:
    """No byte for `seconds`, before the headers or after `after` bytes of the body; then the rest."""

    async def send(answer: Answer, wire: Wire) -> None:
        if after is None:
            await wire.pause(seconds)
            return await wire.send(answer)
        await wire.head(answer, len(answer.body))
        await wire.body(answer.body[:after])
        await wire.pause(seconds)
        return await wire.body(answer.body[after:])

    return send


def cut(after: int | None, reset: bool = False) -> Send:
    """The connection ends after `after` bytes of the body (None: before the headers), in order or by a reset."""

    async def send(answer: Answer, wire: Wire) -> None:
        if after is not None:
            await wire.head(answer, len(answer.body))
            await wire.body(answer.body[:after])
        if reset:
            wire.reset()

    return send


def lying_length(by: int) -> Send:
    """Content-Length is `by` more (or fewer, below 0) than the bytes that come."""

    async def send(answer: Answer, wire: Wire) -> None:
        await wire.head(answer, len(answer.body) + by)
        await wire.body(answer.body)

    return send


def no_length() -> Send:
    """Without Content-Length: the body ends with the connection."""

    async def send(answer: Answer, wire: Wire) -> None:
        await wire.head(answer, None)
        await wire.body(answer.body)

    return send


def endless() -> Send:
    """The body over and over, without a Content-Length, until the client has had enough."""

    async def send(answer: Answer, wire: Wire) -> None:
        await wire.head(answer, None)
        while True:
            await wire.body(answer.body)

    return send


def throttled(bytes_per_second: int, piece: int = 4096) -> Send:
    """The body slowly, so that progress can be seen and a cancel can come in between."""

    async def send(answer: Answer, wire: Wire) -> None:
        await wire.head(answer, len(answer.body))
        await wire.body(answer.body, piece, pause=piece / bytes_per_second)

    return send
