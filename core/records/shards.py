"""Shards: records as parquet files whose bytes depend on the records alone, and whose names on the bytes."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from core.records.schema import Record

_FEATURES: dict[str, dict[str, str]] = {
    "id": {"dtype": "string", "_type": "Value"},
    "created_at": {"dtype": "timestamp[us, tz=UTC]", "_type": "Value"},
    "prompt": {"dtype": "string", "_type": "Value"},
    "model": {"dtype": "string", "_type": "Value"},
    "loras": {"dtype": "string", "_type": "Value"},
    "recipe": {"dtype": "string", "_type": "Value"},
    "image": {"_type": "Image"},
}
# What `datasets` reads the columns' features from; the layout of an Image is its own too.
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("loras", pa.string(), nullable=False),
        pa.field("recipe", pa.string(), nullable=False),
        pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)
NAME_LETTERS = 32  # of the sha256, in hexadecimal


@dataclass(frozen=True)
class Shard:
    """A parquet file, and how it is called: `NAME.parquet` where NAME begins its sha256."""

    data: bytes = field(repr=False)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def name(self) -> str:
        return f"{self.sha256[:NAME_LETTERS]}.parquet"


def shard_of(records: Sequence[Record]) -> Shard:
    """The shard of these records, in their order; who made them stays out of it."""
    return _written(pa.Table.from_pylist([_row(record) for record in records], SCHEMA))


def without(data: bytes, ids: Iterable[str]) -> Shard | None:
    """A shard's rows but those with one of the ids; None where no row is left. Raises ValueError for other files."""
    try:
        table = pq.read_table(io.BytesIO(data))
        gone = set(ids)
        kept = table.filter([name not in gone for name in table.column("id").to_pylist()])
        return _written(kept.cast(SCHEMA)) if kept.num_rows else None
    except (pa.ArrowInvalid, KeyError) as error:
        raise ValueError("not a shard of records") from error


def _row(record: Record) -> dict[str, Any]:
    picture = None if record.image is None else {"bytes": record.image, "path": f"{record.id}.png"}
    return {
        "id": record.id, "created_at": record.created_at, "prompt": record.prompt, "model": record.model,
        "loras": record.loras, "recipe": record.recipe, "image": picture,
    }  # fmt: skip


def _written(table: pa.Table) -> Shard:
    into = io.BytesIO()
    pq.write_table(table, into, compression="zstd", row_group_size=100)  # a reader holds a group at a time
    return Shard(into.getvalue())
