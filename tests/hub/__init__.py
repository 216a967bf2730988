"""EmulatedHub: a Hugging Face Hub over real HTTP, with repos in memory and faults on demand.

It answers as https://huggingface.co does to what huggingface_hub 2.4 asks.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from tests.hub import faults
from tests.hub.answers import Answer, Received, error
from tests.hub.reading import CDN, READING, answer
from tests.hub.repos import EPOCH, Kind, Repo, Shelf
from tests.hub.wire import Send, serving
from tests.hub.writing import STORAGE, WRITING

__all__ = ["EmulatedHub", "Received", "faults"]


@dataclass
class _Planned:
    """A fault that waits for its requests."""

    fault: Send
    path_contains: str
    times: int
    skip: int
    method: str | None
    site: str | None
    done: bool

    def meets(self, asked: Received) -> bool:
        return (
            self.times > 0
            and self.path_contains in asked.target
            and self.method in (None, asked.method)
            and self.site in (None, asked.site)
        )


class EmulatedHub:
    """Repos, users and faults; safe to change from any thread while it runs.

    `requests` holds what was asked, in order of arrival, at the Hub, at its CDN and at `elsewhere`: a host of nobody's,
    which answers anything and should never be asked.
    """

    def __init__(self, cdn: bool = False, page: int = 1000) -> None:
        self.requests: list[Received] = []
        self._shelf = Shelf(cdn=cdn, page=page)
        self._planned: list[_Planned] = []
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def running(self, port: int = 0) -> Iterator[str]:
        """Serves on 127.0.0.1 until the end of the block; gives the Hub's address. It may be run again."""
        ports = {"hub": port, "cdn": 0, "elsewhere": 0}
        sockets = {site: socket.create_server(("127.0.0.1", number)) for site, number in ports.items()}
        hosts = {"hub": "127.0.0.1", "cdn": "127.0.0.1", "elsewhere": "localhost"}
        self._shelf.sites = {site: f"http://{hosts[site]}:{sock.getsockname()[1]}" for site, sock in sockets.items()}
        with serving(self._reply, sockets):
            yield self.endpoint

    @property
    def endpoint(self) -> str:
        return self._shelf.sites["hub"]

    @property
    def cdn_address(self) -> str:
        """Where LFS files are fetched from when `cdn` is on."""
        return self._shelf.sites["cdn"]

    @property
    def elsewhere(self) -> str:
        return self._shelf.sites["elsewhere"]

    @property
    def cdn(self) -> bool:
        """Whether `resolve` redirects as the real Hub's does: LFS files to the CDN, others to the Hub's own cache."""
        return self._shelf.cdn

    @cdn.setter
    def cdn(self, on: bool) -> None:
        self._shelf.cdn = on

    def add_user(self, token: str, name: str = "somebody") -> None:
        """Tokens nobody has are refused with 401, even for what is public."""
        self._shelf.users[token] = name

    def add_repo(
        self,
        name: str,
        files: Mapping[str, bytes] | None = None,
        card: Mapping[str, Any] | None = None,
        tags: Iterable[str] = (),
        *,
        kind: Kind = "models",
        downloads: int = 0,
        likes: int = 0,
        trending: float = 0,
        gated: Literal[False, "auto", "manual"] = False,
        private: bool = False,
        readers: Iterable[str] = (),
        writers: Iterable[str] = (),
        security: Mapping[str, str] | None = None,
        scanned: bool = True,
        last_modified: datetime = EPOCH,
    ) -> str:
        """Gives the sha of its first commit. A card without a README.md makes one."""
        repo = Repo(kind, name, dict(card or {}), list(tags), downloads, likes, trending, gated, private, set(readers))
        repo.security, repo.scanned, repo.writers = dict(security or {}), scanned, set(writers)
        written = {"README.md": f"---\n{json.dumps(repo.card)}\n---\n# {name}\n".encode()} if card else {}
        sha = repo.add({**written, **(files or {})}, last_modified)
        with self._lock:
            self._shelf.repos[kind, name] = repo
            for token in repo.readers | repo.writers:
                self._shelf.users.setdefault(token, "somebody")
        return sha

    def commit(
        self,
        name: str,
        files: Mapping[str, bytes | None],
        *,
        card: Mapping[str, Any] | None = None,
        made: datetime | None = None,
        branch: str = "main",
        kind: Kind = "models",
    ) -> str:
        """Writes files (None deletes one) on a branch, which is made from nothing if it is not there; gives the sha."""
        with self._lock:
            repo = self._shelf.repos[kind, name]
            repo.card = repo.card if card is None else dict(card)
            return repo.add(files, made, branch)

    def tag(self, name: str, tag: str, sha: str, kind: Kind = "models") -> None:
        self._shelf.repos[kind, name].refs[tag] = sha

    def drop_revision(self, name: str, revision: str, kind: Kind = "models") -> None:
        """Forgets a branch or a tag, or a commit that no longer is the head of one."""
        with self._lock:
            repo = self._shelf.repos[kind, name]
            if repo.refs.pop(revision, None) is None:
                del repo.commits[revision]

    def repo(self, name: str, kind: Kind = "models") -> Repo:
        """The repo itself: its counts, readers and verdicts may be set."""
        return self._shelf.repos[kind, name]

    def rename(self, old: str, new: str, kind: Kind = "models") -> None:
        """The old name answers with a redirect to the new one from now on."""
        with self._lock:
            repo = self._shelf.repos.pop((kind, old))
            repo.id = new
            self._shelf.repos[kind, new] = repo
            self._shelf.moved[kind, old] = new

    def delete(self, name: str, kind: Kind = "models") -> None:
        with self._lock:
            del self._shelf.repos[kind, name]

    def fail(
        self,
        path_contains: str,
        fault: Send,
        times: int = 1,
        *,
        skip: int = 0,
        method: str | None = None,
        site: str | None = None,
        done: bool = True,
    ) -> None:
        """Spoils the next `times` answers to requests whose path or query holds the text, after `skip` good ones.

        What was asked is done all the same where it writes, or with `done` false is not.
        """
        with self._lock:
            self._planned.append(_Planned(fault, path_contains, times, skip, method, site, done))

    def heal(self) -> None:
        """Forgets all faults that are still to come."""
        with self._lock:
            self._planned.clear()

    def asked(self, path_contains: str = "", method: str | None = None, site: str | None = None) -> list[Received]:
        """The requests so far whose path or query holds the text."""
        with self._lock:
            return [
                asked
                for asked in self.requests
                if path_contains in asked.target and method in (None, asked.method) and site in (None, asked.site)
            ]

    def _reply(self, asked: Received) -> tuple[Answer, Send | None]:
        with self._lock:
            self.requests.append(asked)
            planned = self._spoilt(asked)
            if planned is None:
                return self._answer(asked), None
            return self._answer(asked) if planned.done else Answer(200), planned.fault

    def _answer(self, asked: Received) -> Answer:
        if asked.site == "elsewhere":
            return Answer(200, {"Content-Type": "application/json"}, b"[]")
        if asked.site == "cdn":
            return answer((*CDN, *STORAGE), self._shelf, asked)
        if asked.token is not None and asked.token not in self._shelf.users:
            return error(401, "Invalid credentials in Authorization header")
        return answer((*READING, *WRITING), self._shelf, asked)

    def _spoilt(self, asked: Received) -> _Planned | None:
        """The fault that was planned for this request."""
        for planned in self._planned:
            if planned.meets(asked):
                if planned.skip:
                    planned.skip -= 1
                    continue
                planned.times -= 1
                return planned
        return None
