"""What the emulated Hub is asked and what it answers, as plain values; its errors are worded as the real Hub's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs


@dataclass
class Received:
    """One request: `path` as it came (percent-encoded), header names in lower case, `site` hub, cdn or elsewhere.

    `sent` counts the body bytes that went out in answer, also when the client left before the end.
    """

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes = b""
    site: str = "hub"
    sent: int = 0

    @property
    def token(self) -> str | None:
        return self.headers.get("authorization", "").removeprefix("Bearer ") or None

    @property
    def target(self) -> str:
        """The path as it came, with its query decoded."""
        pairs = "&".join(f"{name}={value}" for name, values in self.query.items() for value in values)
        return f"{self.path}?{pairs}" if pairs else self.path

    def flag(self, name: str) -> bool:
        return self.query.get(name, [""])[-1].lower() in ("true", "1")

    def values(self, name: str) -> list[str]:
        """All values of a field that may be repeated; `name[]` means the same."""
        return [*self.query.get(name, []), *self.query.get(f"{name}[]", [])]

    def last(self, name: str, default: str) -> str:
        return self.query.get(name, [default])[-1]


def query_of(text: str) -> dict[str, list[str]]:
    return parse_qs(text, keep_blank_values=True)


@dataclass(frozen=True)
class Answer:
    """A whole answer; `whole` is the uncut file where `body` is a range of it."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bytes | None = None

    def plus(self, **changes: Any) -> Answer:
        return replace(self, **changes)


class Refused(Exception):
    """Ends a handler with an error answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


def as_json(value: object, headers: Mapping[str, str] | None = None) -> Answer:
    """With a weak ETag, as the Hub gives one to every JSON answer."""
    body = json.dumps(value).encode()
    etag = f'W/"{len(body):x}-{hashlib.sha1(body).hexdigest()[:27]}"'
    return Answer(200, {"Content-Type": "application/json; charset=utf-8", "ETag": etag, **(headers or {})}, body)


def error(status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    named = {"X-Error-Code": code} if code else {}
    body = json.dumps({"error": message}).encode()
    kind = {"Content-Type": "application/json; charset=utf-8", "X-Error-Message": message}
    return Answer(status, {**kind, **named, **(headers or {})}, body)


def repo_not_found(token: str | None) -> Answer:
    """Missing and private look alike: without a token the Hub says 401, with one 404."""
    if token is None:
        return error(401, "Invalid username or password.", "RepoNotFound")
    return error(404, "Repository not found", "RepoNotFound")


def gated(kind: str, repo: str, address: str, token: str | None) -> Answer:
    what = f"Access to {kind.removesuffix('s')} {repo} is restricted"
    if token is None:
        message = f"{what}. You must have access to it and be authenticated to access it. Please log in."
        return error(401, message, "GatedRepo")
    message = f"{what} and you are not in the authorized list. Visit {address} to ask for access."
    return error(403, message, "GatedRepo")


def revision_not_found(revision: str) -> Answer:
    return error(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def entry_not_found(commit: str) -> Answer:
    return error(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": commit})


def moved(location: str) -> Answer:
    body = f"Temporary Redirect. Redirecting to {location}".encode()
    return Answer(307, {"Content-Type": "text/plain; charset=utf-8", "Location": location}, body)


def file_part(asked: Received, data: bytes, headers: Mapping[str, str]) -> Answer:
    """A file, or the one range of it that was asked for: 206, or 416 where it begins behind the end."""
    offered = {"Accept-Ranges": "bytes", **headers}
    unit, _, span = asked.headers.get("range", "").partition("=")
    first, dash, last = span.partition("-")
    if unit.strip() != "bytes" or not dash or not (first + last).strip().isdigit():
        return Answer(200, offered, data)
    if first:
        start, end = int(first), min(int(last) + 1 if last else len(data), len(data))
    else:
        start, end = max(0, len(data) - int(last)), len(data)
    if start >= len(data) or end <= start:
        return Answer(416, {**offered, "Content-Range": f"bytes */{len(data)}"}, b"", data)
    place = {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
    return Answer(206, {**offered, **place}, data[start:end], data)
