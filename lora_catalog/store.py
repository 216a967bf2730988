"""LoraStore: what was fetched, kept in one folder by content, bounded in bytes: what was used longest ago goes first.

    FOLDER/SHA256.safetensors   a file; its mtime is when it was last used
    FOLDER/keys/SHA256          of a key: which file it names, as JSON
    FOLDER/partial/NAME         a download under way, locked by its writer: an unlocked one was left by a kill
    FOLDER/lock                 held by whoever changes which files there are

Several processes may use one folder. (On Windows, which has no such locks, they may exceed the bound together.)
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from lora_catalog.errors import BadHeader, Broken, NoRoom, Stopped, TooLarge
from lora_catalog.header import MAX_HEADER_BYTES, read_header
from lora_catalog.lease import Lease, drop, lock, open_kept, unlock
from lora_catalog.sources.base import Downloading

MOST_BYTES = 20_000_000_000  # of all files together
LARGEST_FILE = 1_000_000_000
REPORT_SECONDS = 0.1  # between two reports of progress

_SHA256 = re.compile(r"[0-9a-f]{64}")
_DISK_FULL = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EFBIG])

Chunks = Callable[[], AbstractContextManager[Iterator[bytes]]]


@dataclass(frozen=True, slots=True)
class Held:
    """A file of the store, its sha256 in hex, and the lease to enter while it is read: it arrives taken."""

    path: Path
    sha256: str
    in_use: Lease


@dataclass(eq=False)
class _Download:
    """What is to be fetched, how many wait for it, and what came of it once `ended` is set."""

    key: str
    name: str
    sha256: str | None
    size: int | None
    chunks: Chunks
    waiters: int = 0
    done: int = 0  # bytes
    unwanted: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    held: Held | None = None  # keeps the file until each waiter has a lease of its own
    error: BaseException | None = None

    def check_wanted(self) -> None:
        if self.unwanted.is_set():
            raise Stopped(self.name)


class _Partial:
    """A file that is being written, under a name of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = FileIO(path, "x")
        lock(self.file.fileno())

    def write(self, piece: bytes) -> None:
        left = memoryview(piece)
        while left:
            left = left[self.file.write(left) :]

    def check_header(self, name: str) -> None:
        """Raises BadHeader under the name that people know."""
        try:
            read_header(self.path)
        except BadHeader as error:
            raise BadHeader(name, error.reason) from None

    def move(self, place: Path) -> None:
        unlock(self.file.fileno())
        self.file.close()  # Windows moves no open file
        self.path.replace(place)

    def remove(self) -> None:
        """Unless it was moved."""
        self.file.close()
        self.path.unlink(missing_ok=True)


