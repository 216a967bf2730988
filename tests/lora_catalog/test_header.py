"""Headers: what safetensors writes is read; whatever is torn, lying or oversized is refused with one error."""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st
from safetensors.numpy import save, save_file

from lora_catalog.errors import BadHeader
from lora_catalog.header import (
    MAX_HEADER_BYTES,
    MAX_METADATA,
    MAX_TENSORS,
    Header,
    MoreNeeded,
    TensorFacts,
    header_from,
    read_header,
)

on_disk = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

DTYPES = st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int64, np.uint8, np.bool_])
ARRAYS = DTYPES.flatmap(lambda dtype: np_st.arrays(dtype, np_st.array_shapes(min_dims=0, max_dims=4, min_side=0)))
NAMES = st.text(st.sampled_from("abc.019_"), min_size=1, max_size=20)
GOOD = save({"a": np.zeros((2, 3), np.float16), "b": np.zeros(4, np.float32)}, {"ss_tag": "x"})


def write(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def tensor(*shape: Any, begin: Any = 0, end: Any = None, dtype: Any = "F16") -> dict[str, Any]:
    size = math.prod(shape) * 2 if end is None else end
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, size]}


def mutated(changes: dict[int, int]) -> bytes:
    return bytes(changes.get(place, byte) for place, byte in enumerate(GOOD))


@on_disk
@given(
    st.dictionaries(NAMES, ARRAYS, min_size=1, max_size=6),
    st.dictionaries(NAMES, st.text(st.characters(codec="utf-8"))),
)
def test_what_safetensors_writes_is_read(tmp_path: Path, arrays: dict[str, Any], metadata: dict[str, str]) -> None:
    path = tmp_path / "x.safetensors"
    save_file(arrays, path, metadata)
    header = read_header(path)
    assert {name: facts.shape for name, facts in header.tensors.items()} == {n: a.shape for n, a in arrays.items()}
    assert header.metadata == metadata
    assert header.bytes == path.stat().st_size


