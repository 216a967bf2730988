"""Everything that can go wrong in the catalogue, each as one sentence for a user.

CatalogError
├── BadRef            the text names no LoRA, whatever the sources hold
├── BadField          a search field is of the wrong type or out of range
├── UnknownRef        a well-formed ref that its source does not hold
├── NotAvailable      a ref to a source that is not there
├── BadHeader         a file that is not a readable safetensors file
├── FileTorn          a bundled LoRA whose file or card is missing or damaged
├── TooLarge          a file above the size that is fetched or taken here
├── NoRoom            the disk, or a visitor's share of it, is full
├── Stopped           the visitor cancelled a fetch
└── HubError          what the Hub holds or says
    ├── SeveralFiles      a repo with several LoRA files, and none named
    ├── NoSafetensors     a repo without any safetensors file
    ├── Gated             its author asks for consent, and this visitor's token does not show it
    ├── NotShown          no such repo, or a private one
    ├── BadToken          the Hub does not know the token
    ├── Renamed           the repo has another name now
    ├── RevisionGone      the repo has no such revision (any more)
    ├── FileGone          the revision has no such file
    ├── Flagged           the Hub's own scan found the file unsafe
    ├── Broken            a download that was cut, or is not the file that the Hub lists
    ├── SentElsewhere     the Hub's answer points to a host that is not its own
    ├── HubBusy           the Hub asks to wait
    └── HubUnreachable    no answer, or none that makes sense

The text of each is made from its data, so that errors survive pickling; none holds a path of the server.
"""

from __future__ import annotations

SHOWN_LETTERS = 80  # of a text that is quoted back in a message


def quoted(text: str) -> str:
    """A user's text, fit to stand in a sentence: in quotes, on one line, cut to a readable length."""
    shown = text if len(text) <= SHOWN_LETTERS else text[: SHOWN_LETTERS - 1] + "…"
    return "“" + "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in shown) + "”"


class CatalogError(Exception):
    """What the catalogue could not do; `str()` is the sentence to show."""


class BadRef(CatalogError):
    """`text` is no LoRA ref, because of `reason` (a clause without a full stop)."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text, reason)
        self.text, self.reason = text, reason

    def __str__(self) -> str:
        return (
            f"{quoted(self.text)} is not a LoRA ref: {self.reason}; write bundled:NAME, local:FILE.safetensors, "
            "USER/REPO or USER/REPO@REVISION:path/file.safetensors."
        )


class BadField(CatalogError):
    """The search field `field` must be `allowed` (a noun phrase that names the range)."""

    def __init__(self, field: str, allowed: str) -> None:
        super().__init__(field, allowed)
        self.field, self.allowed = field, allowed

    def __str__(self) -> str:
        return f"The search field {quoted(self.field)} must be {self.allowed}."


class UnknownRef(CatalogError):
    """`ref` is well formed, but its source holds no such LoRA."""

    def __init__(self, ref: str) -> None:
        super().__init__(ref)
        self.ref = ref

    def __str__(self) -> str:
        return f"There is no LoRA {quoted(self.ref)}; search the LoRAs for one that is there."


class NotAvailable(CatalogError):
    """`ref` names a LoRA of a source that this version, or this server, does not offer; `available` are offered."""

    def __init__(self, ref: str, available: tuple[str, ...]) -> None:
        super().__init__(ref, available)
        self.ref, self.available = ref, available

    def __str__(self) -> str:
        return (
            f"The LoRA {quoted(self.ref)} cannot be had here: this server offers only "
            f"{' and '.join(self.available) or 'no'} LoRAs."
        )


class BadHeader(CatalogError):
    """`file` (a bare name) is not a readable safetensors file, because of `reason` (a clause)."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(file, reason)
        self.file, self.reason = file, reason

    def __str__(self) -> str:
        return f"{quoted(self.file)} is not a readable safetensors file: {self.reason}; get the file again."


class FileTorn(CatalogError):
    """The bundled LoRA `name` is missing or damaged in the way `reason` (a clause) says."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return (
            f"The bundled LoRA {quoted(self.name)} cannot be used: {self.reason}; restore it with "
            f"git checkout -- '*/{self.name}/*' in the project's folder, or clone the project again."
        )


def megabytes(size: int) -> str:
    """A size for people: “1.4 MB”, “350 MB”."""
    return f"{size / 1e6:.1f} MB" if size < 10_000_000 else f"{size / 1e6:.0f} MB"


class TooLarge(CatalogError):
    """`name` has `size` bytes (None: it lied about them), and at most `most` are taken."""

    def __init__(self, name: str, size: int | None, most: int) -> None:
        super().__init__(name, size, most)
        self.name, self.size, self.most = name, size, most

    def __str__(self) -> str:
        has = "is larger than it says" if self.size is None else f"has {megabytes(self.size)}"
        return f"{quoted(self.name)} {has}, and at most {megabytes(self.most)} are taken here: choose a smaller file."


class NoRoom(CatalogError):
    """`name` does not fit; `reason` (a clause) says into what."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{quoted(self.name)} was not kept: {self.reason}."


