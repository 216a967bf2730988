"""What can be asked of one's own records: the fields of a look, a star and a deletion, with their ranges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from core.errors import BadRequest
from lora_catalog.reference import MAX_LETTERS

RecordId = Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{32}$")]


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read(cls, raw: Mapping[str, object]) -> Self:
        """From raw values, where null or an empty text means the default. Raises BadRequest for the first wrong one."""
        try:
            return cls.model_validate({name: value for name, value in raw.items() if value is not None and value != ""})
        except ValidationError as error:
            field = str(error.errors(include_url=False)[0]["loc"][0])
            allowed = _ALLOWED.get(field)
            raise BadRequest(
                field, f"{field} must be {allowed}." if allowed else f"{field} is not an input of this endpoint."
            ) from None


class Look(_Asked):
    """A look into the history. `lora` is a part of a LoRA's ref; `starred` None means all."""

    query: Annotated[StrictStr, Field(max_length=200)] = ""
    lora: Annotated[StrictStr, Field(max_length=MAX_LETTERS)] = ""
    starred: StrictBool | None = None
    limit: Annotated[StrictInt, Field(ge=1, le=100)] = 50
    cursor: Annotated[StrictStr, Field(pattern=r"^[0-9]{1,18}$")] | None = None


class Star(_Asked):
    """A star for a record of one's own, or none any more."""

    id: RecordId
    starred: StrictBool = True


class Deletion(_Asked):
    """Records of one's own to delete."""

    ids: Annotated[tuple[RecordId, ...], Field(min_length=1, max_length=1000)]


_ALLOWED: dict[str, Any] = {
    "query": "a text of at most 200 letters",
    "lora": f"a text of at most {MAX_LETTERS} letters: a LoRA's ref, or a part of one",
    "starred": "true or false",
    "limit": "a whole number from 1 to 100",
    "cursor": "the value “next” of an earlier answer, or empty",
    "id": "the id of a record, as /history gives it",
    "ids": "a list of 1 to 1000 ids of records, as /history gives them",
}
