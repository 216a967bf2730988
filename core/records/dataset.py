"""HubDataset: one dataset repo, over HTTP: look, upload, commit, verify, read, squash; once each, in bounded time.

The requests are those of huggingface_hub's `create_commit` with plain LFS. The library's own calls wait without end:
no timeout, five tries inside each, and as long as any Retry-After says.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

import httpx2
from huggingface_hub import is_offline_mode
from huggingface_hub.utils import build_hf_headers

from lora_catalog.hub.api import asked_to_wait, origin_of

BRANCH = "main"
CARD = "README.md"
TIMEOUT = httpx2.Timeout(20.0, connect=5.0)  # seconds for each step of a request: the client's to keep
_SLOWEST = 60.0  # seconds for a whole answer
_SLOWEST_FILE = 300.0
_LARGEST = 64_000_000  # bytes of an answer that is no file
_MOST_REDIRECTS = 3
_LFS = {"Accept": "application/vnd.git-lfs+json", "Content-Type": "application/vnd.git-lfs+json"}


class HubFault(Exception):
    """What came between; `str()` is a clause for people. `wait` is the seconds that the Hub asks for, if it does."""

    def __init__(self, said: str, wait: float | None = None) -> None:
        super().__init__(said)
        self.wait = wait


class HubRefuses(HubFault):
    """It helps nobody to ask again before the owner has done something."""


class Gone(HubFault):
    """No such repo or file."""


class Overtaken(HubFault):
    """Another commit came first."""


@dataclass(frozen=True)
class Look:
    """The repo as it is: its newest commit and its files."""

    commit: str
    files: frozenset[str]


@dataclass(frozen=True)
class Upload:
    """A local file on its way to `path` in the repo."""

    path: str
    file: Path
    sha256: str
    size: int


class HubDataset:
    """Asks `endpoint` as the owner of `token`, as patiently as `client` is. Every method raises HubFault.

    The token goes to the endpoint's own origin and nowhere else, and so do records, but for the storage that the Hub
    names for them.
    """

    def __init__(self, repo: str, endpoint: str, token: str, client: httpx2.Client) -> None:
        self.repo, self._endpoint, self._token, self._client = repo, endpoint.rstrip("/"), token, client

    def look(self) -> Look | None:
        """None where there is no such repo, or none that the token may see."""
        try:
            facts = self._json("GET", f"/api/datasets/{self.repo}")
        except Gone:
            return None
        try:
            return Look(str(facts["sha"]), frozenset(str(file["rfilename"]) for file in facts["siblings"]))
        except (KeyError, TypeError) as error:
            raise _senseless() from error

    def create(self) -> None:
        """Makes the repo, private; nothing where it is there already."""
        owner, name = self.repo.split("/")
        form = {"type": "dataset", "name": name, "organization": owner, "visibility": "private"}
        self._json("POST", "/api/repos/create", json=form, fine=(409,))

    def store(self, uploads: Sequence[Upload]) -> None:
        """Puts the files into the Hub's storage, where nobody sees them before a commit; those there are left out.

        After https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md
        """
        if not uploads:
            return
        objects = [{"oid": up.sha256, "size": up.size} for up in uploads]
        form = {"operation": "upload", "transfers": ["basic"], "hash_algo": "sha256", "objects": objects}
        batch = f"/datasets/{self.repo}.git/info/lfs/objects/batch"
        answered = self._json("POST", batch, headers=_LFS, json=form | {"ref": {"name": BRANCH}})
        wanted = {up.sha256: up for up in uploads}
        try:
            for told in answered["objects"]:
                if "error" in told:
                    raise HubFault("the Hub's storage refuses the records")
                actions = told.get("actions") or {}
                if "upload" in actions:
                    self._put(wanted[told["oid"]], actions["upload"])
                if "verify" in actions:
                    where = urljoin(self._endpoint, actions["verify"]["href"])
                    self._ask("POST", where, json={"oid": told["oid"], "size": told["size"]})
        except (KeyError, TypeError, AttributeError) as error:
            raise _senseless() from error

    def commit(
        self, summary: str, uploads: Sequence[Upload] = (), deleted: Sequence[str] = (), *,
        card: str | None = None, parent: str | None = None,
    ) -> None:  # fmt: skip
        """All of it in one commit; the uploads are stored already. With `parent` it raises Overtaken if that is the
        head no more."""
        lines = [("header", {"summary": summary, "description": ""} | ({"parentCommit": parent} if parent else {}))]
        if card is not None:
            content = base64.b64encode(card.encode()).decode()
            lines.append(("file", {"path": CARD, "content": content, "encoding": "base64"}))
        lines += [
            ("lfsFile", {"path": up.path, "algo": "sha256", "oid": up.sha256, "size": up.size})  # type: ignore[dict-item]
            for up in uploads
        ]
        lines += [("deletedFile", {"path": path}) for path in deleted]
        body = "".join(json.dumps({"key": key, "value": value}) + "\n" for key, value in lines).encode()
        headers = {"Content-Type": "application/x-ndjson"}
        self._json("POST", f"/api/datasets/{self.repo}/commit/{BRANCH}", headers=headers, content=body)

    def held(self, paths: Sequence[str]) -> dict[str, str]:
        """Those of the paths that the newest commit has, each with the sha256 of its file."""
        if not paths:
            return {}
        form = {"paths": list(paths), "expand": False}
        entries = self._json("POST", f"/api/datasets/{self.repo}/paths-info/{BRANCH}", data=form)
        try:
            return {str(entry["path"]): str(entry["lfs"]["oid"]) for entry in entries if entry.get("lfs")}
        except (KeyError, TypeError, AttributeError) as error:
            raise _senseless() from error

    def read(self, path: str) -> bytes:
        """A file of the newest commit. Raises Gone where it has none."""
        address = f"/datasets/{self.repo}/resolve/{BRANCH}/{quote(path)}"
        return self._ask("GET", address, slowest=_SLOWEST_FILE, largest=None)

    def squash(self) -> None:
        """Makes one commit of the whole history, so that nobody finds in it what was deleted."""
        address = f"/api/datasets/{self.repo}/super-squash/{BRANCH}"
        self._ask("POST", address, json={"message": "Forget what was deleted"})

    def _put(self, upload: Upload, action: Mapping[str, Any]) -> None:
        where = urljoin(self._endpoint, action["href"])
        if self._endpoint.startswith("https:") and not where.startswith("https:"):
            raise HubFault("the Hub names a storage that is not secure")
        data = upload.file.read_bytes()
        self._ask("PUT", where, headers=dict(action.get("header") or {}), content=data, storage=True)

    def _json(self, method: str, address: str, **options: Any) -> Any:
        try:
            return json.loads(self._ask(method, address, **options))
        except (ValueError, RecursionError) as error:
            raise _senseless() from error

    def _ask(
        self, method: str, address: str, *, headers: Mapping[str, str] | None = None, fine: Sequence[int] = (),
        slowest: float = _SLOWEST, largest: int | None = _LARGEST, storage: bool = False, **body: Any,
    ) -> bytes:  # fmt: skip
        """The whole answer. Raises HubFault for any status of an error but those in `fine`."""
        if is_offline_mode():
            raise HubRefuses("HF_HUB_OFFLINE is set on this server")
        address = urljoin(self._endpoint, address)
        for _ in range(_MOST_REDIRECTS + 1):
            home = origin_of(address) == origin_of(self._endpoint)
            if not (home or storage or method == "GET"):
                raise HubFault("the Hub sends us elsewhere")
            own = build_hf_headers(token=self._token if home else False, headers=dict(headers or {}))
            try:
                with self._client.stream(method, address, headers=own, **body) as answer:
                    data = b"".join(_bounded(answer, time.monotonic() + slowest, largest))
            except httpx2.TimeoutException as error:
                raise HubFault("the Hub does not answer in time") from error
            except (httpx2.RequestError, httpx2.InvalidURL) as error:
                raise HubFault("the Hub does not answer") from error
            if not answer.has_redirect_location:
                break
            address = urljoin(address, answer.headers["location"])
        if answer.is_success or answer.status_code in fine:
            return data
        raise self._fault(answer, storage)

    def _fault(self, answer: httpx2.Response, storage: bool) -> HubFault:
        status = answer.status_code
        if status == 429 or "retry-after" in answer.headers:
            return HubFault("the Hub asks to wait", asked_to_wait(answer.headers))
        if status == 401 and answer.headers.get("x-error-code") != "RepoNotFound":
            return HubRefuses("the Hub does not accept the token: give another as HF_TOKEN")
        if status == 402 or (status == 403 and not storage):
            return HubRefuses(f"the token may not write to the dataset {self.repo}: give another as HF_TOKEN")
        if status in (401, 404):
            return Gone(f"the dataset {self.repo} is not there")
        if status in (409, 412):
            return Overtaken("another writer was faster")
        return HubFault(f"the Hub answers with error {status}")


def _bounded(answer: httpx2.Response, until: float, largest: int | None) -> Iterator[bytes]:
    count = 0
    for chunk in answer.iter_bytes():
        count += len(chunk)
        if time.monotonic() > until or (largest is not None and count > largest):
            raise HubFault("the Hub's answer does not end")
        yield chunk


def _senseless() -> HubFault:
    return HubFault("the Hub's answer makes no sense")
