"""The Hub's endpoints that read: one handler each, and the table that finds it by method and path."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlencode

from tests.hub.answers import (
    Answer,
    Received,
    Refused,
    as_json,
    entry_not_found,
    error,
    file_part,
    gated,
    moved,
    query_of,
    repo_not_found,
)
from tests.hub.repos import Commit, Repo, Shelf, StoredFile

T = TypeVar("T")
Parts = Mapping[str, str]
Handler = Callable[[Shelf, Received, Parts], Answer]


def harnesses(shelf: Shelf, asked: Received, parts: Parts) -> Answer:
    """What huggingface_hub asks at import, once a day."""
    return as_json({"standardEnvVars": [], "harnesses": {}})


def whoami(shelf: Shelf, asked: Received, parts: Parts) -> Answer:
    if asked.token is None:
        raise Refused(error(401, "Invalid username or password."))
    name = shelf.users[asked.token]
    access = {"accessToken": {"displayName": "test", "role": "read"}}
    return as_json({"type": "user", "id": _id(name), "name": name, "fullname": name, "orgs": [], "auth": access})


def listing(shelf: Shelf, asked: Received, parts: Parts) -> Answer:
    """Repos that pass every filter, sorted, a page at a time."""
    order = asked.last("sort", "trendingScore")
    if order not in _ORDER:
        raise Refused(error(400, f"Invalid sort {order}"))
    limit = asked.last("limit", "")
    if limit and not limit.isdigit():
        raise Refused(error(400, "limit must be a number"))
    found = [repo for (kind, _), repo in shelf.repos.items() if kind == parts["kind"] and _wanted(repo, asked)]
    found.sort(key=_ORDER[order], reverse=asked.last("direction", "-1") == "-1")
    shown, links = _page(found, min(int(limit or shelf.page), shelf.page), asked, shelf)
    return as_json([_item(repo, asked) for repo in shown], links)


def info(shelf: Shelf, asked: Received, parts: Parts) -> Answer:
    """One repo at one revision; `blobs` adds sizes and hashes, `securityStatus` the scan."""
    repo = repo_of(shelf, asked, parts)
    commit = repo.at(parts["rev"] or "main")
    facts = _facts(repo, commit, asked.flag("blobs"))
    if wanted := asked.values("expand"):
        return as_json(_only(facts, wanted))
    del facts["trendingScore"], facts["baseModels"]
    if asked.flag("securityStatus"):
        issues = [{"path": path, "level": level} for path, level in repo.security.items() if level != "safe"]
        facts["securityRepoStatus"] = {"scansDone": repo.scanned, "filesWithIssues": issues}
    return as_json(facts)


def tree(shelf: Shelf, asked: Received, parts: Parts) -> Answer:
    repo = repo_of(shelf, asked, parts)
    commit = repo.at(parts["rev"])
    below = f"{parts['path']}/" if parts["path"] else ""
    inside = [path for path in commit.files if path.startswith(below)]
    if below and not inside:
        raise Refused(entry_not_found(commit.sha))
    folders = {f"{folder}" for path in inside for folder in PurePosixPath(path).parents} - {"."}
    paths = sorted(path for path in {*inside, *folders} if path.startswith(below))
    if not asked.flag("recursive"):
        paths = [path for path in paths if "/" not in path.removeprefix(below)]
    shown, links = _page(paths, 50 if asked.flag("expand") else shelf.page, asked, shelf)
    return as_json([_entry(repo, commit, path, asked.flag("expand")) for path in shown], links)


def paths_info(shelf: Shelf, asked: Received, parts: Parts) -> Answer:
    """The facts of the paths that are there; the others are left out."""
    repo = repo_of(shelf, asked, parts)
    commit = repo.at(parts["rev"])
    text = asked.body.decode()
    form = json.loads(text) if text.startswith("{") else query_of(text)
    expand = str(form.get("expand", [""])).lower().strip("[]'") == "true"
    known = [path for path in form["paths"] if path in commit.files or _is_folder(commit, path)]
    return as_json([_entry(repo, commit, path, expand) for path in known])


def resolve(shelf: Shelf, asked: Received, parts: Parts) -> Answer:
    """A file of a revision. With `shelf.cdn` LFS files are sent for to the CDN, and others to the Hub's own cache."""
    repo = repo_of(shelf, asked, parts)
    if not repo.open_to(asked.token):
        raise Refused(gated(repo.kind, repo.id, f"{shelf.sites['hub']}/{repo.id}", asked.token))
    commit = repo.at(parts["rev"])
    file = commit.files.get(parts["file"])
    if file is None:
        raise Refused(entry_not_found(commit.sha))
    facts = {"X-Repo-Commit": commit.sha, "ETag": file.etag}
    if file.lfs:
        facts |= {"X-Linked-Etag": file.etag, "X-Linked-Size": str(len(file.data))}
        if shelf.cdn:
            signed = urlencode({"Expires": 9_999_999_999, "Signature": "emulated", "filename": parts["file"]})
            there = f"{shelf.sites['cdn']}/repos/{file.sha256}?{signed}"
            return Answer(302, {**facts, "Location": there}, f"Found. Redirecting to {there}".encode())
    elif shelf.cdn and not parts["cached"]:
        path = f"/api/resolve-cache/{repo.kind}/{repo.id}/{commit.sha}/{quote(file.path)}"
        return moved(f"{path}?etag={quote(file.etag)}").plus(headers={**facts, "Location": path})
    return file_part(asked, file.data, {**facts, "Content-Type": _type(file.path)})


