"""Serves answers over real sockets from a thread of its own, byte by byte, so that faults may break HTTP's rules.

A server of a library would refuse to send fewer or more bytes than announced; this one sends what it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final

from tests.hub.answers import Answer, Received, query_of

PIECE: Final = 1 << 18  # bytes written at once


class Wire:
    """One open connection, on which one request is to be answered."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: Received) -> None:
        self._reader, self._writer, self._asked = reader, writer, asked

    async def send(self, answer: Answer) -> None:
        await self.head(answer, len(answer.body))
        await self.body(answer.body)

    async def head(self, answer: Answer, length: int | None) -> None:
        """Status and headers, with `length` as Content-Length, true or not; None announces none."""
        headers = dict(answer.headers)
        if length is not None and answer.status != 304:
            headers["Content-Length"] = str(length)
        lines = [f"HTTP/1.1 {answer.status} {http.HTTPStatus(answer.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join([*lines, "\r\n"]).encode("latin-1"))
        await self._writer.drain()

    async def body(self, data: bytes, piece: int = PIECE, pause: float = 0) -> None:
        """The bytes in pieces, `pause` seconds after each; nothing in answer to HEAD."""
        if self._asked.method == "HEAD":
            return
        for start in range(0, len(data), piece):
            part = data[start : start + piece]
            self._writer.write(part)
            await self._writer.drain()
            self._asked.sent += len(part)
            if pause:
                await self.pause(pause)

    async def pause(self, seconds: float) -> None:
        """Waits, or raises ConnectionError as soon as the client has left."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._reader.read(1), seconds)
            raise ConnectionResetError

    def reset(self) -> None:
        """Ends the connection at once, as a lost network does."""
        self._writer.transport.abort()


Send = Callable[[Answer, Wire], Awaitable[None]]  # a fault: what is sent in place of the good answer
Reply = Callable[[Received], tuple[Answer, Send | None]]


@contextlib.contextmanager
def serving(reply: Reply, sockets: Mapping[str, socket.socket]) -> Iterator[None]:
    """Answers whatever arrives at the sockets, named by site; what `reply` raises is raised at the end."""
    ready, crashes = threading.Event(), list[BaseException]()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def main() -> None:
        talks = set[asyncio.Task[None]]()

        async def opened(site: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            talks.add(task)
            try:
                await _talk(reply, site, reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass  # the client left, or the server stops
            except Exception as error:  # noqa: BLE001 - any bug of a handler belongs to the test that met it
                crashes.append(error)
            finally:
                talks.discard(task)
                writer.transport.abort() if stop.is_set() else writer.close()

        def at(site: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
            return lambda reader, writer: opened(site, reader, writer)

        servers = [await asyncio.start_server(at(site), sock=sock) for site, sock in sockets.items()]
        ready.set()
        await stop.wait()
        for server in servers:
            server.close()
        for talk in list(talks):
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
        await asyncio.sleep(0)  # lets the transports close

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main())

    thread = threading.Thread(target=run, name="emulated-hub", daemon=True)
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
    if crashes:
        raise crashes[0]


async def _talk(reply: Reply, site: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Requests and answers on one connection, until either side closes it or a fault was sent."""
    while True:
        asked = await _request(site, reader)
        answer, fault = reply(asked)
        wire = Wire(reader, writer, asked)
        if fault is not None:
            return await fault(answer.plus(headers={**answer.headers, "Connection": "close"}), wire)
        await wire.send(answer)
        if asked.headers.get("connection", "").lower() == "close":
            return None


async def _request(site: str, reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
    method, target, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    path, _, query = target.partition("?")
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(method, path, query_of(query), headers, body, site)
