"""The form's values as a request: one picture, unless its prompt asks for several."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import BadRequest
from core.request import request_from
from ui.form import pictures_in, raw_request


@pytest.mark.parametrize(
    ("asked", "drawn"),
    [
        ({"prompt": "a cat", "images": 1}, 1),
        ({"prompt": "a [[red, blue]] cat", "images": 1}, 2),
        ({"prompt": "a [[red, blue]] cat", "negative_prompt": "[[rain, snow]]", "images": 1}, 4),
        ({"prompt": "a [[red, blue]] cat", "images": 3}, 3),
        ({"prompt": "a {red|blue} cat", "images": 3}, 3),
        ({"prompt": "a cat", "negative_prompt": "[[rain, snow]]", "images": 1, "model": "pocket-sdxl-lcm"}, 1),
    ],
)
def test_the_page_shows_as_many_pictures_as_are_drawn(asked: dict[str, Any], drawn: int) -> None:
    values = {"model": "pocket-sd3"} | asked
    assert request_from(raw_request(values), "pocket-sd3").images == pictures_in(values) == drawn


def test_pictures_that_a_prompt_asks_for_are_drawn_together_where_the_page_says_so() -> None:
    values = {"model": "pocket-sd3", "prompt": "a [[red, blue, green]] cat", "images": 1, "batch": "all"}
    request = request_from(raw_request(values), "pocket-sd3")
    assert (request.images, request.batch) == (3, 3)


@pytest.mark.parametrize("wrong", [{"images": "x"}, {"images": None}, {"prompt": 5}, {"prompt": "x" * 5_000}])
def test_what_the_schema_refuses_breaks_no_page(wrong: dict[str, Any]) -> None:
    values = {"model": "pocket-sd3", "prompt": "a cat", "images": 1} | wrong
    assert pictures_in(values) == 1
    if wrong != {"images": None}:
        with pytest.raises(BadRequest):
            request_from(raw_request(values), "pocket-sd3")
