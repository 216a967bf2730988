"""HubApi: the Hub's HTTP interface, within bounds of size and time, with every failure in the catalogue's own words."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import httpx2
from huggingface_hub import ModelInfo
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, parse_ratelimit_headers

from lora_catalog.errors import (
    BadToken,
    Broken,
    FileGone,
    Gated,
    HubBusy,
    HubError,
    HubUnreachable,
    NotShown,
    Renamed,
    RevisionGone,
    SentElsewhere,
    TooLarge,
)
from lora_catalog.reference import HUB_ENDPOINT

LARGEST_ANSWER = 16_000_000  # bytes of JSON; a page of 100 models has about 0.2 MB
SLOWEST_ANSWER = 20.0  # seconds for a whole JSON answer
MOST_REDIRECTS = 5
MOST_WAIT = 3600.0  # seconds that a Retry-After may ask for
PATIENT_WAIT = 2.0  # seconds of Retry-After that are simply waited for
PAUSES = (0.4, 1.2)  # seconds before a request that met a passing fault is sent again
DOWN = 30.0  # seconds for which a Hub that could not be reached is not tried again
STALLED = 10.0  # the same for one that did not answer in time
SLOWEST_PICTURE = 8.0  # seconds for a whole preview
_TIMEOUT = httpx2.Timeout(10.0, connect=5.0)
_HASTE = httpx2.Timeout(5.0)
_BAD_TOKEN = "Invalid credentials in Authorization header"  # the Hub's words
_PASSING = {500, 502, 503, 504}
# What the Hub keeps files on: https://huggingface.co/docs/hub/storage-backends
_HOSTS_OF_THE_HUB = ("huggingface.co", ".huggingface.co", ".hf.co")
_LISTED = ("author", "cardData", "downloads", "gated", "lastModified", "likes", "private", "sha", "tags")


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of models, its ETag, and the address of the next page; `unchanged` where the ETag still holds."""

    models: tuple[ModelInfo, ...]
    etag: str | None
    next: str | None
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes of a file, and the size of the whole."""

    data: bytes
    size: int


class HubApi:
    """Asks `endpoint` through huggingface_hub's shared client. Safe to use from several threads.

    Every method takes the asking visitor's own token, or None, and raises HubError. The token goes to the endpoint's
    own host and nowhere else. Where the Hub asks to wait, every request of that kind waits with it.
    """

    def __init__(self, endpoint: str = HUB_ENDPOINT, sleep: Callable[[float], None] = time.sleep) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._sleep = sleep
        self._silent: dict[str, tuple[float, HubError]] = {}  # by kind of request: until when, and why

    def models(
        self, filters: Sequence[str], search: str, sort: str, limit: int = 100, etag: str | None = None
    ) -> Listing:
        """The first page of the models that carry all tags in `filters`. Only what anyone may see."""
        asked = [("filter", tag) for tag in filters] + [("expand", field) for field in _LISTED]
        asked += [("sort", sort), ("direction", "-1"), ("limit", str(limit))]
        if search:
            asked.append(("search", search))
        return self._listing(f"{self.endpoint}/api/models", asked, etag)

    def more_models(self, address: str) -> Listing:
        """The page at `address`, which an earlier Listing named as its next."""
        if not address.startswith(f"{self.endpoint}/api/models?"):
            raise SentElsewhere("a page of models", urlsplit(address).hostname or "nowhere")
        return self._listing(address, (), None)

    def repo(self, repo: str, revision: str | None, token: str | None) -> ModelInfo:
        """A repo's card, commit, files with sizes and hashes, and the Hub's scan of them."""
        at = f"/revision/{quote(revision, safe='')}" if revision else ""
        address = f"{self.endpoint}/api/models/{repo}{at}"
        with self._open(
            address, repo, revision or "main", "", token, (("blobs", "true"), ("securityStatus", "true"))
        ) as r:
            info = _model(_json(r))
        if info.id.casefold() != repo.casefold():
            raise Renamed(repo, info.id)
        return info

    def part_of(self, repo: str, revision: str, file: str, begin: int, count: int, token: str | None) -> Part:
        """`count` bytes of the file from `begin` on, or as many as it has there."""
        headers = {"Range": f"bytes={begin}-{begin + count - 1}", "Accept-Encoding": "identity"}
        with self._open(self._address(repo, revision, file), repo, revision, file, token, headers=headers) as response:
            size = _whole_size(response, file)
            skipped = begin if response.status_code == 200 else 0  # a server that ignores ranges sends the whole
            wanted = skipped + max(0, min(count, size - begin))
            data = bytearray()
            for chunk in _told(response.iter_raw(), file):
                data += chunk
                if len(data) >= wanted:
                    break
        if len(data) < wanted:
            raise Broken(file, "the connection was cut")
        return Part(bytes(data[skipped:wanted]), size)

    def may_read(self, repo: str, revision: str, file: str, token: str | None) -> None:
        """Returns if the Hub gives this file to this token; raises Gated, NotShown or another HubError else."""
        with self._open(self._address(repo, revision, file), repo, revision, file, token, method="HEAD"):
            pass

    @contextmanager
    def chunks(self, repo: str, revision: str, file: str, token: str | None) -> Iterator[Iterator[bytes]]:
        """The whole file, in pieces as they arrive."""
        headers = {"Accept-Encoding": "identity"}
        with self._open(self._address(repo, revision, file), repo, revision, file, token, headers=headers) as response:
            yield _told(response.iter_raw(), file)

    def picture(self, repo: str, file: str, most: int) -> bytes:
        """A small file as anyone may see it, asked for once and in haste. Raises TooLarge above `most` bytes."""
        data, until = bytearray(), time.monotonic() + SLOWEST_PICTURE
        with self._open(self._address(repo, "main", file), repo, "main", file, None, haste=True) as response:
            for chunk in _told(response.iter_bytes(), file):
                data += chunk
                if len(data) > most:
                    raise TooLarge(file, None, most)
                if time.monotonic() > until:
                    raise Broken(file, "it came too slowly")
        return bytes(data)

    def _address(self, repo: str, revision: str, file: str) -> str:
        return f"{self.endpoint}/{repo}/resolve/{quote(revision, safe='')}/{quote(file)}"

    def _listing(self, address: str, asked: Sequence[tuple[str, str]], etag: str | None) -> Listing:
        headers = {"If-None-Match": etag} if etag else {}
        with self._open(address, "models", "main", "", None, asked, headers) as response:
            if response.status_code == 304:
                return Listing((), etag, None, unchanged=True)
            found = _json(response)
            if not isinstance(found, list):
                raise HubUnreachable("its answer is not a list of models")
            following = response.links.get("next", {}).get("url")
            return Listing(
                tuple(_models(found)), response.headers.get("etag"), following and urljoin(address, following)
            )

    @contextmanager
    def _open(
        self,
        address: str,
        repo: str,
        revision: str,
        file: str,
        token: str | None,
        params: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
        haste: bool = False,
    ) -> Iterator[httpx2.Response]:
        """A response that is good to read: redirects followed, faults that pass met with patience, others raised."""
        kind = "api" if "/api/" in address else "files"
        with ExitStack() as held:
            for pause in (None,) if haste else (*PAUSES, None):
                self._heed_silence(kind)
                try:
                    response = held.enter_context(
                        self._followed(method, address, file or repo, token, params, headers or {}, haste)
                    )
                except (httpx2.TransportError, OfflineModeIsEnabled) as error:
                    fault: HubError = HubUnreachable(_in_words(error))
                    fault.__cause__ = error
                    if isinstance(error, httpx2.ConnectError | httpx2.TimeoutException) and not haste:
                        # Neither helps to ask again, nor to have the next visitor wait as long.
                        seconds = DOWN if isinstance(error, httpx2.ConnectError) else STALLED
                        self._silent[kind] = (time.monotonic() + seconds, fault)
                        raise fault from error
                except (httpx2.InvalidURL, ValueError) as error:
                    raise HubUnreachable("its answer makes no sense") from error
                else:
                    if response.status_code not in _PASSING and response.status_code != 429:
                        break
                    fault = self._passing(kind, response)
                    held.close()
                if pause is None:
                    raise fault
                if not isinstance(fault, HubBusy):
                    self._sleep(pause)
            self._refuse_faults(response, repo, revision, file, token)
            yield response

    def _passing(self, kind: str, response: httpx2.Response) -> HubError:
        """The fault that this response means, with what it asks of later requests noted."""
        if response.status_code != 429 and "retry-after" not in response.headers:
            return HubUnreachable(f"it answers with error {response.status_code}")
        busy = HubBusy(min(MOST_WAIT, asked_to_wait(response.headers)))
        self._silent[kind] = (time.monotonic() + busy.seconds, busy)
        return busy

    @contextmanager
    def _followed(
        self,
        method: str,
        address: str,
        name: str,
        token: str | None,
        params: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        haste: bool,
    ) -> Iterator[httpx2.Response]:
        own, foreign = (build_hf_headers(token=given or False, headers=dict(headers)) for given in (token, None))
        for _ in range(MOST_REDIRECTS):
            at_home = origin_of(address) == origin_of(self.endpoint)
            if not at_home and not self._trusted(address):
                raise SentElsewhere(name, urlsplit(address).hostname or "nowhere")
            with get_session().stream(
                method,
                address,
                params=list(params) or None,
                headers=own if at_home else foreign,
                timeout=_HASTE if haste else _TIMEOUT,
                follow_redirects=False,
            ) as response:
                if not response.has_redirect_location:
                    yield response
                    return
                address, params = urljoin(str(response.url), response.headers["location"]), ()
        raise HubUnreachable("it sends us in circles")

    def _trusted(self, address: str) -> bool:
        """Whether the Hub may send us there: its own host at any port, or over HTTPS a host that keeps its files."""
        parts = urlsplit(address)
        host = parts.hostname or ""
        if parts.scheme in ("http", "https") and host == urlsplit(self.endpoint).hostname:
            return parts.scheme == "https" or self.endpoint.startswith("http:")
        return parts.scheme == "https" and (host == _HOSTS_OF_THE_HUB[0] or host.endswith(_HOSTS_OF_THE_HUB[1:]))

    def _heed_silence(self, kind: str) -> None:
        """Raises what silenced this kind of request, or waits where the Hub asked for a moment only."""
        until, why = self._silent.get(kind, (0.0, None))
        left = until - time.monotonic()
        if left <= 0 or why is None:
            return
        if not isinstance(why, HubBusy):
            raise HubUnreachable(why.reason) if isinstance(why, HubUnreachable) else why
        if left > PATIENT_WAIT:
            raise HubBusy(left)
        self._sleep(left)

    def _refuse_faults(self, response: httpx2.Response, repo: str, revision: str, file: str, token: str | None) -> None:
        if response.status_code == 304:
            return
        try:
            hf_raise_for_status(response)
        except GatedRepoError as error:
            raise Gated(repo, f"{self.endpoint}/{repo}", token is not None) from error
        except RevisionNotFoundError as error:
            raise RevisionGone(repo, revision) from error
        except EntryNotFoundError as error:
            raise FileGone(repo, file) from error
        except (RepositoryNotFoundError, HfHubHTTPError) as error:
            if token is not None and response.headers.get("x-error-message") == _BAD_TOKEN:
                raise BadToken() from error
            if response.status_code in (401, 403, 404):
                raise NotShown(repo, token is not None) from error
            raise HubUnreachable(f"it answers with error {response.status_code}") from error


def _models(entries: Sequence[Any]) -> Iterator[ModelInfo]:
    """Those that make sense; one odd entry does not hide the others."""
    for entry in entries:
        try:
            yield _model(entry)
        except HubUnreachable:
            continue


def _model(entry: Any) -> ModelInfo:
    try:
        info = ModelInfo(**entry)  # type: ignore[no-untyped-call]
        info.id.casefold()
        return info
    except Exception as error:  # the class does not check: any part of a foreign answer may be of a wrong type
        raise HubUnreachable("its answer makes no sense") from error


def _json(response: httpx2.Response) -> Any:
    """The answer, of bounded size, and read in bounded time even where it trickles."""
    data, until = bytearray(), time.monotonic() + SLOWEST_ANSWER
    try:
        for chunk in response.iter_bytes():
            data += chunk
            if len(data) > LARGEST_ANSWER or time.monotonic() > until:
                raise HubUnreachable("its answer does not end")
        return json.loads(data)
    except httpx2.TransportError as error:
        raise HubUnreachable("its answer was cut off") from error
    except (ValueError, RecursionError, httpx2.DecodingError) as error:
        raise HubUnreachable("its answer makes no sense") from error


def _told(chunks: Iterator[bytes], file: str) -> Iterator[bytes]:
    """The chunks, and what cuts them off in our words."""
    try:
        yield from chunks
    except httpx2.RequestError as error:
        raise Broken(file, "the connection was cut" if not _timed_out(error) else "the Hub stopped sending") from error


def _whole_size(response: httpx2.Response, file: str) -> int:
    """Of the file, whatever part of it this response has."""
    said = response.headers.get("content-range", "").rpartition("/")[2]
    if response.status_code == 200:
        said = response.headers.get("content-length", "")
    if not said.isdecimal():
        raise Broken(file, "the Hub does not say how large it is")
    return int(said)


def asked_to_wait(headers: httpx2.Headers) -> float:
    """Seconds, from `Retry-After` (seconds or a date, RFC 9110) or the newer `RateLimit`; a minute where unreadable."""
    said = headers.get("retry-after", "")
    if said.isdecimal():
        return float(said)
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, OverflowError, TypeError):
        limit = parse_ratelimit_headers(headers)
        return 60.0 if limit is None else float(limit.reset_in_seconds)


def origin_of(address: str) -> tuple[str, str]:
    """Scheme and host with its port: a token goes to its own origin only."""
    parts = urlsplit(address)
    return parts.scheme, parts.netloc


def _timed_out(error: Exception) -> bool:
    return isinstance(error, httpx2.TimeoutException)


def _in_words(error: Exception) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set on this server"
    return "it does not answer in time" if _timed_out(error) else "it cannot be reached from here"