class Stopped(CatalogError):
    """The fetch of `name` was cancelled; nothing of it is kept."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"The download of {quoted(self.name)} was cancelled."


class HubError(CatalogError):
    """What the Hub holds or says; `str()` says what to do about it."""


class SeveralFiles(HubError):
    """`repo` holds `files`, each a LoRA, and none was named."""

    def __init__(self, repo: str, files: tuple[str, ...]) -> None:
        super().__init__(repo, files)
        self.repo, self.files = repo, files

    def __str__(self) -> str:
        shown = ", ".join(quoted(file) for file in self.files[:20]) + (" and more" if len(self.files) > 20 else "")
        return f"{quoted(self.repo)} holds several LoRA files: {shown}; name one as {self.repo}:FILE."


class NoSafetensors(HubError):
    """`repo` has no safetensors file; `pickled` says that it has files of the kind that can run code."""

    def __init__(self, repo: str, pickled: bool) -> None:
        super().__init__(repo, pickled)
        self.repo, self.pickled = repo, pickled

    def __str__(self) -> str:
        only = "only files that can run code when opened, which are never fetched" if self.pickled else "none"
        return f"{quoted(self.repo)} holds no safetensors file ({only}): ask its author for one, or take another."


class Gated(HubError):
    """`repo` asks for consent at `address`, which this visitor's token does not show (`has_token`: there is one)."""

    def __init__(self, repo: str, address: str, has_token: bool) -> None:
        super().__init__(repo, address, has_token)
        self.repo, self.address, self.has_token = repo, address, has_token

    def __str__(self) -> str:
        then = "wait until its author has accepted you" if self.has_token else "come back with your own Hub token"
        return f"{quoted(self.repo)} is gated: accept its terms at {self.address}, then {then}."


class NotShown(HubError):
    """The Hub shows no `repo` to this visitor (`has_token`: who gave a token)."""

    def __init__(self, repo: str, has_token: bool) -> None:
        super().__init__(repo, has_token)
        self.repo, self.has_token = repo, has_token

    def __str__(self) -> str:
        private = "your token may not read it" if self.has_token else "it is private, which needs your own Hub token"
        return f"The Hub shows no repo {quoted(self.repo)}: check its name; it was deleted, or {private}."


class BadToken(HubError):
    """The Hub does not know the visitor's token, or knows it no more."""

    def __str__(self) -> str:
        return "The Hub does not accept your token: give a valid one, or none for what is open to all."


class Renamed(HubError):
    """`repo` is now called `now`."""

    def __init__(self, repo: str, now: str) -> None:
        super().__init__(repo, now)
        self.repo, self.now = repo, now

    def __str__(self) -> str:
        return f"{quoted(self.repo)} has moved: write {quoted(self.now)} instead."


class RevisionGone(HubError):
    """`repo` has no `revision`."""

    def __init__(self, repo: str, revision: str) -> None:
        super().__init__(repo, revision)
        self.repo, self.revision = repo, revision

    def __str__(self) -> str:
        return (
            f"{quoted(self.repo)} has no revision {quoted(self.revision)} (any more): write the ref without it "
            "for the newest one."
        )


class FileGone(HubError):
    """`repo` has no `file` at that revision; `files` are the LoRA files it has."""

    def __init__(self, repo: str, file: str, files: tuple[str, ...] = ()) -> None:
        super().__init__(repo, file, files)
        self.repo, self.file, self.files = repo, file, files

    def __str__(self) -> str:
        others = ", ".join(quoted(file) for file in self.files[:20])
        hint = f"its LoRA files are {others}" if others else "look at its files on the Hub"
        return f"{quoted(self.repo)} has no file {quoted(self.file)}: {hint}."


class Flagged(HubError):
    """The Hub's scan calls `name` `verdict`, such as unsafe."""

    def __init__(self, name: str, verdict: str) -> None:
        super().__init__(name, verdict)
        self.name, self.verdict = name, verdict

    def __str__(self) -> str:
        return f"The Hub's own scan calls {quoted(self.name)} {self.verdict}, so it is not fetched: take another."


class Broken(HubError):
    """The download of `name` went wrong as `reason` (a clause) says; nothing of it is kept."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"The download of {quoted(self.name)} failed: {self.reason}; nothing was kept, try again."


class SentElsewhere(HubError):
    """The Hub sends whoever wants `name` to `host`, which is not one of its own."""

    def __init__(self, name: str, host: str) -> None:
        super().__init__(name, host)
        self.name, self.host = name, host

    def __str__(self) -> str:
        return (
            f"The Hub sends us to {quoted(self.host)} for {quoted(self.name)}, which is not a host of its own: "
            "nothing was fetched."
        )


class HubBusy(HubError):
    """The Hub asks to wait for `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return (
            f"The Hub asks us to wait {max(1, round(self.seconds))} s before the next request: try again then. "
            "What was fetched before still works."
        )


class HubUnreachable(HubError):
    """`reason` (a clause) says what came instead of an answer."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"The Hub cannot be used now: {self.reason}. Bundled LoRAs and those fetched before still work; try again "
            "later."
        )
