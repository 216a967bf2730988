"""Where checkpoints in one file lie, on the Hub and in a folder of this machine, and how their headers are read."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import BadRequest
from lora_catalog.errors import BadHeader, BadRef, quoted
from lora_catalog.header import FIRST_READ, Header, MoreNeeded, header_from, read_header
from lora_catalog.reference import LoraRef

if TYPE_CHECKING:
    from lora_catalog.hub.api import HubApi

_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")


def refusal(model: str, why: str) -> BadRequest:
    """`why` is a clause."""
    return BadRequest("model", f"The model {quoted(model)} cannot be used: {why}; choose another, or one of the list.")


def file_named(model: str) -> LoraRef:
    """The place that `model` names, by the rules for a LoRA's file. Raises BadRequest."""
    if model.lower().endswith(_PICKLES):
        raise refusal(model, "it is a pickle, which can run code, and only safetensors files are read")
    if model.lower().endswith(".gguf"):
        raise refusal(model, "GGUF files are not read, only safetensors files")
    try:
        return LoraRef.parse(model)
    except BadRef as error:
        raise refusal(model, error.reason) from None


def header_on_hub(api: HubApi, model: str, ref: LoraRef, commit: str, token: str | None) -> Header:
    """By one ranged request, or a second one where the header is long. Raises BadRequest or a HubError."""
    file = str(ref.file)
    part = api.part_of(ref.name, commit, file, 0, FIRST_READ, token)
    try:
        header = header_from(file, part.data, part.size)
        if isinstance(header, MoreNeeded):
            part = api.part_of(ref.name, commit, file, 0, header.bytes, token)
            header = header_from(file, part.data, part.size)
        if isinstance(header, MoreNeeded):
            raise BadHeader(file, "it is cut short")
    except BadHeader as error:
        raise refusal(model, f"it is no readable safetensors file ({error.reason})") from error
    return header


def header_here(model: str, path: Path) -> Header:
    """Raises BadRequest."""
    try:
        return read_header(path)
    except BadHeader as error:
        raise refusal(model, f"it is no readable safetensors file ({error.reason})") from error


def stamp_of(model: str, path: Path) -> str:
    """Tells the states of a file apart without reading it. Raises BadRequest where there is none."""
    try:
        state = path.stat()
    except OSError as error:
        raise refusal(model, "no such file lies in DATA_DIR/checkpoints") from error
    return f"{state.st_size}-{state.st_mtime_ns}"


def sha256_of(path: Path) -> str:
    """Gigabytes are read once, not each time that they are asked for. Raises OSError."""
    state = path.stat()
    return _sha256(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=64)
def _sha256(path: Path, _mtime: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