def from_cdn(shelf: Shelf, asked: Received, parts: Parts) -> Answer:
    """A file by its sha256. Like S3, it refuses whoever sends a token beside the address's own signature."""
    if asked.token is not None:
        return Answer(400, {"Content-Type": "application/xml"}, b"<Error><Code>InvalidArgument</Code></Error>")
    file = shelf.blob(parts["sha256"])
    if file is None or "Signature" not in asked.query:
        return Answer(403, {"Content-Type": "application/xml"}, b"<Error><Code>AccessDenied</Code></Error>")
    etag = f'"{file.blob}"'  # the storage's own, which is not the sha256
    return file_part(asked, file.data, {"ETag": etag, "Content-Type": "binary/octet-stream"})


_REPO = r"(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)"
READING: Sequence[tuple[str, str, Handler]] = (
    ("GET", r"/api/agent-harnesses", harnesses),
    ("GET", r"/api/whoami-v2", whoami),
    ("GET", r"/api/(?P<kind>models|datasets)", listing),
    ("GET", rf"/api/{_REPO}(?:/revision/(?P<rev>[^/]+))?", info),
    ("GET", rf"/api/{_REPO}/tree/(?P<rev>[^/]+)(?:/(?P<path>.+))?", tree),
    ("POST", rf"/api/{_REPO}/paths-info/(?P<rev>[^/]+)", paths_info),
    ("GET", rf"/api/(?P<cached>resolve-cache)/{_REPO}/(?P<rev>[^/]+)/(?P<file>.+)", resolve),
    ("GET", r"(?P<cached>)(?P<kind>)/(?P<id>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<file>.+)", resolve),
    ("GET", r"(?P<cached>)/(?P<kind>datasets)/(?P<id>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<file>.+)", resolve),
)
CDN: Sequence[tuple[str, str, Handler]] = (("GET", r"/repos/(?P<sha256>[0-9a-f]{64})", from_cdn),)


def answer(routes: Sequence[tuple[str, str, Handler]], shelf: Shelf, asked: Received) -> Answer:
    """What the first route that fits says; HEAD is GET without the body, and a known ETag gives 304."""
    method = "GET" if asked.method == "HEAD" else asked.method
    for verb, pattern, handler in routes:
        found = re.fullmatch(pattern, asked.path)
        if verb == method and found:
            try:
                parts = {name: unquote(part or "") for name, part in found.groupdict().items()}
                answered = handler(shelf, asked, parts)
            except Refused as refused:
                return refused.answer
            known = [etag.strip() for etag in asked.headers.get("if-none-match", "").split(",")]
            fresh = answered.status == 200 and answered.headers.get("ETag") in known
            return answered.plus(status=304, body=b"") if fresh else answered
    return error(404, "Sorry, we can't find the page you are looking for.")


def repo_of(shelf: Shelf, asked: Received, parts: Parts) -> Repo:
    """The repo that the path names, where this token may see it."""
    kind, name = parts["kind"] or "models", parts["id"]
    if new := shelf.moved.get((kind, name)):
        path = asked.path.replace(quote(name, safe="/"), new, 1)
        raise Refused(moved(path + ("?" + urlencode(asked.query, doseq=True) if asked.query else "")))
    repo = shelf.repos.get((kind, name))
    if repo is None or not repo.shown_to(asked.token):
        raise Refused(repo_not_found(asked.token))
    return repo


def _wanted(repo: Repo, asked: Received) -> bool:
    gate = asked.last("gated", "")
    return (
        repo.shown_to(asked.token)
        and set(asked.values("filter")) <= set(repo.tags)
        and all(word in repo.id.casefold() for word in asked.last("search", "").casefold().split())
        and asked.last("author", repo.id.split("/")[0]) == repo.id.split("/")[0]
        and asked.last("pipeline_tag", _pipeline(repo)) == _pipeline(repo)
        and (not gate or (gate.lower() == "true") == bool(repo.gated))
    )


