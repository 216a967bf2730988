"""The repos of the emulated Hub: files in commits, branches and tags that name commits, and what a card says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Literal

from tests.hub.answers import Refused, revision_not_found

Kind = Literal["models", "datasets", "spaces"]

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".parquet", ".zip", ".png", ".jpg", ".webp")
EPOCH = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit; those with an LFS suffix are kept as the Hub keeps LFS files."""

    path: str
    data: bytes = field(repr=False)

    @property
    def lfs(self) -> bool:
        return PurePosixPath(self.path).suffix in LFS_SUFFIXES

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """What git holds in place of an LFS file."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @cached_property
    def blob(self) -> str:
        """Git's name for the file, or for its pointer."""
        held = self.pointer if self.lfs else self.data
        return hashlib.sha1(f"blob {len(held)}\0".encode() + held).hexdigest()

    @property
    def etag(self) -> str:
        return f'"{self.sha256 if self.lfs else self.blob}"'


@dataclass(frozen=True)
class Commit:
    sha: str
    files: Mapping[str, StoredFile]
    made: datetime


@dataclass
class Repo:
    """`readers` are the tokens that may read it where it is private or gated, `writers` those that may write.

    `security` maps files to verdicts.
    """

    kind: Kind
    id: str
    card: dict[str, Any]
    own_tags: list[str]
    downloads: int = 0
    likes: int = 0
    trending: float = 0
    gated: Literal[False, "auto", "manual"] = False
    private: bool = False
    readers: set[str] = field(default_factory=set)
    writers: set[str] = field(default_factory=set)
    security: dict[str, str] = field(default_factory=dict)
    scanned: bool = True
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)  # branches and tags

    @property
    def head(self) -> Commit:
        return self.commits[self.refs["main"]]

    @property
    def tags(self) -> list[str]:
        """Its own and the card's, and those that the Hub derives from the card."""
        tags = [*self.own_tags, *_texts(self.card.get("tags"))]
        relation = self.card.get("base_model_relation") or ("adapter" if "lora" in tags else None)
        for base in _texts(self.card.get("base_model")):
            tags += [f"base_model:{base}"] + ([f"base_model:{relation}:{base}"] if relation else [])
        tags += [f"license:{name}" for name in _texts(self.card.get("license"))]
        return [*dict.fromkeys([*tags, "region:us"])]

    def shown_to(self, token: str | None) -> bool:
        return not self.private or token in self.readers

    def open_to(self, token: str | None) -> bool:
        """Whether its files may be downloaded."""
        return token in self.readers or not (self.private or self.gated)

    def add(self, files: Mapping[str, bytes | None], made: datetime | None = None, branch: str = "main") -> str:
        """A commit on `branch` that writes the files, or deletes where there is None; gives its sha."""
        before = self.commits[self.refs[branch]] if branch in self.refs else None
        now: dict[str, StoredFile] = dict(before.files) if before else {}
        for path, data in files.items():
            if data is None:
                del now[path]
            else:
                now[path] = StoredFile(path, data)
        facts = [self.kind, self.id, before and before.sha, len(self.commits), [(f.path, f.blob) for f in now.values()]]
        sha = hashlib.sha1(json.dumps(facts).encode()).hexdigest()
        self.commits[sha] = Commit(sha, now, made or (before.made if before else EPOCH))
        self.refs[branch] = sha
        return sha

    def squash(self, branch: str) -> None:
        """Leaves one commit of the branch's history, with the files of its head."""
        head = self.at(branch)
        sha = hashlib.sha1(f"squashed {head.sha}".encode()).hexdigest()
        kept = {self.refs[name] for name in self.refs if name != branch}
        self.commits = {name: commit for name, commit in self.commits.items() if name in kept}
        self.commits[sha] = Commit(sha, head.files, head.made)
        self.refs[branch] = sha

    def at(self, revision: str) -> Commit:
        """Raises Refused for a revision that is neither a branch, a tag nor a commit."""
        sha = self.refs.get(revision, revision)
        if sha not in self.commits:
            raise Refused(revision_not_found(revision))
        return self.commits[sha]


@dataclass
class Shelf:
    """All repos, the old names of some, and the users by token."""

    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    moved: dict[tuple[str, str], str] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)  # LFS objects by sha256, in a commit or not yet
    page: int = 1000  # items of a listing in one answer; the Hub's own number
    cdn: bool = False  # sends whoever wants a file where the real Hub would
    sites: dict[str, str] = field(default_factory=dict)  # hub, cdn, elsewhere: their addresses

    def blob(self, sha256: str) -> StoredFile | None:
        commits = (commit for repo in self.repos.values() for commit in repo.commits.values())
        return next((f for commit in commits for f in commit.files.values() if f.lfs and f.sha256 == sha256), None)


def _texts(value: object) -> list[str]:
    return [value] if isinstance(value, str) else [str(item) for item in value] if isinstance(value, list) else []
