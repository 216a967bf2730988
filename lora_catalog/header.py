"""Reads what a safetensors file says of itself, within bounds and without its weights.

The format: https://github.com/huggingface/safetensors (8 bytes of little-endian length, a JSON object, then the data).
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lora_catalog.errors import BadHeader

FIRST_READ = 1_000_000  # to ask of a file that lies elsewhere: most headers end within
MAX_HEADER_BYTES = 8_000_000  # real LoRAs: up to 0.76 MB, plus whatever tag statistics a trainer wrote
MAX_TENSORS = 10_000  # real LoRAs: about 2,200 for SDXL; 8,400 if every layer is a LoHa in Tucker form with DoRA
MAX_DIMENSIONS = 8
MAX_LENGTH = 2**40  # of one dimension
MAX_METADATA = 1_000_000  # letters kept of all metadata together: the longest are left out first

# What JSON may hold outside its texts, counted before it is parsed, so that parsing is bounded in time and memory.
# A tensor is five texts, one object and two lists; metadata are two texts each, of which trainers write up to 120.
_MAX_ENTRIES = 1_024
_MAX_QUOTES = 2 * (5 * MAX_TENSORS + 2 * _MAX_ENTRIES)
_MAX_BRACKETS = 3 * (MAX_TENSORS + 1)
_MAX_VALUES = (MAX_DIMENSIONS + 5) * MAX_TENSORS + _MAX_ENTRIES
_MAX_STRUCTURE = 256 * MAX_TENSORS  # bytes of numbers and punctuation
# Python spends four bytes on every letter of a text with one such letter: too many for the longest headers.
_ASTRAL = b"\xf0\xf1\xf2\xf3\xf4"  # what UTF-8 begins letters beyond U+FFFF with
_ASTRAL_ESCAPE = re.compile(rb"\\u[dD][89abAB]")
_LONG = MAX_HEADER_BYTES // 2
_SURROGATE = re.compile(r"[\ud800-\udfff]")

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


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Header:
    """A file's tensors by name, its metadata less what is above MAX_METADATA, and its whole size in bytes.

    Both mappings are read-only. Each reading is one of its own: it can be remembered for as long as somebody has it.
    """

    tensors: Mapping[str, TensorFacts]
    metadata: Mapping[str, str]
    bytes: int


@dataclass(frozen=True, slots=True)
class MoreNeeded:
    """The first `bytes` of the file are needed to know its header."""

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
            length = _length(file.read(8), size)
            return _parsed(file.read(length), length, size)
    except _Fault as fault:
        raise BadHeader(path.name, str(fault)) from None
    except OSError as error:
        raise BadHeader(path.name, "it cannot be opened") from error


def header_from(name: str, start: bytes, size: int) -> Header | MoreNeeded:
    """The header of the file `name`, checked as by `read_header`, from its first bytes and its whole size in bytes.

    For files that lie elsewhere: ask for FIRST_READ, and if those do not hold the header, once more for as many as
    the answer says. That is never more than 8 bytes above MAX_HEADER_BYTES, nor than the file has. Raises BadHeader.
    """
    try:
        if len(start) < 8 <= size:
            return MoreNeeded(8)
        length = _length(start[:8], size)
        if len(start) < 8 + length:
            return MoreNeeded(8 + length)
        return _parsed(start[8 : 8 + length], length, size)
    except _Fault as fault:
        raise BadHeader(name, str(fault)) from None


class _Fault(Exception):
    """Why a header is refused, as a clause."""


def _length(start: bytes, size: int) -> int:
    """How long the JSON is, which begins at byte 8."""
    if len(start) < 8:
        raise _Fault("it is too short")
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER_BYTES:
        raise _Fault(f"its header is longer than {MAX_HEADER_BYTES // 1_000_000} MB")
    if 8 + length > size:
        raise _Fault("it is cut short")
    return length


def _parsed(header: bytes, length: int, size: int) -> Header:
    if len(header) < length:  # the file shrank while it was read
        raise _Fault("it is cut short")
    names = _bounded(header)
    try:
        text = header.decode("utf-8")
        del header  # two copies of 8 MB fit the bound, three do not
        entries = json.loads(text)
        del text
    except (ValueError, RecursionError):
        raise _Fault("its header is not valid JSON") from None
    if type(entries) is not dict:
        raise _Fault("its header is not a JSON object")
    parsed = len(entries) + sum(len(entry) for entry in entries.values() if type(entry) is dict)
    metadata = _metadata(entries.pop("__metadata__", {}))
    places: list[tuple[int, int]] = []
    tensors = {name: _tensor(name, entry, places) for name, entry in entries.items()}
    if parsed < names:
        raise _Fault("its header names something twice")
    _check_places(places, size - 8 - length)
    return Header(MappingProxyType(tensors), MappingProxyType(metadata), size)


def _bounded(header: bytes) -> int:
    """How many names the JSON gives to values. Raises _Fault if it holds more, or other things, than headers can."""
    plain = header.replace(b"\\\\", b"").replace(b'\\"', b"")  # what quotes are left begin and end texts
    if plain.count(b'"') > _MAX_QUOTES:
        raise _Fault(f"it lists more than {MAX_TENSORS} tensors or {_MAX_ENTRIES} metadata")
    if len(header) > _LONG and (len(plain.translate(None, _ASTRAL)) < len(plain) or _ASTRAL_ESCAPE.search(plain)):
        raise _Fault(f"its header is longer than {_LONG // 1_000_000} MB and holds letters beyond U+FFFF")
    structure = b"".join(plain.split(b'"')[::2]).translate(None, b" \t\r\n")
    if structure.count(b"{") + structure.count(b"[") > _MAX_BRACKETS:
        raise _Fault(f"it lists more than {MAX_TENSORS} tensors")
    if structure.count(b",") > _MAX_VALUES or len(structure) > _MAX_STRUCTURE:
        raise _Fault(f"it holds more numbers than {MAX_TENSORS} tensors can need")
    if structure.translate(None, b"{}[]:,0123456789"):
        raise _Fault("its header holds what is neither a text nor a whole number")
    return structure.count(b":")


def _metadata(entry: Any) -> dict[str, str]:
    if type(entry) is not dict or not all(type(value) is str for value in entry.values()):
        raise _Fault("its metadata are not texts")
    if any(_SURROGATE.search(text) for pair in entry.items() for text in pair if not text.isascii()):
        raise _Fault("its metadata are not valid text")
    kept, room = {}, MAX_METADATA
    for name in sorted(entry, key=lambda name: len(name) + len(entry[name])):
        room -= len(name) + len(entry[name])
        if room < 0:
            break
        kept[name] = entry[name]
    return kept


def _tensor(name: str, entry: Any, places: list[tuple[int, int]]) -> TensorFacts:
    """A tensor's facts; `places` gets where its bytes begin and end, counted from the end of the header.

    All numbers are whole and none is negative (`_bounded`), so the sizes agree only where every value is a number.
    """
    if not name or not name.isprintable():
        raise _Fault("a tensor's name is empty or holds control characters")
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if len(entry) != 3 or type(shape) is not list or len(shape) > MAX_DIMENSIONS:
            raise ValueError
        if shape and max(shape) > MAX_LENGTH:
            raise ValueError
        size = math.prod(shape) * _DTYPE_BYTES.get(dtype, 0)
        sound = end - begin == size
    except (KeyError, TypeError, ValueError):
        raise _Fault("a tensor lacks a proper dtype, shape or place") from None
    if dtype not in _DTYPE_BYTES:
        raise _Fault("a tensor has an unknown dtype")
    if not sound:
        raise _Fault("a tensor's size and its shape disagree")
    places.append((begin, end))
    return TensorFacts(dtype, tuple(shape))


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
