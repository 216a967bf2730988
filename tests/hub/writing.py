"""The Hub's endpoints that write: repos made, files uploaded (LFS and in the commit itself), commits, squashes."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import yaml  # type: ignore[import-untyped]

from tests.hub.answers import Answer, Received, Refused, as_json, entry_not_found, error
from tests.hub.reading import Handler, Parts, repo_of
from tests.hub.repos import Kind, Repo, Shelf, StoredFile

_SIGNED = "X-Amz-Signature=emulated"
_KINDS: dict[str, Kind] = {"model": "models", "dataset": "datasets", "space": "spaces"}


def create(shelf: Shelf, asked: Received, parts: Parts) -> Answer:
    """An empty repo, private where that is asked for, in the user's own namespace."""
    user = _user(shelf, asked)
    form = json.loads(asked.body)
    owner, kind = form.get("organization") or user, _KINDS[form.get("type", "model")]
    name = f"{owner}/{form['name']}"
    if owner != user:
        raise Refused(error(403, f"You don't have the rights to create a {kind[:-1]} under the namespace {owner}"))
    address = f"{shelf.sites['hub']}/{name}"
    if (kind, name) in shelf.repos:
        conflict = error(409, f"You already created this {kind[:-1]} repo: {name}")
        raise Refused(conflict.plus(body=json.dumps({"error": "You already created it", "url": address}).encode()))
    if kind == "spaces" and "sdk" not in form:
        raise Refused(error(400, "A Space needs an SDK"))
    private = form.get("private", form.get("visibility") == "private")
    shelf.repos[kind, name] = repo = Repo(kind, name, {}, [], private=private)
    repo.readers.add(str(asked.token))
    repo.writers.add(str(asked.token))
    repo.add({".gitattributes": b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"})
    return as_json({"url": address, "name": name, "id": name})


def variable(shelf: Shelf, asked: Received, parts: Parts) -> Answer:
    """A Space's environment variable; what it was set to stands in the requests."""
    _written(shelf, asked, parts)
    form = json.loads(asked.body)
    return as_json({form["key"]: {"key": form["key"], "value": form["value"]}})


def validate_yaml(shelf: Shelf, asked: Received, parts: Parts) -> Answer:
    """What the Hub says of a README.md before it is committed."""
    try:
        _card(json.loads(asked.body)["content"])
    except (yaml.YAMLError, ValueError) as fault:
        raise Refused(error(400, "Invalid metadata in README.md")) from fault
    return as_json({"errors": [], "warnings": []})


def preupload(shelf: Shelf, asked: Received, parts: Parts) -> Answer:
    """How each file is to be sent, and what stands under its name by now."""
    held = _written(shelf, asked, parts).at(parts["rev"]).files
    modes: list[dict[str, Any]] = []
    for file in json.loads(asked.body)["files"]:
        lfs, there = StoredFile(file["path"], b"").lfs, held.get(file["path"])
        oid = None if there is None else there.sha256 if there.lfs else there.blob
        mode = "lfs" if lfs else "regular"
        modes.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return as_json({"files": modes})


def lfs_batch(shelf: Shelf, asked: Received, parts: Parts) -> Answer:
    """Where to put each object that is not there yet: a signed address at the storage, and one to have it verified."""
    repo = _written(shelf, asked, parts)
    objects: list[dict[str, Any]] = []
    for wanted in json.loads(asked.body)["objects"]:
        facts = {"oid": wanted["oid"], "size": wanted["size"]}
        if shelf.blob(wanted["oid"]) is None and wanted["oid"] not in shelf.uploads:
            href = f"{shelf.sites['cdn']}/repos/{wanted['oid']}?size={wanted['size']}&{_SIGNED}"
            verify = f"{shelf.sites['hub']}/{repo.kind}/{quote(repo.id)}.git/info/lfs/objects/verify"
            facts["actions"] = {"upload": {"href": href}, "verify": {"href": verify}}
        objects.append(facts)
    return as_json({"transfer": "basic", "objects": objects})


def upload(shelf: Shelf, asked: Received, parts: Parts) -> Answer:
    """An object at the storage. Like S3, it takes no token beside the signature, and no other bytes than announced."""
    if asked.token is not None or "X-Amz-Signature" not in asked.query:
        return Answer(403, {"Content-Type": "application/xml"}, b"<Error><Code>AccessDenied</Code></Error>")
    whole = len(asked.body) == int(asked.last("size", "-1"))
    if not whole or hashlib.sha256(asked.body).hexdigest() != parts["sha256"]:
        return Answer(400, {"Content-Type": "application/xml"}, b"<Error><Code>BadDigest</Code></Error>")
    shelf.uploads[parts["sha256"]] = asked.body
    return Answer(200, {"ETag": f'"{hashlib.md5(asked.body).hexdigest()}"'})


def lfs_verify(shelf: Shelf, asked: Received, parts: Parts) -> Answer:
    _written(shelf, asked, parts)
    wanted = json.loads(asked.body)
    held = shelf.uploads.get(wanted["oid"])
    if held is None or len(held) != wanted["size"]:
        raise Refused(error(404, "Object not found"))
    return as_json({"message": "ok"})


def commit(shelf: Shelf, asked: Received, parts: Parts) -> Answer:
    """One commit of all lines, or none of it."""
    repo = _written(shelf, asked, parts)
    before = repo.at(parts["rev"])
    files: dict[str, bytes | None] = {}
    for line in asked.body.splitlines():
        key, value = (item := json.loads(line))["key"], item["value"]
        if key == "header" and value.get("parentCommit", before.sha) != before.sha:
            raise Refused(error(412, "A commit has happened since. Please refresh and try again."))
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            files[value["path"]] = _lfs_object(shelf, value["oid"])
        elif key == "deletedFile":
            if value["path"] not in before.files:
                raise Refused(_no_such_file(before.sha))
            files[value["path"]] = None
    if not files:
        raise Refused(error(400, "No files to commit"))
    card = files.get("README.md")
    repo.card = repo.card if card is None else _card(card.decode())
    sha = repo.add(files, branch=parts["rev"])
    address = f"{shelf.sites['hub']}/{repo.kind}/{repo.id}/commit/{sha}"
    return as_json({"success": True, "commitOid": sha, "commitUrl": address, "hookOutput": ""})


def super_squash(shelf: Shelf, asked: Received, parts: Parts) -> Answer:
    """The branch's files in one commit; what only older commits held is gone."""
    _written(shelf, asked, parts).squash(parts["rev"])
    return as_json({"success": True})


def _lfs_object(shelf: Shelf, oid: str) -> bytes:
    stored = shelf.blob(oid)
    data = stored.data if stored else shelf.uploads.get(oid)
    if data is None:
        raise Refused(error(400, f"Your push was rejected because an LFS pointer pointed to a missing object: {oid}"))
    return data


def _no_such_file(sha: str) -> Answer:
    missing = entry_not_found(sha)
    return missing.plus(body=json.dumps({"error": "A file with this name doesn't exist"}).encode())


def _card(text: str) -> dict[str, Any]:
    """The front matter of a README.md. Raises yaml.YAMLError, or ValueError where it is not a mapping."""
    if not text.startswith("---\n"):
        return {}
    card = yaml.safe_load(text.split("---\n", 2)[1])
    if not isinstance(card, dict):
        raise ValueError("it is not a mapping")
    return card


def _user(shelf: Shelf, asked: Received) -> str:
    if asked.token is None:
        raise Refused(error(401, "Invalid username or password."))
    return shelf.users[asked.token]


def _written(shelf: Shelf, asked: Received, parts: Parts) -> Repo:
    """The repo, for whoever may write to it."""
    _user(shelf, asked)
    repo = repo_of(shelf, asked, parts)
    if asked.token not in repo.writers:
        raise Refused(error(403, "You don't have the required permissions to write to this repo."))
    return repo


_REPO = r"(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)"
_GIT = r"/(?P<kind>datasets|spaces)/(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects"
WRITING: Sequence[tuple[str, str, Handler]] = (
    ("POST", r"/api/repos/create", create),
    ("POST", r"/api/validate-yaml", validate_yaml),
    ("POST", rf"/api/{_REPO}/variables", variable),
    ("POST", rf"/api/{_REPO}/preupload/(?P<rev>[^/]+)", preupload),
    ("POST", rf"{_GIT}/batch", lfs_batch),
    ("POST", rf"{_GIT}/verify", lfs_verify),
    ("POST", rf"/api/{_REPO}/commit/(?P<rev>[^/]+)", commit),
    ("POST", rf"/api/{_REPO}/super-squash/(?P<rev>[^/]+)", super_squash),
)
STORAGE: Sequence[tuple[str, str, Handler]] = (("PUT", r"/repos/(?P<sha256>[0-9a-f]{64})", upload),)
