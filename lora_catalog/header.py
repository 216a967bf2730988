"""Reads what a safetensors file says of itself, within bounds and without its weights.

The format: https://github.com/huggingface/safetensors (8 bytes of little-endian length, a JSON object, then the data).
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from lora_catalog.errors import BadHeader

MAX_HEADER_BYTES = 8_000_000  # real LoRAs: up to 0.76 MB, plus whatever tag statistics a trainer wrote
MAX_TENSORS = 16_384  # real LoRAs: about 2,200 for SDXL with both text encoders
MAX_DIMENSIONS = 8
MAX_LENGTH = 2**40  # of one dimension
_MAX_BRACKETS = 8 * MAX_TENSORS  # three open per tensor; metadata brings the rest. Counted before parsing, to bound it

_DTYPE_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
    "C64": 8,
}


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """A tensor's dtype (safetensors' own name, such as `F16`) and shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """A file's tensors by name, its metadata, and its whole size in bytes. Both mappings are read-only."""

    tensors: Mapping[str, TensorFacts]
    metadata: Mapping[str, str]
    bytes: int


def read_header(path: Path) -> Header:
    """The header of a local safetensors file: at most 8 MB are read, whatever the file claims.

    Every tensor is checked: known dtype, size equal to its offsets, no overlap, no gap, nothing behind the last one.
    Raises BadHeader, naming the file without its folder, for anything else.
    """
    try:
        if not path.is_file():
            raise _Fault("there is no such file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            if len(start) < 8:
                raise _Fault("it is too short")
            (length,) = struct.unpack("<Q", start)
            if length > MAX_HEADER_BYTES:
                raise _Fault(f"its header is longer than {MAX_HEADER_BYTES // 1_000_000} MB")
            text = file.read(length)
        if len(text) < length:
            raise _Fault("it is cut short")
        return _parsed(text, size)
    except _Fault as fault:
        raise BadHeader(path.name, str(fault)) from None
    except OSError as error:
        raise BadHeader(path.name, "it cannot be opened") from error


class _Fault(Exception):
    """Why a header is refused, as a clause."""


def _parsed(text: bytes, size: int) -> Header:
    if text.count(b"{") + text.count(b"[") > _MAX_BRACKETS:
        raise _Fault(f"it lists more than {MAX_TENSORS} tensors")
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise _Fault("its header is not valid JSON") from None
    if type(entries) is not dict:
        raise _Fault("its header is not a JSON object")
    metadata = _metadata(entries.pop("__metadata__", {}))
    if len(entries) > MAX_TENSORS:
        raise _Fault(f"it lists more than {MAX_TENSORS} tensors")
    placed = [_tensor(name, entry) for name, entry in entries.items()]
    _check_places([(begin, end) for _, begin, end in placed], size - 8 - len(text))
    tensors = {name: facts for name, (facts, _, _) in zip(entries, placed, strict=True)}
    return Header(MappingProxyType(tensors), MappingProxyType(metadata), size)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Fault("its header names something twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise _Fault(f"its header holds {name}, which is not JSON")


def _metadata(entry: object) -> dict[str, str]:
    if type(entry) is not dict or not all(type(value) is str for value in entry.values()):
        raise _Fault("its metadata are not texts")
    try:
        "".join(entry).encode()
        "".join(entry.values()).encode()
    except UnicodeEncodeError:
        raise _Fault("its metadata are not valid text") from None
    return entry


def _tensor(name: str, entry: object) -> tuple[TensorFacts, int, int]:
    """A tensor's facts and where its bytes begin and end, counted from the end of the header."""
    if not name or not name.isprintable():
        raise _Fault("a tensor's name is empty or holds control characters")
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end], **rest} if (
            not rest and len(shape) <= MAX_DIMENSIONS and all(_is_length(n) for n in [*shape, begin, end])
        ):
            pass
        case _:
            raise _Fault("a tensor lacks a proper dtype, shape or place")
    if dtype not in _DTYPE_BYTES:
        raise _Fault("a tensor has an unknown dtype")
    if end - begin != math.prod(shape) * _DTYPE_BYTES[dtype]:
        raise _Fault("a tensor's size and its shape disagree")
    return TensorFacts(dtype, tuple(shape)), begin, end


def _is_length(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_LENGTH


def _check_places(places: list[tuple[int, int]], size: int) -> None:
    """Side by side from the first byte to the last, as the format asks: neither overlaps nor hidden bytes."""
    reached = 0
    for begin, end in sorted(places):
        if begin != reached:
            raise _Fault("its tensors overlap or leave gaps")
        reached = end
    if reached > size:
        raise _Fault("it is cut short")
    if reached < size:
        raise _Fault("it holds more bytes than its tensors")