def test_dtype_and_shape_are_told(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(GOOD)
    assert read_header(path).tensors == {"a": TensorFacts("F16", (2, 3)), "b": TensorFacts("F32", (4,))}


@on_disk
@given(st.integers(0, len(GOOD) - 1))
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(GOOD[:length])
    with pytest.raises(BadHeader, match=r"x\.safetensors.*it is (cut|too) short"):
        read_header(path)


@on_disk
@given(st.binary(max_size=200) | st.dictionaries(st.integers(0, len(GOOD) - 1), st.integers(0, 255)).map(mutated))
def test_any_bytes_are_read_or_refused_with_one_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    try:
        header = read_header(path)
    except BadHeader as refused:
        assert str(tmp_path) not in str(refused)
    else:
        assert header.bytes == len(content)


@pytest.mark.parametrize(
    ("header", "data", "because"),
    [
        (b"", b"", "not valid JSON"),
        (b"[]", b"", "not a JSON object"),
        (b"{\xff}", b"", "neither a text nor"),
        (b'{"\xff": {}}', b"", "not valid JSON"),
        (b"[" * 20_000, b"", "not valid JSON"),
        (b"[" * 200_000, b"", "more than 10000 tensors"),
        (b'{"a": ' + b"9" * 5000 + b"}", b"", "not valid JSON"),
        (b'{"a": NaN}', b"", "neither a text nor"),
        ({"a": tensor(2) | {"dtype": "F17"}}, b"1234", "unknown dtype"),
        ({"a": tensor(2) | {"dtype": ["F16"]}}, b"1234", "lacks a proper"),
        ({"a": tensor(2) | {"more": 1}}, b"1234", "lacks a proper"),
        ({"a": {"dtype": "F16", "shape": [2]}}, b"1234", "lacks a proper"),
        ({"a": [1]}, b"", "lacks a proper"),
        ({"a": 1}, b"", "lacks a proper"),
        ({"a": tensor(2, end=4) | {"shape": [True, 2]}}, b"1234", "neither a text nor"),
        ({"a": tensor(2, end=4) | {"shape": None}}, b"1234", "neither a text nor"),
        ({"a": tensor(-1, -2, end=4)}, b"1234", "neither a text nor"),
        ({"a": tensor(2.0, end=4)}, b"1234", "neither a text nor"),
        ({"a": tensor(0, 2**41, end=0)}, b"", "lacks a proper"),
        ({"a": tensor(*[1] * 9, end=2)}, b"12", "lacks a proper"),
        ({"a": tensor(2, end=4) | {"shape": ["2"]}}, b"1234", "lacks a proper"),
        ({"a": tensor(2, end=4) | {"shape": [[2]]}}, b"1234", "lacks a proper"),
        ({"a": tensor(2, end=4) | {"shape": "2"}}, b"1234", "lacks a proper"),
        ({"a": tensor() | {"shape": ""}}, b"12", "lacks a proper"),
        ({"a": tensor() | {"shape": {}}}, b"12", "lacks a proper"),
        ({"a": tensor(2, end=4) | {"data_offsets": ["", ""]}}, b"1234", "lacks a proper"),
        ({"a": tensor(2, begin=4, end=0)}, b"1234", "disagree"),
        ({"a": tensor(3, end=4)}, b"1234", "disagree"),
        ({"a": tensor(2), "b": tensor(2)}, b"1234", "overlap"),
        ({"a": tensor(2), "b": tensor(1, begin=2, end=4)}, b"1234", "overlap"),
        ({"a": tensor(1, begin=2, end=4)}, b"1234", "gaps"),
        ({"a": tensor(2)}, b"123", "cut short"),
        ({"a": tensor(2)}, b"12345", "more bytes"),
        ({"a\n": tensor(2)}, b"1234", "control characters"),
        ({"": tensor(2)}, b"1234", "empty"),
        ({"__metadata__": {"a": 1}}, b"", "metadata"),
        ({"__metadata__": ["a"]}, b"", "metadata"),
        ({"__metadata__": {"a": "\ud800"}}, b"", "metadata"),
        ({str(n): tensor(0) for n in range(MAX_TENSORS + 1)}, b"", "more than 10000 tensors"),
        ({"__metadata__": {str(n): "" for n in range(60_000)}}, b"", "or 1024 metadata"),
        ({"a": {"shape": [1] * 200_000}}, b"", "more numbers"),
        (b'{"a": ' + b"9" * 3_000_000 + b"}", b"", "more numbers"),
        ({"__metadata__": {"a": "\U0001f600" + "x" * 4_000_000}}, b"", "beyond U+FFFF"),
        (b'{"__metadata__": {"a": "\xf0\x9f\x98\x80' + b"x" * 4_000_000 + b'"}}', b"", "beyond U+FFFF"),
    ],
)
def test_a_lying_header_is_refused_for_its_reason(tmp_path: Path, header: object, data: bytes, because: str) -> None:
    with pytest.raises(BadHeader) as refused:
        read_header(write(tmp_path / "x.safetensors", header, data))
    assert because in refused.value.reason


@pytest.mark.parametrize("place", ["tensor", "within", "metadata"])
def test_what_is_named_twice_is_refused(tmp_path: Path, place: str) -> None:
    entry = b'{"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}'
    text = {
        "tensor": b'{"a": ' + entry + b', "a": ' + entry + b"}",
        "within": b'{"a": ' + entry.replace(b'"shape"', b'"shape": [1], "shape"') + b"}",
        "metadata": b'{"__metadata__": {"b": "", "b": ""}, "a": ' + entry + b"}",
    }[place]
    with pytest.raises(BadHeader, match="names something twice"):
        read_header(write(tmp_path / "x.safetensors", text))


@on_disk
@given(st.dictionaries(st.text(), st.text(st.sampled_from('\\"{}[]:,0 \u5b57\U0001f600')), max_size=5))
def test_whatever_stands_within_texts_counts_as_text(tmp_path: Path, metadata: dict[str, str]) -> None:
    try:
        content = save({"a": np.zeros(1, np.float16)}, metadata)
    except UnicodeEncodeError:  # a lone surrogate
        return
    (tmp_path / "x.safetensors").write_bytes(content)
    assert read_header(tmp_path / "x.safetensors").metadata == metadata


def test_as_many_tensors_as_allowed_are_read_with_long_names_and_escapes(tmp_path: Path) -> None:
    entries = {'"\\' * 100 + str(n): tensor(*[0] * 8) for n in range(MAX_TENSORS)}
    assert len(read_header(write(tmp_path / "x.safetensors", entries)).tensors) == MAX_TENSORS


def test_a_trainers_long_statistics_are_kept_and_what_is_longer_still_is_left_out(tmp_path: Path) -> None:
    tags = json.dumps({"10_dog": {f"tag {n}, \u5b57": n for n in range(30_000)}})
    assert 700_000 < len(tags) < MAX_METADATA
    metadata = {"ss_tag_frequency": tags, "ss_other": "x" * 3_000_000, "ss_steps": "10"}
    header = read_header(write(tmp_path / "x.safetensors", {"__metadata__": metadata}))
    assert header.metadata == {"ss_tag_frequency": tags, "ss_steps": "10"}


@given(st.integers(0, len(GOOD)))
def test_a_header_is_read_from_the_first_bytes_of_a_file_or_more_are_asked_for_once(given_bytes: int) -> None:
    found = header_from("x.safetensors", GOOD[:given_bytes], len(GOOD))
    if isinstance(found, MoreNeeded) and given_bytes < 8:
        assert found.bytes == 8
    elif isinstance(found, MoreNeeded):
        assert given_bytes < found.bytes <= len(GOOD)
        found = header_from("x.safetensors", GOOD[: found.bytes], len(GOOD))
    if given_bytes >= 8:
        assert isinstance(found, Header)
        assert (found.tensors["a"], found.metadata, found.bytes) == (
            TensorFacts("F16", (2, 3)),
            {"ss_tag": "x"},
            len(GOOD),
        )


@pytest.mark.parametrize(
    ("start", "size", "because"),
    [
        (b"", 0, "too short"),
        (b"1234567", 7, "too short"),
        (GOOD, len(GOOD) - 1, "cut short"),
        (GOOD, len(GOOD) + 1, "more bytes"),
        (GOOD[:20], 20, "cut short"),
        ((MAX_HEADER_BYTES + 1).to_bytes(8, "little"), 10**10, "longer than 8 MB"),
        (b"\xff" * 8, 10**10, "longer than 8 MB"),
        (b"<!DOCTYPE html><html>", 10**10, "longer than 8 MB"),
    ],
)
def test_no_more_is_asked_for_where_a_file_cannot_be_good(start: bytes, size: int, because: str) -> None:
    with pytest.raises(BadHeader, match=r"x\.safetensors") as refused:
        header_from("x.safetensors", start, size)
    assert because in refused.value.reason


def test_never_more_than_the_bound_is_asked_for() -> None:
    found = header_from("x.safetensors", MAX_HEADER_BYTES.to_bytes(8, "little"), 10**10)
    assert found == MoreNeeded(MAX_HEADER_BYTES + 8)


def test_a_header_may_be_as_long_as_the_bound_and_no_longer(tmp_path: Path) -> None:
    assert read_header(write(tmp_path / "long.safetensors", b"{}" + b" " * 7_999_998)).tensors == {}
    write(tmp_path / "longer.safetensors", b"{}" + b" " * 7_999_999)
    with pytest.raises(BadHeader, match="longer than 8 MB"):
        read_header(tmp_path / "longer.safetensors")


def test_what_is_not_a_file_is_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")  # opening one waits for a writer for ever
    for path in (tmp_path / "pipe.safetensors", tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(BadHeader, match="no such file"):
            read_header(path)
