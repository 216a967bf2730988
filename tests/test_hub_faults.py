"""The emulated Hub's faults, as plain HTTP sees them, and how it starts and ends."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import httpx2
import pytest
from huggingface_hub.utils import parse_ratelimit_headers

from tests.hub import EmulatedHub, faults
from tests.hub.wire import Send

WEIGHTS = bytes(range(256)) * 500
FILE = "/weaver/neon/resolve/main/neon.safetensors"


@pytest.fixture
def hub() -> Iterator[EmulatedHub]:
    """One repo with one file."""
    hub = EmulatedHub()
    with hub.running():
        hub.add_repo("weaver/neon", {"neon.safetensors": WEIGHTS})
        yield hub


@pytest.fixture
def http(hub: EmulatedHub) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=hub.endpoint, timeout=5) as client:
        yield client


def test_both_kinds_of_429_are_worded_as_the_client_reads_them(hub: EmulatedHub, http: httpx2.Client) -> None:
    hub.fail("/api/models", faults.too_many("7"))
    hub.fail("/api/models", faults.rate_limited(55))
    old, new, good = (http.get("/api/models") for _ in range(3))
    assert [answer.status_code for answer in (old, new, good)] == [429, 429, 200]
    assert old.headers["Retry-After"] == "7"
    limits = parse_ratelimit_headers(new.headers)
    assert limits is not None
    assert (limits.remaining, limits.reset_in_seconds, limits.limit) == (0, 55, 500)


@pytest.mark.parametrize("code", [500, 502, 503])
def test_errors_of_the_server_come_as_often_as_planned(hub: EmulatedHub, http: httpx2.Client, code: int) -> None:
    hub.fail(FILE, faults.status(code), times=2)
    assert [http.get(FILE).status_code for _ in range(3)] == [code, code, 200]


def test_a_fault_may_wait_for_the_second_request(hub: EmulatedHub, http: httpx2.Client) -> None:
    hub.fail(FILE, faults.gone(), skip=1, method="GET")
    http.head(FILE)
    assert [http.get(FILE, headers={"Range": "bytes=0-7"}).status_code for _ in range(3)] == [206, 404, 206]


@pytest.mark.parametrize("fault", [faults.stalled(60), faults.stalled(60, after=100)])
def test_a_stall_makes_the_client_time_out(hub: EmulatedHub, fault: Send) -> None:
    hub.fail(FILE, fault)
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.get(hub.endpoint + FILE, timeout=0.2)
    assert hub.asked(FILE)[0].sent <= 100


@pytest.mark.parametrize("after", [None, 0])
def test_a_short_stall_ends_with_the_rest(hub: EmulatedHub, http: httpx2.Client, after: int | None) -> None:
    hub.fail(FILE, faults.stalled(0.05, after))
    assert http.get(FILE).content == WEIGHTS


@pytest.mark.parametrize(
    "fault", [faults.cut(1000), faults.cut(0), faults.cut(None), faults.cut(1000, reset=True), faults.lying_length(9)]
)
def test_a_cut_body_is_an_error_of_the_protocol(hub: EmulatedHub, http: httpx2.Client, fault: Send) -> None:
    hub.fail(FILE, fault)
    with pytest.raises((httpx2.RemoteProtocolError, httpx2.ReadError)):
        http.get(FILE)
    assert http.get(FILE).content == WEIGHTS


def test_a_length_may_be_too_short_or_not_told(hub: EmulatedHub, http: httpx2.Client) -> None:
    hub.fail(FILE, faults.lying_length(-100))
    hub.fail(FILE, faults.no_length())
    assert http.get(FILE).content == WEIGHTS[:-100]
    untold = http.get(FILE)
    assert (untold.content, "Content-Length" in untold.headers) == (WEIGHTS, False)


def test_an_endless_body_ends_when_the_client_leaves(hub: EmulatedHub, http: httpx2.Client) -> None:
    hub.fail(FILE, faults.endless())
    with http.stream("GET", FILE) as answer:
        got = 0
        for piece in answer.iter_bytes():
            got += len(piece)
            if got > 3 * len(WEIGHTS):
                break
    assert got > 3 * len(WEIGHTS)


def test_a_throttled_body_stops_when_the_client_leaves(hub: EmulatedHub, http: httpx2.Client) -> None:
    hub.fail(FILE, faults.throttled(100_000, piece=1000))
    with http.stream("GET", FILE) as answer:
        next(answer.iter_raw())
    assert hub.asked(FILE)[0].sent < len(WEIGHTS)


def test_a_redirect_to_another_host_shows_in_what_that_host_was_asked(hub: EmulatedHub, http: httpx2.Client) -> None:
    hub.fail(FILE, faults.sent_to(f"{hub.elsewhere}/steal"), times=2)
    assert http.get(FILE).headers["Location"] == f"{hub.elsewhere}/steal"
    assert not hub.asked(site="elsewhere")
    http.get(FILE, follow_redirects=True)
    assert hub.asked("/steal", site="elsewhere")


def test_answers_that_are_not_what_they_say(hub: EmulatedHub, http: httpx2.Client) -> None:
    hub.fail("/api/models", faults.not_json())
    hub.fail("/api/models", faults.html_page())
    for _ in range(2):
        with pytest.raises(ValueError, match=r"."):
            http.get("/api/models").json()
    hub.fail(FILE, faults.other_content(b"something else"))
    false, honest = http.get(FILE), http.get(FILE)
    assert false.headers["ETag"] == honest.headers["ETag"]
    assert (false.content, honest.content) == (b"something else", WEIGHTS)


def test_a_range_may_be_ignored(hub: EmulatedHub, http: httpx2.Client) -> None:
    hub.fail(FILE, faults.ignored_range())
    answer = http.get(FILE, headers={"Range": "bytes=0-7"})
    assert (answer.status_code, answer.content) == (200, WEIGHTS)
    assert "Content-Range" not in answer.headers


def test_a_hub_may_go_and_come_back_at_the_same_address() -> None:
    hub = EmulatedHub()
    hub.add_repo("weaver/neon")
    with hub.running() as endpoint:
        pass
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{endpoint}/api/models")
    with hub.running(port=int(endpoint.rsplit(":", 1)[1])) as again:
        assert again == endpoint
        assert len(httpx2.get(f"{endpoint}/api/models").json()) == 1


def test_leaving_the_block_ends_stalls_and_threads() -> None:
    hub = EmulatedHub()
    hub.fail("", faults.stalled(600))
    before, began = threading.active_count(), time.monotonic()
    with hub.running() as endpoint, socket.create_connection(("127.0.0.1", int(endpoint.rsplit(":", 1)[1]))) as client:
        client.sendall(b"GET /api/models HTTP/1.1\r\n\r\n")
        while not hub.requests:
            time.sleep(0.01)
    assert time.monotonic() - began < 60
    assert threading.active_count() == before


def test_a_bug_of_the_hub_fails_the_test_that_met_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = EmulatedHub()
    monkeypatch.setattr(hub, "_answer", lambda asked: 1 / 0)
    with pytest.raises(ZeroDivisionError), hub.running() as endpoint, pytest.raises(httpx2.RemoteProtocolError):
        httpx2.get(f"{endpoint}/api/models")