class LoraStore:
    """See the top of this file. Safe to share between threads.

    The folder is made when the first file is fetched. `now` gives nanoseconds since the epoch.
    """

    def __init__(
        self,
        folder: Path,
        most_bytes: int = MOST_BYTES,
        largest_file: int = LARGEST_FILE,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self._folder, self._keys, self._partial = folder, folder / "keys", folder / "partial"
        self._most_bytes, self._largest_file, self._now = most_bytes, min(largest_file, most_bytes), now
        self._downloads: dict[str, _Download] = {}
        self._joining = threading.Lock()  # of _downloads; taken before _changing where both are
        self._changing = threading.Lock()
        self._swept = False

    def held(self, key: str) -> Held | None:
        """The file that `key` names, which counts as a use; None if it is not here, or has another size than it had."""
        self._sweep()
        named = _read_key(self._key_file(key))
        return None if named is None else self._kept(*named, key)

    def fetch(
        self, key: str, name: str, sha256: str | None, size: int | None, chunks: Chunks
    ) -> Generator[Downloading, None, Held]:
        """Downloads a file unless it is here, or joins those who wait for it already; yields ten times a second.

        `with chunks() as pieces` is the download; it runs in a thread of its own. `name` stands in messages; `sha256`
        (hex) and `size` (bytes) are what the Hub lists, None where it lists none. Closing the generator stops waiting;
        once the last has left, the download ends with its next piece and nothing is kept. Raises TooLarge, Broken,
        BadHeader, NoRoom, and whatever `chunks` raises, to everybody who waits.
        """
        if size is not None and size > self._largest_file:
            raise TooLarge(name, size, self._largest_file)
        joined = self._join(_Download(key, name, sha256, size, chunks))
        if isinstance(joined, Held):
            return joined
        try:
            while not joined.ended.wait(REPORT_SECONDS):
                yield Downloading(name, joined.done, size or 0)
            if joined.held is None:
                raise joined.error or Stopped(name)
            return self._certain(joined.held.sha256, joined.done, name)
        finally:
            self._leave(joined)

    def _kept(self, sha256: str, size: int | None, name: str) -> Held | None:
        if not _SHA256.fullmatch(sha256):
            return None
        path = self._path(sha256)
        file = open_kept(path, size)
        return None if file is None else Held(path, sha256, Lease(path, name, file, self._now))

    def _certain(self, sha256: str, size: int, name: str) -> Held:
        """A file that cannot have been dropped: its lease is taken, or nobody else may change the folder now."""
        held = self._kept(sha256, size, name)
        if held is None:
            raise Broken(name, "its file was taken away from outside")
        return held

    def _join(self, asked: _Download) -> _Download | Held:
        """The download under way, or the file where it is here by now, or the one asked for, begun."""
        with self._joining:
            download = self._downloads.get(asked.key)
            if download is None:
                if held := self.held(asked.key) or self._under_another_key(asked):
                    return held
                # A daemon: a server that stops does not wait for it, and the next start sweeps what it leaves.
                threading.Thread(target=self._run, args=[asked], name="lora-download", daemon=True).start()
                download = self._downloads[asked.key] = asked
            download.waiters += 1
            return download

    def _under_another_key(self, asked: _Download) -> Held | None:
        """The file if it came under another key before; from now on it has this key too."""
        held = self._kept(asked.sha256 or "", asked.size, asked.name)
        if held is not None:
            with self._change():
                self._write_key(asked.key, held)
        return held

    def _leave(self, download: _Download) -> None:
        with self._joining:
            download.waiters -= 1
            if not download.waiters:
                download.unwanted.set()
                download.held = None
                self._forget(download)

    def _forget(self, download: _Download) -> None:
        if self._downloads.get(download.key) is download:
            del self._downloads[download.key]

    def _run(self, download: _Download) -> None:
        try:
            download.held = self._downloaded(download)
        except OSError as error:
            full = error.errno in _DISK_FULL
            download.error = NoRoom(download.name, "the disk of this server is full") if full else error
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to those who wait
            download.error = error
        with self._joining:  # whoever joins from now on finds the file, or tries anew
            self._forget(download)
            if not download.waiters:
                download.held = None
        download.ended.set()

    def _downloaded(self, download: _Download) -> Held:
        for folder in (self._keys, self._partial):
            folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        with ExitStack() as at_end:
            with self._change():
                partial = _Partial(self._partial / f"{secrets.token_hex(16)}.safetensors")
                at_end.callback(partial.remove)
                partial.file.truncate(download.size or 0)  # takes its whole place in the books from the start
                self._make_room(download.name)
            sha256 = self._received(download, partial)
            if download.size is not None and download.done < download.size:
                raise Broken(download.name, f"it ended after {download.done} of {download.size} bytes")
            if download.sha256 not in (None, sha256):
                raise Broken(download.name, "it is not the file that the Hub lists: its sha256 differs")
            partial.check_header(download.name)
            os.fsync(partial.file.fileno())
            download.check_wanted()
            return self._placed(download, sha256, partial)

    def _received(self, download: _Download, partial: _Partial) -> str:
        """Writes what comes and gives its sha256; bounds are checked before each piece, the header once it is whole."""
        digest, start = hashlib.sha256(), b""
        checked = download.size is None  # then only at the end can be told whether the tensors fill the file
        with download.chunks() as pieces:
            for piece in pieces:
                download.check_wanted()
                done = download.done + len(piece)
                if download.size is not None and done > download.size:
                    raise Broken(download.name, f"more came than the {download.size} bytes that the Hub lists")
                if done > self._largest_file:
                    raise TooLarge(download.name, done, self._largest_file)
                partial.write(piece)
                digest.update(piece)
                download.done = done
                start = (start + piece)[:8]
                length = int.from_bytes(start, "little")
                if not checked and done >= 8 + (length if length <= MAX_HEADER_BYTES else 0):
                    partial.check_header(download.name)
                    checked = True
        return digest.hexdigest()

    def _placed(self, download: _Download, sha256: str, partial: _Partial) -> Held:
        """Puts the whole, checked file where it belongs, unless the same content is there already."""
        with self._change():
            self._make_room(download.name)
            if self._kept(sha256, download.done, download.name) is None:
                partial.move(self._path(sha256))
            held = self._certain(sha256, download.done, download.name)
            self._write_key(download.key, held)
        return held

    def _make_room(self, name: str) -> None:
        """Drops what was used longest ago and is not in use, until the rest fits; partial files count, and stay."""
        files = sorted(_sizes(self._folder.glob("*.safetensors")))
        total = sum(size for _, size, _ in [*files, *_sizes(self._partial.iterdir())])
        for _, size, path in files:
            if total > self._most_bytes and drop(path):
                total -= size
        if total > self._most_bytes:
            raise NoRoom(name, "the LoRAs in use now leave no room for it: try again when they are done")

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Nobody else, in this process or another, changes which files there are."""
        with self._changing, (self._folder / "lock").open("wb") as file:
            lock(file.fileno())
            try:
                yield
            finally:
                unlock(file.fileno())

    def _sweep(self) -> None:
        """At the first use: deletes what a kill left behind, and keys of files that are gone."""
        if self._swept or not self._partial.is_dir():
            return
        with self._change():
            for path in self._partial.iterdir():
                drop(path)
            for path in self._keys.iterdir():
                named = _read_key(path)
                if named is None or not self._path(named[0]).exists():
                    path.unlink(missing_ok=True)
        self._swept = True

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.safetensors"

    def _key_file(self, key: str) -> Path:
        return self._keys / hashlib.sha256(key.encode()).hexdigest()

    def _write_key(self, key: str, held: Held) -> None:
        path = self._key_file(key)
        new = path.with_suffix(".new")  # only one is written at a time: nobody else changes the folder now
        new.write_text(json.dumps({"key": key, "sha256": held.sha256, "size": held.path.stat().st_size}))
        new.replace(path)


def _read_key(path: Path) -> tuple[str, int] | None:
    """The sha256 and the size of the file that a key names; None if there is no such key, or it was torn."""
    try:
        entry = json.loads(path.read_bytes())
        return str(entry["sha256"]), int(entry["size"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _sizes(paths: Iterable[Path]) -> Iterator[tuple[int, int, Path]]:
    """When each was last used, its bytes, and where it is; without those that have just gone."""
    for path in paths:
        with suppress(FileNotFoundError):
            status = path.stat()
            yield status.st_mtime_ns, status.st_size, path
