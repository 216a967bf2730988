"""Shards: the same bytes for the same records, and names that follow from the bytes."""

from __future__ import annotations

import hashlib
import io

import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from core.records.shards import SCHEMA, shard_of, without
from tests.core.dataset_parts import NOON, PNG, ids, record


def rows(data: bytes) -> list[dict[str, object]]:
    return list(pq.read_table(io.BytesIO(data)).to_pylist())


def test_a_shard_holds_what_its_records_hold_and_nothing_of_their_visitors() -> None:
    first, second = rows(shard_of([record(0), record(1, picture=False)]).data)
    assert first == {
        "id": ids(range(1))[0], "created_at": NOON, "prompt": "a cat, number 0", "model": "pocket-sd3",
        "loras": '[{"ref":"bundled:pocket-sd3-dots"}]', "recipe": '{"version":1,"seed":0}',
        "image": {"bytes": PNG, "path": f"{ids(range(1))[0]}.png"},
    }  # fmt: skip
    assert second["image"] is None


def test_every_shard_has_the_same_schema_with_or_without_pictures() -> None:
    for records in ([record(0)], [record(0, picture=False)]):
        found = pq.read_schema(io.BytesIO(shard_of(records).data))
        assert found.equals(SCHEMA, check_metadata=True)


def test_the_same_records_make_the_same_bytes_whose_hash_begins_with_the_name() -> None:
    records = [record(n) for n in range(200)]
    one, two = shard_of(records), shard_of(list(records))
    assert one == two
    assert hashlib.sha256(one.data).hexdigest().startswith(one.name.removesuffix(".parquet"))
    assert shard_of(records[:-1]).name != one.name


def test_a_shard_without_some_rows_is_the_shard_of_the_others() -> None:
    whole = shard_of([record(n) for n in range(5)])
    assert without(whole.data, ids(range(1, 3))) == shard_of([record(n) for n in (0, 3, 4)])
    assert without(whole.data, ["absent"]) == whole
    assert without(whole.data, ids(range(5))) is None


@pytest.mark.parametrize("data", [b"", b"edited by hand", shard_of([record(0)]).data[:-9]])
def test_what_is_no_shard_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a shard"):
        without(data, [])
