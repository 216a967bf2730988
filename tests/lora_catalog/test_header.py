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
from lora_catalog.header import MAX_TENSORS, TensorFacts, read_header

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
        (b"{\xff}", b"", "not valid JSON"),
        (b"[" * 100_000, b"", "not valid JSON"),
        (b"[" * 200_000, b"", "more than 16384 tensors"),
        (b'{"a": ' + b"9" * 5000 + b"}", b"", "not valid JSON"),
        (b'{"a": NaN}', b"", "not JSON"),
        (b'{"a": 1, "a": 1}', b"", "twice"),
        ({"a": tensor(2) | {"dtype": "F17"}}, b"1234", "unknown dtype"),
        ({"a": tensor(2) | {"more": 1}}, b"1234", "lacks a proper"),
        ({"a": {"dtype": "F16", "shape": [2]}}, b"1234", "lacks a proper"),
        ({"a": [1]}, b"", "lacks a proper"),
        ({"a": tensor(2, end=4) | {"shape": [True, 2]}}, b"1234", "lacks a proper"),
        ({"a": tensor(-1, -2, end=4)}, b"1234", "lacks a proper"),
        ({"a": tensor(2.0, end=4)}, b"1234", "lacks a proper"),
        ({"a": tensor(0, 2**41, end=0)}, b"", "lacks a proper"),
        ({"a": tensor(*[1] * 9, end=2)}, b"12", "lacks a proper"),
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
        ({str(n): tensor(0) for n in range(MAX_TENSORS + 1)}, b"", "more than 16384 tensors"),
    ],
)
def test_a_lying_header_is_refused_for_its_reason(tmp_path: Path, header: object, data: bytes, because: str) -> None:
    with pytest.raises(BadHeader) as refused:
        read_header(write(tmp_path / "x.safetensors", header, data))
    assert because in refused.value.reason


def test_a_header_may_be_as_long_as_the_bound_and_no_longer(tmp_path: Path) -> None:
    assert read_header(write(tmp_path / "long.safetensors", b"{}" + b" " * 7_999_998)).tensors == {}
    (tmp_path / "longer.safetensors").write_bytes(struct.pack("<Q", 8_000_001) + b"{}")
    with pytest.raises(BadHeader, match="longer than 8 MB"):
        read_header(tmp_path / "longer.safetensors")


def test_what_is_not_a_file_is_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")  # opening one waits for a writer for ever
    for path in (tmp_path / "pipe.safetensors", tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(BadHeader, match="no such file"):
            read_header(path)