_ORDER: dict[str, Callable[[Repo], Any]] = {
    "trendingScore": lambda repo: repo.trending,
    "downloads": lambda repo: repo.downloads,
    "likes": lambda repo: repo.likes,
    "lastModified": lambda repo: repo.head.made,
    "createdAt": lambda repo: min(commit.made for commit in repo.commits.values()),
}


def _page(items: Sequence[T], size: int, asked: Received, shelf: Shelf) -> tuple[Sequence[T], dict[str, str]]:
    """The items behind the cursor, and the Link header that asks for those after them."""
    start = int(base64.urlsafe_b64decode(asked.last("cursor", "MA==")))
    if start + size >= len(items):
        return items[start:], {}
    cursor = base64.urlsafe_b64encode(str(start + size).encode()).decode()
    query = urlencode(asked.query | {"cursor": [cursor]}, doseq=True)
    return items[start : start + size], {"Link": f'<{shelf.sites["hub"]}{asked.path}?{query}>; rel="next"'}


_ALWAYS = ("_id", "id")
_LISTED = (*_ALWAYS, "likes", "trendingScore", "private", "downloads", "tags", "createdAt", "modelId")
_LISTED_TOO = ("pipeline_tag", "library_name")
_FULL = ("author", "sha", "lastModified", "gated", "disabled", "siblings")


def _item(repo: Repo, asked: Received) -> dict[str, Any]:
    facts = _facts(repo, repo.head, False)
    if wanted := asked.values("expand"):
        return _only(facts, wanted)
    more = (*(_FULL if asked.flag("full") else ()), *(("cardData",) if asked.flag("cardData") else ()))
    return {name: facts[name] for name in (*_LISTED, *_LISTED_TOO, *more)}


def _only(facts: dict[str, Any], wanted: list[str]) -> dict[str, Any]:
    if unknown := set(wanted) - set(facts):
        raise Refused(error(400, f"Invalid option: expand does not know {', '.join(sorted(unknown))}"))
    return {name: facts[name] for name in (*_ALWAYS, *wanted)}


def _facts(repo: Repo, commit: Commit, blobs: bool) -> dict[str, Any]:
    return {
        "_id": _id(repo.id),
        "id": repo.id,
        "modelId": repo.id,
        "author": repo.id.split("/")[0],
        "sha": commit.sha,
        "createdAt": _date(_ORDER["createdAt"](repo)),
        "lastModified": _date(commit.made),
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": repo.downloads,
        "downloadsAllTime": repo.downloads,
        "likes": repo.likes,
        "trendingScore": repo.trending,
        "tags": repo.tags,
        "pipeline_tag": _pipeline(repo),
        "library_name": repo.card.get("library_name", "diffusers"),
        "cardData": repo.card,
        "widgetData": repo.card.get("widget"),
        "baseModels": None,
        "usedStorage": sum(len(file.data) for file in commit.files.values()),
        "spaces": [],
        "siblings": [_sibling(file, blobs) for _, file in sorted(commit.files.items())],
    }


def _sibling(file: StoredFile, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": file.path}
    lfs = {"sha256": file.sha256, "size": len(file.data), "pointerSize": len(file.pointer)}
    facts = {"rfilename": file.path, "blobId": file.blob, "size": len(file.data)}
    return {**facts, "lfs": lfs} if file.lfs else facts


def _entry(repo: Repo, commit: Commit, path: str, expand: bool) -> dict[str, Any]:
    if path not in commit.files:
        return {"type": "directory", "oid": _id(path) * 2, "size": 0, "path": path}
    file = commit.files[path]
    facts: dict[str, Any] = {"type": "file", "oid": file.blob, "size": len(file.data), "path": path}
    if file.lfs:
        facts["lfs"] = {"oid": file.sha256, "size": len(file.data), "pointerSize": len(file.pointer)}
    if expand:
        facts["lastCommit"] = {"id": commit.sha, "title": "Upload", "date": _date(commit.made)}
        verdict = {"status": repo.security.get(path, "safe"), "avScan": None, "pickleImportScan": None}
        facts["securityFileStatus"] = verdict
    return facts


def _is_folder(commit: Commit, path: str) -> bool:
    return any(file.startswith(f"{path}/") for file in commit.files)


def _pipeline(repo: Repo) -> str:
    return str(repo.card.get("pipeline_tag", "text-to-image"))


def _id(text: str) -> str:
    """Stands for the Hub's database ids."""
    return text.encode().hex()[:24].ljust(24, "0")


def _date(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _type(path: str) -> str:
    texts = {".md": "text/plain; charset=utf-8", ".json": "application/json", ".png": "image/png", ".jpg": "image/jpeg"}
    return texts.get(PurePosixPath(path).suffix, "application/octet-stream")
