"""LoraRef: names one LoRA exactly, and is read from and written as text."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from lora_catalog.errors import BadRef

SourceName = Literal["bundled", "hub", "local"]

HUB_ENDPOINT = "https://huggingface.co"
MAX_LETTERS = 512
MAX_SEGMENT_BYTES = 255  # of one folder or file name, as on every common file system

_BUNDLED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")
_FORBIDDEN_IN_FILES = frozenset('\\:*?"<>|')  # file systems or `<lora:…>` give these a meaning of their own

# The Hub's rule for repo ids: huggingface_hub.utils.validate_repo_id, here with the user never left out.
_REPO = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?/[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_MAX_REPO_LETTERS = 96


@dataclass(frozen=True, slots=True)
class LoraRef:
    """One LoRA: of the project (`bundled`), of the Hub (`hub`) or of the data folder (`local`).

    `name` is NAME, USER/REPO or FILE; `revision` and `file` are given for the Hub only. Whoever holds a LoraRef holds a
    valid one: making one raises BadRef otherwise. `LoraRef.parse(str(ref)) == ref`.
    """

    source: SourceName
    name: str
    revision: str | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        if reason := _over_long(str(self)) or _RULES[self.source](self):
            raise BadRef(str(self), reason)

    def __str__(self) -> str:
        if self.source != "hub":
            return f"{self.source}:{self.name}"
        revision = "" if self.revision is None else f"@{self.revision}"
        file = "" if self.file is None else f":{self.file}"
        return self.name + revision + file

    def same_lora(self, other: LoraRef) -> bool:
        """Whether both mean the same LoRA, whatever its revision; a ref without a file means any file of its repo."""
        files = {self.file, other.file} - {None}
        return (self.source, self.name) == (other.source, other.name) and len(files) < 2

    @classmethod
    def parse(cls, text: object, endpoint: str = HUB_ENDPOINT) -> LoraRef:
        """The ref that `text` writes; spaces around it are dropped.

        `endpoint` is the Hub's own address (`HF_ENDPOINT`): only addresses that begin with it, or with
        https://huggingface.co, are read. Raises BadRef, naming what is wrong, for anything but the contract's forms.
        """
        if not isinstance(text, str):
            raise BadRef(type(text).__name__, "a ref is a text")
        text = text.strip()
        if reason := _over_long(text):
            raise BadRef(text, reason)
        for own in (endpoint.rstrip("/"), HUB_ENDPOINT):
            if text.startswith(own + "/"):
                return cls._from_address(text, text.removeprefix(own + "/"))
        if "://" in text:
            raise BadRef(text, f"only addresses that begin with {endpoint.rstrip('/')}/ are read")
        before, colon, after = text.partition(":")
        for source in _RULES:
            if source == before != "hub":  # all but the Hub's are written behind their source's name
                return cls(source, after)
        repo, at, revision = before.partition("@")
        return cls("hub", repo, revision if at else None, after if colon else None)

    @classmethod
    def _from_address(cls, text: str, path: str) -> LoraRef:
        """Reads USER/REPO and USER/REPO/resolve/REVISION/FILE, percent-encoded, with or without `?download=true`."""
        plain = re.split(r"[?#]", path, maxsplit=1)[0].removesuffix("/")
        try:
            parts = [unquote(part, errors="strict") for part in plain.split("/")]
        except UnicodeDecodeError:
            raise BadRef(text, "its percent-encoding is broken") from None
        match parts:
            case [user, repo]:
                return cls("hub", f"{user}/{repo}")
            case [user, repo, "resolve", revision, file, *rest]:
                return cls("hub", f"{user}/{repo}", revision, "/".join([file, *rest]))
        raise BadRef(text, "an address ends in USER/REPO or USER/REPO/resolve/REVISION/FILE")


def _over_long(text: str) -> str:
    return f"it is longer than {MAX_LETTERS} letters" if len(text) > MAX_LETTERS else ""


def _fault_of_bundled(ref: LoraRef) -> str:
    if ref.revision is not None or ref.file is not None:
        return "a bundled LoRA has no revision and no file"
    if not _BUNDLED_NAME.fullmatch(ref.name):
        return "a bundled name is 1 to 64 letters, digits, hyphens or underscores"
    return ""


def _fault_of_local(ref: LoraRef) -> str:
    if ref.revision is not None or ref.file is not None:
        return "a local file has no revision"
    if "/" in ref.name:
        return "a local file is named without its folder"
    return _fault_of_file(ref.name)


def _fault_of_hub(ref: LoraRef) -> str:
    repo = ref.name
    if (
        not _REPO.fullmatch(repo)
        or "--" in repo
        or ".." in repo
        or repo.endswith(".git")
        or len(repo) > _MAX_REPO_LETTERS
    ):
        return "a repo of the Hub is written USER/REPO, of letters, digits, hyphens, underscores and single dots"
    if ref.revision is not None and (not _REVISION.fullmatch(ref.revision) or ".." in ref.revision):
        return "a revision is the name of a branch, a tag or a commit"
    return "" if ref.file is None else _fault_of_file(ref.file)


def _fault_of_file(path: str) -> str:
    """What is wrong with a relative path to a safetensors file; nothing is opened."""
    segments = path.split("/")
    if path.startswith("/"):
        return "a file is named relative to its repo"
    if any(segment in ("", ".", "..") for segment in segments):
        return "a file's path has no empty parts, no . and no .."
    if not path.isprintable() or not _FORBIDDEN_IN_FILES.isdisjoint(path):
        return "a file's name has no control characters and none of " + " ".join(sorted(_FORBIDDEN_IN_FILES))
    if any(segment != segment.strip() for segment in segments):
        return "no part of a file's path begins or ends with a space"
    if any(len(segment.encode()) > MAX_SEGMENT_BYTES for segment in segments):
        return f"each part of a file's path has at most {MAX_SEGMENT_BYTES} bytes"
    if not path.endswith(".safetensors") or segments[-1] == ".safetensors":
        return "a file's name ends in .safetensors"
    return ""


# What is wrong with a ref of each source, as a clause; nothing if it is well formed.
_RULES: dict[SourceName, Callable[[LoraRef], str]] = {
    "bundled": _fault_of_bundled,
    "local": _fault_of_local,
    "hub": _fault_of_hub,
}
