"""The LoRA files in a folder of this machine, and those that visitors upload."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from lora_catalog.card import LoraCard
from lora_catalog.errors import BadHeader, BadRef, NoRoom, TooLarge, UnknownRef
from lora_catalog.header import Header, read_header
from lora_catalog.identify import identify
from lora_catalog.reference import LoraRef, SourceName
from lora_catalog.search import Search
from lora_catalog.sources.base import FetchedLora, Fetching, Found
from lora_catalog.visitor import Visitor

LARGEST_FILE = 1_000_000_000  # bytes
MOST_BYTES_OF_ONE = 2_000_000_000  # that one visitor of a public server may keep here
MOST_BYTES_OF_ALL = 20_000_000_000  # that all of them may; beyond it the oldest uploads go
KEPT_FOR = 7 * 86_400  # seconds for which a public server keeps an upload
MOST_READ = 1_000  # files whose headers and sums are remembered
_UNSAFE = re.compile(r"[^A-Za-z0-9._ ()+=-]+")
_LONGEST_NAME = 100  # letters, before the ending
_T = TypeVar("_T")
_State = tuple[Path, int, int]  # a file, its mtime in ns and its size


class FolderSource:
    """Serves local:FILE. Every visitor sees the files in `folder`; an upload of a public server only who made it.

    Where `public` is false, uploads land in `folder` itself. Only plain files count: links and devices are not opened.
    """

    name: SourceName = "local"

    def __init__(self, folder: Path, *, public: bool, largest_file: int = LARGEST_FILE) -> None:
        self._folder, self._public, self._largest_file = folder, public, largest_file
        self._lock = threading.Lock()
        self._adding = threading.Lock()  # one upload is measured, compared and placed at a time
        self._read: dict[_State, tuple[Header, LoraCard]] = {}
        self._digests: dict[_State, str] = {}

    def search(self, wanted: Search, skip: int, limit: int, visitor: Visitor) -> Found:
        """By title, whatever `wanted.sort`: files have neither counts nor a name of their own."""
        found = sorted(
            (card for card in self._cards(visitor) if wanted.matches(card)), key=lambda c: c.title.casefold()
        )
        return Found(found[skip : skip + limit])

    def pin(self, ref: LoraRef, visitor: Visitor) -> LoraRef:
        self._path(ref, visitor)
        return ref

    def card(self, ref: LoraRef, visitor: Visitor) -> LoraCard:
        return self._known(self._path(ref, visitor))[1]

    def header(self, ref: LoraRef, visitor: Visitor) -> Header:
        return self._known(self._path(ref, visitor))[0]

    def preview(self, ref: LoraRef, visitor: Visitor) -> bytes | None:
        return None

    def fetch(self, ref: LoraRef, visitor: Visitor) -> Fetching:
        path = self._path(ref, visitor)
        card = self._known(path)[1]
        yield from ()
        return FetchedLora(ref, path, self._digest(path), card)

    def add(self, file: Path, name: str, visitor: Visitor) -> LoraRef:
        """Keeps an uploaded file under a name made of `name`. The same file twice is kept once.

        Raises BadHeader for anything but a safetensors file, TooLarge, NoRoom, or BadRef for a visitor without an id.
        """
        size = file.stat().st_size
        if size > self._largest_file:
            raise TooLarge(name, size, self._largest_file)
        try:
            read_header(file)
        except BadHeader as error:
            raise BadHeader(name, error.reason) from error
        home = self._home(visitor)
        if home is None:
            raise BadRef(f"local:{name}", "an upload needs a visitor to belong to")
        digest = _sha256(file)
        try:
            with self._adding:
                home.mkdir(parents=True, exist_ok=True)
                return LoraRef("local", self._kept(file, home, _safe(name), digest, size))
        except OSError as error:
            reason = "the disk is full" if error.errno == errno.ENOSPC else "it could not be written here"
            raise NoRoom(name, reason) from error

    def _kept(self, file: Path, home: Path, stem: str, digest: str, size: int) -> str:
        """The name that the file has in `home` now: `stem`, with a number where another file has that name."""
        numbers = (f"{stem}.safetensors", *(f"{stem}-{number}.safetensors" for number in range(2, 1000)))
        for path in (home / name for name in numbers):
            if _is_plain(path) and self._digest(path) == digest:
                return path.name
            if not os.path.lexists(path):
                if self._public:
                    self._make_room(home, path.name, size)
                partial = home / f".{secrets.token_hex(8)}"
                try:
                    shutil.copyfile(file, partial)
                    partial.replace(path)
                finally:
                    partial.unlink(missing_ok=True)
                return path.name
        raise OSError(errno.EEXIST, "every name is taken")

    def _make_room(self, home: Path, name: str, size: int) -> None:
        """Drops uploads that are too old, and the oldest where there are too many. Raises NoRoom for one's own."""
        if size + sum(path.stat().st_size for path in home.glob("*.safetensors")) > MOST_BYTES_OF_ONE:
            raise NoRoom(name, "your uploads have taken all the room that a visitor has here")
        uploads = [(path.stat(), path) for path in home.parent.glob("*/*.safetensors")]
        taken = size + sum(status.st_size for status, _ in uploads)
        for status, path in sorted(uploads, key=lambda upload: upload[0].st_mtime):
            if taken <= MOST_BYTES_OF_ALL and time.time() - status.st_mtime < KEPT_FOR:
                break
            path.unlink(missing_ok=True)
            taken -= status.st_size

    def _home(self, visitor: Visitor) -> Path | None:
        """Where this visitor's uploads lie; None for nobody in particular on a public server."""
        if not self._public:
            return self._folder
        if not visitor.id:
            return None
        return self._folder / ".visitors" / hashlib.sha256(visitor.id.encode()).hexdigest()[:40]

    def _folders(self, visitor: Visitor) -> list[Path]:
        home = self._home(visitor)
        return [self._folder] if home in (None, self._folder) else [home, self._folder]

    def _path(self, ref: LoraRef, visitor: Visitor) -> Path:
        for folder in self._folders(visitor):
            if _is_plain(folder / ref.name):
                return folder / ref.name
        raise UnknownRef(str(ref))

    def _cards(self, visitor: Visitor) -> Iterator[LoraCard]:
        """The visitor's own first; what cannot be read is left out."""
        seen: set[str] = set()
        for folder in self._folders(visitor):
            for path in sorted(folder.glob("*.safetensors")):
                try:
                    LoraRef("local", path.name)
                    if path.name not in seen and _is_plain(path):
                        yield self._known(path)[1]
                        seen.add(path.name)
                except (BadRef, BadHeader):
                    continue

    def _known(self, path: Path) -> tuple[Header, LoraCard]:
        """Read once for each state of the file. Raises BadHeader."""
        state = _state(path)
        with self._lock:
            known = self._read.get(state)
        if known is None:
            header = read_header(path)
            known = header, _card(path.name, header)
            with self._lock:
                _remember(self._read, state, known)
        return known

    def _digest(self, path: Path) -> str:
        state = _state(path)
        with self._lock:
            known = self._digests.get(state)
        if known is None:
            known = _sha256(path)
            with self._lock:
                _remember(self._digests, state, known)
        return known


def _card(file: str, header: Header) -> LoraCard:
    """What the file says of itself; nobody else has said anything of it."""
    identity = identify(header)
    return LoraCard(
        ref=f"local:{file}",
        title=identity.title or file.removesuffix(".safetensors"),
        family="other" if identity.family == "unknown" else identity.family,
        licence=None,
        triggers=identity.triggers,
        weight=1.0,
        downloads=0,
        likes=0,
        nsfw=False,
        gated=False,
        source="local",
        base=identity.base,
        preview=None,
        description="",
        author=None,
    )


def _safe(name: str) -> str:
    """A file name without its ending, of letters that every file system and every ref takes."""
    stem = _UNSAFE.sub("-", name.replace("\\", "/").rpartition("/")[2].removesuffix(".safetensors")).strip(" .-")
    return stem[:_LONGEST_NAME].rstrip(" .-") or "lora"


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _state(path: Path) -> _State:
    try:
        status = path.stat()
    except OSError as error:
        raise UnknownRef(f"local:{path.name}") from error
    return path, status.st_mtime_ns, status.st_size


def _remember(kept: dict[_State, _T], state: _State, value: _T) -> None:
    kept[state] = value
    while len(kept) > MOST_READ:
        del kept[next(iter(kept))]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
