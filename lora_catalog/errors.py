"""Everything that can go wrong in the catalogue, each as one sentence for a user.

CatalogError
├── BadRef         the text names no LoRA, whatever the sources hold
├── BadField       a search field is of the wrong type or out of range
├── UnknownRef     a well-formed ref that its source does not hold
├── NotAvailable   a ref to a source that is not there
├── BadHeader      a file that is not a readable safetensors file
└── FileTorn       a bundled LoRA whose file or card is missing or damaged

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
            f"The LoRA {quoted(self.ref)} is not available in this version: "
            f"only {' and '.join(self.available) or 'no'} LoRAs can be used yet."
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
